"""Checks of one text: leftover templates, odd characters, addresses, keys, scripts."""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

from utilities.prompts.base import PromptFormat
from utilities.prompts.built_in import FORMATS
from utilities.prompts.template import TemplateFormat


class Text(NamedTuple):
    """One text of a row.

    Attributes:
        column: of the source.
        found: the text as it is there.
        bare: without template and invisible characters, for comparisons.
        mended: what the patch puts in its place.
    """

    column: str
    found: str
    bare: str
    mended: str


_HEADING = r"#{2,4} ?(?:Question|Answer|Instruction|Input|Response|System|User|Assistant|Human):"


_TOKEN = r"\[/?INST\]|<</?SYS>>|<\|[a-z_]+\|>|<(?:start|end)_of_turn>|</?s>"


MARK = re.compile(f"{_HEADING}|{_TOKEN}")


MARK_BEGINS_LINE = re.compile(rf"^[ \t]*(?:{_HEADING}|{_TOKEN})", re.M)


# A token with a blank beside it may be the subject of a sentence: that one is left untouched.
_LEADING = re.compile(
    rf"Below is an instruction that describes a task[^\n]*\n|{_HEADING}|\[INST\]|<s>"
    r"|<\|im_start\|>(?:system|user|assistant)\b|<start_of_turn>(?:user|model)\b"
    r"|<\|[a-z_]+\|>(?! )"
)


_TRAILING = re.compile(
    rf"(?:^{_HEADING}|\[/INST\]|^<\|im_start\|>assistant|^<start_of_turn>model"
    r"|(?<! )(?:</s>|<\|[a-z_]+\|>|<end_of_turn>))\Z",
    re.M,
)


REMOVABLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200b\u2060\ufeff\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


GARBLED = re.compile("\ufffd|Ã[\u0080-\u00bf]|Â[\u00a0-\u00bf]|â€|ðŸ")


_NOT_A_WORD = re.compile(r"[^\w\s](?!\d)")  # a mark before a digit may change a number


_EMAIL = re.compile(
    r"\b[\w.+-]{1,64}@(?!example\.)(?:[\w-]{1,63}\.)+[A-Za-z]{2,}(?!\w|:\w)"  # not git@host:path
)


_PHONE = re.compile(
    r"(?<![\w+])\+\d{1,3}(?:[ .-]?\(?\d{2,4}\)?){2,5}(?!\w)"
    r"|(?<![\w.+-])(?:\(\d{3}\) ?|\d{3}[-.])\d{3}[-.]\d{4}(?![\w-]|\.\d)"
)


_KEY = re.compile(
    r"\bsk-[\w-]{20,}|\bhf_[A-Za-z0-9]{30,}|\bAKIA[0-9A-Z]{16}\b|\bgh[pousr]_\w{36}"
    r"|\bgithub_pat_\w{22,}|\bxox[abprs]-[\w-]{10,}|\bAIza[\w-]{35}"
    r"|\beyJ[\w-]{10,}\.eyJ[\w-]{10,}|-----BEGIN [A-Z ]*PRIVATE KEY"
)


_LONG_TOKEN = re.compile(
    r"(?<![\w/.+-])(?=[a-z0-9]*[A-Z])(?=[A-Z0-9]*[a-z])(?=[A-Za-z]*\d)[A-Za-z0-9]{32,}(?![\w/.+-])"
)


def comparable(text: str) -> str:
    """Return text in the form in which prompts are compared.

    Without case, extra white space and punctuation. Letters of any script, symbols, the marks of
    formulas and code (`2+2` is not `2*2`), and marks before a digit (`1.5`) are kept. Text of marks
    alone becomes empty.

    Example:
        >>> comparable("  Why `pad`?! ")
        'why pad'
    """
    text = unicodedata.normalize("NFKC", text).casefold()
    text = " ".join(_NOT_A_WORD.sub(_keep_meaningful, text).split())
    has_word = re.search(r"\w", text) or any(unicodedata.category(mark) == "So" for mark in text)
    return text if has_word else ""


def _keep_meaningful(mark: re.Match[str]) -> str:
    is_formal = mark[0] in "*/%#&@\\" or (unicodedata.category(mark[0])[0] in "SM")
    return mark[0] if is_formal and mark[0] != "`" else ""


def template_frames(prompt_format: PromptFormat) -> list[re.Pattern[str]]:
    """Return patterns of values that have been put into a template already, by mistake.

    They are made of the built-in templates and that of the format; group 1 is the value itself.
    """
    formats = [f for f in (*FORMATS.values(), prompt_format) if isinstance(f, TemplateFormat)]
    frames = []
    for template in {template for known in formats for template in known.templates}:
        # Every field becomes one NUL character, which no template has; split there.
        parts = template.format_map(defaultdict(lambda: "\0")).strip().split("\0")
        if len(parts) == 2 and re.search(r"\w", "".join(parts)):
            before, after = map(re.escape, map(str.strip, parts))
            frames.append(re.compile(f"{before}(.*){after}", re.S))
    return frames


def _without_template(text: str, frames: Sequence[re.Pattern[str]]) -> str:
    """Return text without template headings and tokens at its ends, however many there are."""
    while True:
        inner = text.strip()
        if framed := next(filter(None, (frame.fullmatch(inner) for frame in frames)), None):
            text = framed[1].strip()
        elif found := _LEADING.match(inner):
            text = inner[found.end() :].strip()
        elif found := _TRAILING.search(inner):
            text = inner[: found.start()].strip()
        else:
            return text


def visible(text: str) -> str:
    """Return text without invisible characters; line breaks of other kinds become newlines."""
    return REMOVABLE.sub(lambda mark: "\n" if mark[0] in "\v\f\x85" else "", text)


def mend(column: str, text: str, frames: Sequence[re.Pattern[str]]) -> Text:
    """Return a text with its bare and its mended form; see `Text`."""
    shown = visible(text)
    bare = _without_template(shown, frames)
    # A mark left inside means that the template is not only at the ends: people decide.
    return Text(column, text, bare, shown if MARK.search(bare) else bare)


def excerpt(text: str) -> str:
    """Return the first 80 characters, on one line, with invisible ones as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:80])


def find_email(text: str) -> str | None:
    """Return the first e-mail address; those at example.com and the like belong to nobody."""
    found = _EMAIL.search(text)
    return found and found[0]


def find_phone(text: str) -> str | None:
    """Return the first phone number of 8 to 15 digits."""
    numbers = (found[0] for found in _PHONE.finditer(text))
    return next((n for n in numbers if 8 <= sum(map(str.isdigit, n)) <= 15), None)


def find_secret(text: str) -> str | None:
    """Return the first key of a known form, or the first long token of high entropy.

    That is 32 letters and digits or more, of both cases, with an entropy of over 4.3 bits a
    character; random ones have 4.6. Names in camel case are below that, checksums have one case,
    and addresses and file names have other marks beside them.
    """
    if found := _KEY.search(text):
        return found[0]
    for found in _LONG_TOKEN.finditer(text):
        counts = np.array(list(Counter(found[0]).values())) / len(found[0])
        if -(counts * np.log2(counts)).sum() > 4.3:
            return found[0]
    return None


@cache
def script_of(letter: str) -> str:
    """Return the script of a letter, such as `Latin` or `Cyrillic`."""
    name = unicodedata.name(unicodedata.normalize("NFKC", letter)[0], "UNKNOWN").split()[0]
    return "East Asian" if name in {"CJK", "HIRAGANA", "KATAKANA"} else name.capitalize()
