"""What the audit finds: rows as it sees them, and what it finds in and between them."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import numpy as np

from utilities.audit.text_checks import (
    GARBLED,
    MARK,
    MARK_BEGINS_LINE,
    REMOVABLE,
    Text,
    comparable,
    excerpt,
    find_email,
    find_phone,
    find_secret,
    mend,
    script_of,
    template_frames,
    visible,
)
from utilities.errors import DataError
from utilities.prompts.base import PromptFormat
from utilities.prompts.chat import ChatFormat
from utilities.rows.columns import ToFormat, columns_for
from utilities.rows.near_duplicates import near_duplicate_pairs
from utilities.rows.patches import PatchEntry, raw_hash, read_patch
from utilities.rows.readers import RawRow
from utilities.rows.sources import AnySource, raw_rows, resolve, wanted_values

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
"""What the audit looks for. Case and punctuation do not count in prompts that are "the same"."""


class Row(NamedTuple):
    """One row as the audit sees it.

    Attributes:
        number: which row of the source, from 1, before any patch.
        place: where it stands, for people.
        sha256: `row_hash` of the row before any patch.
        values: the row with the format's columns.
        fault: (code, words, whether to drop it) when the row cannot be used, else None.
        texts: those that the format takes.
        prompt: what is asked, bare; all of the text, in a format without prompt columns.
        response: the last answer, bare.
        mended: the columns that mending changes, with their new values.
    """

    number: int
    place: str
    sha256: str
    values: dict[str, Any]
    fault: tuple[str, str, bool] | None
    texts: tuple[Text, ...] = ()
    prompt: str = ""
    response: str = ""
    mended: Mapping[str, Any] = MappingProxyType({})


class Finding(NamedTuple):
    """One problem of one row: a line of the table of findings.

    Attributes:
        row: which row of the source, from 1; a patch uses the same number.
        place: where it stands, for people.
        code: one of `CODES`.
        detail: what was found, in words.
        text: the text around it, shortened; of a secret, its first four characters.
        action: what the patch does: `drop`, `replace`, or nothing.
        group: the number of the first of the rows that belong together; 0 where it is alone.
    """

    row: int
    place: str
    code: str
    detail: str
    text: str
    action: str = ""
    group: int = 0

    @classmethod
    def of(cls, row: Row, code: str, detail: str, text: str, action: str = "", group: int = 0):
        """Return a finding of a row."""
        return cls(row.number, row.place, code, detail, excerpt(text), action, group)


def read_for_checks(
    source: AnySource, prompt_format: PromptFormat
) -> tuple[list[Row], list[PatchEntry]]:
    """Return the rows of a source, and the corrections that its own patch makes already."""
    source, settings, name = resolve(source)
    patch = read_patch(settings.patch) if settings.patch else []
    raws = list(raw_rows(source))
    originals = list(raw_rows(source.model_copy(update={"patch": None}))) if patch else raws
    dropped = {entry.row for entry in patch if entry.action == "drop"}
    numbers = [n for n in range(1, len(originals) + 1) if n not in dropped]
    readable = [raw.values for raw in raws if not raw.fault]
    if not readable:
        first = f"; the first: {raws[0].place}: {raws[0].fault}" if raws else ""
        raise DataError(f"{name}: no row can be read ({len(raws)} found{first})")
    found = dict.fromkeys(column for values in readable for column in values)
    to_format = columns_for(prompt_format, list(found), settings.columns, name)
    wanted = wanted_values(settings.only)
    frames = template_frames(prompt_format)
    rows = [
        _row(number, raw, raw_hash(originals[number - 1]), prompt_format, to_format, frames)
        for number, raw in zip(numbers, raws, strict=True)
        if raw.fault or all(str(raw.values.get(c)) in values for c, values in wanted.items())
    ][: settings.limit]
    if not comparable_rows(rows):
        first = f"; the first: {rows[0].place}: {rows[0].fault[1]}" if rows else ""
        raise DataError(
            f"{name}: no row fits the format {prompt_format.name} ({len(rows)} looked at{first}). "
            "Name another `prompt_format`, or the `columns` of the source"
        )
    return rows, patch


def _row(
    number: int,
    raw: RawRow,
    digest: str,
    prompt_format: PromptFormat,
    to_format: ToFormat,
    frames: Sequence[re.Pattern[str]],
) -> Row:
    values = to_format(raw.values)
    if raw.fault or isinstance(values, str):
        fault = ("unreadable", raw.fault or values, bool(raw.fault))
        return Row(number, raw.place, digest, {}, fault)
    held = [values.get(c) for c in (*prompt_format.columns, *prompt_format.optional_columns)]
    held += _texts_in(values.get("messages"))  # columns may have been made into messages
    used = {c: v for c, v in raw.values.items() if any(v is each for each in held)}
    texts = [mend(c, text, frames) for c, v in used.items() for text in _texts_in(v)]
    bare = {text.found: text.bare for text in texts}
    mended = {text.found: text.mended for text in texts}
    new = {c: change_texts(v, bare.__getitem__) for c, v in used.items()}
    compared = to_format({**raw.values, **new})
    new = {c: change_texts(v, mended.__getitem__) for c, v in used.items()}
    prompt, response = _prompt_and_response(compared, prompt_format)
    fault = _fault(compared, prompt_format, prompt, response)
    changed = {c: v for c, v in new.items() if v != used[c]}
    return Row(number, raw.place, digest, values, fault, tuple(texts), prompt, response, changed)


def _prompt_and_response(values: dict[str, Any], prompt_format: PromptFormat) -> tuple[str, str]:
    if isinstance(prompt_format, ChatFormat):
        messages = values.get("messages")
        turns = [m for m in messages if isinstance(m, dict)] if isinstance(messages, list) else []
        answers = [i for i, turn in enumerate(turns) if turn.get("role") == "assistant"]
        last = answers[-1] if answers else len(turns)
        parts = (turns[:last], turns[last : last + 1])
    else:
        asked = [*prompt_format.prompt_columns, *prompt_format.optional_columns]
        asked = asked or prompt_format.columns
        answered = [column for column in prompt_format.columns if column not in asked]
        parts = ([values.get(column) for column in each] for each in (asked, answered))
    prompt, response = ("\n".join(_texts_in(part)).strip() for part in parts)
    return prompt, response


def _fault(
    values: dict[str, Any], prompt_format: PromptFormat, prompt: str, response: str
) -> tuple[str, str, bool] | None:
    told = prompt_format.fault(values)
    if told is None:
        return None
    present = {column: values[column] for column in prompt_format.columns if column in values}
    empty = [column for column, value in present.items() if _is_blank(value)]
    if empty:
        return "empty", f"in {', '.join(empty)}", True
    unanswered = isinstance(prompt_format, ChatFormat) and prompt and not response
    lacks = any(column not in values for column in prompt_format.columns)
    # What is there but of another kind, a number say, may be an answer: that is for people.
    return ("empty", told, True) if unanswered else ("unreadable", told, lacks)


def comparable_rows(rows: Sequence[Row]) -> list[Row]:
    """Return the rows that can be compared: all but the unreadable ones."""
    return [row for row in rows if not (row.fault and row.fault[0] == "unreadable")]


def grouped(items: Iterable[Item], key: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    """Return the items of each key, in the order given."""
    groups: dict[Key, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def _is_blank(value: Any) -> bool:
    items = value if isinstance(value, list | tuple) else [] if value is None else [value]
    return all(isinstance(item, str) and not item.strip() for item in items)


def _texts_in(value: Any) -> list[str]:
    texts: list[str] = []
    change_texts(value, lambda text: texts.append(text) or text)
    return texts


def change_texts(value: Any, change: Callable[[str], str]) -> Any:
    """Change the texts in a value: text, a list of texts, or messages."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list | tuple):
        return [change_texts(item, change) for item in value]
    if isinstance(value, dict) and "content" in value:
        return {**value, "content": change_texts(value["content"], change)}
    return value


