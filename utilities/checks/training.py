"""Checks of the exercises of notebook 05."""

import math
from collections import Counter, defaultdict

from utilities.checks import Fault, attempt, exercise, expect, given, same_numbers


@exercise
def steps_in_all(answer) -> None:
    """Steps are counted with accumulation, and the last, smaller batch counts too."""
    result = attempt(answer, 32, 8, 1, 1)
    expect(result == 4, "32 rows in batches of 8, one epoch: the number of steps is wrong")
    result = attempt(answer, 33, 8, 1, 1)
    expect(result == int(result), "a step is done or not: the count must be whole")
    expect(result != 4, "with one row more than four batches, a row is lost")
    expect(result == 5, "with one row more than four batches, it is wrong")
    expect(attempt(answer, 32, 8, 1, 3) == 12, "three epochs are not counted right")
    expect(attempt(answer, 32, 4, 2, 1) == 4, "accumulation: two batches make one step here")
    expect(
        attempt(answer, 34, 4, 2, 2) == 10,
        "each epoch ends with a step of its own, even when its last batches are too few",
    )
    expect(attempt(answer, 3, 8, 4, 1) == 1, "fewer rows than a batch still make a step")


@exercise
def learning_rates(answer) -> None:
    """The rate rises from zero, reaches its peak after the warm-up, and falls in a line to zero."""
    result = attempt(answer, 10, 1.0, 2)
    expect(len(list(result)) == 10, "there must be one rate for each step")
    result = [float(rate) for rate in attempt(answer, 10, 1.0, 2)]
    expect(result[0] == 0, "under a warm-up the first step has a rate of zero")
    expect(
        math.isclose(result[1], 0.5), "half-way through the warm-up, the rate is not half its peak"
    )
    expect(
        math.isclose(result[2], 1.0), "the first step after the warm-up does not have the peak rate"
    )
    expect(result[9] > 0, "the last step still moves: zero is reached only after it")
    line = [(10 - step) / 8 for step in range(2, 10)]
    expect(
        same_numbers(result[2:], line), "after the peak the rates do not fall in a straight line"
    )
    expect(
        same_numbers(attempt(answer, 4, 2.0, 0), [2.0, 1.5, 1.0, 0.5]),
        "without a warm-up, or with a peak other than 1, the rates are wrong",
    )


@exercise
def contradiction(answer) -> None:
    """The best any model can do on these rows is a loss of ln 2."""
    rows = list(given(answer))
    expect(len(rows) >= 2, "one row can always be learned by heart: give at least two")
    if not all(isinstance(row, (tuple, list)) and len(row) == 2 for row in rows):
        raise Fault("each row must be a pair: a question and an answer")
    if not all(isinstance(text, str) and text.strip() for row in rows for text in row):
        raise Fault("questions and answers must be texts that are not empty")
    expect(
        all(len(response.split()) == 1 for _, response in rows),
        "an answer has more than one word; then its other words count in the mean as well",
    )
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    for question, response in rows:
        answers[question][response] += 1
    floor = 0.0
    for counts in answers.values():
        total = sum(counts.values())
        floor -= sum(n * math.log(n / total) for n in counts.values()) / len(rows)
    expect(floor > 0, "a model can learn these rows by heart: its loss can reach zero")
    expect(floor > math.log(2) - 1e-9, "the lowest loss possible on these rows is below ln 2")
    expect(floor < math.log(2) + 1e-9, "the lowest loss possible on these rows is above ln 2")


@exercise
def stop_early(answer) -> None:
    """Training ends when patience does, and the best evaluation is the one that is kept."""
    losses = [3.0, 2.0, 1.5, 1.6, 1.7, 1.4]
    result = attempt(answer, losses, 2)
    expect(len(tuple(result)) == 2, "return two numbers: where training stops, and which to keep")
    stopped, kept = attempt(answer, losses, 2)
    expect(stopped != 5, "patience of 2 was over before the last evaluation")
    expect(stopped == 4, "training does not stop at the second evaluation in a row without gain")
    expect(kept != stopped, "the last evaluation is kept, not the best")
    expect(kept == 2, "what is kept is not the best of the evaluations seen so far")
    expect(
        tuple(attempt(answer, losses, 3)) == (5, 5),
        "a new best starts the count again: with patience 3 training goes on to the end",
    )
    expect(
        tuple(attempt(answer, [2.0, 2.0, 2.0], 1)) == (1, 0),
        "an equal loss is no gain, and of equal ones the first is kept",
    )
    expect(tuple(attempt(answer, [1.0], 3)) == (0, 0), "a single evaluation is not handled")
