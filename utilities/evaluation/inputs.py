"""The inputs of an evaluation: systems, prompt format, test rows and prompts, checked and read."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utilities import models
from utilities.errors import EvaluationError
from utilities.evaluation.settings import BASE, FREQUENT, MODEL, NEAREST, EvaluationConfig
from utilities.inference.endpoint import Endpoint
from utilities.inference.generation import Generation
from utilities.prompts.base import FILE_NAME, PromptFormat
from utilities.prompts.built_in import QUESTION_ANSWER
from utilities.rows.sources import read_rows
from utilities.scores.table_columns import OWN_COLUMNS
from utilities.tracking import check_tracker


def check_config(config: EvaluationConfig) -> None:
    """Check what the config alone can tell, before anything is read or loaded.

    Raises:
        EvaluationError: a name is taken, or a setting lacks one that it needs.
        TrackingError: the tracker's package is not installed.
    """
    if taken := {MODEL, BASE, NEAREST, FREQUENT} & set(config.beside):
        raise EvaluationError(f"beside: choose other names than {sorted(taken)}")
    for column in config.group_by:
        if column in OWN_COLUMNS:
            raise EvaluationError(f"group_by: {column!r} is a column of the table of scores")
    if config.neutral_text and not config.base_model:
        raise EvaluationError("neutral_text compares with base_model, which is not given")
    if config.tracking:
        check_tracker(config.tracking)


@dataclass(frozen=True)
class Inputs:
    """The inputs of an evaluation.

    Attributes:
        config: what they were read from.
        systems: the models and endpoints by name, `model` first.
        prompt_format: the same for all systems, bound to the tokenizer of `model`.
        format_origin: where the prompt format comes from, in words.
        generation: the config's, with the stop strings of the prompt format by default.
        rows: the test rows; values of `group_by` columns as text.
        prompts: one per row.
        neutral_texts: paragraphs to measure forgetting on; may be empty.
    """

    config: EvaluationConfig
    systems: dict[str, models.ModelChoice | Endpoint]
    prompt_format: PromptFormat
    format_origin: str
    generation: Generation
    rows: list[dict[str, Any]]
    prompts: list[str]
    neutral_texts: list[str]


def read_inputs(config: EvaluationConfig) -> Inputs:
    """Read the inputs that a config names; no weights are loaded.

    Raises:
        EvaluationError: a file cannot be read, or a `group_by` column is missing or of another
            type than text or number.
        LabError: of the module where the fault lies.
    """
    neutral_texts = _paragraphs(config.neutral_text) if config.neutral_text else []
    model = models.choose(config.model)
    systems: dict[str, models.ModelChoice | Endpoint] = {MODEL: model}
    if config.base_model:
        systems[BASE] = models.choose(config.base_model)
    for name, system in config.beside.items():
        systems[name] = system if isinstance(system, Endpoint) else models.choose(system)
    tokenizer = models.load_tokenizer(model)
    saved_format, format_origin = _prompt_format(config, models.download(model))
    prompt_format = saved_format.bind(tokenizer)
    generation = config.generation
    if generation.stop is None:
        generation = generation.model_copy(update={"stop": tuple(prompt_format.stop)})
    rows = _with_group_names(read_rows(config.test, prompt_format), config.group_by)
    return Inputs(
        config=config,
        systems=systems,
        prompt_format=prompt_format,
        format_origin=format_origin,
        generation=generation,
        rows=rows,
        prompts=[prompt_format.prompt(row) for row in rows],
        neutral_texts=neutral_texts,
    )


def _paragraphs(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise EvaluationError(f"neutral_text: {path} cannot be read: {error}") from None
    return [part.strip() for part in text.split("\n\n") if part.strip()]


def _prompt_format(config: EvaluationConfig, folder: Path) -> tuple[PromptFormat, str]:
    """Return the prompt format for a model in a folder, and where it comes from."""
    if config.prompt_format:
        return config.prompt_format, "the config names it"
    if (folder / FILE_NAME).is_file():
        return PromptFormat.load(folder), "it is saved with the model"
    if (folder / "run.json").is_file():
        raise EvaluationError(
            f"the run folder {folder.name} holds no {FILE_NAME}; name `prompt_format` in the config"
        )
    return QUESTION_ANSWER, "none is saved with the model"


def _with_group_names(rows: list[dict[str, Any]], columns: Sequence[str]) -> list[dict[str, Any]]:
    """Return the rows with the values of these columns as text; a missing value is a group too."""
    for column in columns:
        if any(column not in row for row in rows):
            raise EvaluationError(f"group_by names {column!r}, which not every row has")
        if not all(isinstance(row[column], str | int | float | None) for row in rows):
            raise EvaluationError(f"group_by: {column!r} must hold texts or numbers")
        rows = [{**row, column: "–" if row[column] is None else str(row[column])} for row in rows]
    return rows
