"""The checks of the audit: what it looks for in rows and between them."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from utilities.audit.audited_rows import Row, comparable_rows
from utilities.audit.text_checks import (
    GARBLED,
    MARK,
    MARK_BEGINS_LINE,
    REMOVABLE,
    comparable,
    excerpt,
    find_email,
    find_phone,
    find_secret,
    script_of,
    visible,
)
from utilities.rows.near_duplicates import near_duplicate_pairs

Item = TypeVar("Item")


Key = TypeVar("Key")


CODES = {
    "unreadable": "cannot be read, or does not fit the prompt format",
    "empty": "the prompt or the response is empty",
    "exact_duplicate": "repeats an earlier row, prompt and response",
    "repeated_prompt": "shares its prompt with another row",
    "contradiction": "shares its prompt with a row that responds otherwise",
    "near_duplicate": "its prompt is nearly that of an earlier row",
    "repeated_response": "has an earlier row's response, word for word",
    "stock_response": "its response stands under many different prompts: a refusal, perhaps",
    "refusal": "its response holds one of the `refusals`",
    "template_in_text": "a prompt template's headings or tokens stand in the text",
    "control_characters": "invisible, lost or garbled characters",
    "other_script": "is mostly in another script than most rows",
    "very_long": "its prompt or response is far longer than usual",
    "very_short": "its prompt or response is far shorter than usual",
    "email": "holds what looks like an e-mail address",
    "phone": "holds what looks like a phone number",
    "secret": "holds what looks like a key or a password",
    "leaks_into_test": "its prompt is nearly that of a test row",
    "leaks_into_benchmark": "holds a benchmark question",
}
"""Kinds of finding. Two prompts are "the same" regardless of case and punctuation."""


class Finding(NamedTuple):
    """One problem of one row: a line of the table of findings.

    Attributes:
        row: number of the row in the source, from 1; a patch uses the same number.
        place: file and line, or the like.
        code: one of `CODES`.
        detail: what was found, in words.
        text: the text around it, shortened; of a secret, its first four characters.
        action: what the patch does: `drop`, `replace`, or "" for nothing.
        group: the number of the first of the rows that belong together; 0 for a row by itself.
    """

    row: int
    place: str
    code: str
    detail: str
    text: str
    action: str = ""
    group: int = 0

    @classmethod
    def of(
        cls, row: Row, code: str, detail: str, text: str, action: str = "", group: int = 0
    ) -> "Finding":
        """Return a finding in a row."""
        return cls(row.number, row.place, code, detail, excerpt(text), action, group)


def grouped(items: Iterable[Item], key: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    """Return the items of each key, in the order given."""
    groups: dict[Key, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def _answer(row: Row) -> str:
    return comparable(row.response)


def check_rows(
    rows: Sequence[Row], refusals: Sequence[str], near_duplicate: float
) -> list[Finding]:
    """Return all findings in the rows and between them.

    Args:
        rows: of `read_for_checks`.
        refusals: texts that mark a response as a refusal; case does not count.
        near_duplicate: word overlap (Jaccard), 0 to 1, from which two prompts are near duplicates.
    """
    findings = [
        Finding.of(row, row.fault.code, row.fault.detail, "", "drop" if row.fault.drop else "")
        for row in rows
        if row.fault
    ]
    rows = comparable_rows(rows)
    findings += [*_same_prompts(rows), *_near_prompts(rows, near_duplicate)]
    findings += [*_responses(rows, refusals), *_outliers(rows), *_scripts(rows)]
    return findings + [finding for row in rows for finding in _in_the_text(row)]


def _same_prompts(rows: Sequence[Row]) -> Iterator[Finding]:
    """Find repeated prompts, contradictions among them, and exact duplicates."""
    for key, group in grouped(rows, lambda row: comparable(row.prompt)).items():
        if len(group) == 1:
            continue
        first = group[0].number
        numbers = ", ".join(str(row.number) for row in group[:6])
        if len(group) > 6:
            numbers += ", …"
        # The first row of each answer. Of two answers at least one differs from a row's own, so two
        # are enough to find a contradiction; those to literally the same prompt come first.
        answers = [same[0] for same in grouped(group, _answer).values()]
        for prompt, exact in grouped(group, lambda row: row.prompt).items():
            to_exact = [same[0] for same in grouped(exact, _answer).values()]
            for row in exact:
                yield Finding.of(
                    row, "repeated_prompt", f"same prompt: rows {numbers}", prompt, "", first
                )
                for other in [*to_exact[:2], *answers[:2]]:
                    if _answer(other) != _answer(row):
                        how = "letter for letter" if other.prompt == prompt else "in other letters"
                        detail = f"row {other.number} asks the same {how}, and responds otherwise"
                        yield Finding.of(row, "contradiction", detail, row.response, "", first)
                        break
        # The key of prompts without a word, such as "???" and "!", is empty; they are duplicates
        # only if they are equal letter for letter.
        seen: dict[tuple[str, str], int] = {}
        for row in group:
            if row.fault:
                continue
            earlier = seen.setdefault((key or row.prompt, _answer(row)), row.number)
            if earlier != row.number:
                yield Finding.of(
                    row, "exact_duplicate", f"repeats row {earlier}", row.prompt, "drop", first
                )


def _near_prompts(rows: Sequence[Row], threshold: float) -> Iterator[Finding]:
    """Find near duplicates: for each row, the earlier one with the largest word overlap."""
    keys = [comparable(row.prompt) for row in rows]
    best: dict[int, tuple[float, int]] = {}
    pairs = near_duplicate_pairs([row.prompt for row in rows], threshold=threshold)
    for earlier, later, overlap in zip(*(part.tolist() for part in pairs), strict=True):
        if keys[earlier] != keys[later]:
            best[later] = max(best.get(later, (0.0, 0)), (overlap, earlier))
    for later, (overlap, earlier) in best.items():
        twin = rows[earlier]
        detail = f"word overlap {overlap:.2f} with row {twin.number}: {excerpt(twin.prompt)}"
        yield Finding.of(rows[later], "near_duplicate", detail, rows[later].prompt, "", twin.number)


def _responses(rows: Sequence[Row], refusals: Sequence[str]) -> Iterator[Finding]:
    """Find refusals, repeated responses, and stock responses."""
    answered = [row for row in rows if row.response]
    for row in answered:
        if matches := [text for text in refusals if text.casefold() in row.response.casefold()]:
            yield Finding.of(row, "refusal", f"holds {matches[0]!r}", row.response)
    for response, group in grouped(answered, lambda row: row.response).items():
        first = group[0].number
        for row in group[1:]:
            yield Finding.of(row, "repeated_response", f"as in row {first}", response, "", first)
        # A fact that is asked in several wordings makes up less than 1 % of the rows; a response
        # that fits any question makes up more.
        if len({row.prompt for row in group}) >= max(5, len(rows) / 100):
            detail = f"stands in {len(group)} rows ({len(group) / len(rows):.1%})"
            for row in group:
                yield Finding.of(row, "stock_response", detail, response, "", first)


def _outliers(rows: Sequence[Row]) -> Iterator[Finding]:
    """Find outliers of length: beyond Tukey's outer fences of the logarithms, and 8 times off.

    8 times longer or shorter than the median: this second condition is for data of nearly one
    length, where the fences are close to it.
    """
    for part in ("prompt", "response"):
        kept = [(row, text) for row in rows if (text := getattr(row, part))]
        if not kept:
            continue
        logs = np.log([len(text) for _, text in kept])
        low, middle, high = np.quantile(logs, [0.25, 0.5, 0.75])
        longest = max(high + 3 * (high - low), middle + np.log(8))
        shortest = min(low - 3 * (high - low), middle - np.log(8))
        for (row, text), log in zip(kept, logs, strict=True):
            if not shortest <= log <= longest:
                code = "very_long" if log > longest else "very_short"
                detail = f"{part} of {len(text)} characters; the median is {np.exp(middle):.0f}"
                yield Finding.of(row, code, detail, text)


def _in_the_text(row: Row) -> Iterator[Finding]:
    """Check each text of a row; of each code, only the first text that has it is reported."""
    shown = {text: visible(text.found) for text in row.texts}
    marked = [t for t in row.texts if t.bare != shown[t] or MARK_BEGINS_LINE.search(t.bare)]
    if marked:
        is_mended = any(text.mended != shown[text] for text in marked)
        mark = MARK.search(marked[0].found)
        detail = f"in {marked[0].column}: {mark[0] if mark else 'a filled-in template'}"
        action = "replace" if is_mended else ""
        yield Finding.of(row, "template_in_text", detail, marked[0].found, action)
    odd = [
        (text, match)
        for text in row.texts
        if (match := REMOVABLE.search(text.found) or GARBLED.search(text.found))
    ]
    if odd:
        is_mended = any(text.found != shown[text] for text, _ in odd)
        text, match = odd[0]
        detail = f"in {text.column}: {' '.join(f'U+{ord(c):04X}' for c in match[0])}"
        around = text.found[max(0, match.start() - 20) :]
        action = "replace" if is_mended else ""
        yield Finding.of(row, "control_characters", detail, around, action)
    for code, find in (("email", find_email), ("phone", find_phone), ("secret", find_secret)):
        for text in row.texts:
            if found := find(text.bare):
                quoted = found[:4] + "…" if code == "secret" else found
                yield Finding.of(row, code, f"in {text.column}", quoted)
                break


def _scripts(rows: Sequence[Row]) -> Iterator[Finding]:
    """Find rows in another script than most. Scripts, not languages: French is not noticed."""
    scripts: dict[int, str] = {}
    for row in rows:
        letters = Counter(row.prompt + row.response)
        counts: Counter[str] = Counter()
        for letter, count in letters.items():
            if letter.isalpha():
                counts[script_of(letter)] += count
        if counts:
            scripts[row.number] = counts.most_common(1)[0][0]
    usual = Counter(scripts.values()).most_common(1)
    for row in rows:
        script = scripts.get(row.number)
        if script and script != usual[0][0]:
            detail = f"mostly {script}; most rows are {usual[0][0]}"
            yield Finding.of(row, "other_script", detail, row.prompt + " " + row.response)
