"""Right and wrong answers to the exercises of notebook 07, for tests/test_checks.py."""

import random
import re
from collections import Counter


def circles_by_pieces(text):
    words = text.split()
    for size in range(1, 6):
        for start in range(len(words) - 3 * size + 1):
            pieces = [words[start + n * size : start + (n + 1) * size] for n in range(3)]
            if pieces[0] == pieces[1] == pieces[2]:
                return True
    return False


def circles_by_pattern(text):
    spaced = " " + " ".join(text.split()) + " "
    return bool(re.search(r"(?=((?: \S+){1,5}?)\1\1 )", spaced))


def circles_of_one_word(text):
    words = text.split()
    return any(len(set(words[n : n + 3])) == 1 for n in range(len(words) - 2))


def circles_at_the_end(text):
    words = text.split()
    return any(
        words[-size:] == words[-2 * size : -size] == words[-3 * size : -2 * size]
        for size in range(1, 6)
        if len(words) >= 3 * size
    )


def circles_without_the_last(text):
    words = text.split()
    return any(
        words[s : s + n] == words[s + n : s + 2 * n] == words[s + 2 * n : s + 3 * n]
        for n in range(1, 6)
        for s in range(len(words) - 3 * n)
    )


def halves_by_kind(rows):
    kinds = sorted({row["kind"] for row in rows})
    by_kind = [[row for row in rows if row["kind"] == kind] for kind in kinds]
    return [r for part in by_kind for r in part[::2]], [r for part in by_kind for r in part[1::2]]


def halves_by_counting(rows):
    halves, seen = ([], []), Counter()
    for row in rows:
        halves[seen[row["kind"]] % 2].append(row)
        seen[row["kind"]] += 1
    return halves


def halves_shuffled(rows):
    rows = random.sample(rows, len(rows))
    return halves_by_counting(rows)


def halves_that_empty(rows):
    result = halves_by_kind(rows)
    rows.clear()
    return result


def halves_of_equal_size(rows):
    reading, judging = halves_by_kind(rows)
    size = min(len(reading), len(judging))
    return reading[:size], judging[:size]


def worst_by_counts(rows, least):
    total = Counter(topic for topic, _ in rows)
    wrong = Counter(topic for topic, is_wrong in rows if is_wrong)
    return max((t for t in total if total[t] >= least), key=lambda t: wrong[t] / total[t])


def worst_by_table(rows, least):
    marks = {}
    for topic, is_wrong in rows:
        marks.setdefault(topic, []).append(is_wrong)
    shares = [(sum(own) / len(own), topic) for topic, own in marks.items() if len(own) >= least]
    return max(shares)[1]


def worst_above_least(rows, least):
    total = Counter(topic for topic, _ in rows)
    return worst_by_table([row for row in rows if total[row[0]] > least], 1)


def flips_by_loop(before, after):
    if set(before) != set(after):
        raise ValueError("other rows")
    gained = lost = 0
    for name in before:
        gained += not before[name] and after[name]
        lost += before[name] and not after[name]
    return gained, lost


def flips_by_sets(before, after):
    if before.keys() ^ after.keys():
        raise ValueError("other rows")
    first = {name for name, right in before.items() if right}
    second = {name for name, right in after.items() if right}
    return len(second - first), len(first - second)


def flips_by_position(before, after):
    pairs = list(zip(before.values(), after.values(), strict=True))
    return pairs.count((False, True)), pairs.count((True, False))


def flips_in_common(before, after):
    common = before.keys() & after.keys()
    return flips_by_loop({n: before[n] for n in common}, {n: after[n] for n in common})


def flips_with_key_error(before, after):
    gained = sum(not before[name] and after[name] for name in before)
    return gained, sum(before[name] and not after[name] for name in before)


ANSWERS = {
    "goes_in_circles": {
        "right": [circles_by_pieces, circles_by_pattern],
        "wrong": [
            (circles_of_one_word, "a loop of two words"),
            (circles_at_the_end, "a loop at the start"),
            (circles_without_the_last, "three times in a row is not found"),
            (lambda text: max(Counter(text.split()).values(), default=0) >= 3, "a frequent word"),
            (lambda text: bool(re.search(r"(.+?) ?\1 ?\1", text)), "within a word"),
            (lambda text: bool(re.search(r"\b(\S+(?: \S+){0,4})( \1)+\b", text)), "twice in a row"),
            (lambda text: False, "three times in a row is not found"),
        ],
    },
    "two_halves": {
        "right": [halves_by_kind, halves_by_counting],
        "wrong": [
            (lambda rows: (rows[: len(rows) // 2], rows[len(rows) // 2 :]), "not cut evenly"),
            (halves_shuffled, "gives other halves"),
            (halves_that_empty, "handed in is changed"),
            (halves_of_equal_size, "a row is lost"),
            (lambda rows: (rows, rows), "in both halves"),
            (lambda rows: rows[::2], "two lists are needed"),
            (lambda rows: (rows[::2], rows[::2]), "in both halves"),
        ],
    },
    "worst_topic": {
        "right": [worst_by_counts, worst_by_table],
        "wrong": [
            (
                lambda rows, least: Counter(t for t, w in rows if w).most_common(1)[0][0],
                "most errors",
            ),
            (lambda rows, least: worst_by_table(rows, 1), "too few rows"),
            (worst_above_least, "exactly the least number"),
            (lambda rows, least: 0.6, "the name of a topic"),
            (lambda rows, least: "small", "with a least of 1"),
            (lambda rows, least: rows[0][0], "most errors"),
            (lambda rows, least: (worst_by_table(rows, least), 0.6), "the name of a topic"),
        ],
    },
    "count_flips": {
        "right": [flips_by_loop, flips_by_sets],
        "wrong": [
            (flips_by_position, "joined by their names"),
            (lambda before, after: flips_by_sets(after, before), "exchanged"),
            (flips_in_common, "not refused"),
            (flips_with_key_error, "should raise a ValueError"),
            (lambda before, after: sum(after.values()) - sum(before.values()), "wrong form"),
            (
                lambda before, after: (sum(after.values()) - sum(before.values()), 0),
                "joined by their names",
            ),
            (lambda before, after: (3, 1), "the same marks twice"),
        ],
    },
}