def _answer(row: Row) -> str:
    return comparable(row.response)


def check_rows(
    rows: Sequence[Row], refusals: Sequence[str], near_duplicate: float
) -> list[Finding]:
    """Return all findings in the rows and between them."""
    findings = [
        Finding.of(row, *row.fault[:2], "", "drop" * row.fault[2]) for row in rows if row.fault
    ]
    rows = comparable_rows(rows)
    findings += [*_same_prompts(rows), *_near_prompts(rows, near_duplicate)]
    findings += [*_responses(rows, refusals), *_outliers(rows), *_scripts(rows)]
    return findings + [finding for row in rows for finding in _in_the_text(row)]


def _same_prompts(rows: Sequence[Row]) -> Iterator[Finding]:
    for key, group in grouped(rows, lambda row: comparable(row.prompt)).items():
        if len(group) == 1:
            continue
        first = group[0].number
        told = ", ".join(str(row.number) for row in group[:6]) + ", …" * (len(group) > 6)
        answers = [same[0] for same in grouped(group, _answer).values()]
        for prompt, exact in grouped(group, lambda row: row.prompt).items():
            nearer = [same[0] for same in grouped(exact, _answer).values()]
            for row in exact:
                yield Finding.of(
                    row, "repeated_prompt", f"same prompt: rows {told}", prompt, "", first
                )
                for other in [*nearer[:2], *answers[:2]]:
                    if _answer(other) != _answer(row):
                        how = "letter for letter" if other.prompt == prompt else "in other letters"
                        detail = f"row {other.number} asks the same {how}, and responds otherwise"
                        yield Finding.of(row, "contradiction", detail, row.response, "", first)
                        break
        # Prompts without a word, such as "???" and "!", are the same only letter for letter.
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
    answered = [row for row in rows if row.response]
    for row in answered:
        if told := [text for text in refusals if text.casefold() in row.response.casefold()]:
            yield Finding.of(row, "refusal", f"holds {told[0]!r}", row.response)
    for response, group in grouped(answered, lambda row: row.response).items():
        first = group[0].number
        for row in group[1:]:
            yield Finding.of(row, "repeated_response", f"as in row {first}", response, "", first)
        # The wordings of one fact are fewer than 1 % of the rows; what answers everything is more.
        if len({row.prompt for row in group}) >= max(5, len(rows) / 100):
            detail = f"stands in {len(group)} rows ({len(group) / len(rows):.1%})"
            for row in group:
                yield Finding.of(row, "stock_response", detail, response, "", first)


