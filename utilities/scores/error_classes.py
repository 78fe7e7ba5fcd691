"""Error classes: rules that put a prediction into one class, from the texts alone.

They were tested on 150 labelled predictions (`tests/labelled_predictions.jsonl`, made up and
labelled by one author, so real ones may be harder).
"""

import json
import re
from collections.abc import Collection, Sequence
from difflib import SequenceMatcher
from typing import Any

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
"""The error classes, each with the change of data or settings to try first."""


_MARKUP = re.compile(
    r"#{2,}|<\|[^|<>]*\|>|```|</?[a-z][a-z0-9]*>|\[/?INST\]"
    r"|^\s*(?:question|answer|user|assistant|system|human|instruction|response)\s*:"
    r"|^\s*(?:import \w|from \w+ import|def \w+\(|print\()",
    re.IGNORECASE | re.MULTILINE,
)


_REFUSAL_PHRASE = re.compile(
    r"\b(?:sorry|(?:can ?not|can't|unable to) (?:help|answer)|i (?:do not|don't) know)\b", re.I
)


_PIECES = re.compile(r"[^\W_]+")


def turns_down(text: str, refusal: str | None) -> bool:
    """Whether an answer refuses a question.

    Args:
        text: the answer.
        refusal: text of refusals, such as `let's get back to fine-tuning`. It matches with small
            deviations, and common phrases (`sorry`, `I cannot help`) match too. None: no answer
            is a refusal.
    """
    if not refusal:
        return False
    answer, phrase = words(text), words(refusal)
    # The most similar window of as many words as the refusal has.
    starts = range(max(1, len(answer) - len(phrase) + 1))
    windows = (answer[start : start + len(phrase)] for start in starts)
    closest = max((_dice(window, phrase) for window in windows), default=0.0)
    return closest >= 0.8 or bool(_REFUSAL_PHRASE.search(text))


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
        question: the question, or the prompt.
        prediction: the model's answer.
        reference: the right answer.
        stopped: what ended the answer; see `inference.answers.Answer`.
        refusal: see `turns_down`; None if no answer should be a refusal.
        vocabulary: normalized words that exist; a misspelt word is not among them.

    Example:
        >>> error_class("How do I start?", "Run make test.", "Run make course.")
        'wrong_fact'
    """
    # The order decides: a prediction gets the first class whose rule applies.
    answer, target, asked = words(prediction), words(reference), words(question)
    if _same(prediction, reference):
        return "right"
    if not answer:
        return "empty"
    if _is_repetitive(prediction) and not _is_repetitive(reference):
        return "repetition"
    if stopped == "max_new_tokens":
        return "never_stops"
    if _json(reference) is not None and _json(prediction) is None:
        return "broken_format"
    if _echoes(answer, asked, target):
        return "echo"
    if _is_broken(prediction, reference):
        return "broken_format"
    if _is_misspelt(answer, target, {*vocabulary, *target, *asked}):
        return "misspelling"
    off_topic = turns_down(reference, refusal)
    if turns_down(prediction, refusal):
        return "right" if off_topic else "refused_on_topic"
    return _class_by_content(answer, target, off_topic)


def _class_by_content(answer: Sequence[str], target: Sequence[str], off_topic: bool) -> str:
    """Return the class of an answer that is well formed but not right, by the words in common."""
    common = LCSseq.similarity(answer, target)
    if common >= 0.8 * len(answer) and len(answer) <= 0.7 * len(target):
        return "too_short"
    if off_topic:
        return "answered_off_topic"
    if common >= 0.8 * len(target) and len(answer) >= 1.4 * len(target) + 1:
        return "too_long"
    return "wrong_fact" if _dice(answer, target) >= 0.5 else "unrelated"


def _dice(first: Sequence[str], second: Sequence[str]) -> float:
    """Return the Dice coefficient of two word sequences, by their longest common subsequence."""
    return 2 * LCSseq.similarity(first, second) / max(1, len(first) + len(second))


def _json(text: str) -> dict[str, Any] | list[Any] | None:
    """Return the JSON object or array that a text is, or None."""
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, (dict, list)) else None


def _same(prediction: str, reference: str) -> bool:
    """Whether two texts are equal, as JSON or after `normalize`, and in the same form."""
    target = _json(reference)
    if target is not None:
        return _json(prediction) == target
    return normalize(prediction) == normalize(reference) and not _is_broken(prediction, reference)


def _is_repetitive(text: str) -> bool:
    """Whether a sequence of words occurs three times in a row, or most trigrams are repeated."""
    pieces = _PIECES.findall(text.lower())
    if len(pieces) < 3:  # scripts without spaces: characters instead of words
        pieces = list("".join(pieces))
    n = len(pieces)
    for period in range(1, n // 3 + 1):
        # `same` counts the pieces in a row that are equal to the one a period before them: after
        # two periods of them, the first sequence and its two repetitions are complete. They must
        # be a third of the text, and four pieces long, or "very, very, very" would count.
        same = 0
        for index in range(period, n):
            same = same + 1 if pieces[index] == pieces[index - period] else 0
            if same >= 2 * period and same + period >= max(4, n / 3):
                return True
    trigrams = list(zip(pieces, pieces[1:], pieces[2:], strict=False))
    return n >= 12 and len(set(trigrams)) < 0.6 * len(trigrams)


def _echoes(answer: Sequence[str], asked: Sequence[str], target: Sequence[str]) -> bool:
    """Whether an answer consists of the question's words, by their first five letters."""
    if len(answer) < 3 or len(asked) > 80:  # a long question contains nearly every word
        return False
    stems, question_stems = [word[:5] for word in answer], {word[:5] for word in asked}
    from_question = sum(stem in question_stems for stem in stems) / len(stems)
    return from_question >= 0.65 and _dice(answer, target) < 0.5


def _is_broken(prediction: str, reference: str) -> bool:
    """Whether a prediction lacks the reference's form (JSON, list), or has markup of its own."""
    if (_json(reference) is None) != (_json(prediction) is None):
        return True
    listed = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s", re.MULTILINE)
    if listed.search(reference):
        return not listed.search(prediction)
    return bool(_MARKUP.search(prediction)) and not _MARKUP.search(reference)


def _is_misspelt(answer: list[str], target: list[str], vocabulary: set[str]) -> bool:
    """Whether the texts differ only in misspelt words, and in less than half of the words."""
    misspelt = 0
    for kind, a, b, c, d in SequenceMatcher(None, answer, target, autojunk=False).get_opcodes():
        if kind == "equal":
            continue
        # Joined, so that a word that is split in two is one deviation.
        wrong, right = "".join(answer[a:b]), "".join(target[c:d])
        allowed = max(1, len(right) // 4)
        is_close = OSA.distance(wrong, right, score_cutoff=allowed) <= allowed
        exists = all(word in vocabulary for word in answer[a:b])
        if exists or not is_close or re.search(r"\d", wrong + right):
            return False
        misspelt += 1
    return bool(misspelt) and 2 * misspelt < max(3, len(target))
