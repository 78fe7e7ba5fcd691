"""ARC and other benchmarks through lm-evaluation-harness, as tidy tables with intervals.

    python -m utilities.benchmark configs/course_assistant/arc.yaml [key=value …]

The harness makes the requests and the scores, as everybody cites them; how likely choices are is
computed here, reading each question once for all its choices. `science_questions` is bundled and
needs no hub; ARC needs one, or a file of it.
"""

import contextlib
import functools
import io
import json
import logging
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import psutil
import torch
import xxhash
import yaml
from pydantic import Field
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from utilities import models, offline_model, scoring
from utilities.arc_files import read_arc
from utilities.config import (
    ConfigPath,
    LabError,
    ModelName,
    StrictModel,
    bundled,
    command_line,
    nearest,
)
from utilities.intervals import Flips, mcnemar, share_of

if TYPE_CHECKING:
    from lm_eval.api.task import Task
    from lm_eval.tasks import TaskManager

BUNDLED = "science_questions"
TASKS = Path(__file__).with_name("tasks")

# Where the harness keeps well-known tasks, and their data; to index all of them takes ten seconds.
_FOLDERS = {"arc": "arc", "hellaswag": "hellaswag", "truthfulqa": "truthfulqa", "mmlu": "mmlu"}
_DATA = {
    "arc": "allenai/ai2_arc",
    "hellaswag": "Rowan/hellaswag",
    "truthfulqa": "truthfulqa/truthful_qa",
    "mmlu": "cais/mmlu",
}


class BenchmarkError(LabError):
    """A benchmark that cannot be run as asked."""


@dataclass(frozen=True)
class Benchmark:
    """What came out.

    Attributes:
        scores: one row per task: `task`, `version` (of the task), `n` (items used), `of` (items
            there are), `acc`, `acc_low`, `acc_high`, `acc_norm`, `acc_norm_low`, `acc_norm_high`
            (shares with 95 % Wilson intervals, 0 to 1), `chance` (what guessing gets), `seconds`,
            `model`, `source`, `harness` (its version).
        samples: one row per item: `task`, `item`, `question`, `choices`, `log_probabilities`
            (nats), `right`, `picked`, `picked_norm` (places of choices), `acc`, `acc_norm` (bool;
            None where the task has no such score).
        record: model, settings, versions.
    """

    scores: pd.DataFrame
    samples: pd.DataFrame
    record: dict[str, Any]


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
    with _quiet() as stderr, _random_state_kept(), _without_waste(), _evaluating(model):
        from lm_eval import simple_evaluate

        loaded = _load_tasks(tasks, data_files or {})
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
            task_manager=_index([]),
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


def _family(task: str) -> str | None:
    return next((name for name in _FOLDERS if task == name or task.startswith(f"{name}_")), None)


def _index(tasks: Sequence[str]) -> "TaskManager":
    """Return an index of the harness's tasks, no larger than it must be."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    families = {_family(task) for task in tasks} - {None}
    folder = Path(lm_eval.__file__).parent / "tasks"
    places = [folder / _FOLDERS[family] for family in sorted(families)]
    small = TaskManager(include_defaults=False, include_path=[TASKS, *places])
    return small if set(tasks) <= set(small.all_tasks) else TaskManager()


def _load_tasks(tasks: Sequence[str], data_files: dict[str, Path]) -> dict[str, "Task"]:
    """Return the harness's task objects by name; groups such as `mmlu` are taken apart."""
    others = [name for name in tasks if name != BUNDLED]
    manager, loaded = _index(others), {}
    if left := set(data_files) - set(tasks):
        raise BenchmarkError(f"data_files names {sorted(left)[0]!r}, which is not among the tasks")
    for name in tasks:
        if name == BUNDLED:
            path = TASKS / f"{BUNDLED}.yaml"
            spec = over_file(path, bundled("data/science_questions/test.jsonl"))
        elif name in data_files:
            spec = _from_file(name, data_files[name])
        elif name in manager.all_tasks:
            _reach(name)
            spec = name
        else:
            every = [BUNDLED, *manager.all_tasks]
            raise BenchmarkError(f"there is no task {name!r}{nearest(name, every)}")
        try:
            loaded |= manager.load([spec])["tasks"]
        except LabError:
            raise
        except Exception as error:  # the harness and `datasets` raise many kinds
            raise BenchmarkError(_no_data(name, f"{type(error).__name__}: {error}")) from error
    for name, task in loaded.items():
        if task.OUTPUT_TYPE != "multiple_choice":
            raise BenchmarkError(f"{name} is no multiple-choice task; run it with lm-eval itself")
    return loaded


def _reach(name: str) -> None:
    """Ask the hub once for a well-known task's data; in offline mode the cache may have them."""
    family = _family(name)
    if family and (state := models.probe(_DATA[family], "dataset")) not in (
        "there",
        "offline mode is set",
    ):
        raise BenchmarkError(_no_data(name, state))


