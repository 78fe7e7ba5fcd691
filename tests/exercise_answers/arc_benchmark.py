"""Right and wrong answers to the exercises of notebook 10, for tests/test_checks.py."""

import math

import numpy as np

from utilities.scores.statistics import share_of, wilson_interval


def pick_by_lists(values, choices):
    by_character = [value / len(text) for value, text in zip(values, choices, strict=True)]
    return values.index(max(values)), by_character.index(max(by_character))


def pick_by_arrays(values, choices):
    values, lengths = np.array(values), np.array([len(text) for text in choices])
    return np.array([values.argmax(), (values / lengths).argmax()])


def pick_per(length):
    def pick(values, choices):
        divided = [value / length(text) for value, text in zip(values, choices, strict=True)]
        return values.index(max(values)), divided.index(max(divided))

    return pick


def last_of_equals(values, choices):
    best = max(range(len(values)), key=lambda n: (values[n], n))
    return best, max(range(len(values)), key=lambda n: (values[n] / len(choices[n]), n))


def cut_the_whole(encode, prompt, choice):
    asked = encode(prompt.rstrip(" "))
    return asked, encode(prompt.rstrip(" ") + " " + choice.lstrip(" "))[len(asked) :]


def cut_in_parts(encode, prompt, choice):
    return tuple(map(tuple, (encode(prompt.rstrip()), encode(" " + choice.strip()))))


def cut_as_given(encode, prompt, choice):
    asked = encode(prompt)
    return asked, encode(prompt + choice)[len(asked) :]


def cut_always_adding(encode, prompt, choice):
    asked = encode(prompt)
    return asked, encode(prompt + " " + choice)[len(asked) :]


def cut_without_end(encode, prompt, choice):
    asked = encode(prompt.rstrip(" "))
    return asked, encode(prompt.rstrip(" ") + " " + choice.lstrip(" "))


def above_by_interval(right, sizes):
    return share_of(right).low > sum(1 / size for size in sizes) / len(sizes)


def above_by_hand(right, sizes):
    n, k, z = len(right), sum(right), 1.96
    low = (k + z * z / 2 - z * math.sqrt(k * (n - k) / n + z * z / 4)) / (n + z * z)
    return low > np.mean(1 / np.array(sizes))


def needed_by_trying(width):
    n = 1
    while wilson_interval(n // 2, n).high - wilson_interval(n // 2, n).low > width:
        n += 1
    return n


def needed_by_formula(width):
    return math.ceil(1.96**2 / width**2 - 1.96**2)


def needed_one_less(width):
    return needed_by_trying(width) - 1


def mean(numbers):
    return sum(numbers) / len(numbers)


ANSWERS = {
    "pick": {
        "right": [pick_by_lists, pick_by_arrays],
        "wrong": [
            (pick_per(lambda text: len(text.split())), "winner by acc_norm is wrong"),
            (pick_per(lambda text: len(text) + 1), "a space before each"),
            (pick_per(lambda text: 1), "wins by sum only: the winner by acc_norm"),
            (lambda v, c: pick_by_lists(v, c)[::-1], "wins by sum only: the winner by acc is"),
            (lambda v, c: (v.index(min(v)), v.index(min(v))), "the winner by acc is wrong"),
            (last_of_equals, "equal values: the winner by acc"),
            (lambda v, c: [c[n] for n in pick_by_lists(v, c)], "places, not texts"),
            (lambda v, c: [n + 1 for n in pick_by_lists(v, c)], "the winner by acc is wrong"),
            (lambda v, c: pick_by_lists(v, c)[0], "wrong form"),
        ],
    },
    "prompt_and_choice": {
        "right": [cut_the_whole, cut_in_parts],
        "wrong": [
            (cut_as_given, "no space at either side: the choice lacks its space"),
            (cut_always_adding, "a space after the prompt: the prompt's ids"),
            (lambda e, p, c: (e(p.strip() + " "), e(c.strip())), "the choice lacks its space"),
            (lambda e, p, c: (e(p.rstrip(" ")), e(" " + c)), "a space before the choice"),
            (cut_without_end, "not those of one space and the words"),
            (lambda e, p, c: cut_the_whole(e, p, c)[::-1], "the prompt's ids"),
            (lambda e, p, c: cut_the_whole(e, p, c)[1], "returns two lists"),
        ],
    },
    "above_chance": {
        "right": [above_by_interval, above_by_hand],
        "wrong": [
            (lambda r, s: share_of(r).value > mean([1 / n for n in s]), "3 of 8 right"),
            (lambda r, s: share_of(r).high > mean([1 / n for n in s]), "3 of 8 right"),
            (lambda r, s: share_of(r).low > 1 / mean(s), "half of two choices"),
            (lambda r, s: share_of(r).low > 0.25, "35 of 100 right, of three"),
            (lambda r, s: share_of(r).low > 1 / min(s), "above chance, and you say"),
            (lambda r, s: share_of(r).low > 1 / max(s), "half of two choices"),
            (lambda r, s: share_of(r).low > 1 / s[0], "above chance, and you say"),
            (
                lambda r, s: not share_of(r).low <= mean([1 / n for n in s]) <= share_of(r).high,
                "none of 20 right",
            ),
            (lambda r, s: share_of(r), "returns True or False"),
        ],
    },
    "items_needed": {
        "right": [needed_by_trying, needed_by_formula],
        "wrong": [
            (needed_one_less, "still too wide"),
            (lambda width: needed_by_trying(width) + 2, "fewer items would do"),
            (lambda width: needed_by_trying(width / 2), "fewer items would do"),
            (lambda width: math.ceil(0.96 / width**2), "still too wide"),
            (lambda width: 1.96**2 / width**2 - 1.96**2, "is a whole number"),
            (lambda width: math.ceil(1 / width**2), "still too wide"),
            (lambda width: math.ceil(1.96**2 / width**2), "fewer items would do"),
        ],
    },
}
