"""What the benchmark reads from its config."""

from typing import Literal

from pydantic import Field

from utilities.benchmark.tasks import BUNDLED
from utilities.config import ConfigPath, ModelName, StrictModel


class BenchmarkConfig(StrictModel):
    """What `python -m utilities.benchmark` reads."""

    model: ModelName
    """A run folder, or any model."""
    base_model: ModelName | None = None
    """Run beside it, and compared; None leaves it out."""
    tasks: tuple[str, ...] = Field(default=(BUNDLED,), min_length=1)
    """`science_questions`, or the harness's own names."""
    data_files: dict[str, ConfigPath] = Field(default_factory=dict)
    """Files in place of the hub's data, by task."""
    limit: int | None = Field(default=None, ge=1)
    """Items of each task, drawn at random; null for all."""
    batch_tokens: int | None = Field(default=None, ge=1)
    """Tokens in a batch; null for what the free memory allows."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the weights."""
    seed: int = Field(default=42, ge=0)
    """Of the drawing."""
    output_dir: ConfigPath
    """Gets `scores.json`, `samples.jsonl` and, with a base model, `flips.csv`."""
