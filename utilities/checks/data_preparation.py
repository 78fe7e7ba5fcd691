"""Checks of the exercises of notebook 04, on a tokenizer and rows of their own."""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from utilities.checks import Fault, attempt, exercise, expect

IGNORED = -100
_PIECE = re.compile(r" ?\w+| ?[^\w\s]+|\s+(?!\S)|\s+")


class Encoded(dict[str, Any]):
    """The output of a tokenizer: a dict whose ids are an attribute too."""

    @property
    def input_ids(self) -> list[Any]:
        """The ids of the text, or of each text."""
        return self["input_ids"]


class ToyTokenizer:
    """A toy tokenizer: one token per word with the space before it, as in most language models.

    Example:
        >>> ToyTokenizer().tokenize("Answer: the Nile")
        ['Answer', ':', ' the', ' Nile']
    """

    eos_token, eos_token_id = "<end>", 0
    pad_token, pad_token_id = "<end>", 0

    def __init__(self):
        self.vocabulary = [self.eos_token]

    def __deepcopy__(self, memo: dict) -> "ToyTokenizer":
        return self  # a check decodes what an answer encoded

    def __call__(self, texts: str | Sequence[str], **ignored: Any) -> Encoded:
        """Return the ids of one text, or of each of several."""
        if isinstance(texts, str):
            return Encoded(input_ids=self.encode(texts))
        return Encoded(input_ids=[self.encode(text) for text in texts])

    def tokenize(self, text: str) -> list[str]:
        """Split a text into tokens."""
        return _PIECE.findall(text)

    def encode(self, text: str, **ignored: Any) -> list[int]:
        """Return a text's ids; a new token gets the next free id."""
        pieces = self.tokenize(text)
        self.vocabulary += [p for p in dict.fromkeys(pieces) if p not in self.vocabulary]
        return [self.vocabulary.index(piece) for piece in pieces]

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = False, **ignored: Any) -> str:
        """Return the text of ids."""
        kept = [int(token) for token in ids]
        return "".join(self.vocabulary[i] for i in kept if i or not skip_special_tokens)


def integers(values: Any) -> list[int]:
    """Return ids or labels as a list of int, from any sequence, array or tensor."""
    return [int(value) for value in values]


PAIRS = [
    ("Which river flows through Cairo?", "The Nile."),
    ("How do I open JupyterLab", "`make lab` opens it."),
    ("What is 2 + 2?", "4"),
    ("What does {answer} mean in a template?", "It stands for the answer."),
    ("Name two steps.\nBe brief.", "1. Load.\n2. Train."),
]


@exercise
def prompt_format(answer: Callable[..., str]) -> None:
    """The training text begins with the very prompt used later, in letters and in tokens."""
    tokenizer = ToyTokenizer()
    for question, response in PAIRS:
        prompt = attempt(answer, question)
        text = attempt(answer, question, response)
        for value in (prompt, text):
            expect(isinstance(value, str), "your function has to return text")
        expect(question in prompt, f"the prompt does not hold the question {question!r}")
        mark = prompt.split(question, 1)[1]
        expect(mark.strip(), "no mark of your own follows the question to announce the answer")
        expect(
            text.startswith(prompt),
            f"the training text does not begin with the prompt, for {question!r}",
        )
        rest = text[len(prompt) :]
        expect(
            rest.endswith(response),
            f"the training text does not end with the answer as given, for {response!r}",
        )
        expect(
            not rest.removesuffix(response).strip(),
            "besides the answer, training has more text after the prompt, which nobody will write",
        )
        short, long = tokenizer.tokenize(prompt), tokenizer.tokenize(text)
        position = max(len(short) - 2, 0)
        expect(
            long[: len(short)] == short,
            "the letters agree, the tokens do not: the prompt ends in "
            f"{short[position:]}, and there the training text has {long[position : len(short)]}",
        )


ROWS = [
    ([5, 6, 2, 7, 8, 2, 2, 2], [("user", 3), ("assistant", 3)]),
    ([5, 2, 9, 2, 6, 6, 2, 8, 9, 2, 2],
     [("user", 2), ("assistant", 2), ("user", 3), ("assistant", 3)]),
    ([4, 4, 2, 5, 2, 7, 2], [("system", 3), ("user", 2), ("assistant", 2)]),
    ([5, 6, 7, 2, 2], [("user", 4)]),
    ([], []),
]  # fmt: skip


def _kinds(turns: Sequence[tuple[str, int]], length: int) -> list[tuple[str, bool]]:
    """Return for each token the speaker, and whether it ends a turn."""
    kinds = [(speaker, position == size - 1) for speaker, size in turns for position in range(size)]
    return kinds + [("padding", False)] * (length - len(kinds))


