"""Evaluation: answers into a table, the table into scores, comparisons and errors.

    python -m utilities.evaluation configs/course_assistant/evaluate.yaml [key=value …]

Everything after generation reads the prediction table: one row per question and system, with the
columns of the data, then `row`, `prompt`, `reference`, `prediction`, `system`, what ended the
answer, and a column per score. A run that was killed continues from the answers that it has saved.
"""

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from utilities import models
from utilities.errors import EvaluationError
from utilities.evaluation.forgetting_ratio import forgetting
from utilities.evaluation.inputs import Inputs, check_config, read_inputs
from utilities.evaluation.result import Evaluation
from utilities.evaluation.result_files import write_files
from utilities.evaluation.settings import BASE, FREQUENT, MODEL, NEAREST, EvaluationConfig
from utilities.files import fingerprint_of, versions
from utilities.inference import likelihood
from utilities.inference.answer_file import collect
from utilities.inference.answers import Answer
from utilities.inference.endpoint import Endpoint
from utilities.inference.local_model import LocalModel
from utilities.rows.sources import read_rows
from utilities.scores.baselines import most_frequent_answer, nearest_question_answers
from utilities.scores.error_analysis import error_counts, refusals
from utilities.scores.metrics import cosines
from utilities.scores.prediction_tables import compare, prediction_table, score
from utilities.scores.statistics import Estimate
from utilities.tracking import Tracking, log_figures

logger = logging.getLogger(__name__)


Log = Callable[[str], None]


def run_evaluation(config: EvaluationConfig, progress: bool = True) -> Evaluation:
    """Evaluate as a config says, and write the files into its folder.

    Args:
        config: what to evaluate, on what, and how.
        progress: show a progress bar for the answers of each system.

    Raises:
        LabError: of the module where the fault lies. Answers made until then are kept.
    """
    check_config(config)
    inputs, start = read_inputs(config), time.perf_counter()
    config.output_dir.mkdir(parents=True, exist_ok=True)
    log = _log_into(config.output_dir / "evaluation.log")
    tables = _baselines(inputs)
    loaded: dict[str, LocalModel] = {}
    for name in inputs.systems:
        tables.append(_system(name, inputs, loaded, log, progress))
    table = pd.concat(tables, ignore_index=True)
    ratio = _forgetting(loaded, inputs.neutral_texts, log)
    evaluation = Evaluation(
        predictions=table,
        scores=_scores(config, table),
        comparisons=_comparisons(table),
        errors=error_counts(table),
        record=_record(inputs, table, time.perf_counter() - start),
        forgetting=ratio,
    )
    write_files(evaluation, config)
    if config.tracking:
        _track(config.tracking, config.output_dir, evaluation.scores)
    log(f"done in {evaluation.record['seconds']} s")
    return evaluation


def _log_into(path: Path) -> Log:
    """Return a function that logs a line, and appends it with the time to a file."""

    def log(text: str) -> None:
        logger.info(text)
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")

    return log


def _baselines(inputs: Inputs) -> list[pd.DataFrame]:
    """Return the tables of the baselines, which look their answers up in the training rows."""
    if not inputs.config.train:
        return []
    train_rows = read_rows(inputs.config.train, inputs.prompt_format)
    frequent = most_frequent_answer(train_rows, inputs.prompt_format)
    nearest = nearest_question_answers(train_rows, inputs.rows, inputs.prompt_format)
    return [
        _table(nearest, NEAREST, inputs),
        _table([frequent] * len(inputs.rows), FREQUENT, inputs),
    ]


def _table(answers: Sequence[str | Answer], name: str, inputs: Inputs) -> pd.DataFrame:
    return prediction_table(inputs.rows, answers, inputs.prompt_format, name, inputs.config.refusal)


def _system(
    name: str, inputs: Inputs, loaded: dict[str, LocalModel], log: Log, progress: bool
) -> pd.DataFrame:
    """Return the table of a model or endpoint; put a model that is needed again into `loaded`."""
    config, system = inputs.config, inputs.systems[name]
    log(f"{name}: {system.model if isinstance(system, Endpoint) else system}")
    answerer, origin = _answerer(system, config)
    answers = collect(
        config.output_dir / "answers" / f"{_file_name(name)}.jsonl",
        answerer,
        inputs.prompts,
        inputs.generation,
        origin,
        config.save_every,
        progress,
    )
    errors = [answer.error for answer in answers if answer.error]
    if len(errors) == len(answers):
        raise EvaluationError(f"{name}: every row failed, the first with: {errors[0]}")
    log(f"{name}: {len(answers)} answers, {len(errors)} failed")
    table = _table(answers, name, inputs)
    if isinstance(answerer, LocalModel):
        if config.perplexity:
            _add_perplexity(table, answerer, inputs)
        if name == MODEL and "states" in config.similarity:
            _add_state_similarity(table, answerer, inputs)
        if inputs.neutral_texts and name in (MODEL, BASE):
            loaded[name] = answerer
    return table


