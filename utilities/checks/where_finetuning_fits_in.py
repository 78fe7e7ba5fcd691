"""Checks of the exercises of notebook 02: shifts, surprise, formats, shapes of tasks."""

import math
from collections.abc import Mapping
from typing import Any

from utilities.checks import attempt, exercise, expect, same_numbers
from utilities.prompts.built_in import QUESTION_ANSWER


def _rows(result: Any) -> list[list[int]]:
    """Return rows of ids as lists, from lists, arrays or tensors."""
    return [[int(number) for number in row] for row in result]


def _pair(result: Any, what: str) -> tuple[Any, Any]:
    try:
        first, second = result
    except (TypeError, ValueError):
        expect(False, f"your function must return two things: {what}")
    return first, second


@exercise
def next_token_pairs(answer: Any) -> None:
    """Each target is the token after its input; rows follow each other; none is incomplete."""
    what = "the rows of inputs, then the rows of targets"

    def pairs(ids: list[int], context: int) -> tuple[list[list[int]], list[list[int]]]:
        inputs, targets = _pair(attempt(answer, ids, context), what)
        return _rows(inputs), _rows(targets)

    ids = [31, 7, 90, 4, 18, 62, 55, 23, 11]
    inputs, targets = pairs(ids, 4)
    expect(len(inputs) == len(targets), "there are not as many rows of targets as of inputs")
    for row in inputs + targets:
        expect(len(row) == 4, f"with a context of 4, a row holds {len(row)} ids")
    expect(inputs and inputs[0] == ids[:4], "the first row of inputs does not begin the text")
    expect(targets != inputs, "the targets are the inputs: nothing is shifted")
    expect(targets[0] == ids[1:5], "the first row of targets is not its inputs, one token later")
    used = [number for row in inputs for number in row]
    expect(len(used) > 4, "two rows fit into nine ids with a context of 4, one came back")
    expect(inputs[1][0] != ids[1], "rows overlap: each should begin where the last one ended")
    expect(used == ids[:8], "the second row of inputs does not go on where the first ended")
    expect(targets[1] == ids[5:], "the second row of targets is not its inputs, one token later")

    inputs, targets = pairs(ids[:8], 4)
    lone = "a row whose last input has no next token must be left out"
    expect(len(inputs) == 1 and len(targets) == 1, lone)
    expect(pairs(ids, 3)[0] == [ids[:3], ids[3:6]], lone)
    for few in ([], ids[:1], ids[:4]):
        expect(
            pairs(few, 4) == ([], []),
            f"{len(few)} ids hold no whole row with a context of 4, yet something came back",
        )
    expect(
        pairs(ids[:4], 1) == ([[31], [7], [90]], [[7], [90], [4]]),
        "a context of 1 does not give one pair for each token that has a next one",
    )


@exercise
def loss_and_perplexity(answer: Any) -> None:
    """The loss is the mean surprise; the perplexity is that of guessing evenly among so many."""

    def result(probabilities: list[float]) -> list[float]:
        values = _pair(attempt(answer, probabilities), "the loss, then the perplexity")
        return [float(value) for value in values]

    loss, perplexity = result([1 / 8] * 5)
    expect(loss > 0, "guessing evenly among 8 tokens, the loss is not above 0")
    expect(abs(loss - 3) > 1e-6, "the loss is in base 2; take the natural logarithm")
    base_ten = abs(loss - math.log10(8)) > 1e-6
    expect(base_ten, "the loss is in base 10; take the natural logarithm")
    expect(
        abs(loss - 5 * math.log(8)) > 1e-6,
        "the loss is a sum: it grows with the length of the text; take the mean",
    )
    expect(same_numbers([loss], [math.log(8)]), "guessing evenly among 8 tokens, the loss is wrong")
    expect(
        same_numbers([perplexity], [8]),
        "the perplexity is not that of guessing evenly among 8 tokens",
    )

    chances = [0.5, 0.01, 0.9]
    loss, perplexity = result(chances)
    of_mean = -math.log(sum(chances) / 3)
    expect(
        abs(loss - of_mean) > 1e-6,
        "take the logarithm of each probability first, and the mean after that",
    )
    mean = -sum(map(math.log, chances)) / 3
    expect(same_numbers([loss], [mean]), "with different probabilities the loss is wrong")
    expect(
        same_numbers([perplexity], [math.exp(mean)]),
        "with different probabilities the perplexity does not belong to the loss",
    )
    expect(
        same_numbers(result([1.0]), [0, 1]), "a model that is certain and right gets wrong figures"
    )
    sure = result([0.9, 0.0])
    expect(
        all(math.isinf(value) and value > 0 for value in sure),
        "a right token with probability 0 must make both infinite",
    )


