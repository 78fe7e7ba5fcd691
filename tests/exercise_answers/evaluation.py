"""Right and wrong answers to the exercises of notebook 06, for tests/test_checks.py."""

import math
import re
from collections import Counter

import numpy as np
from scipy import stats

SIGNS = ".,;:!?\"'`()"


def interval_by_formula(right, n, z=1.96):
    middle = (right + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(right * (n - right) / n + z * z / 4)
    return middle - half, middle + half


def interval_by_roots(right, n):
    # The shares p that lie z standard errors from right / n: a quadratic equation.
    z, share = stats.norm.ppf(0.975), right / n
    return sorted(np.roots([1 + z * z / n, -(2 * share + z * z / n), share * share]).real)


def plus_or_minus(right, n):
    share = right / n
    half = 1.96 * math.sqrt(share * (1 - share) / n)
    return share - half, share + half


def cut_plus_or_minus(right, n):
    low, high = plus_or_minus(right, n)
    return max(0, low), min(1, high)


def f1_by_counter(prediction, reference):
    said, wanted = prediction.lower().split(), reference.lower().split()
    if not said and not wanted:
        return 1.0
    return 2 * sum((Counter(said) & Counter(wanted)).values()) / (len(said) + len(wanted))


def f1_by_removal(prediction, reference):
    said, left = prediction.lower().split(), reference.lower().split()
    wanted, common = len(left), 0
    for word in said:
        if word in left:
            left.remove(word)
            common += 1
    if not said or not wanted:
        return int(len(said) == wanted)
    precision, recall = common / len(said), common / wanted
    return 2 * precision * recall / (precision + recall) if common else 0


def f1_of_sets(prediction, reference):
    said, wanted = set(prediction.lower().split()), set(reference.lower().split())
    return 2 * len(said & wanted) / (len(said) + len(wanted)) if said or wanted else 1.0


def f1_membership(prediction, reference):
    said, wanted = prediction.lower().split(), reference.lower().split()
    if not said or not wanted:
        return float(said == wanted)
    return 2 * sum(word in wanted for word in said) / (len(said) + len(wanted))


def recall_only(prediction, reference):
    said, wanted = prediction.lower().split(), reference.lower().split()
    if not said or not wanted:
        return float(said == wanted)
    return sum((Counter(said) & Counter(wanted)).values()) / len(wanted)


def mean_of_the_two(prediction, reference):
    said, wanted = prediction.lower().split(), reference.lower().split()
    if not said or not wanted:
        return float(said == wanted)
    common = sum((Counter(said) & Counter(wanted)).values())
    return (common / len(said) + common / len(wanted)) / 2


def f1_divides_by_zero(prediction, reference):
    said, wanted = prediction.lower().split(), reference.lower().split()
    common = sum((Counter(said) & Counter(wanted)).values())
    precision, recall = common / len(said), common / len(wanted)
    return 2 * precision * recall / (precision + recall)


def strip_words(text):
    return " ".join(filter(None, (word.strip(SIGNS) for word in text.lower().split())))


def strip_by_pattern(text):
    signs = re.escape(SIGNS)
    bare = re.sub(rf"(?<!\S)[{signs}]+|[{signs}]+(?!\S)", "", text.casefold())
    return re.sub(r"\s+", " ", bare).strip()


def luck_by_comb(first, second):
    gained = sum(b and not a for a, b in zip(first, second, strict=True))
    lost = sum(a and not b for a, b in zip(first, second, strict=True))
    n, few = gained + lost, min(gained, lost)
    one_side = sum(math.comb(n, k) for k in range(few + 1)) / 2**n
    return gained, lost, min(1, 2 * one_side)


def luck_by_scipy(first, second):
    changes = np.array(second, dtype=int) - np.array(first, dtype=int)
    gained, lost = (changes == 1).sum(), (changes == -1).sum()
    p = stats.binomtest(int(gained), int(gained + lost)).pvalue if gained + lost else 1
    return {"gained": gained, "lost": lost, "p": p}.values()


def luck_uncapped(first, second):
    gained, lost, _ = luck_by_comb(first, second)
    n, few = gained + lost, min(gained, lost)
    return gained, lost, 2 * sum(math.comb(n, k) for k in range(few + 1)) / 2**n


def luck_one_sided(first, second):
    gained, lost, _ = luck_by_comb(first, second)
    n = gained + lost
    return gained, lost, sum(math.comb(n, k) for k in range(min(gained, lost) + 1)) / 2**n


def luck_this_many_exactly(first, second):
    gained, lost, _ = luck_by_comb(first, second)
    return gained, lost, math.comb(gained + lost, gained) / 2 ** (gained + lost)


def luck_unpaired(first, second):
    gained, lost, _ = luck_by_comb(first, second)
    n = len(first)
    table = [[sum(first), n - sum(first)], [sum(second), n - sum(second)]]
    return gained, lost, stats.fisher_exact(table)[1]


def luck_net(first, second):
    gained, lost, p = luck_by_comb(first, second)
    return max(0, gained - lost), max(0, lost - gained), p


def luck_without_differences(first, second):
    gained = sum(b and not a for a, b in zip(first, second, strict=True))
    lost = sum(a and not b for a, b in zip(first, second, strict=True))
    return gained, lost, stats.binomtest(gained, gained + lost).pvalue


ANSWERS = {
    "interval": {
        "right": [interval_by_formula, interval_by_roots],
        "wrong": [
            (plus_or_minus, "no width, which claims"),
            (cut_plus_or_minus, "no width, which claims"),
            (lambda right, n: interval_by_formula(right, n)[::-1], "the low end comes first"),
            (
                lambda right, n: [100 * end for end in interval_by_formula(right, n)],
                "shares, from 0 to 1",
            ),
            (lambda right, n: interval_by_formula(right, n, z=1.645), "in the right place"),
            (lambda right, n: interval_by_formula(right, n - 0.5), "in the right place"),
            (lambda right, n: right / n, "two numbers"),
            (lambda right, n: (right / n, *interval_by_formula(right, n)), "two numbers"),
        ],
    },
    "word_f1": {
        "right": [f1_by_counter, f1_by_removal],
        "wrong": [
            (f1_of_sets, "counts too often"),
            (f1_membership, "counts too often"),
            (recall_only, "a short answer says"),
            (lambda p, r: recall_only(r, p), "a short answer says"),
            (mean_of_the_two, "a short answer says"),
            (f1_divides_by_zero, "ZeroDivisionError"),
            (lambda p, r: f1_by_counter(p, r) if p else 0.0, "two empty texts are equal"),
            (lambda p, r: float(p.lower().split() == r.lower().split()), "order of words"),
        ],
    },
    "forgive": {
        "right": [strip_words, strip_by_pattern],
        "wrong": [
            (
                lambda text: re.sub(r"[^\w\s]", "", " ".join(text.lower().split())),
                "inside a number",
            ),
            (lambda text: " ".join(text.lower().split()), "a full stop at the end"),
            (lambda text: " ".join(text.split()).rstrip("."), "capital letters"),
            (lambda text: text.lower().strip().strip(SIGNS), "white space"),
            (
                lambda text: " ".join(re.sub(r"\W+", " ", text.lower()).split()),
                "the minus before",
            ),
            (
                lambda text: " ".join(
                    w.strip(SIGNS + "-=/_") for w in text.lower().split()
                ).strip(),
                "the minus before a number",
            ),
            (lambda text: text.lower().split(), "returns a text, not list"),
            (
                lambda text: " ".join(
                    w[:-1] if w[-1] in SIGNS else w for w in text.lower().split()
                ),
                "backticks around words",
            ),
        ],
    },
    "luck": {
        "right": [luck_by_comb, luck_by_scipy],
        "wrong": [
            (luck_uncapped, "p is above 1"),
            (luck_one_sided, "one side only"),
            (luck_this_many_exactly, "one side only"),
            (luck_unpaired, "p is too small"),
            (luck_net, "the number gained is wrong"),
            (lambda a, b: luck_by_comb(b, a), "the wrong way around"),
            (luck_without_differences, "ValueError"),
            (lambda a, b: luck_by_comb(a, b)[:2], "three numbers"),
        ],
    },
}