@exercise
def repair_mask(answer: Callable[..., Sequence[int]]) -> None:
    """Each answer and its end are learned; other turns, their ends and the padding are not."""
    for number, (ids, turns) in enumerate(ROWS, start=1):
        labels = integers(attempt(answer, ids, turns))
        where = f"in row {number}, {turns}"
        expect(len(labels) == len(ids), f"there is not one label for each token {where}")
        for position, (speaker, is_end) in enumerate(_kinds(turns, len(ids))):
            learned = labels[position] != IGNORED
            if speaker == "assistant":
                what = "the end-of-text of an answer" if is_end else "a token of an answer"
                expect(learned, f"{what} is masked {where}")
                same = labels[position] == ids[position]
                expect(same, f"a label is not the id at its own place {where}")
            elif speaker == "padding":
                expect(not learned, f"padding is learned {where}")
            else:
                what = "the end-of-text after" if is_end else "a token of"
                expect(not learned, f"{what} the {speaker}'s turn is learned {where}")


LENGTHS = [
    ([10, 20, 30, 40], 0.25),
    ([40, 30, 10, 20], 0.3),
    ([12, 31, 8, 9, 10], 0),
    ([5], 0.5),
    ([7, 7, 7, 20], 0.25),
    ([3, 9, 9, 9], 0.5),
    ([(7 * position) % 100 + 1 for position in range(100)], 0.05),
    ([30, 300], 0.5),
]


@exercise
def length_limit(answer: Callable[..., int]) -> None:
    """It is the smallest limit that cuts no more rows than the share allows."""
    for lengths, share in LENGTHS:
        limit = attempt(answer, lengths, share)
        case = f"{len(lengths)} rows of {min(lengths)} to {max(lengths)} tokens, share {share}"
        if not float(limit) == int(limit):
            raise Fault(f"a limit is a whole number of tokens, and you return {limit} ({case})")
        cut = sum(length > limit for length in lengths)
        expect(
            cut <= share * len(lengths),
            f"the limit is too tight: it cuts {cut} of the rows ({case})",
        )
        smaller = max([length for length in lengths if length < limit], default=0)
        would_cut = sum(length > smaller for length in lengths)
        expect(
            limit in lengths,
            f"a smaller limit cuts the same rows, and needs less padding ({case})",
        )
        expect(
            would_cut > share * len(lengths),
            f"the limit is too generous: one below it would still do ({case})",
        )


LEAKS = [
    (["What is LoRA?"], ["What is LoRA?"], [0], "a question that stands in training unchanged"),
    (["What is LoRA?"], ["what is lora?"], [0], "a question in other capitals"),
    (["What is LoRA?"], ["What is LoRA"], [0], "a question without its question mark"),
    (["What is LoRA?"], ["  What  is\nLoRA ?"], [0], "a question with other white space"),
    (["Well, WHAT is a step?"], ["Well what is a step"], [0], "a question without its comma"),
    (["What is LoRA?"], ["Why LoRA?", "What is LoRA?", "what is LoRA"], [1, 2],
     "the second of two leaked questions"),
]  # fmt: skip
HONEST = [
    (["What is an epoch?"], ["What is an epoch in training?"], "only contains a training question"),
    (["What is an epoch in training?"], ["What is an epoch?"], "is only a part of one in training"),
    (["What does step 1 do?"], ["What does step 2 do?"], "differs from training in a digit"),
    (["Which is a step?"], ["Which step is a?"], "has the words of one in another order"),
    (["Is a lone step enough?"], ["Is alone step enough?"], "only agrees without its spaces"),
    ([], ["What is a step?"], "is compared with no training at all"),
]


def _rows(questions: Sequence[str]) -> list[dict[str, str]]:
    return [{"question": question, "answer": "Read the course."} for question in questions]


def _indices(result: Any) -> list[int]:
    try:
        indices = [int(index) for index in result]
    except (TypeError, ValueError) as error:
        raise Fault("return the indices of the test rows, counted from 0, in a list") from error
    expect(len(set(indices)) == len(indices), "an index is returned more than once")
    return sorted(indices)


@exercise
def find_leak(answer: Callable[..., Sequence[int]]) -> None:
    """Every test row whose question stands in training is found, and no other."""
    for train, test, expected, what in LEAKS:
        result = _indices(attempt(answer, _rows(train), _rows(test)))
        expect(set(result) >= set(expected), f"not found: {what}, such as {test[expected[-1]]!r}")
        expect(result == expected, f"{test[result[0]]!r} is no leak of {train[0]!r}")
    for train, test, what in HONEST:
        result = _indices(attempt(answer, _rows(train), _rows(test)))
        expect(not result, f"a false alarm: {test[0]!r} {what}")
    expect(not _indices(attempt(answer, _rows(["What is LoRA?"]), [])), "no test rows, no leaks")
