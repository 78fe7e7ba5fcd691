"""Evaluation: answers into a table, the table into scores, comparisons and errors.

    python -m utilities.evaluation configs/course_assistant/evaluate.yaml [key=value …]

Everything after generation reads the prediction table: one row per question and system, with the
columns of the data, then `row`, `prompt`, `reference`, `prediction`, `system`, what ended the
answer, and a column per score. A run that is killed goes on where it was.
"""

import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from utilities import models
from utilities.errors import EvaluationError
from utilities.evaluation.forgetting_ratio import forgetting
from utilities.evaluation.result import Evaluation
from utilities.evaluation.settings import BASE, FREQUENT, MODEL, NEAREST, EvaluationConfig
from utilities.files import fingerprint_of, versions
from utilities.inference import likelihood
from utilities.inference.answer_file import collect
from utilities.inference.answers import Answer
from utilities.inference.endpoint import Endpoint
from utilities.inference.local_model import LocalModel
from utilities.prompts.base import FILE_NAME, PromptFormat
from utilities.prompts.built_in import QUESTION_ANSWER
from utilities.rows.sources import read_rows
from utilities.scores.baselines import most_frequent_answer, nearest_question_answers
from utilities.scores.error_analysis import (
    error_counts,
    refusals,
)
from utilities.scores.metrics import cosines, sentence_similarity
from utilities.scores.prediction_tables import compare, prediction_table, score
from utilities.scores.statistics import Estimate
from utilities.scores.table_columns import OWN_COLUMNS
from utilities.tracking import log_figures

logger = logging.getLogger(__name__)


def run_evaluation(config: EvaluationConfig, progress: bool = True) -> Evaluation:
    """Do all that a config says, and write it into its folder.

    Raises:
        LabError: of the module where the fault lies. Answers made until then are kept.
    """
    return _Work(config, progress).run()


