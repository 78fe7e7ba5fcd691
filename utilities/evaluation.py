"""Evaluation: predictions into a table, tables into scores, beside baselines.

    python -m utilities.evaluation configs/course_assistant/evaluate.yaml [key=value …]

Everything after generation reads the prediction table: one row per question and system, with the
columns of the data, then `prompt`, `reference`, `prediction`, `system` and a column per score.
"""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from pydantic import Field
from sklearn.feature_extraction.text import TfidfVectorizer

from utilities import models
from utilities.config import ConfigPath, LabError, ModelName, StrictModel, command_line
from utilities.inference import generate
from utilities.metrics import is_exact_match, share_of
from utilities.prompts import FILE_NAME, QUESTION_ANSWER, ConfigPromptFormat, PromptFormat
from utilities.sources import ConfigSource, read_rows


class EvaluationError(LabError):
    """An evaluation that cannot be done as asked."""


def prediction_table(
    rows: Sequence[dict[str, Any]],
    predictions: Sequence[str],
    prompt_format: PromptFormat,
    system: str,
    refusal: str | None = None,
) -> pd.DataFrame:
    """Put predictions beside their references, and score each row.

    Args:
        rows: the data rows.
        predictions: one answer per row, in the same order.
        prompt_format: makes prompt and reference from a row.
        system: who answered, e.g. `tuned`, `base` or `nearest question`.
        refusal: text that marks an answer as turning the question down; adds `turned_down`.

    Returns:
        A table with the rows' columns, then `prompt`, `reference`, `prediction`, `system` (str),
        `exact_match`, `normalized_exact_match`, and perhaps `turned_down` (bool).

    Raises:
        EvaluationError: the two have different lengths, or there are none.
    """
    if len(rows) != len(predictions) or not rows:
        raise EvaluationError(
            f"expected one prediction a row, found {len(predictions)} for {len(rows)} rows"
        )
    table = pd.DataFrame(list(rows))
    table["prompt"] = [prompt_format.prompt(row) for row in rows]
    table["reference"] = [prompt_format.reference(row) for row in rows]
    table["prediction"] = list(predictions)
    table["system"] = system
    pairs = list(zip(table["prediction"], table["reference"], strict=True))
    table["exact_match"] = [is_exact_match(*pair) for pair in pairs]
    table["normalized_exact_match"] = [is_exact_match(*pair, normalized=True) for pair in pairs]
    if refusal:
        table["turned_down"] = [refusal.lower() in text.lower() for text in predictions]
    return table


SCORES = ["exact_match", "normalized_exact_match", "turned_down"]


def score(table: pd.DataFrame, by: Sequence[str] = ("system",)) -> pd.DataFrame:
    """Summarize a prediction table.

    Args:
        table: what `prediction_table` returned; several may be concatenated.
        by: the columns to group by.

    Returns:
        One row per group and metric: the group's columns, `metric`, `value`, `low`, `high` (shares
        between 0 and 1, with the 95 % Wilson interval), and `n`.

    Raises:
        EvaluationError: the table lacks a column.
    """
    missing = {*by, "exact_match"} - set(table)
    if missing:
        raise EvaluationError(f"the prediction table lacks the columns {sorted(missing)}")
    lines = []
    for group, rows in table.groupby(list(by), sort=False):
        for metric in (name for name in SCORES if name in table):
            share = share_of(rows[metric])._asdict()
            lines.append(
                dict(zip(by, group, strict=True)) | {"metric": metric, **share, "n": len(rows)}
            )
    return pd.DataFrame(lines)


def nearest_question_answers(
    train_rows: Sequence[dict[str, Any]],
    test_rows: Sequence[dict[str, Any]],
    prompt_format: PromptFormat,
) -> list[str]:
    """Answer each test row with the response of the most similar training prompt.

    This rival knows no language. A model that does not beat it has learned to look up.

    Similarity is the cosine of TF-IDF vectors over character n-grams of 2 to 5 within words, which
    forgives typos. Prompts are compared as the format makes them; what they share cancels out.
    """
    vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True)
    known = vectorizer.fit_transform([prompt_format.prompt(row) for row in train_rows])
    asked = vectorizer.transform([prompt_format.prompt(row) for row in test_rows])
    nearest = (asked @ known.T).toarray().argmax(axis=1)
    return [prompt_format.reference(train_rows[index]) for index in nearest]


