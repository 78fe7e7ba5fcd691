"""The data doctor: what is wrong with rows, how much of it, and a patch for what can be mended.

    python -m utilities.audit configs/starting_point/audit.yaml [key=value …]

It reads rows as training does, and goes on where training would stop. Template headings left in a
value and invisible characters do not count when rows are compared. Only what is certain goes into
the patch; the rest is for you to judge.
"""

import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from utilities import plots
from utilities.audit.leaks import find_benchmark_leaks, find_leaks
from utilities.audit.row_checks import (
    CODES,
    Finding,
    Row,
    change_texts,
    check_rows,
    comparable_rows,
    grouped,
    read_for_checks,
)
from utilities.audit.settings import LIMITS, AuditConfig
from utilities.audit.text_checks import excerpt, visible
from utilities.prompts.base import PromptFormat
from utilities.prompts.built_in import QUESTION_ANSWER, TEXT
from utilities.rows.patches import PatchEntry
from utilities.rows.sources import AnySource, read_rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Audit:
    """What an audit found.

    Attributes:
        rows: how many rows were looked at.
        findings: one line per row and problem; see `Finding`.
        summary: one line per code of `CODES`: `code`, `rows` that have it, `share` of all rows,
            `groups` of rows that belong together, `mended` (rows that the patch mends), `meaning`.
        leakage: see `leakage`; empty without a test and a benchmark.
        budget: see `token_budget`; empty without a tokenizer.
        stock: the responses that stand under many prompts: `response`, `rows`, `share`.
        patch: the corrections, with those of the patch that the source had already.
    """

    rows: int
    findings: pd.DataFrame
    summary: pd.DataFrame
    leakage: pd.DataFrame
    budget: pd.DataFrame
    stock: pd.DataFrame
    patch: list[PatchEntry]

    def to_json(self) -> str:
        """Return all but the findings as JSON; what is not a number there is null."""
        names = ("summary", "stock", "leakage", "budget")
        report: dict[str, Any] = {"rows": self.rows}
        for name in names:
            table = getattr(self, name).astype(object)
            report[name] = table.where(table.notna(), None).to_dict(orient="records")
        return json.dumps(report, indent=2, ensure_ascii=False) + "\n"

    def write(self, folder: str | Path) -> list[Path]:
        """Write `report.json`, `findings.csv`, `patch.jsonl` and `audit.png`; return the files."""
        picture = io.BytesIO()
        plots.audit_chart(self.summary, self.budget).savefig(picture, format="png")
        entries = [json.dumps(entry.model_dump()) + "\n" for entry in self.patch]
        contents = {
            "report.json": self.to_json().encode(errors="backslashreplace"),
            "findings.csv": self.findings.to_csv(index=False).encode(errors="backslashreplace"),
            "patch.jsonl": "".join(entries).encode(),
            "audit.png": picture.getvalue(),
        }
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            unfinished = folder / f"{name}.partial"
            unfinished.write_bytes(content)
            os.replace(unfinished, folder / name)
        return [folder / name for name in contents]


def audit_rows(
    source: AnySource,
    prompt_format: PromptFormat = QUESTION_ANSWER,
    *,
    test: AnySource | None = None,
    benchmark: Sequence[str] = (),
    refusals: Sequence[str] = (),
    near_duplicate: float = 0.8,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    limits: Sequence[int] = LIMITS,
) -> Audit:
    """Look for everything in `CODES`, and propose a patch.

    Args:
        source: the rows. Of a `Source`, `only`, `limit` and `patch` count; `on_bad_rows` does not,
            since bad rows are what is looked for.
        prompt_format: what the rows are to become.
        test: rows that must not be trained on.
        benchmark: questions that must not be trained on.
        refusals: texts that mark a response as turning the question down; case does not count.
        near_duplicate: word overlap (Jaccard) from which two prompts are nearly the same.
        tokenizer: counts tokens; None leaves the budget out.
        limits: length limits for the budget.

    Raises:
        DataError: nothing can be read, or no row fits the format.

    Example:
        `audit_rows("train.jsonl").summary`
    """
    every, patch = read_for_checks(source, prompt_format)
    rows = comparable_rows(every)
    findings = check_rows(every, refusals, near_duplicate)
    tables = []
    if test is not None:
        table, leaks = find_leaks(
            rows, comparable_rows(read_for_checks(test, prompt_format)[0]), near_duplicate
        )
        tables, findings = [*tables, table], findings + leaks
    if benchmark:
        table, leaks = find_benchmark_leaks(rows, benchmark, near_duplicate)
        tables, findings = [*tables, table], findings + leaks
    fit = [row.values for row in rows if not row.fault]
    counted = tokenizer is not None and fit
    order = list(CODES)
    findings.sort(key=lambda finding: (finding.row, order.index(finding.code)))
    table = pd.DataFrame(findings, columns=Finding._fields)
    return Audit(
        rows=len(every),
        findings=table,
        summary=_summary(table, len(every)),
        leakage=pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(),
        budget=token_budget(fit, prompt_format, tokenizer, limits) if counted else pd.DataFrame(),
        stock=_stock(table, rows),
        patch=_patch(every, grouped(findings, lambda finding: finding.row), patch),
    )


def _summary(findings: pd.DataFrame, n: int) -> pd.DataFrame:
    lines = []
    for code, meaning in CODES.items():
        found = findings[findings["code"] == code]
        rows = found["row"].nunique()
        mended = found.loc[found["action"] != "", "row"].nunique()
        groups = found.loc[found["group"] > 0, "group"].nunique()
        lines.append((code, rows, rows / n, groups, mended, meaning))
    return pd.DataFrame(lines, columns=["code", "rows", "share", "groups", "mended", "meaning"])