def _answerer(
    system: models.ModelChoice | Endpoint, config: EvaluationConfig
) -> tuple[Endpoint | LocalModel, dict[str, Any]]:
    """Return whatever answers, and what its answers depend on besides prompts and settings."""
    if isinstance(system, Endpoint):
        return system, system.model_dump(include={"base_url", "model", "api", "log_probabilities"})
    model, tokenizer = models.load(system, config.dtype)
    # A run folder that was trained anew has the same name, but other files.
    weights = sorted(models.download(system).glob("*.safetensors"))
    files = [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in weights]
    origin = {"name": system.name, "source": system.source, "dtype": config.dtype, "files": files}
    return LocalModel(model.cpu() if config.use_cpu else model, tokenizer), origin


def _file_name(system: str) -> str:
    """Return a file name for a system; a hash keeps `a b` and `a_b`, or `A` and `a`, apart."""
    safe = "".join(sign if sign.isalnum() or sign in "-." else "_" for sign in system).lower()
    return safe if safe == system else f"{safe}-{fingerprint_of(system)[:6]}"


def _add_perplexity(table: pd.DataFrame, local: LocalModel, inputs: Inputs) -> None:
    """Add the log-probability of each reference, its tokens, and its perplexity."""
    log_probabilities, tokens = likelihood.log_probabilities(
        local.model,
        local.tokenizer,
        inputs.prompts,
        table["reference"].tolist(),
        inputs.generation.batch_tokens,
    )
    table["reference_log_probability"], table["reference_tokens"] = log_probabilities, tokens
    table["perplexity"] = np.exp(-log_probabilities / tokens)


def _add_state_similarity(table: pd.DataFrame, local: LocalModel, inputs: Inputs) -> None:
    """Add the cosine of the mean hidden states of prediction and reference."""
    predictions, references = (
        likelihood.mean_states(
            local.model, local.tokenizer, table[column].tolist(), inputs.generation.batch_tokens
        )
        for column in ("prediction", "reference")
    )
    table["state_similarity"] = cosines(predictions, references)


def _scores(config: EvaluationConfig, table: pd.DataFrame) -> pd.DataFrame:
    """Return the scores of all rows, then those by each column of `group_by`."""
    scores = [score(table, ["system"])]
    if config.refusal:
        refused = refusals(table, config.refusal)
        scores.append(refused.assign(metric="refusal_" + refused["metric"]))
    scores += [score(table, ["system", column]) for column in config.group_by]
    return pd.concat(scores, ignore_index=True)


def _comparisons(table: pd.DataFrame) -> pd.DataFrame:
    """Return the comparison of `model` with every other system."""
    others = [name for name in table["system"].unique() if name != MODEL]
    comparisons = [compare(table, name, MODEL).assign(against=name) for name in others]
    return pd.concat(comparisons, ignore_index=True) if comparisons else pd.DataFrame()


def _forgetting(loaded: dict[str, LocalModel], texts: Sequence[str], log: Log) -> Estimate | None:
    if not texts:
        return None
    _, ratio = forgetting(loaded[BASE], loaded[MODEL], texts)
    log(f"perplexity on neutral text, relative to the base model: {ratio.value:.3f}")
    return ratio


def _record(inputs: Inputs, table: pd.DataFrame, seconds: float) -> dict[str, Any]:
    """Return how the evaluation was made, for `scores.json`."""
    return {
        "models": {name: system.record() for name, system in inputs.systems.items()},
        "config": inputs.config.model_dump(mode="json"),
        "prompt_format": {"name": inputs.prompt_format.name, "from": inputs.format_origin},
        "rows": len(inputs.rows),
        "failed": {
            str(name): int(rows["error"].notna().sum())
            for name, rows in table.groupby("system", sort=False)
        },
        "seconds": round(seconds, 1),
        "versions": versions(),
    }


def _track(tracking: Tracking, folder: Path, scores: pd.DataFrame) -> None:
    """Send each system's scores over all rows to a tracker."""
    overall = scores.drop_duplicates(["system", "metric"])  # those of groups come later
    figures = {
        f"{system}/{metric}": value
        for system, metric, value in overall[["system", "metric", "value"]].to_numpy().tolist()
    }
    log_figures(tracking, folder, figures)
