"""The config of `python -m utilities.benchmark`."""

from typing import Literal

from pydantic import Field

from utilities.benchmark.tasks import BUNDLED
from utilities.config import ConfigPath, ModelName, StrictModel


class BenchmarkConfig(StrictModel):
    """The config of `python -m utilities.benchmark`."""

    model: ModelName
    """The model to benchmark: a run folder, or any other model."""
    base_model: ModelName | None = None
    """A model that is benchmarked too, and compared with `model`; null for none."""
    tasks: tuple[str, ...] = Field(default=(BUNDLED,), min_length=1)
    """`science_questions`, which is bundled, or the names that the harness gives its tasks."""
    data_files: dict[str, ConfigPath] = Field(default_factory=dict)
    """By task, a file to read in place of the hub's data."""
    limit: int | None = Field(default=None, ge=1)
    """Items of each task, drawn at random; null for all."""
    batch_tokens: int | None = Field(default=None, ge=1)
    """Tokens of a batch; null for as many as the free memory allows."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Data type of the weights."""
    seed: int = Field(default=42, ge=0)
    """Seed of the random choice of items."""
    output_dir: ConfigPath
    """The folder for `scores.json`, `samples.jsonl` and, with a base model, `flips.csv`."""
