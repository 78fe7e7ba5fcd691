"""Human ratings: a CSV sheet to fill in, or buttons in a notebook."""

import csv
import importlib.util
import io
import json
import math
import re
import sys
from collections.abc import Collection
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from utilities.errors import JudgingError
from utilities.files import atomic_write
from utilities.notebook import is_interactive
from utilities.scores.table_columns import need_columns, question_column

if TYPE_CHECKING:
    from ipywidgets import VBox


# Begins like what a spreadsheet would run as a formula, perhaps after apostrophes put there before.
_FORMULA = re.compile(r"'*[=+\-@＝＋－＠\t\r]")


def rating_sheet(table: pd.DataFrame, path: str | Path, seed: int = 42) -> Path:
    """Write a sheet for blind rating: it does not say which system an answer is from.

    The sheet is CSV with `id`, `question` or `prompt`, `reference`, `prediction`, `rating` and
    `note`, in random order; `<stem>.key.csv` beside it holds the systems. A text that a spreadsheet
    would run as a formula gets an apostrophe in front, which `read_ratings` removes.

    Args:
        table: `row`, `system`, `prediction`, `reference`, and `question` or `prompt`.
        path: of the sheet; an older one without ratings is replaced.
        seed: of the order.

    Returns:
        The sheet's path.

    Raises:
        JudgingError: a column is missing, or the file at the path has ratings or is not a sheet.
    """
    path = Path(path)
    question = question_column(table)
    need_columns(table, {question, "row", "system", "prediction", "reference"}, JudgingError)
    if path.exists() and any(line["rating"] or line["note"] for line in _read(path)):
        raise JudgingError(f"{path} has ratings in it; choose another path, or move it away")
    order = np.random.default_rng(seed).permutation(len(table))
    sheet, key = [], []
    columns = ["row", "system", question, "reference", "prediction"]
    for number, texts in enumerate(table.iloc[order][columns].to_dict("records"), 1):
        row = json.dumps(texts.pop("row"))
        key.append({"id": str(number), "row": row, "system": texts.pop("system")})
        sheet.append({"id": str(number), **texts, "rating": "", "note": ""})
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(_key_of(path), key)
    _write(path, sheet)
    return path


def _key_of(path: Path) -> Path:
    return path.with_name(f"{path.stem}.key.csv")


def _write(path: Path, lines: list[dict[str, str]]) -> None:
    # Excel reads UTF-8 only with the mark (BOM) of `utf-8-sig`. Lone surrogates, which UTF-8 cannot
    # encode, are written as escapes.
    with (
        atomic_write(path) as partial,
        partial.open("w", encoding="utf-8-sig", errors="backslashreplace", newline="") as file,
    ):
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        for line in lines:
            writer.writerow({name: _guarded(text) for name, text in line.items()})


def _guarded(text: str) -> str:
    """Return a cell's text, with an apostrophe in front of what looks like a formula."""
    return f"'{text}" if _FORMULA.match(text) else text


