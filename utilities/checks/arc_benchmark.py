"""Checks of the exercises in notebook 10, ARC benchmark."""

import math
import re
from numbers import Integral

from utilities.checks import attempt, exercise, expect
from utilities.scores.statistics import share_of, wilson_interval


def _whole(value, what: str) -> int:
    """Return a whole number, from any scalar type, or end the check."""
    number = float(value)
    expect(isinstance(value, Integral) or number.is_integer(), f"{what} is a whole number")
    return int(number)


@exercise
def pick(answer):
    """The sum decides acc, the sum per character decides acc_norm."""
    cases = {
        "the short one wins by sum only": ([-6.0, -9.0], ["tea", "hot chocolate"], (0, 1)),
        "the last is highest both ways": ([-9.0, -8.0, -3.0], ["salt", "sand", "iron"], (2, 2)),
        "more words, fewer letters": (
            [-8.0, -8.5],
            ["an ax or a hoe", "photosynthesizing"],
            (0, 1),
        ),
        "equal values": ([-4.0, -4.0], ["east", "west"], (0, 0)),
        "a single choice": ([-5.0], ["moon"], (0, 0)),
        "one letter a choice": ([-2.0, -1.0, -3.0], ["A", "B", "C"], (1, 1)),
        "equal lengths": ([-5.0, -5.3], ["it sinks", "it melts"], (0, 0)),
        "a space before each would change it": ([-1.0, -2.0], ["a", "bcd"], (0, 1)),
        "the longest is not the best": ([-2.0, -50.0], ["fog", "a" * 40], (0, 0)),
        "six choices": ([-9.0, -8.0, -7.0, -6.0, -5.0, -4.5], [*"abcde", "f" * 9], (5, 5)),
    }
    for name, (values, choices, expected) in cases.items():
        result = attempt(answer, values, choices)
        expect(not isinstance(result, str) and len(result) == 2, "the function returns two places")
        expect(
            not any(isinstance(value, str) for value in result),
            "the function returns places, not texts",
        )
        positions = [_whole(value, "a place") for value in result]
        expect(positions[0] == expected[0], f"{name}: the winner by acc is wrong")
        expect(positions[1] == expected[1], f"{name}: the winner by acc_norm is wrong")


class _Encoder:
    """A toy tokenizer with one id per word; a space belongs to the word after it."""

    def __init__(self):
        self.pieces: dict[str, int] = {}

    def __deepcopy__(self, memo):
        return self

    def __call__(self, text: str) -> list[int]:
        result = re.findall(r" ?\w+| ?[^\w\s]+|\s", text)
        return [self.pieces.setdefault(piece, len(self.pieces)) for piece in result]


@exercise
def prompt_and_choice(answer):
    """One space stands between the two, and it belongs to the choice."""
    encode = _Encoder()
    asked = "Question: What do bees make?\nAnswer:"
    cases = {
        "no space at either side": (asked, "honey"),
        "a space after the prompt": (asked + " ", "honey"),
        "two spaces after the prompt": (asked + "  ", "honey"),
        "a space before the choice": (asked, " honey"),
        "spaces at both sides": (asked + " ", "  honey"),
        "a choice of several words": (asked + " ", "wax and honey"),
    }
    for name, (prompt, choice) in cases.items():
        result = attempt(answer, encode, prompt, choice)
        expect(len(result) == 2, "the function returns two lists, of the prompt and of the choice")
        first, second = ([int(token) for token in part] for part in result)
        right = encode(" " + choice.lstrip(" "))
        expect(second, f"{name}: the choice has no ids")
        expect(second != encode(choice.lstrip(" ")), f"{name}: the choice lacks its space")
        expect(first == encode(asked), f"{name}: the prompt's ids are not those of the bare prompt")
        expect(
            second == right, f"{name}: the choice's ids are not those of one space and the words"
        )


@exercise
def above_chance(answer):
    """The low end of the interval is compared with what guessing gets on these items."""

    def marks(right: int, n: int) -> list[bool]:
        return [True] * right + [False] * (n - right)

    cases = {
        "half of 200 right, of four": (marks(100, 200), [4] * 200),
        "3 of 8 right, of four": (marks(3, 8), [4] * 8),
        "none of 20 right": (marks(0, 20), [4] * 20),
        "all of 20 right": (marks(20, 20), [4] * 20),
        "35 of 100 right, of three": (marks(35, 100), [3] * 100),
        "35 of 100 right, of five": (marks(35, 100), [5] * 100),
        "half of 200 right, of two": (marks(100, 200), [2] * 200),
        "a score well below chance": (marks(10, 200), [4] * 200),
        "half of two choices, half of ten": (marks(68, 200), [2] * 100 + [10] * 100),
        "of two and of four, one in each": (marks(86, 200), [2] * 100 + [4] * 100),
        "of two and of six, few above": (marks(84, 200), [2] * 100 + [6] * 100),
    }
    for name, (right, sizes) in cases.items():
        result = attempt(answer, right, sizes)
        expect(result in (True, False), "the function returns True or False")
        chance = sum(1 / size for size in sizes) / len(sizes)
        low = share_of(right).low
        if low > chance:
            expect(result, f"{name}: it is above chance, and you say it is not")
        else:
            expect(not result, f"{name}: it may be chance, and you say it is not")


@exercise
def items_needed(answer):
    """The smallest number of items whose interval is narrow enough."""
    for width in (0.5, 0.3, 0.2, 0.1, 0.06):
        result = _whole(attempt(answer, width), "a number of items")
        expect(result >= 1, f"a width of {width}: a benchmark has one item at least")
        n = max(1, math.floor(3.8 / width**2 - 10))
        while True:
            interval = wilson_interval(n // 2, n)
            if interval.high - interval.low <= width:
                break
            n += 1
        formula = math.ceil(1.959964**2 * (1 / width**2 - 1) - 1e-6)
        fits = min(n, formula) <= result <= max(n, formula, math.ceil(1.96**2 * (1 / width**2 - 1)))
        few = result < n
        expect(
            fits,
            f"a width of {width}: with your number the interval is still too wide"
            if few
            else f"a width of {width}: fewer items would do",
        )
