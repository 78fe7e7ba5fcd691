"""Checks of the bug museum of notebook 04, on a tokenizer and rows of their own."""

from collections.abc import Callable
from typing import Any

from utilities.checks import attempt, exercise, expect
from utilities.checks.data_preparation import IGNORED, PAIRS, ToyTokenizer, integers


@exercise
def first_element(answer: Callable[..., Any]) -> None:
    """As many rows come out as went in, each made of its own question and answer."""
    tokenizer = ToyTokenizer()
    for size in (1, 2, len(PAIRS)):
        questions, answers = (list(column) for column in zip(*PAIRS[:size], strict=True))
        made = attempt(answer, {"question": questions, "answer": answers}, tokenizer)["input_ids"]
        expect(len(made) == size, f"of a batch of {size} rows, {len(made)} came out")
        for number, (ids, pair) in enumerate(zip(made, PAIRS[:size], strict=True), start=1):
            text = tokenizer.decode(integers(ids))
            expect(all(part in text for part in pair), f"row {number} is not made of its own pair")


@exercise
def glued(answer: Callable[..., Any]) -> None:
    """What is learned is the whole answer and its end, and none of the prompt."""
    tokenizer = ToyTokenizer()
    for question, response in PAIRS:
        made = attempt(answer, question, response, tokenizer)
        ids, labels = integers(made["input_ids"]), integers(made["labels"])
        expect(len(ids) == len(labels), "there is not one label for each token")
        learned = [label for label in labels if label != IGNORED]
        start = len(labels) - len(learned)
        expect(labels[start:] == ids[start:], "a label is not the id at its own place")
        expect(learned[-1:] == [tokenizer.eos_token_id], "the end of the answer is not learned")
        text = tokenizer.decode(learned[:-1])
        expect(text.strip() == response, f"of the answer {response!r}, {text!r} is learned")
        prompt = tokenizer.decode(ids[:start])
        expect(question in prompt, "the prompt does not hold the question")
        expect(tokenizer.encode(prompt) == ids[:start], "the prompt alone has other tokens")


@exercise
def padding_is_end(answer: Callable[..., Any]) -> None:
    """Every row learns its end, and no row learns its padding."""
    end = 2
    cases = [
        ([[5, 6, 7, end], [5, end], [6, 6, end]], [2, 1, 1]),
        ([[5, end]], [1]),
    ]
    for rows, prompts in cases:
        features = [
            {"input_ids": ids, "labels": [IGNORED] * prompt + ids[prompt:]}
            for ids, prompt in zip(rows, prompts, strict=True)
        ]
        made = attempt(answer, features, end)
        longest = max(map(len, rows))
        for number, row in enumerate(features, start=1):
            ids, labels = (integers(made[name][number - 1]) for name in ("input_ids", "labels"))
            size = len(row["input_ids"])
            expect(len(labels) == len(ids) == longest, "the rows are not of one length")
            expect(ids[:size] == row["input_ids"], f"row {number} lost tokens of its own")
            expect(labels[size - 1] == end, f"the end-of-text is masked in row {number}")
            expect(labels[:size] == row["labels"], f"the mask of row {number} changed")
            padding = labels[size:]
            expect(padding == [IGNORED] * len(padding), f"padding is learned in row {number}")


@exercise
def cut_answer(answer: Callable[..., Any]) -> None:
    """An answer is kept whole or its row is left out, and the prompt's end stays before it."""
    end, prompt, response = 2, [11, 12, 13, 14, 15], [21, 22, 23]
    for max_length in (9, 12):
        ids = attempt(answer, prompt, response, end, max_length)
        expect(integers(ids) == [*prompt, *response, end], "a row that fits was changed")
    for max_length in (8, 6, 5):
        ids = integers(attempt(answer, prompt, response, end, max_length))
        expect(len(ids) <= max_length, f"a row is longer than the limit of {max_length}")
        expect(ids[-1:] == [end], "the end-of-text is gone")
        expect(ids[-4:-1] == response, f"the answer lost its end at a limit of {max_length}")
        kept = ids[:-4]
        expect(kept == prompt[-len(kept) :], "the prompt lost its own end, not its beginning")
        expect(len(kept) == max_length - 4, "more of the prompt is cut than the limit asks for")
    for max_length in (4, 3):
        result = answer(prompt, response, end, max_length)
        expect(result is None, f"a row with no room for a prompt is kept at {max_length}")
