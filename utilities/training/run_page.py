"""One page about a run: what was trained, on what, how it went, and what it answers.

The page reads only the run folder; see `pages` for its form.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from utilities.files import atomic_write
from utilities.pages import html
from utilities.pages.charts import Line, history_charts, line_chart, series, thinned
from utilities.scores.metrics import is_exact_match
from utilities.training.run_folder import Run, compare_runs

RUN_PAGE = "dashboard.html"


Record = Mapping[str, Any]


def write_dashboard(run: Run, others: Sequence[Run] = ()) -> Path:
    """Write `dashboard.html` into a run folder, in place of an older one.

    What a run has not recorded is left out of the page.

    Args:
        run: the run that the page is about.
        others: runs to compare it with, by their losses, times and settings.

    Returns:
        The file.

    Example:
        `write_dashboard(Run.load("runs/course_assistant"))`
    """
    told = {key: value for key, value in run.record.items() if value is not None}
    record = defaultdict(dict, told)  # what is not there is an empty block
    sections = {
        "What was trained": _model(record),
        "Before it began": _preflight(record),
        "How it went": _kept(record) + _curves(record, run.history),
        "What it answers": _samples(run.samples),
        "Beside other runs": _comparison([run, *others]) if others else "",
        "Data": _data(record),
        "Time and arithmetic": _costs(record),
        "Settings": html.pairs(html.flat(record["settings"])),
        "Prompt format": _prompt_format(record),
        "Where it was made": _origin(record),
    }
    cards, footer = _cards(record, run.history), "Made from the files of this run folder alone."
    path = run.folder / RUN_PAGE
    with atomic_write(path) as file:
        html.write_page(file, "Fine-tuning run", run.folder.name, cards, sections, footer)
    return path


def _cards(record: Record, history: pd.DataFrame) -> str:
    cards = []
    if record["weights"]:
        every = record["weights"][-1]
        told = f"of {html.short(every['weights'])} ({_share(every)})"
        cards.append(("trained weights", html.short(every["trained"]), told))
    rows = {part: html.text(data["kept"]) for part, data in record["data"].items()}
    if rows:
        told = " · ".join(f"{count} {part}" for part, count in rows.items() if part != "train")
        cards.append(("training rows", rows["train"], told))
    for column, name in {"loss": "loss", "eval_loss": "validation loss"}.items():
        if len(values := series(history, column)):
            told = f"from {values.iloc[0]:.3f}, nats per learned token"
            cards.append((name, f"{values.iloc[-1]:.3f}", told))
    if record["seconds"]:
        cards.append(("time", html.duration(record["seconds"]), _speed(record)))
    return html.cards(cards)


def _share(weights: Record) -> str:
    return f"{weights['trained'] / weights['weights']:.1%}"


def _speed(record: Record) -> str:
    speed = record["totals"].get("tokens_per_second")
    return f"{speed:,.0f} tokens/s" if speed else ""


def _model(record: Record) -> str:
    model = record["model"]
    told = {"model": model.get("name"), "from": model.get("source")}
    told |= {"because": model.get("reason"), "method": record["method"]}
    rows = [
        (line["group"].replace("_", " "), line["weights"], line["trained"], _share(line))
        for line in record["weights"]
        if line["weights"]
    ]
    return html.known(told) + html.table(["weights", "number", "trained", "share"], rows)


def _preflight(record: Record) -> str:
    rows = []
    for found in record["preflight"]:
        look, mark = ("good", "✓") if found["verdict"] == "ok" else ("warn", "!")
        badge = f'<span class="{look}">{mark} {escape(found["verdict"])}</span>'
        rows.append((found["check"], found["value"], html.Html(badge)))
    return html.table(["check", "found", "verdict"], rows)


def _data(record: Record) -> str:
    parts = record["data"]
    names = dict.fromkeys(name for part in parts.values() for name in part)
    rows = [(n.replace("_", " "), *(part.get(n) for part in parts.values())) for n in names]
    return html.table(["rows and tokens", *parts], rows)


def _costs(record: Record) -> str:
    totals, seconds = record["totals"], record["seconds"]
    flops = totals.get("flops")
    costs = {
        "time": seconds and html.duration(seconds),
        "speed": _speed(record),
        "steps": totals.get("steps"),
        "tokens": totals.get("tokens"),
        "of them learned": totals.get("supervised_tokens"),
        "floating-point operations": flops and html.short(flops, "FLOP"),
        "of them in a second": flops and seconds and html.short(flops / seconds, "FLOP/s"),
        "device": totals.get("device"),
        "processes": totals.get("processes"),
    }
    return html.known(costs)


def _prompt_format(record: Record) -> str:
    values = record["prompt_format"]
    if not values:
        return ""
    template = values.get("template", values.get("chat_template"))
    templates = [template] if isinstance(template, str) else template
    blocks = [f"<pre>{escape(text + values.get('response', ''))}</pre>" for text in templates]
    return html.pairs({"name": values["name"], "stops at": values.get("stop")}) + "".join(blocks)


def _origin(record: Record) -> str:
    git = record["git"]
    state = "and changes that are in no commit" if git.get("changed") else "unchanged"
    commit = git and f"{git['commit']}, {state}"
    return html.known(
        {"fingerprint of the run": record["fingerprint"], "git": commit, **record["versions"]}
    )


def _kept(record: Record) -> str:
    if not record["best"]:
        return ""
    step, metric, value = (
        escape(html.text(record["best"][k])) for k in ("step", "metric", "value")
    )
    return f"<p>Kept: step {step}, for its {metric} of {value}.</p>"


def _curves(record: Record, history: pd.DataFrame) -> str:
    charts = history_charts(history, record["best"].get("step"))
    if not charts:
        return ""
    table = html.frame(thinned(history.dropna(axis="columns", how="all")))
    fold = f"<details><summary>The same as a table</summary>{table}</details>"
    return f'<div class="charts">{charts}</div>{fold}'


def _samples(samples: pd.DataFrame) -> str:
    """Show each prompt with its reference and what was answered, evaluation by evaluation."""
    steps = sorted(samples["step"].unique())
    rows = []
    for (prompt, reference), said in samples.groupby(["prompt", "reference"], sort=False):
        answers = dict(zip(said["step"], said["prediction"], strict=True))
        shown = [_answer(answers.get(step), reference) for step in steps]
        rows.append([html.block(prompt), html.block(reference), *shown])
    table = html.table(["prompt", "reference", *(f"step {step:,}" for step in steps)], rows)
    return f'<div class="samples">{table}</div>' if table else ""


def _answer(answer: str | None, reference: str) -> html.Html:
    right = answer is not None and is_exact_match(answer, reference)
    return html.Html(html.block(answer) + '<p class="good">✓ equals the reference</p>' * right)


def _comparison(runs: Sequence[Run]) -> str:
    has_all = all(len(series(run.history, "eval_loss")) for run in runs)
    column, title = ("eval_loss", "Validation") if has_all else ("loss", "Training")
    lines = [Line(run.folder.name, series(run.history, column)) for run in runs]
    chart = line_chart(f"{title} loss of each run", lines)
    return f'<div class="charts">{chart}</div>{html.frame(compare_runs(runs))}'
