"""The config of the evaluation."""

from typing import Literal

from pydantic import Field

from utilities.config import ConfigPath, ModelName, StrictModel
from utilities.inference.endpoint import Endpoint
from utilities.inference.generation import Generation
from utilities.prompts.built_in import ConfigPromptFormat
from utilities.rows.sources import ConfigSource
from utilities.tracking import Tracking

MODEL, BASE, NEAREST, FREQUENT = "model", "base model", "nearest question", "most frequent answer"
"""Names of the systems in the prediction table."""


class EvaluationConfig(StrictModel):
    """The config of `python -m utilities.evaluation`."""

    model: ModelName
    """A run folder, or any model to evaluate as it is."""
    test: ConfigSource
    """The test questions; see `sources.Source`."""
    train: ConfigSource | None = None
    """The training rows, where the baselines look up their answers; null: no baselines."""
    base_model: ModelName | None = None
    """Evaluated beside `model`; null leaves it out."""
    beside: dict[str, Endpoint | ModelName] = Field(default_factory=dict)
    """Further systems by name: models, or endpoints (see `endpoint.Endpoint`)."""
    prompt_format: ConfigPromptFormat | None = None
    """By default the one saved with the model, else question and answer."""
    refusal: str | None = None
    """Text that marks an answer as a refusal; case does not count."""
    group_by: tuple[str, ...] = ()
    """Columns of the data, such as `topic`; each of their values is scored separately as well."""
    generation: Generation = Generation()
    """How answers are generated; see `generation.Generation`."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the weights."""
    use_cpu: bool = False
    """Do not use a GPU."""
    similarity: tuple[Literal["states"], ...] = ()
    """Further metrics: `states` compares mean hidden states of `model`."""
    perplexity: bool = True
    """Compute the perplexity of the references under local models."""
    neutral_text: ConfigPath | None = None
    """A text file; the perplexity of its paragraphs shows what training has cost. Needs
    `base_model`.
    """
    save_every: int = Field(default=16, ge=1)
    """Answers between two writes to disk."""
    tracking: Tracking | None = None
    """A tracker that gets the scores too; see `tracking.Tracking`."""
    output_dir: ConfigPath
    """Gets `predictions.jsonl` and `.parquet`, `scores.json`, `report.html`, `evaluation.log`, and
    `answers/`, from which a second run continues.
    """
