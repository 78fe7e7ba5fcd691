"""The config of `python -m utilities.evaluation`."""

from typing import Literal

from pydantic import Field

from utilities.config import ConfigPath, ModelName, StrictModel
from utilities.inference.endpoint import Endpoint
from utilities.inference.generation import Generation
from utilities.prompts.built_in import ConfigPromptFormat
from utilities.rows.sources import ConfigSource
from utilities.tracking import Tracking

MODEL, BASE, NEAREST, FREQUENT = "model", "base model", "nearest question", "most frequent answer"


class EvaluationConfig(StrictModel):
    """The config of `python -m utilities.evaluation`."""

    model: ModelName
    """The model to evaluate: a run folder, or any other model."""
    test: ConfigSource
    """The rows to answer; their responses are the references."""
    train: ConfigSource | None = None
    """The rows in which the two baselines look up their answers; null leaves the baselines out."""
    base_model: ModelName | None = None
    """A model that is evaluated too; null for none."""
    beside: dict[str, Endpoint | ModelName] = Field(default_factory=dict)
    """Further systems by name: models, or endpoints."""
    prompt_format: ConfigPromptFormat | None = None
    """How a row becomes prompt and response; null for the format saved with the model, or else
    `question_answer`.
    """
    refusal: str | None = None
    """Text that marks an answer as a refusal; null for none."""
    group_by: tuple[str, ...] = ()
    """Columns whose values are also scored separately, such as `topic`."""
    generation: Generation = Generation()
    """How answers are generated."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Data type of the weights."""
    use_cpu: bool = False
    """Whether to compute on the CPU even if there is a GPU."""
    similarity: tuple[Literal["states"], ...] = ()
    """Further metrics: `states` compares mean hidden states of `model`."""
    perplexity: bool = True
    """Whether to measure the perplexity of the references under local models."""
    neutral_text: ConfigPath | None = None
    """A file of paragraphs on which forgetting is measured; null for none."""
    save_every: int = Field(default=16, ge=1)
    """Number of answers after which they are written to disk."""
    tracking: Tracking | None = None
    """The tracker that gets the scores; null for none."""
    output_dir: ConfigPath
    """The folder for `predictions.jsonl` and `.parquet`, `scores.json`, `report.html`,
    `evaluation.log`, and `answers/`, from which an interrupted evaluation goes on.
    """
