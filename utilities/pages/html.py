"""Self-contained HTML pages from jinja2 templates, and values formatted for people.

A page is one file without scripts; it fetches nothing. It follows the reader's light or dark color
scheme, and prints. Its template lies beside the module that prepares its values; it extends
`page.html.jinja` and uses the macros of `parts.html.jinja`. jinja2 escapes every value.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined


def write_page(path: Path, template: str, **values: Any) -> Path:
    """Render a template into a file, which replaces an older one.

    Args:
        path: of the file.
        template: path inside the package, such as `training/run_page.html.jinja`.
        values: the template's variables: plain data and pandas tables. Every page needs `title`,
            and `cards`, the figures on top: (name, value, remark), texts each.

    Raises:
        jinja2.UndefinedError: a variable of the template is missing.
    """
    page = _environment.get_template(template).render(values)
    path.write_text(page, encoding="utf-8", errors="replace")  # a text may hold half an emoji
    return path


def format_number(value: float) -> str:
    """Format a number with 4 significant digits; integers in full."""
    if not math.isfinite(value):
        return "–"
    return f"{value:,.0f}" if value == int(value) else f"{value:.4g}"


def with_prefix(value: float, unit: str = "") -> str:
    """Format a large number with an SI prefix: 70.4 M."""
    for size, prefix in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= size:
            return f"{value / size:.3g} {prefix}{unit}"
    return f"{format_number(value)} {unit}".strip()


def format_duration(seconds: float) -> str:
    """Format a time in hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.3g} s"


def format_value(value: Any) -> str:
    """Format any value of a record; a dash stands for an empty one."""
    if value is None or value in ("", []):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return format_number(value)
    if isinstance(value, list) and not any(isinstance(item, list | dict) for item in value):
        return ", ".join(map(format_value, value))
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested settings to dotted names."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        name = f"{prefix}{key}"
        flat |= flatten(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return flat


_environment = Environment(
    loader=FileSystemLoader(Path(__file__).parents[1]),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_environment.filters.update(readable=format_value, prefixed=with_prefix, duration=format_duration)
