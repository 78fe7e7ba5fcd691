"""Self-contained HTML pages: a head, cards, sections, and words, numbers and tables in them.

A page is one file without scripts; nothing in it comes from elsewhere. All that stems from data is
escaped. It follows the reader's light or dark color scheme, and prints.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

STYLE = Path(__file__).with_name("pages.css")


def write_page(
    path: Path, kind: str, title: str, cards: str, sections: Mapping[str, str], footer: str
) -> Path:
    """Write a page, in place of an older one; sections without content are left out.

    Args:
        path: of the file.
        kind: what the page is about, in two or three words.
        title: its name.
        cards: HTML of the figures on top.
        sections: HTML by heading.
        footer: a sentence on where it comes from.
    """
    body = "".join(
        f"<section><h2>{escape(name)}</h2>{part}</section>"
        for name, part in sections.items()
        if part
    )
    name = escape(title)
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        # Whatever the data holds, a browser will neither run nor fetch anything.
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{name} · {escape(kind)}</title>"
        f"<style>{STYLE.read_text(encoding='utf-8')}</style></head>\n"
        f"<body><main><header><p>{escape(kind)}</p><h1>{name}</h1>{cards}</header>{body}"
        f"<footer>{escape(footer)}</footer></main></body></html>\n"
    )
    path.write_text(page, encoding="utf-8", errors="replace")  # half an emoji is no reason
    return path


def cards(figures: Iterable[tuple[str, str, str]]) -> str:
    """Return the figures on top of a page: (name, value, what to know about it)."""
    shown = (
        f"<div><span>{escape(name)}</span><b>{escape(value)}</b><small>{escape(told)}</small></div>"
        for name, value, told in figures
    )
    return f'<div class="cards">{"".join(shown)}</div>'


def number(value: float) -> str:
    """Write a number with 4 digits that count; whole ones in full."""
    if not math.isfinite(value):
        return "–"
    return f"{value:,.0f}" if value == int(value) else f"{value:.4g}"


def short(value: float, unit: str = "") -> str:
    """Write a large number with a prefix: 70.4 M."""
    for size, prefix in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= size:
            return f"{value / size:.3g} {prefix}{unit}"
    return f"{number(value)} {unit}".strip()


def duration(seconds: float) -> str:
    """Write a time in words."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.3g} s"


def text(value: Any) -> str:
    """Write any value of a record for people, not yet escaped."""
    if value is None or value in ("", []):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return number(value)
    if isinstance(value, list) and not any(isinstance(each, list | dict) for each in value):
        return ", ".join(map(text, value))
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Return nested settings under dotted names."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{before}{key}"
        found |= flat(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return found


class Html(str):
    """Text that is HTML already; all other text is escaped."""


def cell(value: Any) -> str:
    """Write a value as the content of a table's cell."""
    return value if isinstance(value, Html) else escape(text(value))


def _rows(rows: Iterable[Sequence[Any]]) -> str:
    return "".join(
        f'<tr><th scope="row">{cell(first)}</th>'
        + "".join(f"<td>{cell(value)}</td>" for value in rest)
        + "</tr>"
        for first, *rest in rows
    )


def pairs(values: Mapping[str, Any]) -> str:
    """Return a table of names and values."""
    return f'<table class="pairs"><tbody>{_rows(values.items())}</tbody></table>' if values else ""


def known(values: Mapping[str, Any]) -> str:
    """Return the same without what is empty."""
    return pairs({name: value for name, value in values.items() if value})


def table(columns: Iterable[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a table with a head; nothing where there are no rows."""
    if not rows:
        return ""
    head = "".join(f'<th scope="col">{escape(name.replace("_", " "))}</th>' for name in columns)
    lines = f"<table><thead><tr>{head}</tr></thead><tbody>{_rows(rows)}</tbody></table>"
    return f'<div class="wide">{lines}</div>'


def frame(rows: pd.DataFrame) -> str:
    """Return a pandas table."""
    return table(rows.columns, list(rows.itertuples(index=False)))


def block(value: Any) -> Html:
    """Return a text that keeps its lines, and scrolls when it is long."""
    return Html(f"<div>{cell(value)}</div>")
