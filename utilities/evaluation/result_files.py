"""The files of an evaluation: predictions, scores and the page, each written atomically."""

import json
from typing import Any

import numpy as np
import pandas as pd

from utilities.evaluation.page import write_report
from utilities.evaluation.result import Evaluation
from utilities.evaluation.settings import EvaluationConfig
from utilities.files import atomic_write


def write_files(evaluation: Evaluation, config: EvaluationConfig) -> None:
    """Write `predictions.jsonl`, `predictions.parquet`, `scores.json` and `report.html`.

    Args:
        evaluation: the result.
        config: its `output_dir` gets the files.
    """
    folder, table = config.output_dir, evaluation.predictions
    lines = table.to_json(orient="records", lines=True, force_ascii=False)
    with atomic_write(folder / "predictions.jsonl") as file:
        file.write_text(lines, encoding="utf-8")
    with atomic_write(folder / "predictions.parquet") as file:
        _with_one_type_per_column(table).to_parquet(file)
    report = {
        **evaluation.record,
        "scores": evaluation.scores.to_dict(orient="records"),
        "comparisons": evaluation.comparisons.to_dict(orient="records"),
        "errors": evaluation.errors.to_dict(orient="records"),
        "forgetting": evaluation.forgetting and evaluation.forgetting._asdict(),
    }
    text = json.dumps(_finite(report), indent=2, ensure_ascii=False, default=str) + "\n"
    with atomic_write(folder / "scores.json") as file:
        file.write_text(text, encoding="utf-8")
    with atomic_write(folder / "report.html") as file:
        write_report(evaluation, file, config)


def _with_one_type_per_column(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table as parquet needs it: a column of mixed types becomes text."""
    table = table.astype({"tokens": float, "log_probability": float})
    for name in table.select_dtypes(exclude=["number", "bool"]):
        # Any kind of missing value: None, pd.NA, and NaN, which does not equal itself.
        missing = [value is None or value is pd.NA or value != value for value in table[name]]
        values = zip(table[name], missing, strict=True)
        table[name] = [None if is_missing else str(value) for value, is_missing in values]
    return table


def _finite(value: Any) -> Any:
    """Return a JSON value with null for infinity and NaN, which JSON has no notation for."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