class _Work:
    """One evaluation under way."""

    def __init__(self, config: EvaluationConfig, progress: bool):
        self.config, self.progress = config, progress
        taken = {MODEL, BASE, NEAREST, FREQUENT} & set(config.beside)
        if taken:
            raise EvaluationError(f"beside: choose other names than {sorted(taken)}")
        named = {MODEL: config.model, BASE: config.base_model, **config.beside}
        self.systems = {
            name: each if isinstance(each, Endpoint) else models.choose(each)
            for name, each in named.items()
            if each
        }
        tokenizer = models.load_tokenizer(self.systems[MODEL])
        prompt_format, self.format_from = _prompt_format(
            config, models.download(self.systems[MODEL])
        )
        self.format = prompt_format.bind(tokenizer)
        stop = config.generation.stop
        self.settings = config.generation.model_copy(
            update={"stop": tuple(self.format.stop) if stop is None else stop}
        )
        self.rows = read_rows(config.test, self.format)
        for column in config.group_by:
            if any(column not in row for row in self.rows):
                raise EvaluationError(f"group_by names {column!r}, which not every row has")
            if column in OWN_COLUMNS:
                raise EvaluationError(f"group_by: {column!r} is a column of the table of scores")
            if not all(isinstance(row[column], str | int | float | None) for row in self.rows):
                raise EvaluationError(f"group_by: {column!r} must hold texts or numbers")
            # Where it says nothing is a part too.
            named = ("–" if row[column] is None else str(row[column]) for row in self.rows)
            pairs = zip(self.rows, named, strict=True)
            self.rows = [{**row, column: name} for row, name in pairs]
        self.prompts = [self.format.prompt(row) for row in self.rows]
        self.texts = _paragraphs(config.neutral_text) if config.neutral_text else []
        if self.texts and not config.base_model:
            raise EvaluationError("neutral_text compares with base_model, which is not given")

    def run(self) -> Evaluation:
        config, start = self.config, time.perf_counter()
        config.output_dir.mkdir(parents=True, exist_ok=True)
        self.log = _log_into(config.output_dir / "evaluation.log")
        tables = self._baselines()
        losses: dict[str, Any] = {}
        for name, choice in self.systems.items():
            tables.append(self._system(name, choice, losses))
        table = pd.concat(tables, ignore_index=True)
        if "sentences" in config.similarity:
            table["sentence_similarity"] = _by_sentences(table)
        by = [["system"], *(["system", column] for column in config.group_by)]
        scores = [score(table, columns) for columns in by]
        if config.refusal:
            found = refusals(table, config.refusal)
            scores.insert(1, found.assign(metric="refusal_" + found["metric"]))
        scores = pd.concat(scores, ignore_index=True)
        others = [name for name in table["system"].unique() if name != MODEL]
        pairs = [compare(table, name, MODEL).assign(against=name) for name in others]
        evaluation = Evaluation(
            predictions=table,
            scores=scores,
            comparisons=pd.concat(pairs, ignore_index=True) if pairs else pd.DataFrame(),
            errors=error_counts(table),
            record={
                "models": {name: each.record() for name, each in self.systems.items()},
                "config": config.model_dump(mode="json"),
                "prompt_format": {"name": self.format.name, "from": self.format_from},
                "rows": len(self.rows),
                "failed": {
                    str(name): int(rows["error"].notna().sum())
                    for name, rows in table.groupby("system", sort=False)
                },
                "seconds": round(time.perf_counter() - start, 1),
                "versions": versions(),
            },
            forgetting=self._forgetting(losses),
        )
        self._write(evaluation)
        self.log(f"done in {evaluation.record['seconds']} s")
        return evaluation

    def _table(self, answers: Sequence[str | Answer], name: str) -> pd.DataFrame:
        return prediction_table(self.rows, answers, self.format, name, self.config.refusal)

    def _baselines(self) -> list[pd.DataFrame]:
        if not self.config.train:
            return []
        known = read_rows(self.config.train, self.format)
        frequent = [most_frequent_answer(known, self.format)] * len(self.rows)
        nearest = nearest_question_answers(known, self.rows, self.format)
        return [self._table(nearest, NEAREST), self._table(frequent, FREQUENT)]

    def _system(
        self, name: str, choice: models.ModelChoice | Endpoint, losses: dict[str, Any]
    ) -> pd.DataFrame:
        config = self.config
        self.log(f"{name}: {choice if isinstance(choice, models.ModelChoice) else choice.model}")
        local = None if isinstance(choice, Endpoint) else self._load(choice)
        kept = {"base_url", "model", "api", "log_probabilities"}
        origin = choice.model_dump(include=kept) if local is None else _origin(choice, config)
        file = config.output_dir / "answers" / f"{_file_name(name)}.jsonl"
        answers = collect(
            file,
            local or choice,
            self.prompts,
            self.settings,
            origin,
            config.save_every,
            self.progress,
        )
        failed = [answer.error for answer in answers if answer.error]
        if len(failed) == len(answers):
            raise EvaluationError(f"{name}: every row failed, the first with: {failed[0]}")
        self.log(f"{name}: {len(answers)} answers, {len(failed)} failed")
        table = self._table(answers, name)
        if local and config.perplexity:
            references = table["reference"].tolist()
            sums, tokens = likelihood.log_probabilities(
                local.model,
                local.tokenizer,
                self.prompts,
                references,
                self.settings.batch_tokens,
            )
            table["reference_log_probability"], table["reference_tokens"] = sums, tokens
            table["perplexity"] = np.exp(-sums / tokens)
        if name == MODEL and "states" in config.similarity:
            pair = [
                likelihood.mean_states(
                    local.model, local.tokenizer, table[column].tolist(), self.settings.batch_tokens
                )
                for column in ("prediction", "reference")
            ]
            table["state_similarity"] = cosines(*pair)
        if local and self.texts and name in (MODEL, BASE):
            losses[name] = local
        return table

    def _load(self, choice: models.ModelChoice) -> LocalModel:
        model, tokenizer = models.load(choice, self.config.dtype)
        return LocalModel(model.to("cpu") if self.config.use_cpu else model, tokenizer)

    def _forgetting(self, loaded: dict[str, LocalModel]) -> Estimate | None:
        if not self.texts:
            return None
        _, ratio = forgetting(loaded[BASE], loaded[MODEL], self.texts)
        self.log(f"perplexity on neutral text, by that of the base model: {ratio.value:.3f}")
        return ratio

    def _write(self, evaluation: Evaluation) -> None:
        from utilities.evaluation.page import write_report

        folder, table = self.config.output_dir, evaluation.predictions
        report = {
            **evaluation.record,
            "scores": evaluation.scores.to_dict(orient="records"),
            "comparisons": evaluation.comparisons.to_dict(orient="records"),
            "errors": evaluation.errors.to_dict(orient="records"),
            "forgetting": evaluation.forgetting and evaluation.forgetting._asdict(),
        }
        lines = table.to_json(orient="records", lines=True, force_ascii=False)
        _whole(folder / "predictions.jsonl", lambda path: path.write_text(lines, "utf-8"))
        _whole(folder / "predictions.parquet", _flat(table).to_parquet)
        text = json.dumps(_finite(report), indent=2, ensure_ascii=False, default=str) + "\n"
        _whole(folder / "scores.json", lambda path: path.write_text(text, "utf-8"))
        _whole(folder / "report.html", lambda path: write_report(evaluation, path, self.config))
        if self.config.tracking:
            whole = evaluation.scores.drop_duplicates(["system", "metric"])
            figures = {f"{line.system}/{line.metric}": line.value for line in whole.itertuples()}
            log_figures(self.config.tracking, folder, figures)


