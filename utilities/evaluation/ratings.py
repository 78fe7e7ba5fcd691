"""Ratings by people: a sheet to fill in, or buttons in a notebook."""

import csv
import importlib.util
import io
import json
import math
import os
import re
import sys
from collections.abc import Collection
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from utilities.errors import JudgingError
from utilities.evaluation.judging import asked_in
from utilities.notebook import is_interactive

if TYPE_CHECKING:
    from ipywidgets import VBox


_FORMULA = re.compile(r"'*[=+\-@＝＋－＠\t\r]")


def rating_sheet(table: pd.DataFrame, path: str | Path, seed: int = 42) -> Path:
    """Write a sheet for a person to fill in, which does not tell what system an answer is from.

    The sheet is CSV with `id`, `question` or `prompt`, `reference`, `prediction`, `rating` and
    `note`, in random order; `<stem>.key.csv` beside it knows the systems. A text that a spreadsheet
    would run as a formula gets an apostrophe in front, which `read_ratings` takes away.

    Args:
        table: `row`, `system`, `prediction`, `reference`, and `question` or `prompt`.
        path: of the sheet; one without ratings is written anew.
        seed: of the order.

    Returns:
        The sheet's path.

    Raises:
        JudgingError: a column is missing, or the path holds ratings, or something else.
    """
    path = Path(path)
    asked = asked_in(table, {"row", "system", "prediction", "reference"})
    if path.exists() and any(line["rating"] or line["note"] for line in _read(path)):
        raise JudgingError(f"{path} has ratings in it; choose another path, or move it away")
    order = np.random.default_rng(seed).permutation(len(table))
    sheet, key = [], []
    columns = ["row", "system", asked, "reference", "prediction"]
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
    unfinished = path.with_name(f".{path.name}.new")
    # The mark at the beginning makes Excel read UTF-8; half characters have no place in it.
    with unfinished.open("w", encoding="utf-8-sig", errors="backslashreplace", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        for line in lines:
            guarded = (
                (name, "'" * bool(_FORMULA.match(text)) + text) for name, text in line.items()
            )
            writer.writerow(dict(guarded))
    os.replace(unfinished, path)


def _read(path: Path, needed: Collection[str] = ("rating", "note")) -> list[dict[str, str]]:
    try:
        content = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise JudgingError(f"{path} does not exist") from None
    except UnicodeDecodeError:
        raise JudgingError(f"{path} is not in UTF-8; save it as such") from None
    # In some countries spreadsheets save with semicolons.
    begins = re.match(r'"?id"?([,;\t])', content)
    reader = csv.DictReader(
        io.StringIO(content, newline=""), delimiter=begins[1] if begins else ","
    )
    if not begins or not set(needed) <= set(reader.fieldnames or ()):
        raise JudgingError(f"{path} is no sheet with the columns id, {', '.join(needed)}")
    return [
        {name: _plain(text or "") for name, text in line.items() if name is not None}
        for line in reader
    ]


def _plain(text: str) -> str:
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def read_ratings(path: str | Path, scale: tuple[int, int] = (1, 5)) -> pd.DataFrame:
    """Read a sheet that a person filled in; answers without a rating are left out.

    Args:
        path: of the sheet; its key lies beside it.
        scale: the worst and the best rating.

    Returns:
        Columns `row`, `system`, `rating` (float) and `note`.

    Raises:
        JudgingError: a file is missing or broken, or ratings are wrong; each is named, with its
            line in a spreadsheet.
    """
    path = Path(path)
    key = {line["id"]: line for line in _read(_key_of(path), ("row", "system"))}
    faults, found = [], []
    for number, line in enumerate(_read(path), 2):
        text = line["rating"].strip()
        if not text:
            continue
        answer, rating = key.pop(line["id"], None), _number(text)
        if answer is None:
            faults.append(f"line {number}: the id {line['id']!r} is unknown, or came before")
        elif not scale[0] <= rating <= scale[1]:
            faults.append(f"line {number}: {text!r} is no rating from {scale[0]} to {scale[1]}")
        else:
            found.append([json.loads(answer["row"]), answer["system"], rating, line["note"]])
    if faults:
        raise JudgingError(f"{path}: {'; '.join(faults)}")
    return pd.DataFrame(found, columns=["row", "system", "rating", "note"])


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def rating_widget(
    table: pd.DataFrame, path: str | Path, scale: tuple[int, int] = (1, 5), seed: int = 42
) -> "VBox | Path":
    """Rate one answer after the other by buttons in a notebook.

    Each rating is saved in the sheet at once; a sheet that is there already is gone on with.

    Args:
        table: see `rating_sheet`.
        path: of the sheet.
        scale: the worst and the best rating.
        seed: of the order, for a new sheet.

    Returns:
        The buttons, for the notebook to show. Without ipywidgets, or where no frontend listens: the
        path of the sheet, to be filled in by other means.

    Raises:
        JudgingError: see `rating_sheet`; or the sheet is of other answers.
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
    at = -1

    def show(place: int) -> None:
        nonlocal at
        at = place
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

    def go_on() -> None:
        rated = {line["id"] for line in _read(path) if line["rating"]}
        following = [*range(at + 1, len(ids)), *range(at)]
        show(next((place for place in following if ids[place] not in rated), len(ids)))

    def rate(button: Any) -> None:
        try:
            lines = _read(path)
            for line in lines:
                if line["id"] == ids[at]:
                    line |= {"rating": button.description, "note": note.value}
            _write(path, lines)
            go_on()
        except (JudgingError, OSError) as error:  # the file is gone, or open elsewhere
            shown.value = f"<p><b>not saved</b><br>{escape(str(error))}</p>"

    back.on_click(lambda _: show(max(0, at - 1)))
    for button in buttons:
        button.on_click(rate)
    go_on()
    return ipywidgets.VBox([shown, note, ipywidgets.HBox([*buttons, back])])
