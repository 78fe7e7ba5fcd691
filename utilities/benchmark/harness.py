"""ARC and other benchmarks through lm-evaluation-harness, as tidy tables with intervals.

    python -m utilities.benchmark configs/course_assistant/arc.yaml [key=value …]

The harness makes the requests and the scores, as everybody cites them; how likely choices are is
computed here, reading each question once for all its choices. `science_questions` is bundled and
needs no hub; ARC needs one, or a file of it.
"""

import contextlib
import functools
import io
import logging
import random
import sys
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from utilities import models
from utilities.benchmark.compare import Benchmark
from utilities.benchmark.tasks import BUNDLED, load_tasks, task_index
from utilities.devices import free_memory
from utilities.errors import BenchmarkError
from utilities.inference import likelihood
from utilities.models.modes import evaluation_mode
from utilities.scores.statistics import share_of

if TYPE_CHECKING:
    from lm_eval.api.task import Task


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
        limit: items of each task, drawn at random; all by default.
        data_files: files in place of the hub's data, for `arc_easy` and `arc_challenge`.
        batch_tokens: tokens in a batch; by the free memory when it is not given.
        dtype: of the weights, where they are loaded here.
        seed: of the drawing.
        name: of a loaded model, for the table.
        progress: show a progress bar.

    Returns:
        Scores, samples and a record. The state of all random generators is as it was before.

    Raises:
        BenchmarkError: a task is unknown, its data cannot be had, an item does not fit the model's
            context, or a number is out of range.
        ModelError: see `models.choose` and `models.load`.
    """
    if not tasks:
        raise BenchmarkError("tasks: name one at least")
    if limit is not None and limit < 1:
        raise BenchmarkError(f"limit must be 1 or more, or not given, found {limit}")
    if isinstance(model, PreTrainedModel):
        if tokenizer is None:
            raise BenchmarkError("a loaded model needs its tokenizer too")
        origin = {
            "name": name or type(model).__name__,
            "source": "memory",
            "reason": "it was given",
        }
    else:
        choice = model if isinstance(model, models.ModelChoice) else models.choose(model)
        origin = choice.record()
        model, tokenizer = models.load(choice, dtype)
    with _quiet() as stderr, _random_state_kept(), _without_waste(), evaluation_mode(model):
        from lm_eval import simple_evaluate

        loaded = load_tasks(tasks, data_files or {})
        drawn = _draw(loaded, limit, seed)
        language_model = _language_model(
            model, tokenizer, batch_tokens or _batch_tokens(model), stderr if progress else None
        )
        start = time.perf_counter()
        results = simple_evaluate(
            model=language_model,
            tasks=list(loaded.values()),
            samples=drawn,
            bootstrap_iters=0,
            task_manager=task_index([]),
        )
        seconds = time.perf_counter() - start
    samples = pd.DataFrame(
        [_sample(task, each) for task, found in results["samples"].items() for each in found]
    ).sort_values(["task", "item"], ignore_index=True)
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
    order = {name: place for place, name in enumerate(loaded)}
    scores = pd.DataFrame(lines).sort_values("task", key=lambda c: c.map(order), ignore_index=True)
    record = {
        "model": origin,
        "dtype": str(model.dtype).removeprefix("torch."),
        "limit": limit,
        "seed": seed,
        "versions": {n: version(n) for n in ("lm_eval", "torch", "transformers")},
    }
    return Benchmark(scores, samples, record)


def _draw(tasks: dict[str, "Task"], limit: int | None, seed: int) -> dict[str, list[int]] | None:
    """Return places of items, drawn at random; the same for every model."""
    if limit is None:
        return None
    drawn = {}
    for name, task in tasks.items():
        count = len(task.eval_docs)
        places = np.random.default_rng(seed).permutation(count)[: min(limit, count)]
        drawn[name] = sorted(places.tolist())
    return drawn


def _batch_tokens(model: PreTrainedModel) -> int:
    """Return how many tokens a batch may have, so that it takes a quarter of the free memory."""
    free = free_memory(model.device)
    config = model.config.get_text_config()
    # Keys and values of all layers, and the widest activations of one.
    numbers = 2 * config.num_hidden_layers * config.hidden_size + 16 * config.hidden_size
    bytes_each = numbers * model.dtype.itemsize + 2 * config.vocab_size // 8
    return int(np.clip(free / 4 / bytes_each, 512, 16384))


def _language_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch_tokens: int, bar: Any
) -> Any:
    """Return the harness's own wrapper of a model, with another way to score choices."""
    from lm_eval.models.huggingface import HFLM

    class SharedQuestions(HFLM):
        def _loglikelihood_tokens(self, requests, disable_tqdm=False, override_bs=None):
            groups: dict[tuple[int, ...], list[int]] = {}
            for place, (texts, asked, choice) in enumerate(requests):
                if len(asked) + len(choice) - 1 > self.max_length:
                    raise BenchmarkError(
                        f"an item has {len(asked) + len(choice)} tokens, but the model's context "
                        f"holds {self.max_length}: {texts[0][:80]!r}"
                    )
                groups.setdefault(tuple(asked), []).append(place)
            questions = [
                (asked, [requests[place][2] for place in places])
                for asked, places in groups.items()
            ]
            with tqdm(
                total=len(questions), desc="scoring", unit="item", disable=bar is None, file=bar
            ) as shown:
                pad = self.tokenizer.pad_token_id
                found = likelihood.choice_log_probabilities(
                    self.model, questions, pad, batch_tokens, shown.update
                )
            results: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
            for places, choices in zip(groups.values(), found, strict=True):
                for place, result in zip(places, choices, strict=True):
                    results[place] = result
            return results

    return SharedQuestions(pretrained=model, tokenizer=tokenizer, batch_size=1)


def _sample(task: str, sample: dict[str, Any]) -> dict[str, Any]:
    """Return one item of the harness's log as a row."""
    if sample.get("acc") not in (0, 1):
        raise BenchmarkError(f"{task} does not say of each item whether it is right; use lm-eval")
    arguments = sample["arguments"]
    if isinstance(arguments, dict):
        arguments = [(each["arg_0"], each["arg_1"]) for each in arguments.values()]
    chances = [float(each[0]) for each in sample["filtered_resps"]]
    choices = [continuation.removeprefix(" ") for _, continuation in arguments]
    by_length = [c / max(1, len(choice)) for c, choice in zip(chances, choices, strict=True)]
    right = sample["target"]
    if isinstance(right, str):  # some tasks name it, others count
        right = choices.index(right) if right in choices else None
    return {
        "task": task,
        "item": sample["doc_id"],
        "question": arguments[0][0],
        "choices": choices,
        "log_probabilities": chances,
        "right": right if isinstance(right, int) else None,
        "picked": int(np.argmax(chances)),
        "picked_norm": int(np.argmax(by_length)),
        "acc": bool(sample["acc"]),
        "acc_norm": bool(sample["acc_norm"]) if "acc_norm" in sample else None,
    }


@contextlib.contextmanager
def _quiet() -> Iterator[Any]:
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
def _without_waste() -> Iterator[None]:
    """Have the harness compile each template once, not for every item, and not call pip and git."""
    from lm_eval import evaluator, utils

    compile_template, add_information = utils.env.from_string, evaluator.add_env_info
    utils.env.from_string = functools.cache(compile_template)
    evaluator.add_env_info = lambda results: None
    try:
        yield
    finally:
        del utils.env.from_string
        evaluator.add_env_info = add_information


@contextlib.contextmanager
def _random_state_kept() -> Iterator[None]:
    """Put the random generators back, which the harness seeds."""
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
