"""The data audit: what is wrong with rows, how often, and a patch for what can be mended.

    python -m utilities.audit configs/starting_point/audit.yaml [key=value …]

It reads rows as training does, and continues where training would stop. Template headings left in
a value and invisible characters do not count when rows are compared. Only what is certain goes into
the patch; the rest is for people to decide.
"""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from utilities import plots
from utilities.audit.audited_rows import Row, change_texts, comparable_rows, read_for_checks
from utilities.audit.leaks import find_benchmark_leaks, find_leaks
from utilities.audit.row_checks import CODES, Finding, check_rows, grouped
from utilities.audit.settings import LIMITS, AuditConfig
from utilities.audit.text_checks import excerpt, visible
from utilities.files import atomic_write
from utilities.prompts.base import PromptFormat
from utilities.prompts.built_in import QUESTION_ANSWER, TEXT
from utilities.rows.patches import PatchEntry
from utilities.rows.sources import AnySource, read_rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Audit:
    """The result of an audit.

    Attributes:
        rows: number of rows that were audited.
        findings: one row per problem of a row; see `Finding`.
        summary: one row per code of `CODES`: `code`, `rows` that have it, `share` of all rows (0 to
            1), `groups` of rows that belong together, `mended` (rows that the patch mends),
            `meaning`.
        leakage: see `leakage`; empty without a test and a benchmark.
        budget: see `token_budget`; empty without a tokenizer.
        stock: stock responses, those to many different prompts: `response`, `rows`, `share`.
        patch: the corrections, those of the patch that the source had already included.
    """

    rows: int
    findings: pd.DataFrame
    summary: pd.DataFrame
    leakage: pd.DataFrame
    budget: pd.DataFrame
    stock: pd.DataFrame
    patch: list[PatchEntry]

    def to_json(self) -> str:
        """Return all tables but the findings as JSON, with null for missing values."""
        names = ("summary", "stock", "leakage", "budget")
        report: dict[str, Any] = {"rows": self.rows}
        for name in names:
            table = getattr(self, name).astype(object)
            report[name] = table.where(table.notna(), None).to_dict(orient="records")
        return json.dumps(report, indent=2, ensure_ascii=False) + "\n"

    def write(self, folder: str | Path) -> list[Path]:
        """Write `report.json`, `findings.csv`, `patch.jsonl` and `audit.png`.

        All contents are made before the first file is written.

        Args:
            folder: gets the files; made when it is missing.

        Returns:
            The paths of the files.
        """
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
            with atomic_write(folder / name) as file:
                file.write_bytes(content)
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
    """Check rows for everything in `CODES`, and propose a patch.

    Args:
        source: the rows. Of a `Source`, `only`, `limit` and `patch` count; `on_bad_rows` does not,
            since bad rows are among the findings.
        prompt_format: how rows become prompt and response.
        test: test rows, which must not be trained on.
        benchmark: questions of a benchmark, which must not be trained on.
        refusals: texts that mark a response as a refusal; case does not count.
        near_duplicate: word overlap (Jaccard), 0 to 1, from which prompts are near duplicates.
        tokenizer: counts tokens; None leaves the token budget out.
        limits: length limits for the token budget, in tokens.

    Raises:
        DataError: no row can be read, or none fits the format.

    Example:
        `audit_rows("train.jsonl").summary`
    """
    all_rows, patch = read_for_checks(source, prompt_format)
    rows = comparable_rows(all_rows)
    findings = check_rows(all_rows, refusals, near_duplicate)
    leakage_tables = []
    if test is not None:
        test_rows = comparable_rows(read_for_checks(test, prompt_format)[0])
        table, leaks = find_leaks(rows, test_rows, near_duplicate)
        leakage_tables.append(table)
        findings += leaks
    if benchmark:
        table, leaks = find_benchmark_leaks(rows, benchmark, near_duplicate)
        leakage_tables.append(table)
        findings += leaks
    budget = pd.DataFrame()
    usable = [row.values for row in rows if not row.fault]
    if tokenizer is not None and usable:
        budget = token_budget(usable, prompt_format, tokenizer, limits)
    order = list(CODES)
    findings.sort(key=lambda finding: (finding.row, order.index(finding.code)))
    table = pd.DataFrame(findings, columns=Finding._fields)
    return Audit(
        rows=len(all_rows),
        findings=table,
        summary=_summary(table, len(all_rows)),
        leakage=pd.concat(leakage_tables, ignore_index=True) if leakage_tables else pd.DataFrame(),
        budget=budget,
        stock=_stock(table, rows),
        patch=_patch(all_rows, grouped(findings, lambda finding: finding.row), patch),
    )