_PAIRS = [
    ("What is an epoch?", "One pass over the rows."),
    ("Which heading comes second?", "The heading is\n\n### Answer:\nand the answer follows."),
    ("What begins a row?", "The line\n### Question:\nbegins it.\n\n### Question:\nis read first."),
    ("Does ### Answer: end my question?\n\nI have two lines.", "No."),
    ("How is code indented?", "    with four spaces\n"),
    ("What if there is nothing to say?", ""),
    ("### Question:\nwas in my text?", "Yes."),
]


@exercise
def read_back(answer: Any) -> None:
    """Question and answer come back letter for letter, headings inside them included."""

    def read(question: str, response: str) -> tuple[str, str]:
        example = QUESTION_ANSWER.example({"question": question, "answer": response})
        result = attempt(answer, example["prompt"] + example["response"])
        if isinstance(result, Mapping):
            result = result.get("question"), result.get("answer")
        first, second = _pair(result, "the question, then the answer")
        expect(
            isinstance(first, str) and isinstance(second, str),
            "question and answer must both be text",
        )
        return first, second

    asked, said = _PAIRS[0]
    question, response = read(asked, said)
    expect("###" not in question + response, "a heading is left in what you return")
    expect(
        question.strip() == asked and response.strip() == said,
        "an ordinary pair does not come back: one question, one answer, a line each",
    )
    expect((question, response) == (asked, said), "line breaks of the format cling to the pair")
    faults = (
        "an answer that holds the line '### Answer:' does not come back whole",
        "an answer that holds the line '### Question:' does not come back whole",
        "a question that speaks of '### Answer:' in its middle is cut there",
        "spaces or line breaks that belong to the answer are lost",
        "an empty answer is not read as an empty text",
        "a question whose first line is '### Question:' loses that line",
    )
    for (asked, said), fault in zip(_PAIRS[1:], faults, strict=True):
        expect(read(asked, said) == (asked, said), fault)


@exercise
def task_shapes(answer: Any) -> None:
    """Each row is classified by its tokens: extraction, expansion, or even."""

    def words(text: str) -> list[str]:
        return text.split()

    def shapes(sizes: list[tuple[int, int]], tokenize=words, unit: str = "w ") -> list[str]:
        rows = [(unit * length_in, unit * length_out) for length_in, length_out in sizes]
        result = attempt(answer, rows, tokenize)
        expect(not isinstance(result, str), "your function must return a list with a word a row")
        return list(result)

    result = shapes([(40, 5), (5, 40)])
    expect(len(result) == 2, "there are not as many words as rows")
    valid = {"extraction", "expansion", "even"}
    expect(set(result) <= valid, "a row got another word than 'extraction', 'expansion' or 'even'")
    expect(result != ["expansion", "extraction"], "extraction and expansion are swapped")
    expect(
        result == ["extraction", "expansion"],
        "much text in and little out, or the other way round, is not recognized",
    )
    expect(
        shapes([(10, 9), (9, 10), (19, 10), (10, 19)]) == ["even"] * 4,
        "a row is not even, though neither side has twice as many tokens as the other",
    )
    expect(
        shapes([(20, 10), (10, 20)]) == ["extraction", "expansion"],
        "exactly twice as many tokens is not counted as 'twice'",
    )
    expect(shapes([(0, 0), (7, 7)]) == ["even"] * 2, "two sides of equal length are not even")
    expect(
        shapes([(3, 0), (0, 3)]) == ["extraction", "expansion"],
        "a row with one empty side gets the wrong word",
    )
    expect(shapes([]) == [], "no rows should give an empty list")
    # Long words against many short ones: letters and tokens disagree.
    rows = [("encyclopedia " * 3, "a " * 6), ("a " * 6, "encyclopedia " * 3)]
    letters = list(attempt(answer, rows, words))
    expect(
        letters == ["expansion", "extraction"], "letters are counted; count what `tokenize` returns"
    )
    expect(
        shapes([(4, 1), (1, 4)], tokenize=lambda text: [1, 2, 3]) == ["even"] * 2,
        "the tokenizer that is handed over is not used",
    )
