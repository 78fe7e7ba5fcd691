"""The config of the audit."""

from typing import Annotated

from pydantic import Field

from utilities.config import ConfigPath, ModelName, StrictModel
from utilities.prompts.built_in import QUESTION_ANSWER, ConfigPromptFormat
from utilities.rows.sources import ConfigSource

LIMITS = (64, 128, 256, 512, 1024)


class AuditConfig(StrictModel):
    """The config of `python -m utilities.audit`."""

    source: ConfigSource
    """The rows to audit; see `sources.Source`."""
    prompt_format: ConfigPromptFormat = QUESTION_ANSWER
    """How rows become prompt and response."""
    test: ConfigSource | None = None
    """Test rows, which must not be trained on; null leaves that check out."""
    benchmark: ConfigSource | None = None
    """Questions of a benchmark, which must not be trained on; null leaves that check out."""
    benchmark_column: str = "question"
    """The column of `benchmark` with the questions."""
    refusals: tuple[str, ...] = ()
    """Texts that mark a response as a refusal; case does not count."""
    near_duplicate: float = Field(default=0.8, gt=0, le=1)
    """Word overlap (Jaccard) from which two prompts are near duplicates."""
    base_model: ModelName | None = "auto"
    """The model whose tokenizer counts the tokens; null leaves the token budget out."""
    limits: tuple[Annotated[int, Field(ge=3)], ...] = Field(default=LIMITS, min_length=1)
    """Length limits for the token budget, in tokens."""
    output_dir: ConfigPath
    """Gets `report.json`, `findings.csv`, `patch.jsonl` and `audit.png`."""
