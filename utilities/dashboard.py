"""One page about a run: what was trained, on what, how it went, and what it answers.

The page is a single HTML file without scripts; nothing in it comes from elsewhere, and it reads
only the run folder. All that stems from data is escaped. It follows the reader's light or dark
color scheme, and prints.
"""

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from utilities.metrics import is_exact_match
from utilities.runs import Run, compare
from utilities.svg import Line, history_charts, line_chart, series, thinned

FILE_NAME = "dashboard.html"
STYLE = Path(__file__).with_name("dashboard.css")

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
        "Settings": _pairs(_flat(record["settings"])),
        "Prompt format": _prompt_format(record),
        "Where it was made": _origin(record),
    }
    body = "".join(
        f"<section><h2>{name}</h2>{part}</section>" for name, part in sections.items() if part
    )
    name = escape(run.folder.name)
    cards = _cards(record, run.history)
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        # Whatever the data holds, a browser will neither run nor fetch anything.
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{name} · run</title><style>{STYLE.read_text(encoding='utf-8')}</style></head>\n"
        f"<body><main><header><p>Fine-tuning run</p><h1>{name}</h1>{cards}</header>{body}"
        "<footer>Made from the files of this run folder alone.</footer></main></body></html>\n"
    )
    path = run.folder / FILE_NAME
    path.write_text(page, encoding="utf-8", errors="replace")  # half an emoji is no reason
    return path


# Figures in words, and words in tables.


def _number(value: float) -> str:
    """Write a number with 4 digits that count; whole ones in full."""
    if not math.isfinite(value):
        return "–"
    return f"{value:,.0f}" if value == int(value) else f"{value:.4g}"


def _short(value: float, unit: str = "") -> str:
    for size, prefix in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= size:
            return f"{value / size:.3g} {prefix}{unit}"
    return f"{_number(value)} {unit}".strip()


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.3g} s"


