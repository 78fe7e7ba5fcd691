"""Checks of the exercises in notebook 06, Evaluation."""

from utilities.checks import attempt, exercise, expect, same_numbers
from utilities.scores.metrics import token_f1
from utilities.scores.statistics import mcnemar, wilson_interval


def _numbers(result, count: int, what: str) -> list[float]:
    """Return the numbers of a result as floats, or end the check."""
    try:
        values = [float(value) for value in result]
    except (TypeError, ValueError):
        values = []
    expect(len(values) == count, f"the function returns {what}")
    return values


@exercise
def interval(answer):
    """The interval has a width even at none and at all, and stays between 0 and 1."""
    two = "two numbers, the low end and the high end"
    low, high = _numbers(attempt(answer, 8, 10), 2, two)
    expect(low < high, "the low end comes first, the high end second")
    expect(high <= 1.5, "the ends are shares, from 0 to 1, not percent or counts")
    for right in (0, 11):
        low, high = _numbers(attempt(answer, right, 11), 2, two)
        expect(low >= -1e-9 and high <= 1 + 1e-9, f"{right} of 11: an end lies outside of 0 and 1")
        expect(high - low > 0.01, f"{right} of 11: no width, which claims certainty")
    for right, n in ((8, 10), (5, 10), (0, 11), (11, 11), (1, 1), (60, 100), (731, 1000)):
        result = _numbers(attempt(answer, right, n), 2, two)
        expected = wilson_interval(right, n)[1:]
        middle, right_middle = sum(result) / 2, sum(expected) / 2
        expect(
            abs(middle - right_middle) < 1e-3,
            f"{right} of {n}: the middle of your interval is not in the right place",
        )
        width = result[1] - result[0]
        expect(
            abs(width - (expected[1] - expected[0])) < 1e-3,
            f"{right} of {n}: your interval is too "
            + ("wide" if width > expected[1] - expected[0] else "narrow"),
        )


@exercise
def word_f1(answer):
    """Shared words count as often as both texts have them, against the words of both."""
    cases = [
        ("one pass", "one pass", "of equal texts it is 1"),
        ("a b", "c d", "of texts without a common word it is 0"),
        ("", "one pass", "an empty answer to a real reference has no credit"),
        ("one pass", "", "an answer to an empty reference has no credit"),
        ("", "", "two empty texts are equal"),
        ("ONE Pass", "one pass", "capital letters make no difference"),
        ("pass one", "one pass", "the order of words makes no difference"),
        (
            "one",
            "one pass over all rows",
            "a short answer says right words and lacks others; both count",
        ),
        ("one pass over all rows", "one", "a long answer has all words and more; both count"),
        ("the the the the", "the mask", "a word repeated in the answer counts too often"),
        ("to be or not to be", "to be to be", "words that both texts repeat count too seldom"),
        ("run  make\ncourse", "run make course", "words are split at any white space"),
    ]
    for said, expected, fault in cases:
        result = attempt(answer, said, expected)
        expect(
            same_numbers([result], [token_f1(said, expected)]),
            f"{said!r} against {expected!r}: {fault}",
        )


SAME = [
    ("RUN make", "run make", "capital letters"),
    ("run make course.", "run make course", "a full stop at the end"),
    ("  run \n make ", "run make", "white space"),
    ("run `make course`", "run make course", "backticks around words"),
    ("yes, it is!", "yes it is", "commas and exclamation marks"),
    ('he says "stop"', "he says stop", "quotation marks"),
    ("(one pass)", "one pass", "parentheses around words"),
    ("why? because: it stops;", "why because it stops", "question mark, colon and semicolon"),
    ("it is '1.5'.", "it is 1.5", "several signs at the end of one word"),
    ("...", "", "a text of signs only"),
]
OTHER = [
    ("1.5 hours", "15 hours", "the point inside a number"),
    ("1:30", "130", "the colon inside a time"),
    ("-5 degrees", "5 degrees", "the minus before a number"),
    ("max_length", "maxlength", "the underscore inside a name"),
    ("max_length", "max length", "the underscore inside a name"),
    ("loss.png", "losspng", "the point inside a file name"),
    ("runs/last", "runs last", "the slash of a path"),
    ("--limit 10", "limit 10", "the dashes of an option"),
    ("limit=10", "limit 10", "the equals sign of a setting"),
    ("f(x)", "fx", "parentheses inside a word of code"),
    ("make test", "maketest", "the space between words"),
    ("make test", "make tests", "the last letter of a word"),
]


@exercise
def forgive(answer):
    """Case, spacing and signs around words are forgiven; numbers and code are not."""
    for first, second, _ in [*SAME, *OTHER]:
        for text in (first, second):
            result = attempt(answer, text)
            kind = type(result).__name__
            expect(isinstance(result, str), f"the function returns a text, not {kind}")
    for first, second, what in SAME:
        one, other = attempt(answer, first), attempt(answer, second)
        expect(one == other, f"{first!r} and {second!r} should become equal: {what}")
    for first, second, what in OTHER:
        one, other = attempt(answer, first), attempt(answer, second)
        expect(one != other, f"{first!r} and {second!r} must stay different: {what}")
    for text, *_ in [*SAME, *OTHER]:
        once = attempt(answer, text)
        expect(attempt(answer, once) == once, f"{text!r}: a second pass changes the text again")


@exercise
def luck(answer):
    """Only the questions on which the two differ decide, and p is exact."""
    three = "three numbers: gained, lost, p"
    pairs = {
        "only the second right, once": ([0, 1, 1], [1, 1, 1]),
        "five gained, none lost": ([0, 0, 0, 0, 0, 1], [1, 1, 1, 1, 1, 1]),
        "none gained, seven lost": ([1] * 9, [0] * 7 + [1] * 2),
        "nine gained, two lost": ([0] * 9 + [1] * 2 + [1] * 20, [1] * 9 + [0] * 2 + [1] * 20),
        "three gained, three lost": ([0, 0, 0, 1, 1, 1, 0], [1, 1, 1, 0, 0, 0, 0]),
        "no difference": ([1, 0, 1], [1, 0, 1]),
    }
    for name, (first, second) in pairs.items():
        first, second = list(map(bool, first)), list(map(bool, second))
        gained, lost, p = _numbers(attempt(answer, first, second), 3, three)
        expected = mcnemar(first, second)
        swapped = (gained, lost) == (expected.lost, expected.gained) and gained != lost
        expect(not swapped, f"{name}: gained and lost are the wrong way around")
        expect(gained == expected.gained, f"{name}: the number gained is wrong")
        expect(lost == expected.lost, f"{name}: the number lost is wrong")
        expect(p <= 1 + 1e-9, f"{name}: p is above 1, and no probability is")
        if abs(p - expected.p / 2) < 1e-9:
            expect(False, f"{name}: p counts one side only; a loss as large would surprise as much")
        expect(
            abs(p - expected.p) < 1e-6, f"{name}: p is too {'small' if p < expected.p else 'large'}"
        )
