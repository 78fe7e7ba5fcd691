"""The columns of a prediction table, and checks of them."""

from collections.abc import Collection

import pandas as pd

from utilities.errors import AnalysisError
from utilities.scores.metrics import RANGES


def paired_rows(
    table: pd.DataFrame, first: str, second: str, needed: Collection[str] = ()
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return two systems' rows of a table, in the same order, indexed by `row`.

    Raises:
        AnalysisError: a column or system is missing, or the two answered other rows.
    """
    need_columns(table, {"row", "system", "prediction", *needed})
    found = []
    for name in (first, second):
        rows = table[table["system"] == name]
        if not len(rows):
            known = ", ".join(map(repr, table["system"].unique()))
            raise AnalysisError(f"there is no system {name!r} in the table, only {known}")
        found.append(rows.set_index("row").sort_index())
    if not found[0].index.equals(found[1].index):
        raise AnalysisError(f"{first!r} and {second!r} did not answer the same rows")
    return found[0], found[1]


def question_column(table: pd.DataFrame) -> str:
    """Return the column that holds what was asked, in as few words as there are."""
    questions = table.get("question", [None])
    return "question" if all(isinstance(each, str) for each in questions) else "prompt"


def need_columns(table: pd.DataFrame, columns: Collection[str]) -> None:
    """Raise an AnalysisError when a table lacks a column, or has no rows."""
    if missing := sorted(set(columns) - set(table)):
        raise AnalysisError(f"the prediction table lacks the columns {missing}")
    if not len(table):
        raise AnalysisError("the prediction table is empty")


OWN_COLUMNS = {"row", "prompt", "reference", "prediction", "system", "error_class", *RANGES}


OWN_COLUMNS |= {"stopped", "tokens", "log_probability", "error"}


OWN_COLUMNS |= {"reference_log_probability", "reference_tokens"}
"""What a prediction table has beside the columns of the data."""