def _no_data(name: str, why: str) -> str:
    own = " or name a copy of it in `data_files`" if (_family(name) == "arc") else ""
    return (
        f"the data of {name} cannot be had ({' '.join(why.split())[:300]}). "
        f"Take the task `{BUNDLED}`, which needs no hub,{own or ' or try again with a network'}"
    )


def over_file(path: Path, data: Path) -> dict[str, Any]:
    """Return a task's settings with a JSONL file in place of its data."""
    spec = yaml.safe_load(path.read_text(encoding="utf-8"))
    spec |= {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}}}
    for key in ("dataset_name", "training_split", "validation_split"):
        spec.pop(key, None)
    return {**spec, "test_split": "test"}


def _from_file(name: str, path: Path) -> dict[str, Any]:
    import lm_eval

    if name not in ("arc_easy", "arc_challenge"):
        raise BenchmarkError(f"data_files: only arc_easy and arc_challenge are read, not {name}")
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in read_arc(path))
    # `datasets` knows files by their place, and keeps what it made of them.
    place = offline_model.cache_folder() / "benchmarks"
    place.mkdir(parents=True, exist_ok=True)
    checked = place / f"{name}-{xxhash.xxh3_64_hexdigest(lines.encode())}.jsonl"
    checked.write_text(lines, encoding="utf-8")
    easy = Path(lm_eval.__file__).parent / "tasks" / "arc" / "arc_easy.yaml"
    return {**over_file(easy, checked), "task": name}


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
    on_gpu = model.device.type == "cuda"
    free = torch.cuda.mem_get_info()[0] if on_gpu else psutil.virtual_memory().available
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
                found = scoring.choice_log_probabilities(
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
def _evaluating(model: PreTrainedModel) -> Iterator[None]:
    """Put a model into evaluation mode, and back."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


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


def score_choices(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    items: Sequence[tuple[str, Sequence[str]]],
    delimiter: str = " ",
    batch_tokens: int = scoring.BATCH_TOKENS,
) -> pd.DataFrame:
    """Score multiple-choice items by hand, as the harness does.

    A choice's score is the log-probability of its tokens after the question. The harness's `acc`
    picks the highest; `acc_norm` the highest by character, because every further token makes a text
    less likely, whatever it says. Question and choice are cut into tokens together, and a space at
    the end of the question counts to the choice: " Paris" is one token, "Paris" another.

    Args:
        model: a causal language model, in evaluation mode.
        tokenizer: the model's own.
        items: for each, its question as a prompt, and its choices.
        delimiter: what stands between the two.
        batch_tokens: tokens in a batch.

    Returns:
        One row per choice: `item`, `choice`, `tokens`, `characters`, `log_probability` (nats),
        `per_character`, `picked`, `picked_norm` (bool, one of an item's choices each).

    Raises:
        BenchmarkError: a question or a choice is empty.
    """
    questions = []
    for question, choices in items:
        stripped = question.rstrip(" ")  # as the harness does: a space belongs to what follows
        if not stripped or not all(choices):
            raise BenchmarkError("every question and every choice needs some text")
        asked = tokenizer(stripped)["input_ids"]
        both = [question + delimiter + choice for choice in choices]
        whole = tokenizer(both)["input_ids"]
        questions.append((asked, [ids[len(asked) :] for ids in whole]))
    found = scoring.choice_log_probabilities(model, questions, tokenizer.pad_token_id, batch_tokens)
    lines = []
    for item, ((_, choices), (_, ids), scores) in enumerate(
        zip(items, questions, found, strict=True)
    ):
        sums = np.array([value for value, _ in scores])
        each = sums / np.array([len(choice) for choice in choices])
        for place, choice in enumerate(choices):
            line = {"item": item, "choice": choice, "tokens": len(ids[place])}
            line |= {"characters": len(choice), "log_probability": sums[place]}
            line |= {"per_character": each[place], "picked": place == sums.argmax()}
            lines.append({**line, "picked_norm": place == each.argmax()})
    return pd.DataFrame(lines)


def compare_items(
    before: Benchmark, after: Benchmark, metric: Literal["acc", "acc_norm"] = "acc"
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Compare two models on the same items.

    Args:
        before: of one model, such as the base model.
        after: of another, with the same tasks, limit and seed.
        metric: which score.

    Returns:
        (one row per task: `task`, `n`, `before`, `after` (shares), `gained`, `lost`, `p` of
        McNemar's test; the items that changed: `task`, `question`, `right`, `before`, `after` (the
        choices in words), `change`).

    Raises:
        BenchmarkError: the two answered other items.
    """
    keys = ["task", "item"]
    first, second = before.samples.set_index(keys), after.samples.set_index(keys)
    if first[metric].isna().any():
        raise BenchmarkError(f"not every task has {metric}; compare by acc")
    if not first.index.equals(second.index):
        raise BenchmarkError("the two were not asked the same items; use one limit and one seed")
    lines = []
    for task in first.index.unique("task"):
        old, new = first.loc[task][metric], second.loc[task][metric]
        flips: Flips = mcnemar(old, new)
        line = {"task": task, "n": len(old), "before": old.mean(), "after": new.mean()}
        lines.append({**line, **flips._asdict()})
    changed = first[metric] != second[metric]
    picked = "picked" if metric == "acc" else "picked_norm"
    flipped = pd.DataFrame(
        {
            "question": first["question"],
            "right": [
                None if pd.isna(r) else c[int(r)]
                for c, r in zip(first["choices"], first["right"], strict=True)
            ],
            "before": [c[p] for c, p in zip(first["choices"], first[picked], strict=True)],
            "after": [c[p] for c, p in zip(second["choices"], second[picked], strict=True)],
            "change": np.where(second[metric], "wrong → right", "right → wrong"),
        },
        index=first.index,
    )[changed]
    return pd.DataFrame(lines), flipped.reset_index("task")


def published(task: Literal["arc_easy", "arc_challenge"]) -> pd.DataFrame:
    """Return the published figures of the Pythia models on ARC; see `data/README.md`.

    Columns: `model`, `step`, `acc`, `acc_stderr`, `acc_norm`, `acc_norm_stderr`.
    """
    table = pd.read_csv(bundled("data/pythia_arc.csv"))
    return table[table["task"] == task].drop(columns=["task", "harness_task_version"])


class BenchmarkConfig(StrictModel):
    """What `python -m utilities.benchmark` reads.

    Attributes:
        model: a run folder, or any model.
        base_model: run beside it, and compared; None leaves it out.
        tasks: `science_questions`, or the harness's own names.
        data_files: files in place of the hub's data, by task.
        limit: items of each task, drawn at random; null for all.
        batch_tokens: tokens in a batch; null for what the free memory allows.
        dtype: of the weights.
        seed: of the drawing.
        output_dir: gets `scores.json`, `samples.jsonl` and, with a base model, `flips.csv`.
    """

    model: ModelName
    base_model: ModelName | None = None
    tasks: tuple[str, ...] = Field(default=(BUNDLED,), min_length=1)
    data_files: dict[str, ConfigPath] = Field(default_factory=dict)
    limit: int | None = Field(default=None, ge=1)
    batch_tokens: int | None = Field(default=None, ge=1)
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    seed: int = Field(default=42, ge=0)
    output_dir: ConfigPath


def run_config(config: BenchmarkConfig, progress: bool = True) -> list[Benchmark]:
    """Do all that a config says, and write its files at the end.

    Returns:
        The benchmark of the base model, where there is one, and that of the model.

    Raises:
        LabError: see `run_benchmark`.
    """
    wanted = [name for name in (config.base_model, config.model) if name]
    choices = [models.choose(name) for name in wanted]
    settings = config.model_dump(include={"tasks", "limit", "data_files", "batch_tokens", "dtype"})
    found = [
        run_benchmark(choice, **settings, seed=config.seed, progress=progress) for choice in choices
    ]
    config.output_dir.mkdir(parents=True, exist_ok=True)
    scores = pd.concat([each.scores for each in found], ignore_index=True)
    report = {"scores": scores.to_dict(orient="records"), "runs": [each.record for each in found]}
    samples = pd.concat([each.samples.assign(model=each.record["model"]["name"]) for each in found])
    samples.to_json(
        config.output_dir / "samples.jsonl", orient="records", lines=True, force_ascii=False
    )
    if len(found) == 2:
        table, flips = compare_items(*found)
        report["comparison"] = table.to_dict(orient="records")
        flips.to_csv(config.output_dir / "flips.csv", index=False)
    text = json.dumps(report, indent=2, ensure_ascii=False, default=str) + "\n"
    (config.output_dir / "scores.json").write_text(text, encoding="utf-8")
    return found


def _report(config: BenchmarkConfig) -> None:
    found = run_config(config)
    columns = ["model", "task", "n", "of", "acc", "acc_low", "acc_high", "acc_norm", "chance"]
    table = pd.concat([each.scores for each in found], ignore_index=True)[columns]
    lines = [table.round(3).to_string(index=False)]
    if len(found) == 2:
        lines.append(compare_items(*found)[0].round(3).to_string(index=False))
    lines.append(f"wrote: {config.output_dir / 'scores.json'} and samples.jsonl")
    sys.stdout.write("\n".join(lines) + "\n")


def main(argv: list[str] | None = None) -> int:
    """Run benchmarks from a config file on the command line."""
    description = "Run multiple-choice benchmarks from a YAML file."
    return command_line(BenchmarkConfig, _report, "utilities.benchmark", description, argv)


if __name__ == "__main__":
    sys.exit(main())
