"""What kind of wrong a prediction is: rules that put it into one class, from the texts alone.

They were tried on 150 labelled predictions (`tests/labelled_predictions.jsonl`, made up and
labelled by one author, so real ones may be harder).
"""

import json
import re
from collections.abc import Collection, Sequence
from difflib import SequenceMatcher

from rapidfuzz.distance import OSA, LCSseq

from utilities.scores.metrics import normalize, words

ADVICE = {
    "right": "Nothing.",
    "empty": "Look for training rows with an empty response; train longer.",
    "echo": "Train longer, with the same prompt format in training and here; more wordings a fact.",
    "repetition": "Train longer; see that each response ends in end-of-text; as a last resort "
    "set `repetition_penalty` or `no_repeat_ngram_size`.",
    "never_stops": "See that each training response ends in end-of-text; set `stop` strings, or "
    "raise `max_new_tokens` where references are long.",
    "too_short": "Look for cut responses in training (max_length); add rows with full answers.",
    "too_long": "Make the training responses as short as you want the answers.",
    "wrong_fact": "Give each fact more wordings, and add rows that set like facts apart; train "
    "longer.",
    "refused_on_topic": "Add on-topic questions that look off-topic; lower the share of refusals.",
    "answered_off_topic": "Add off-topic questions of more subjects, with the refusal.",
    "broken_format": "Use one prompt format everywhere; take markup out of the responses; add "
    "rows in the wanted form.",
    "misspelling": "Train longer, or with a lower learning rate; look for typing errors in the "
    "responses.",
    "unrelated": "Add rows on what these questions ask; it may not be in the data at all.",
}
"""Each class of predictions, with the change of data or settings to try first."""


_MARKUP = re.compile(
    r"#{2,}|<\|[^|<>]*\|>|```|</?[a-z][a-z0-9]*>|\[/?INST\]"
    r"|^\s*(?:question|answer|user|assistant|system|human|instruction|response)\s*:"
    r"|^\s*(?:import \w|from \w+ import|def \w+\(|print\()",
    re.IGNORECASE | re.MULTILINE,
)


_TURNED_DOWN = re.compile(
    r"\b(?:sorry|(?:can ?not|can't|unable to) (?:help|answer)|i (?:do not|don't) know)\b", re.I
)


_PIECES = re.compile(r"[^\W_]+")


def turns_down(text: str, refusal: str | None) -> bool:
    """Say whether an answer turns a question down.

    Args:
        text: the answer.
        refusal: what such answers say, such as `let's get back to fine-tuning`; small slips in it
            are forgiven, and common phrases (`sorry`, `I cannot help`) count too.
    """
    if not refusal:
        return False
    said, wanted = words(text), words(refusal)
    size = len(wanted)
    ends = range(max(1, len(said) - size + 1))
    closest = max((_alike(said[end : end + size], wanted) for end in ends), default=0.0)
    return closest >= 0.8 or bool(_TURNED_DOWN.search(text))


def error_class(
    question: str,
    prediction: str,
    reference: str,
    stopped: str = "end_of_text",
    refusal: str | None = None,
    vocabulary: Collection[str] = (),
) -> str:
    """Return the class of one prediction, a key of `ADVICE`.

    Args:
        question: what was asked.
        prediction: what was answered.
        reference: what should have been.
        stopped: what ended the answer; see `inference.Answer`.
        refusal: what an answer says that turns the question down; None when none should.
        vocabulary: normalized words that exist; a misspelling is none of them.

    Example:
        >>> error_class("How do I start?", "Run make test.", "Run make course.")
        'wrong_fact'
    """
    said, wanted, asked = words(prediction), words(reference), words(question)
    off_topic = turns_down(reference, refusal)
    if _same(prediction, reference):
        return "right"
    if not said:
        return "empty"
    if _goes_in_circles(prediction) and not _goes_in_circles(reference):
        return "repetition"
    if stopped == "max_new_tokens":
        return "never_stops"
    if _json(reference) is not None and _json(prediction) is None:
        return "broken_format"
    if _echoes(said, asked, wanted):
        return "echo"
    if _is_broken(prediction, reference):
        return "broken_format"
    if _is_misspelt(said, wanted, {*vocabulary, *wanted, *asked}):
        return "misspelling"
    if turns_down(prediction, refusal):
        return "right" if off_topic else "refused_on_topic"
    kept = LCSseq.similarity(said, wanted)
    if kept >= 0.8 * len(said) and len(said) <= 0.7 * len(wanted):
        return "too_short"
    if off_topic:
        return "answered_off_topic"
    if kept >= 0.8 * len(wanted) and len(said) >= 1.4 * len(wanted) + 1:
        return "too_long"
    return "wrong_fact" if _alike(said, wanted) >= 0.5 else "unrelated"


def _alike(first: Sequence[str], second: Sequence[str]) -> float:
    """Return twice the words that both have in order, by all their words: 0 to 1."""
    return 2 * LCSseq.similarity(first, second) / max(1, len(first) + len(second))


def _json(text: str):
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, (dict, list)) else None


def _same(prediction: str, reference: str) -> bool:
    wanted = _json(reference)
    if wanted is not None:
        return _json(prediction) == wanted
    return normalize(prediction) == normalize(reference) and not _is_broken(prediction, reference)


def _goes_in_circles(text: str) -> bool:
    """Say whether a run of words comes three times in a row, or most runs of three came before."""
    pieces = _PIECES.findall(text.lower())
    pieces = list("".join(pieces)) if len(pieces) < 3 else pieces  # scripts without spaces
    n = len(pieces)
    for period in range(1, n // 3 + 1):
        same = 0
        for place in range(period, n):
            same = same + 1 if pieces[place] == pieces[place - period] else 0
            if same >= 2 * period and same + period >= max(4, n / 3):
                return True
    runs = list(zip(pieces, pieces[1:], pieces[2:], strict=False))
    return n >= 12 and len(set(runs)) < 0.6 * len(runs)


def _echoes(said: Sequence[str], asked: Sequence[str], wanted: Sequence[str]) -> bool:
    if len(said) < 3 or len(asked) > 80:  # of a long text nearly every word is known
        return False
    stems, known = [word[:5] for word in said], {word[:5] for word in asked}
    from_question = sum(stem in known for stem in stems) / len(stems)
    return from_question >= 0.65 and _alike(said, wanted) < 0.5


def _is_broken(prediction: str, reference: str) -> bool:
    if (_json(reference) is None) != (_json(prediction) is None):
        return True
    listed = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s", re.MULTILINE)
    if listed.search(reference):
        return not listed.search(prediction)
    return bool(_MARKUP.search(prediction)) and not _MARKUP.search(reference)


def _is_misspelt(said: list[str], wanted: list[str], vocabulary: set[str]) -> bool:
    """Say whether only words differ that do not exist, and by a slip of the fingers each."""
    slips = 0
    for kind, a, b, c, d in SequenceMatcher(None, said, wanted, autojunk=False).get_opcodes():
        if kind == "equal":
            continue
        wrong, right = "".join(said[a:b]), "".join(wanted[c:d])
        allowed = max(1, len(right) // 4)
        is_slip = OSA.distance(wrong, right, score_cutoff=allowed) <= allowed
        exists = all(word in vocabulary for word in said[a:b])
        if exists or not is_slip or re.search(r"\d", wrong + right):
            return False
        slips += 1
    return bool(slips) and 2 * slips < max(3, len(wanted))