class EvaluationConfig(StrictModel):
    """What `python -m utilities.evaluation` reads.

    Attributes:
        model: a run folder, or any model to evaluate as it is.
        test: where the questions are; see `sources.Source`.
        train: where the nearest-question baseline looks up its answers.
        base_model: evaluated beside `model`; None leaves it out.
        prompt_format: by default the one saved with the model, else question and answer.
        refusal: text that marks an answer as turning the question down.
        group_by: columns of the data to score apart as well, such as `topic`.
        output_dir: gets `predictions.jsonl` and `scores.json`.
    """

    model: ModelName
    test: ConfigSource
    train: ConfigSource | None = None
    base_model: ModelName | None = None
    prompt_format: ConfigPromptFormat | None = None
    refusal: str | None = None
    group_by: tuple[str, ...] = ()
    max_new_tokens: int = Field(default=60, ge=1)
    batch_size: int = Field(default=32, ge=1)
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    output_dir: ConfigPath


def run_evaluation(config: EvaluationConfig) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Do all that a config says, and write the two files.

    Returns:
        (prediction table, scores by system and `group_by`).

    Raises:
        LabError: of the module where the fault lies; the files are written at the very end.
    """
    systems = {"model": config.model, "base model": config.base_model}
    choices = {name: models.choose(model) for name, model in systems.items() if model}
    prompt_format = config.prompt_format or _saved_format(config.model)
    prompt_format = prompt_format.bind(models.load_tokenizer(choices["model"]))
    rows = read_rows(config.test, prompt_format)
    for column in config.group_by:
        if any(column not in row for row in rows):
            raise EvaluationError(f"group_by names {column!r}, which not every row has")
    tables = []
    if config.train:
        known = read_rows(config.train, prompt_format)
        answers = nearest_question_answers(known, rows, prompt_format)
        tables.append(
            prediction_table(rows, answers, prompt_format, "nearest question", config.refusal)
        )
    for name, choice in choices.items():
        answers = answer_rows(choice, rows, prompt_format, config)
        tables.append(prediction_table(rows, answers, prompt_format, name, config.refusal))
    table = pd.concat(tables, ignore_index=True)
    scores = score(table, ["system", *config.group_by])
    _write(config.output_dir, table, scores, {n: c.record() for n, c in choices.items()})
    return table, scores


def answer_rows(
    choice: models.ModelChoice,
    rows: Sequence[dict[str, Any]],
    prompt_format: PromptFormat,
    config: EvaluationConfig,
) -> list[str]:
    """Load a model and let it answer rows, with the settings of a config."""
    model, tokenizer = models.load(choice, config.dtype)
    return generate(
        model,
        tokenizer,
        [prompt_format.prompt(row) for row in rows],
        config.max_new_tokens,
        config.batch_size,
        prompt_format.stop,
        progress=True,
    )


def _saved_format(model: str) -> PromptFormat:
    has_format = (Path(model) / FILE_NAME).is_file()
    return PromptFormat.load(model) if has_format else QUESTION_ANSWER


def _write(
    folder: Path, table: pd.DataFrame, scores: pd.DataFrame, choices: dict[str, dict]
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    report = {"models": choices, "scores": scores.to_dict(orient="records")}
    contents = {
        "predictions.jsonl": table.to_json(orient="records", lines=True, force_ascii=False),
        "scores.json": json.dumps(report, indent=2, ensure_ascii=False) + "\n",
    }
    for name, text in contents.items():
        unfinished = folder / f"{name}.partial"
        unfinished.write_text(text, encoding="utf-8")
        os.replace(unfinished, folder / name)


def _report(config: EvaluationConfig) -> None:
    _, scores = run_evaluation(config)
    wrote = f"wrote: {config.output_dir / 'predictions.jsonl'} and scores.json"
    sys.stdout.write(f"{scores.round(3).to_string(index=False)}\n{wrote}\n")


def main(argv: list[str] | None = None) -> int:
    """Evaluate from a config file on the command line."""
    return command_line(
        EvaluationConfig,
        _report,
        "utilities.evaluation",
        "Evaluate a model from a YAML file.",
        argv,
    )


if __name__ == "__main__":
    sys.exit(main())
