"""What the audit reads from its config."""

from typing import Annotated

from pydantic import Field

from utilities.config import ConfigPath, ModelName, StrictModel
from utilities.prompts.built_in import QUESTION_ANSWER, ConfigPromptFormat
from utilities.rows.sources import ConfigSource

LIMITS = (64, 128, 256, 512, 1024)


class AuditConfig(StrictModel):
    """What `python -m utilities.audit` reads."""

    source: ConfigSource
    """The rows to look at; see `sources.Source`."""
    prompt_format: ConfigPromptFormat = QUESTION_ANSWER
    """What they are to become."""
    test: ConfigSource | None = None
    """Rows that must not be trained on; None leaves the question out."""
    benchmark: ConfigSource | None = None
    """Where questions stand that must not be trained on."""
    benchmark_column: str = "question"
    """The column of `benchmark` that holds them."""
    refusals: tuple[str, ...] = ()
    """Texts that mark a response as turning the question down."""
    near_duplicate: float = Field(default=0.8, gt=0, le=1)
    """Word overlap (Jaccard) from which two prompts are nearly the same."""
    base_model: ModelName | None = "auto"
    """Whose tokenizer counts the tokens; None leaves the budget out."""
    limits: tuple[Annotated[int, Field(ge=3)], ...] = Field(default=LIMITS, min_length=1)
    """Length limits for the budget, in tokens."""
    output_dir: ConfigPath
    """Gets `report.json`, `findings.csv`, `patch.jsonl` and `audit.png`."""