def _text(value: Any) -> str:
    """Write any value of a record for people, not yet escaped."""
    if value is None or value in ("", []):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return _number(value)
    if isinstance(value, list) and not any(isinstance(each, list | dict) for each in value):
        return ", ".join(map(_text, value))
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Return nested settings under dotted names."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{before}{key}"
        flat |= _flat(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return flat


class _Html(str):
    """Text that is HTML already; all other text is escaped."""


def _cell(value: Any) -> str:
    return value if isinstance(value, _Html) else escape(_text(value))


def _rows(rows: Iterable[Sequence[Any]]) -> str:
    return "".join(
        f'<tr><th scope="row">{_cell(first)}</th>'
        + "".join(f"<td>{_cell(value)}</td>" for value in rest)
        + "</tr>"
        for first, *rest in rows
    )


def _pairs(values: Mapping[str, Any]) -> str:
    return f'<table class="pairs"><tbody>{_rows(values.items())}</tbody></table>' if values else ""


def _known(values: Mapping[str, Any]) -> str:
    return _pairs({name: value for name, value in values.items() if value})


def _table(columns: Iterable[str], rows: Sequence[Sequence[Any]]) -> str:
    if not rows:
        return ""
    head = "".join(f'<th scope="col">{escape(name.replace("_", " "))}</th>' for name in columns)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{_rows(rows)}</tbody></table>"
    return f'<div class="wide">{table}</div>'


def _frame(table: pd.DataFrame) -> str:
    return _table(table.columns, list(table.itertuples(index=False)))


# What the record says.


def _cards(record: Record, history: pd.DataFrame) -> str:
    cards = []
    if record["weights"]:
        every = record["weights"][-1]
        told = f"of {_short(every['weights'])} ({_share(every)})"
        cards.append(("trained weights", _short(every["trained"]), told))
    rows = {part: _text(data["kept"]) for part, data in record["data"].items()}
    if rows:
        told = " · ".join(f"{count} {part}" for part, count in rows.items() if part != "train")
        cards.append(("training rows", rows["train"], told))
    for column, name in {"loss": "loss", "eval_loss": "validation loss"}.items():
        if len(values := series(history, column)):
            told = f"from {values.iloc[0]:.3f}, nats per learned token"
            cards.append((name, f"{values.iloc[-1]:.3f}", told))
    if record["seconds"]:
        cards.append(("time", _duration(record["seconds"]), _speed(record)))
    shown = (
        f"<div><span>{name}</span><b>{escape(value)}</b><small>{escape(told)}</small></div>"
        for name, value, told in cards
    )
    return f'<div class="cards">{"".join(shown)}</div>'


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
    return _known(told) + _table(["weights", "number", "trained", "share"], rows)


def _preflight(record: Record) -> str:
    rows = []
    for found in record["preflight"]:
        look, mark = ("good", "✓") if found["verdict"] == "ok" else ("warn", "!")
        badge = f'<span class="{look}">{mark} {escape(found["verdict"])}</span>'
        rows.append((found["check"], found["value"], _Html(badge)))
    return _table(["check", "found", "verdict"], rows)


def _data(record: Record) -> str:
    parts = record["data"]
    names = dict.fromkeys(name for part in parts.values() for name in part)
    rows = [(n.replace("_", " "), *(part.get(n) for part in parts.values())) for n in names]
    return _table(["rows and tokens", *parts], rows)


def _costs(record: Record) -> str:
    totals, seconds = record["totals"], record["seconds"]
    flops = totals.get("flops")
    costs = {
        "time": seconds and _duration(seconds),
        "speed": _speed(record),
        "steps": totals.get("steps"),
        "tokens": totals.get("tokens"),
        "of them learned": totals.get("supervised_tokens"),
        "floating-point operations": flops and _short(flops, "FLOP"),
        "of them in a second": flops and seconds and _short(flops / seconds, "FLOP/s"),
        "device": totals.get("device"),
        "processes": totals.get("processes"),
    }
    return _known(costs)


def _prompt_format(record: Record) -> str:
    values = record["prompt_format"]
    if not values:
        return ""
    template = values.get("template", values.get("chat_template"))
    templates = [template] if isinstance(template, str) else template
    blocks = [f"<pre>{escape(text + values.get('response', ''))}</pre>" for text in templates]
    return _pairs({"name": values["name"], "stops at": values.get("stop")}) + "".join(blocks)


def _origin(record: Record) -> str:
    git = record["git"]
    state = "and changes that are in no commit" if git.get("changed") else "unchanged"
    commit = git and f"{git['commit']}, {state}"
    return _known(
        {"fingerprint of the run": record["fingerprint"], "git": commit, **record["versions"]}
    )


# How it went.


def _kept(record: Record) -> str:
    if not record["best"]:
        return ""
    step, metric, value = (escape(_text(record["best"][k])) for k in ("step", "metric", "value"))
    return f"<p>Kept: step {step}, for its {metric} of {value}.</p>"


def _curves(record: Record, history: pd.DataFrame) -> str:
    charts = history_charts(history, record["best"].get("step"))
    if not charts:
        return ""
    table = _frame(thinned(history.dropna(axis="columns", how="all")))
    fold = f"<details><summary>The same as a table</summary>{table}</details>"
    return f'<div class="charts">{charts}</div>{fold}'


def _samples(samples: pd.DataFrame) -> str:
    """Show each prompt with its reference and what was answered, evaluation by evaluation."""
    steps = sorted(samples["step"].unique())
    rows = []
    for (prompt, reference), said in samples.groupby(["prompt", "reference"], sort=False):
        answers = dict(zip(said["step"], said["prediction"], strict=True))
        shown = [_answer(answers.get(step), reference) for step in steps]
        rows.append([_block(prompt), _block(reference), *shown])
    table = _table(["prompt", "reference", *(f"step {step:,}" for step in steps)], rows)
    return f'<div class="samples">{table}</div>' if table else ""


def _block(value: Any) -> _Html:
    return _Html(f"<div>{_cell(value)}</div>")


def _answer(answer: str | None, reference: str) -> _Html:
    right = answer is not None and is_exact_match(answer, reference)
    return _Html(_block(answer) + '<p class="good">✓ equals the reference</p>' * right)


def _comparison(runs: Sequence[Run]) -> str:
    has_all = all(len(series(run.history, "eval_loss")) for run in runs)
    column, title = ("eval_loss", "Validation") if has_all else ("loss", "Training")
    lines = [Line(run.folder.name, series(run.history, column)) for run in runs]
    chart = line_chart(f"{title} loss of each run", lines)
    return f'<div class="charts">{chart}</div>{_frame(compare(runs))}'
