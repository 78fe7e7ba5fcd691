"""Columns of a prediction table: their names, and checks that a table has them."""

from collections.abc import Collection

import pandas as pd

from utilities.errors import AnalysisError, LabError
from utilities.scores.metrics import RANGES


def paired_rows(
    table: pd.DataFrame, first: str, second: str, needed: Collection[str] = ()
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the rows of two systems, in the same order, indexed by `row`.

    Args:
        table: `row`, `system`, `prediction`, and the columns of `needed`.
        first: a system of the table.
        second: another.
        needed: further columns to check for.

    Raises:
        AnalysisError: a column or system is missing, or the two answered different rows.
    """
    need_columns(table, {"row", "system", "prediction", *needed})
    pair = []
    for name in (first, second):
        rows = table[table["system"] == name]
        if not len(rows):
            known = ", ".join(map(repr, table["system"].unique()))
            raise AnalysisError(f"there is no system {name!r} in the table, only {known}")
        pair.append(rows.set_index("row").sort_index())
    if not pair[0].index.equals(pair[1].index):
        raise AnalysisError(f"{first!r} and {second!r} did not answer the same rows")
    return pair[0], pair[1]


def question_column(table: pd.DataFrame) -> str:
    """Return the name of the column with the questions.

    That is `question`, the question without the words of a prompt format, where every row's is
    text; else `prompt`.
    """
    if "question" in table and all(isinstance(text, str) for text in table["question"]):
        return "question"
    return "prompt"


def need_columns(
    table: pd.DataFrame, columns: Collection[str], error: type[LabError] = AnalysisError
) -> None:
    """Raise an error when a table lacks one of the columns, or has no rows."""
    if missing := sorted(set(columns) - set(table)):
        raise error(f"the prediction table lacks the columns {missing}")
    if not len(table):
        raise error("the prediction table is empty")


OWN_COLUMNS = {
    *("row", "prompt", "reference", "prediction", "system", "error_class"),
    *("stopped", "tokens", "log_probability", "error"),
    *("reference_log_probability", "reference_tokens"),
    *RANGES,
}
"""The columns that a prediction table has besides those of the data."""