def _stock(findings: pd.DataFrame, rows: Sequence[Row]) -> pd.DataFrame:
    stock = findings[findings["code"] == "stock_response"]
    responses = {row.number: excerpt(row.response) for row in rows}
    lines = [
        (responses[n], count, count / len(rows))
        for n, count in stock["group"].value_counts().items()
    ]
    return pd.DataFrame(lines, columns=["response", "rows", "share"])


def _patch(
    rows: Sequence[Row], findings: Mapping[int, Sequence[Finding]], earlier: Sequence[PatchEntry]
) -> list[PatchEntry]:
    """Add to the corrections that were made before: a row gets one entry, and `drop` wins."""
    entries = {entry.row: entry for entry in earlier}
    for row in rows:
        mine = [finding for finding in findings.get(row.number, []) if finding.action]
        drops = [finding for finding in mine if finding.action == "drop"]
        if mine:
            before = entries[row.number].values if row.number in entries else {}
            entries[row.number] = PatchEntry(
                row=row.number,
                sha256=row.sha256,
                action="drop" if drops else "replace",
                values={} if drops else {**before, **row.mended},
                reason="; ".join(f"{found.code}: {found.detail}" for found in drops or mine),
            )
    return [entries[number] for number in sorted(entries)]


def token_budget(
    rows: Sequence[dict[str, Any]],
    prompt_format: PromptFormat,
    tokenizer: "PreTrainedTokenizerBase",
    limits: Sequence[int] = LIMITS,
) -> pd.DataFrame:
    """Tell what each length limit would cost.

    Args:
        rows: rows that fit the format.
        prompt_format: how a row becomes text.
        tokenizer: counts the tokens.
        limits: lengths in tokens, each for prompt, response and end together.

    Returns:
        A line per limit; shares are between 0 and 1. `limit`; `cut`, the share of rows longer than
        it; `dropped`, those of them whose response leaves no room for a prompt. Of what is left,
        cut to the limit: `waste_in_batches`, the share of padding when 8 rows at a time are padded
        to the longest of them; `waste_at_limit`, when all are padded to the limit; `packed_fill`,
        the share of tokens in packed rows; `rows_per_pack`. NaN where nothing is left.

    Example:
        `token_budget(rows, QUESTION_ANSWER, load_tokenizer("auto"), [128, 256])`
    """
    from utilities.features.tokenization import encode_texts

    bound = prompt_format.bind(tokenizer)
    # Half a surrogate pair, which no tokenizer takes, is invisible too.
    shown = ({c: change_texts(v, visible) for c, v in row.items()} for row in rows)
    examples = [bound.example(row) for row in shown]
    asked, answered = (
        [[text] if isinstance(text, str) else text for text in (each[part] for each in examples)]
        for part in ("prompt", "response")
    )

    def count(texts: Sequence[Sequence[str]], beginning: bool = False) -> list[list[int]]:
        ids = iter(encode_texts(tokenizer, [t for each in texts for t in each], beginning))
        return [[len(next(ids)) for _ in each] for each in texts]

    answers = count(answered)
    parts = (
        count([each[:1] for each in asked], True),
        count([each[1:] for each in asked]),
        answers,
    )
    tokens = np.array([1 + sum(map(sum, row)) for row in zip(*parts, strict=True)])
    last = np.array([each[-1] + 1 for each in answers])
    lines = [_budget(tokens, last, limit) for limit in limits]
    return pd.DataFrame(lines)


def _budget(tokens: np.ndarray, answers: np.ndarray, limit: int) -> dict[str, float]:
    from utilities.features.packing import best_fit

    cut = tokens > limit
    dropped = cut & (answers >= limit)
    kept = np.minimum(tokens[~dropped], limit)
    line = {"limit": limit, "cut": cut.mean(), "dropped": dropped.mean()}
    if not len(kept):
        nothing = ("waste_in_batches", "waste_at_limit", "packed_fill", "rows_per_pack")
        return line | dict.fromkeys(nothing, float("nan"))
    batches = [kept[start : start + 8] for start in range(0, len(kept), 8)]
    padded = sum(len(batch) * batch.max() for batch in batches)
    packs = len(best_fit(kept.tolist(), limit))
    return line | {
        "waste_in_batches": 1 - kept.sum() / padded,
        "waste_at_limit": 1 - kept.mean() / limit,
        "packed_fill": kept.sum() / (packs * limit),
        "rows_per_pack": len(kept) / packs,
    }


def run_audit(config: AuditConfig) -> Audit:
    """Do all that a config says, and write the four files.

    Raises:
        LabError: of the module where the fault lies; the files are written at the very end.
    """
    from utilities import models

    benchmark = config.benchmark
    if benchmark:
        columns = {"columns": {"text": config.benchmark_column}}
        benchmark = [row["text"] for row in read_rows(benchmark.model_copy(update=columns), TEXT)]
    audit = audit_rows(
        config.source,
        config.prompt_format,
        test=config.test,
        benchmark=benchmark or (),
        refusals=config.refusals,
        near_duplicate=config.near_duplicate,
        tokenizer=models.load_tokenizer(config.base_model) if config.base_model else None,
        limits=config.limits,
    )
    audit.write(config.output_dir)
    return audit