def _outliers(rows: Sequence[Row]) -> Iterator[Finding]:
    """Find lengths beyond Tukey's outer fences, on logarithms, and a factor of 8 off the median.

    The second condition is for data of nearly one length, where the fences stand close.
    """
    for part in ("prompt", "response"):
        kept = [(row, text) for row in rows if (text := getattr(row, part))]
        logs = np.log([len(text) for _, text in kept] or [1])
        low, middle, high = np.quantile(logs, [0.25, 0.5, 0.75])
        longest = max(high + 3 * (high - low), middle + np.log(8))
        shortest = min(low - 3 * (high - low), middle - np.log(8))
        for (row, text), log in zip(kept, logs, strict=False):
            if not shortest <= log <= longest:
                code = "very_long" if log > longest else "very_short"
                detail = f"{part} of {len(text)} characters; the median is {np.exp(middle):.0f}"
                yield Finding.of(row, code, detail, text)


def _in_the_text(row: Row) -> Iterator[Finding]:
    """Look through each text of a row; one finding a code, told of the first text that has it."""
    shown = {text: visible(text.found) for text in row.texts}
    marked = [t for t in row.texts if t.bare != shown[t] or MARK_BEGINS_LINE.search(t.bare)]
    if marked:
        action = "replace" if any(text.mended != shown[text] for text in marked) else ""
        mark = MARK.search(marked[0].found)
        detail = f"in {marked[0].column}: {mark[0] if mark else 'a filled-in template'}"
        yield Finding.of(row, "template_in_text", detail, marked[0].found, action)
    odd = [(t, REMOVABLE.search(t.found) or GARBLED.search(t.found)) for t in row.texts]
    if odd := [(text, mark) for text, mark in odd if mark]:
        text, mark = odd[0]
        action = "replace" if any(text.found != shown[text] for text, _ in odd) else ""
        detail = f"in {text.column}: {' '.join(f'U+{ord(c):04X}' for c in mark[0])}"
        around = text.found[max(0, mark.start() - 20) :]
        yield Finding.of(row, "control_characters", detail, around, action)
    for code, find in (("email", find_email), ("phone", find_phone), ("secret", find_secret)):
        for text in row.texts:
            if found := find(text.bare):
                told = found[:4] + "…" if code == "secret" else found
                yield Finding.of(row, code, f"in {text.column}", told)
                break


def _scripts(rows: Sequence[Row]) -> Iterator[Finding]:
    """Compare scripts, not languages: French among English goes unnoticed, Russian does not."""
    scripts = {}
    for row in rows:
        letters = Counter(row.prompt + row.response)
        counts = Counter()
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