def _unguarded(text: str) -> str:
    """Undo `_guarded`."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def _read(path: Path, needed: Collection[str] = ("rating", "note")) -> list[dict[str, str]]:
    try:
        content = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise JudgingError(f"{path} does not exist") from None
    except UnicodeDecodeError:
        raise JudgingError(f"{path} is not in UTF-8; save it as UTF-8") from None
    # Where the decimal separator is a comma, spreadsheets separate the columns by semicolons.
    header = re.match(r'"?id"?([,;\t])', content)
    reader = csv.DictReader(
        io.StringIO(content, newline=""), delimiter=header[1] if header else ","
    )
    if not header or not set(needed) <= set(reader.fieldnames or ()):
        raise JudgingError(f"{path} is not a sheet with the columns id, {', '.join(needed)}")
    return [
        {name: _unguarded(text or "") for name, text in line.items() if name is not None}
        for line in reader
    ]


def read_ratings(path: str | Path, scale: tuple[int, int] = (1, 5)) -> pd.DataFrame:
    """Read a sheet that a person has filled in; answers without a rating are left out.

    Args:
        path: of the sheet; its key is beside it.
        scale: the worst and the best rating.

    Returns:
        Columns `row`, `system`, `rating` (float) and `note`.

    Raises:
        JudgingError: a file is missing or broken, or ratings are not on the scale; the message
            names each with its line in a spreadsheet.
    """
    path = Path(path)
    key = {line["id"]: line for line in _read(_key_of(path), ("row", "system"))}
    faults, ratings = [], []
    for number, line in enumerate(_read(path), 2):
        text = line["rating"].strip()
        if not text:
            continue
        answer, rating = key.pop(line["id"], None), _number(text)
        if answer is None:
            faults.append(f"line {number}: the id {line['id']!r} is unknown, or occurs twice")
        elif not scale[0] <= rating <= scale[1]:
            faults.append(f"line {number}: {text!r} is not a rating from {scale[0]} to {scale[1]}")
        else:
            ratings.append([json.loads(answer["row"]), answer["system"], rating, line["note"]])
    if faults:
        raise JudgingError(f"{path}: {'; '.join(faults)}")
    return pd.DataFrame(ratings, columns=["row", "system", "rating", "note"])


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def rating_widget(
    table: pd.DataFrame, path: str | Path, scale: tuple[int, int] = (1, 5), seed: int = 42
) -> "VBox | Path":
    """Return a widget for rating one answer after the other in a notebook.

    Each rating is saved in the sheet at once; rating continues in a sheet that exists.

    Args:
        table: see `rating_sheet`.
        path: of the sheet.
        scale: the worst and the best rating.
        seed: of the order, for a new sheet.

    Returns:
        The widget, for the notebook to display. Without ipywidgets, or where nobody is there to
        click: the path of the sheet, to be filled in with a spreadsheet or an editor.

    Raises:
        JudgingError: see `rating_sheet`; or the sheet has other answers than the table.
    """
    path = Path(path)
    if not path.exists():
        rating_sheet(table, path, seed)
    key = _read(_key_of(path), ("row", "system"))
    pairs = zip(table["row"].tolist(), table["system"], strict=True)
    if {(json.loads(line["row"]), line["system"]) for line in key} != set(pairs):
        raise JudgingError(f"{path} is a sheet of other answers; choose another path")
    has_widgets = importlib.util.find_spec("ipywidgets") is not None
    if has_widgets and is_interactive():
        return _rating_box(path, scale)
    missing = "nobody can click here" if has_widgets else "ipywidgets is not installed"
    sys.stdout.write(
        f"No buttons, because {missing}. Fill in the column `rating` of {path} with numbers from "
        f"{scale[0]} to {scale[1]}, in a spreadsheet or an editor; read_ratings reads them.\n"
    )
    return path


def _rating_box(path: Path, scale: tuple[int, int]) -> "VBox":
    import ipywidgets

    narrow, wide = ipywidgets.Layout(width="4em"), ipywidgets.Layout(width="100%")
    shown, back = ipywidgets.HTML(), ipywidgets.Button(description="Back")
    note = ipywidgets.Text(placeholder="Note, if any; write it before you rate", layout=wide)
    numbers = range(scale[0], scale[1] + 1)
    buttons = [ipywidgets.Button(description=str(n), layout=narrow) for n in numbers]
    ids = [line["id"] for line in _read(path)]
    at = -1  # index of the answer that is shown; len(ids) when all are rated

    def show(index: int) -> None:
        nonlocal at
        at = index
        for widget in (note, *buttons):
            widget.disabled = at == len(ids)
        if at == len(ids):
            shown.value = f"<p>All {len(ids)} answers are rated, in {escape(str(path))}.</p>"
            note.value = ""
            return
        line = next(line for line in _read(path) if line["id"] == ids[at])
        note.value, rating = line.pop("note"), line.pop("rating")
        before = f", rated {escape(rating)}" if rating else ""
        shown.value = f"<p><i>{at + 1} of {len(ids)}{before}</i></p>" + "".join(
            f'<p style="line-height:1.4;white-space:pre-wrap"><b>{name}</b><br>{escape(text)}</p>'
            for name, text in line.items()
            if name != "id"
        )

    def show_next() -> None:
        """Show the next answer without a rating: those that follow, then those before."""
        rated = {line["id"] for line in _read(path) if line["rating"]}
        following = [*range(at + 1, len(ids)), *range(at)]
        show(next((index for index in following if ids[index] not in rated), len(ids)))

    def rate(button: Any) -> None:
        try:
            lines = _read(path)
            for line in lines:
                if line["id"] == ids[at]:
                    line |= {"rating": button.description, "note": note.value}
            _write(path, lines)
            show_next()
        except (JudgingError, OSError) as error:  # the file is gone, or open elsewhere
            shown.value = f"<p><b>not saved</b><br>{escape(str(error))}</p>"

    back.on_click(lambda _: show(max(0, at - 1)))
    for button in buttons:
        button.on_click(rate)
    show_next()
    return ipywidgets.VBox([shown, note, ipywidgets.HBox([*buttons, back])])