def _summary(findings: pd.DataFrame, n: int) -> pd.DataFrame:
    lines = []
    for code, meaning in CODES.items():
        of_code = findings[findings["code"] == code]
        rows = of_code["row"].nunique()
        mended = of_code.loc[of_code["action"] != "", "row"].nunique()
        groups = of_code.loc[of_code["group"] > 0, "group"].nunique()
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
    """Return the earlier entries with those of the findings: one per row, and `drop` wins."""
    entries = {entry.row: entry for entry in earlier}
    for row in rows:
        with_action = [finding for finding in findings.get(row.number, []) if finding.action]
        drops = [finding for finding in with_action if finding.action == "drop"]
        if with_action:
            before = entries[row.number].values if row.number in entries else {}
            reasons = drops or with_action
            entries[row.number] = PatchEntry(
                row=row.number,
                sha256=row.sha256,
                action="drop" if drops else "replace",
                values={} if drops else {**before, **row.mended},
                reason="; ".join(f"{finding.code}: {finding.detail}" for finding in reasons),
            )
    return [entries[number] for number in sorted(entries)]


def token_budget(
    rows: Sequence[dict[str, Any]],
    prompt_format: PromptFormat,
    tokenizer: "PreTrainedTokenizerBase",
    limits: Sequence[int] = LIMITS,
) -> pd.DataFrame:
    """Token budget: what each length limit would truncate, drop, and waste on padding.

    Args:
        rows: rows that fit the format.
        prompt_format: how a row becomes prompt and response.
        tokenizer: counts the tokens.
        limits: lengths in tokens, each for prompt, response and end-of-text together.

    Returns:
        A row per limit; shares are 0 to 1. `limit`; `cut`, the share of rows longer than it;
        `dropped`, the share whose response leaves no room for a prompt. Of the rows that are left,
        truncated to the limit: `waste_in_batches`, the share of padding when 8 rows at a time are
        padded to the longest of them; `waste_at_limit`, when all are padded to the limit;
        `packed_fill`, the share of tokens in packed rows; `rows_per_pack`. NaN where no row is
        left.

    Example:
        `token_budget(rows, QUESTION_ANSWER, load_tokenizer("auto"), [128, 256])`
    """
    from utilities.features.tokenization import encode_texts

    bound = prompt_format.bind(tokenizer)
    # Tokenizers refuse lone surrogates; `visible` removes them with the other invisible characters.
    cleaned = ({c: change_texts(v, visible) for c, v in row.items()} for row in rows)
    examples = [bound.example(row) for row in cleaned]
    prompts = [_as_turns(example["prompt"]) for example in examples]
    responses = [_as_turns(example["response"]) for example in examples]

    def count(texts: Sequence[Sequence[str]], beginning: bool = False) -> list[list[int]]:
        """Return the tokens of each text of each example, tokenized all at once."""
        ids = iter(encode_texts(tokenizer, [t for turns in texts for t in turns], beginning))
        return [[len(next(ids)) for _ in turns] for turns in texts]

    # Only a conversation's first prompt has the tokenizer's beginning-of-text token.
    first_prompts = count([turns[:1] for turns in prompts], beginning=True)
    later_prompts = count([turns[1:] for turns in prompts])
    answers = count(responses)
    turns_of_rows = zip(first_prompts, later_prompts, answers, strict=True)
    # One token more in each is the end-of-text.
    tokens = np.array([1 + sum(map(sum, turns)) for turns in turns_of_rows])
    last_answers = np.array([turns[-1] + 1 for turns in answers])
    return pd.DataFrame([_budget(tokens, last_answers, limit) for limit in limits])


def _as_turns(texts: str | list[str]) -> list[str]:
    """Return a conversation's texts as they are, and a single text as a list of one."""
    return [texts] if isinstance(texts, str) else texts


def _budget(tokens: np.ndarray, last_answers: np.ndarray, limit: int) -> dict[str, float]:
    """Return the row of a limit in `token_budget`.

    Args:
        tokens: of each example.
        last_answers: tokens of each example's last response, with end-of-text.
        limit: tokens of a row at most.
    """
    from utilities.features.packing import best_fit

    cut = tokens > limit
    dropped = cut & (last_answers >= limit)
    kept = np.minimum(tokens[~dropped], limit)
    line = {"limit": limit, "cut": cut.mean(), "dropped": dropped.mean()}
    if not len(kept):
        undefined = ("waste_in_batches", "waste_at_limit", "packed_fill", "rows_per_pack")
        return line | dict.fromkeys(undefined, float("nan"))
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
    """Audit as a config says, and write the four files of `Audit.write` at the end.

    Raises:
        LabError: of the module where the fault lies; then no file is written.
    """
    from utilities import models

    questions: list[str] = []
    if config.benchmark:
        columns = {"columns": {"text": config.benchmark_column}}
        source = config.benchmark.model_copy(update=columns)
        questions = [row["text"] for row in read_rows(source, TEXT)]
    audit = audit_rows(
        config.source,
        config.prompt_format,
        test=config.test,
        benchmark=questions,
        refusals=config.refusals,
        near_duplicate=config.near_duplicate,
        tokenizer=models.load_tokenizer(config.base_model) if config.base_model else None,
        limits=config.limits,
    )
    audit.write(config.output_dir)
    return audit
