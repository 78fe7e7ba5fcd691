"""ARC and other benchmarks through lm-evaluation-harness, as tidy tables with intervals.

    python -m utilities.benchmark configs/course_assistant/arc.yaml [key=value …]

The harness makes the requests and the scores, so that they can be cited; the log-probabilities of
the choices are computed here, reading each question once for all its choices. `science_questions`
is bundled and needs no hub; ARC needs one, or a file of it.
"""

import contextlib
import io
import logging
import random
import sys
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np
import pandas as pd
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from utilities import models
from utilities.benchmark.result import Benchmark
from utilities.benchmark.tasks import BUNDLED, load_tasks
from utilities.devices import free_memory
from utilities.errors import BenchmarkError
from utilities.models.modes import evaluation_mode
from utilities.scores.statistics import share_of
from utilities.upstream import compiled_templates

if TYPE_CHECKING:
    from lm_eval.api.model import LM
    from lm_eval.api.task import Task

SEEDS = {"python": 0, "others": 1234}  # the harness's own defaults


def run_benchmark(
    model: PreTrainedModel | models.ModelChoice | str,
    tokenizer: PreTrainedTokenizerBase | None = None,
    tasks: Sequence[str] = (BUNDLED,),
    limit: int | None = None,
    *,
    data_files: dict[str, Path] | None = None,
    batch_tokens: int | None = None,
    dtype: str = "float32",
    seed: int = 42,
    name: str | None = None,
    progress: bool = False,
) -> Benchmark:
    """Run tasks of lm-evaluation-harness on a model.

    Args:
        model: a loaded causal language model, what `models.choose` returned, or a name for it to
            choose by: a run folder, an adapter, a hub id, `auto`.
        tokenizer: of a loaded model.
        tasks: `science_questions`, or any multiple-choice task of the harness, by its name there.
        limit: items of each task, drawn at random, 1 or more; all by default.
        data_files: files in place of the hub's data, for `arc_easy` and `arc_challenge`.
        batch_tokens: tokens in a batch; by the free memory when it is not given.
        dtype: of the weights, where they are loaded here.
        seed: of the drawing.
        name: of a loaded model, for the table.
        progress: show a progress bar.

    Returns:
        Scores, samples and a record. The state of all random number generators is unchanged.

    Raises:
        BenchmarkError: a task is unknown, its data are not available, an item does not fit the
            model's context, or a number is out of range.
        ModelError: see `models.choose` and `models.load`.
    """
    if not tasks:
        raise BenchmarkError("tasks: name one at least")
    if limit is not None and limit < 1:
        raise BenchmarkError(f"limit must be 1 or more, or not given, found {limit}")
    loaded, its_tokenizer, origin = _load(model, tokenizer, dtype, name)
    with evaluation_mode(loaded), _random_state_kept(), _quiet() as stderr:
        by_name = load_tasks(tasks, data_files or {})
        adapter = _language_model(loaded, its_tokenizer, batch_tokens, stderr if progress else None)
        start = time.perf_counter()
        results = _evaluate(adapter, by_name, _draw(by_name, limit, seed))
        seconds = time.perf_counter() - start
    samples = _samples(results)
    dtype = str(loaded.dtype).removeprefix("torch.")
    versions = {n: version(n) for n in ("lm_eval", "torch", "transformers")}
    record = {"model": origin, "dtype": dtype, "limit": limit, "seed": seed, "versions": versions}
    return Benchmark(_scores(samples, results, list(by_name), seconds, origin), samples, record)


def _load(
    model: PreTrainedModel | models.ModelChoice | str,
    tokenizer: PreTrainedTokenizerBase | None,
    dtype: str,
    name: str | None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, dict[str, str]]:
    """Return a model, its tokenizer, and where they come from."""
    if isinstance(model, PreTrainedModel):
        if tokenizer is None:
            raise BenchmarkError("a loaded model needs its tokenizer too")
        given = {"name": name or type(model).__name__, "source": "memory", "reason": "it was given"}
        return model, tokenizer, given
    choice = model if isinstance(model, models.ModelChoice) else models.choose(model)
    return *models.load(choice, dtype), choice.record()


def _language_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    batch_tokens: int | None,
    bar: TextIO | None,
) -> "LM":
    from utilities.benchmark.language_model import SharedQuestions  # takes a second

    return SharedQuestions(model, tokenizer, batch_tokens or _batch_tokens(model), bar)


def _evaluate(
    model: "LM", tasks: dict[str, "Task"], samples: dict[str, list[int]] | None
) -> dict[str, Any]:
    """Return the harness's results: `samples`, `versions` and `n-samples`, by task.

    It does what the harness's `simple_evaluate` does; that also asks pip and git for a report on
    the machine, which takes seconds.
    """
    from lm_eval import evaluate

    random.seed(SEEDS["python"])
    np.random.seed(SEEDS["others"])
    torch.manual_seed(SEEDS["others"])
    for task in tasks.values():
        if task.get_config("num_fewshot") is None:
            task.set_config("num_fewshot", 0)
        task.set_fewshot_seed(SEEDS["others"])
    loaded = {"tasks": tasks, "groups": {}}
    with compiled_templates():
        return evaluate(model, loaded, samples=samples, bootstrap_iters=0)


