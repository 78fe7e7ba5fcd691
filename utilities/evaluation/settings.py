"""What the evaluation reads from its config."""

from typing import Literal

from pydantic import Field

from utilities.config import ConfigPath, ModelName, StrictModel
from utilities.inference.endpoint import Endpoint
from utilities.inference.generation import Generation
from utilities.prompts.built_in import ConfigPromptFormat
from utilities.rows.sources import ConfigSource
from utilities.tracking import Tracking

Similarity = Literal["states", "sentences"]


MODEL, BASE, NEAREST, FREQUENT = "model", "base model", "nearest question", "most frequent answer"


class EvaluationConfig(StrictModel):
    """What `python -m utilities.evaluation` reads."""

    model: ModelName
    """A run folder, or any model to evaluate as it is."""
    test: ConfigSource
    """Where the questions are; see `sources.Source`."""
    train: ConfigSource | None = None
    """Where the baselines look up their answers."""
    base_model: ModelName | None = None
    """Evaluated beside `model`; None leaves it out."""
    beside: dict[str, Endpoint | ModelName] = Field(default_factory=dict)
    """Further systems by name: models, or endpoints (see `endpoint.Endpoint`)."""
    prompt_format: ConfigPromptFormat | None = None
    """By default the one saved with the model, else question and answer."""
    refusal: str | None = None
    """Text that marks an answer as turning the question down."""
    group_by: tuple[str, ...] = ()
    """Columns of the data to score apart as well, such as `topic`."""
    generation: Generation = Generation()
    """How answers are written; see `decoding.Generation`."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the weights."""
    use_cpu: bool = False
    """Leave a GPU alone."""
    similarity: tuple[Similarity, ...] = ()
    """Further metrics: `states` compares mean states of `model`, `sentences` needs
    sentence-transformers.
    """
    perplexity: bool = True
    """Measure how likely local models find the references."""
    neutral_text: ConfigPath | None = None
    """A file of paragraphs; what training has cost is measured on them."""
    save_every: int = Field(default=16, ge=1)
    """Answers between two writings."""
    tracking: Tracking | None = None
    """Where scores go besides the folder; see `tracking.Tracking`."""
    output_dir: ConfigPath
    """Gets `predictions.jsonl` and `.parquet`, `scores.json`, `report.html`, `evaluation.log`, and
    `answers/`, which is what a second run starts from.
    """
