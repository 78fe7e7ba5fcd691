"""The config of `python -m utilities.audit`."""

from typing import Annotated

from pydantic import Field

from utilities.config import ConfigPath, ModelName, StrictModel
from utilities.prompts.built_in import QUESTION_ANSWER, ConfigPromptFormat
from utilities.rows.sources import ConfigSource

LIMITS = (64, 128, 256, 512, 1024)


class AuditConfig(StrictModel):
    """The config of `python -m utilities.audit`."""

    source: ConfigSource
    """The rows to check."""
    prompt_format: ConfigPromptFormat = QUESTION_ANSWER
    """How the rows become prompts and responses."""
    test: ConfigSource | None = None
    """Rows that must not be in the training data; null skips this check."""
    benchmark: ConfigSource | None = None
    """Rows whose questions must not be in the training data; null skips this check."""
    benchmark_column: str = "question"
    """The column of `benchmark` that holds the questions."""
    refusals: tuple[str, ...] = ()
    """Texts that mark a response as a refusal."""
    near_duplicate: float = Field(default=0.8, gt=0, le=1)
    """Word overlap (Jaccard similarity) from which two prompts count as near duplicates."""
    base_model: ModelName | None = "auto"
    """The model whose tokenizer counts the tokens; null leaves the token budget out."""
    limits: tuple[Annotated[int, Field(ge=3)], ...] = Field(default=LIMITS, min_length=1)
    """Length limits that the token budget compares, in tokens of prompt, response and end."""
    output_dir: ConfigPath
    """The folder for `report.json`, `findings.csv`, `patch.jsonl` and `audit.png`."""