def _samples(results: dict[str, Any]) -> pd.DataFrame:
    """Return the table `Benchmark.samples`."""
    samples = results["samples"]
    table = pd.DataFrame([_sample(task, item) for task in samples for item in samples[task]])
    return table.sort_values(["task", "item"], ignore_index=True)


def _scores(
    samples: pd.DataFrame,
    results: dict[str, Any],
    order: list[str],
    seconds: float,
    origin: dict[str, str],
) -> pd.DataFrame:
    """Return the table `Benchmark.scores`, its tasks in the order given."""
    lines = []
    requests = samples["choices"].map(len)
    for task, rows in samples.groupby("task", sort=False):
        line = {"task": task, "version": results["versions"].get(task), "n": len(rows)}
        line["of"] = results["n-samples"][task]["original"]
        for metric in ("acc", "acc_norm"):
            known = rows[metric].notna().all()  # not every task has both
            value, low, high = share_of(rows[metric]) if known else (np.nan,) * 3
            line |= {metric: value, f"{metric}_low": low, f"{metric}_high": high}
        line["chance"] = float((1 / rows["choices"].map(len)).mean())
        # Tasks are scored together; each gets its share of the time by its requests.
        line["seconds"] = round(seconds * requests[rows.index].sum() / requests.sum(), 1)
        line |= {"model": origin["name"], "source": origin["source"]}
        lines.append({**line, "harness": version("lm_eval")})
    table = pd.DataFrame(lines)
    return table.sort_values("task", key=lambda c: c.map(order.index), ignore_index=True)


def _draw(tasks: dict[str, "Task"], limit: int | None, seed: int) -> dict[str, list[int]] | None:
    """Return indices of items, drawn at random; the same for every model."""
    if limit is None:
        return None
    drawn = {}
    for name, task in tasks.items():
        count = len(task.eval_docs)
        indices = np.random.default_rng(seed).permutation(count)[: min(limit, count)]
        drawn[name] = sorted(indices.tolist())
    return drawn


def _batch_tokens(model: PreTrainedModel) -> int:
    """Return how many tokens a batch may have, so that it takes a quarter of the free memory."""
    free = free_memory(model.device)
    config = model.config.get_text_config()
    # Keys and values of all layers, and the widest activations of one.
    numbers = 2 * config.num_hidden_layers * config.hidden_size + 16 * config.hidden_size
    bytes_each = numbers * model.dtype.itemsize + 2 * config.vocab_size // 8
    return int(np.clip(free / 4 / bytes_each, 512, 16384))


def _sample(task: str, sample: dict[str, Any]) -> dict[str, Any]:
    """Return one item of the harness's log as a row."""
    if sample.get("acc") not in (0, 1):
        raise BenchmarkError(f"{task} does not say of each item whether it is right; use lm-eval")
    arguments = sample["arguments"]
    if isinstance(arguments, dict):
        arguments = [(pair["arg_0"], pair["arg_1"]) for pair in arguments.values()]
    log_probabilities = [float(response[0]) for response in sample["filtered_resps"]]
    choices = [continuation.removeprefix(" ") for _, continuation in arguments]
    by_length = [
        log_probability / max(1, len(choice))
        for log_probability, choice in zip(log_probabilities, choices, strict=True)
    ]
    right = sample["target"]
    if isinstance(right, str):  # some tasks give the text of the right choice, others its index
        right = choices.index(right) if right in choices else None
    return {
        "task": task,
        "item": sample["doc_id"],
        "question": arguments[0][0],
        "choices": choices,
        "log_probabilities": log_probabilities,
        "right": right if isinstance(right, int) else None,
        "picked": int(np.argmax(log_probabilities)),
        "picked_norm": int(np.argmax(by_length)),
        "acc": bool(sample["acc"]),
        "acc_norm": bool(sample["acc_norm"]) if "acc_norm" in sample else None,
    }


@contextlib.contextmanager
def _quiet() -> Iterator[TextIO]:
    """Keep the harness and `datasets` from writing to the screen; yields where a bar may go."""
    import datasets

    harness, stderr = logging.getLogger("lm_eval"), sys.stderr
    level, had_bars = harness.level, datasets.are_progress_bars_disabled()
    harness.setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    nothing = io.StringIO()
    try:
        with contextlib.redirect_stdout(nothing), contextlib.redirect_stderr(nothing):
            yield stderr
    finally:
        harness.setLevel(level)
        if not had_bars:
            datasets.enable_progress_bars()


@contextlib.contextmanager
def _random_state_kept() -> Iterator[None]:
    """Restore the global random number generators, which the harness and its tasks use."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    on_gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        if on_gpus:
            torch.cuda.set_rng_state_all(on_gpus)