def _prompt_format(config: EvaluationConfig, folder: Path) -> tuple[PromptFormat, str]:
    """Return the format that the model is asked in, and where it comes from."""
    if config.prompt_format:
        return config.prompt_format, "the config names it"
    if (folder / FILE_NAME).is_file():
        return PromptFormat.load(folder), "it is saved with the model"
    if (folder / "run.json").is_file():
        raise EvaluationError(
            f"the run folder {folder.name} holds no {FILE_NAME}; name `prompt_format` in the config"
        )
    return QUESTION_ANSWER, "none is saved with the model"


def _origin(choice: models.ModelChoice, config: EvaluationConfig) -> dict[str, Any]:
    """Return what a model's answers depend on: its name, files and dtype."""
    weights = sorted(models.download(choice).glob("*.safetensors"))
    stamps = [[each.name, each.stat().st_size, each.stat().st_mtime_ns] for each in weights]
    return {"name": choice.name, "source": choice.source, "dtype": config.dtype, "files": stamps}


def _file_name(system: str) -> str:
    safe = "".join(sign if sign.isalnum() or sign in "-." else "_" for sign in system).lower()
    return safe if safe == system else f"{safe}-{fingerprint_of(system)[:6]}"


def _paragraphs(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise EvaluationError(f"neutral_text: {path} cannot be read: {error}") from None
    return [part.strip() for part in text.split("\n\n") if part.strip()]


def _by_sentences(table: pd.DataFrame) -> np.ndarray:
    try:
        return sentence_similarity(table["prediction"], table["reference"])
    except ImportError:
        raise EvaluationError(
            "similarity `sentences` needs a package; run `pip install sentence-transformers`"
        ) from None


def _log_into(path: Path) -> Callable[[str], None]:
    logger = logging.getLogger(__name__)

    def log(text: str) -> None:
        logger.info(text)
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")

    return log


def _flat(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with columns of one type each, as parquet wants it."""
    flat = table.astype({"tokens": float, "log_probability": float})
    for name in flat.select_dtypes(exclude=["number", "bool"]):
        missing = [value is None or value is pd.NA or value != value for value in flat[name]]
        texts = zip(flat[name], missing, strict=True)
        flat[name] = [None if lacking else str(value) for value, lacking in texts]
    return flat


def _finite(value: Any) -> Any:
    """Return the same with None for what JSON cannot hold."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _whole(path: Path, write: Callable[[Path], Any]) -> None:
    unfinished = path.with_name(f"{path.name}.partial")
    write(unfinished)
    os.replace(unfinished, path)
