"""Checks of the exercises of notebook 07."""

from collections import Counter

from utilities.checks import Fault, attempt, exercise, expect, given


@exercise
def goes_in_circles(answer) -> None:
    """Loops of one to five words are found, and nothing else is."""
    expect(attempt(answer, "no no no"), "one word three times in a row is not found")
    expect(attempt(answer, "set the key the key the key"), "a loop of two words is not found")
    expect(
        attempt(
            answer, "x: one two three four five one two three four five one two three four five"
        ),
        "a loop of five words is not found",
    )
    expect(
        attempt(answer, "yes yes yes it is"), "a loop at the start, followed by more, is not found"
    )
    expect(not attempt(answer, "the key, the lock and the door"), "a frequent word is not a loop")
    expect(not attempt(answer, "no no"), "twice in a row is not yet a loop")
    expect(not attempt(answer, "a b a b c a b"), "the third time must follow the second at once")
    expect(not attempt(answer, "that that's that's"), "a part of a word is not the word")
    expect(not attempt(answer, "hmmm, 1000 rows"), "letters that repeat within a word are no loop")
    expect(not attempt(answer, ""), "an empty text is not a loop")


@exercise
def two_halves(answer) -> None:
    """Every row is in one half, each kind is cut evenly, and the halves stay the same."""
    rows = [{"kind": "common", "id": n} for n in range(12)]
    rows += [{"kind": "rare", "id": n} for n in range(12, 16)]
    rows += [{"kind": "odd", "id": n} for n in range(16, 19)]
    halves = attempt(answer, rows)
    expect(len(tuple(halves)) == 2, "two lists are needed: for reading and for judging")
    reading, judging = (list(half) for half in attempt(answer, rows))
    taken = Counter(row["id"] for row in [*reading, *judging])
    expect(max(taken.values(), default=0) <= 1, "a row stands in both halves, or twice in one")
    expect(len(taken) == len(rows), "a row is lost")
    for kind in ("common", "rare", "odd"):
        sizes = [sum(row["kind"] == kind for row in half) for half in (reading, judging)]
        expect(abs(sizes[0] - sizes[1]) <= 1, f"the kind {kind!r} is not cut evenly")
    again = [list(half) for half in attempt(answer, rows)]
    expect(again == [reading, judging], "a second call gives other halves")
    held = list(rows)
    answer(held)
    expect(held == rows, "the list that was handed in is changed")


@exercise
def worst_topic(answer) -> None:
    """The topic with the largest share of errors, among those with enough rows."""
    rows = [("large", True)] * 5 + [("large", False)] * 15
    rows += [("small", True)] * 3 + [("small", False)] * 2
    rows += [("tiny", True)]
    result = attempt(answer, rows, 2)
    expect(isinstance(result, str), "the name of a topic is wanted, and nothing else")
    expect(result != "large", "the topic with most errors is not the one with the largest share")
    expect(result != "tiny", "a topic with too few rows is taken")
    expect(result == "small", "the topic returned has not the largest share")
    expect(
        attempt(answer, rows, 5) == "small", "a topic with exactly the least number of rows counts"
    )
    expect(attempt(answer, rows, 1) == "tiny", "with a least of 1, every topic counts")
    expect(
        attempt(answer, [("b", False), ("a", False), ("b", True), ("a", False)], 2) == "b",
        "a topic without any error is taken",
    )


@exercise
def count_flips(answer) -> None:
    """Gained and lost rows are counted by name, and tables that do not match are refused."""
    before = {"a": True, "b": False, "c": False, "d": True, "e": False}
    after = {"e": True, "d": False, "c": True, "b": True, "a": True}
    result = attempt(answer, before, after)
    expect(len(tuple(result)) == 2, "two numbers are wanted: gained and lost")
    result = tuple(attempt(answer, before, after))
    expect(result != (1, 3), "gained and lost are exchanged")
    expect(result == (3, 1), "rows are not joined by their names")
    expect(tuple(attempt(answer, before, before)) == (0, 0), "the same marks twice give no flips")
    for other in ({"a": True}, {**after, "f": True}):
        try:
            given(answer(before, other))
        except ValueError:
            continue
        except Exception as error:  # whatever a learner's code may raise
            raise Fault(f"other rows should raise a ValueError, not {error!r}") from error
        raise Fault("tables that hold other rows are not refused")
