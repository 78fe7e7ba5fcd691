"""Checks of the exercises of notebook 03, instruction tuning."""

from utilities.checks import attempt, exercise, expect
from utilities.prompts.built_in import ALPACA


@exercise
def hydrate(answer):
    """Each row takes the template that fits, and its text arrives unchanged."""
    cases: dict[str, dict[str, str | None]] = {
        "a row with an input takes the wrong template, or loses text": {
            "instruction": "Name the color.",
            "input": "A red door.",
        },
        "a row with an empty input takes the wrong template, or loses text": {
            "instruction": "Name three trees.",
            "input": "",
        },
        "an input of nothing but spaces and line breaks counts as text": {
            "instruction": "Name three rivers.",
            "input": " \n\t ",
        },
        "a row without the column `input` takes the wrong template": {
            "instruction": "Name three seas."
        },
        "an input of None takes the wrong template": {
            "instruction": "Name three birds.",
            "input": None,
        },
        "braces in the text of a row are lost or filled in": {
            "instruction": "Say what {input} means here.",
            "input": "print(f'{instruction}')",
        },
        "the white space around an input that has text is lost": {
            "instruction": "Shorten the code.",
            "input": "    x = x + 1\n",
        },
        "an input of the single digit 0 counts as empty": {
            "instruction": "Write the number as a word.",
            "input": "0",
        },
    }
    for fault, row in cases.items():
        result = attempt(answer, row)
        expect(isinstance(result, str), f"the prompt must be text, found {type(result).__name__}")
        expected = ALPACA.prompt(row)
        expect(result != expected.rstrip(), "the line break after `### Response:` is missing")
        expect(result == expected, fault)
    row = {"instruction": "Name three birds.", "input": "", "output": "owl, crow, duck"}
    expect("crow" not in attempt(answer, row), "the prompt gives away the output of the row")


def _rows(kinds):
    return [{"instruction": f"Task {n}", "kind": kind} for n, kind in enumerate(kinds)]


def _kinds(rows):
    return {row["kind"] for row in rows}


def _parts(answer, rows, count, seed):
    result = attempt(answer, rows, count, seed)
    expect(
        isinstance(result, (tuple, list))
        and len(result) == 2
        and all(isinstance(part, (tuple, list)) for part in result),
        "two lists are expected: the rows to train on, and those held out",
    )
    return [list(part) for part in result]


@exercise
def hold_out_kinds(answer):
    """Whole kinds are held out, chosen by the seed alone, and no row is lost."""
    rows = _rows(["list", "code", "list", "plan", "code", "sort", "plan", "list", "sing", "code"])
    for count in (2, 1, 3):
        for seed in range(6):
            kept, held = _parts(answer, rows, count, seed)
            together = sorted(row["instruction"] for row in kept + held)
            expect(together == sorted(r["instruction"] for r in rows), "a row is lost or doubled")
            expect(not _kinds(kept) & _kinds(held), "a kind stands in both parts")
            expect(len(_kinds(held)) != len(_kinds(rows)) - count, "the two parts are swapped")
            expect(
                len(_kinds(held)) == count,
                f"asked to hold out {count} kinds, it holds out {len(_kinds(held))}",
            )
            again = _parts(answer, rows, count, seed)
            expect(again == [kept, held], "the same seed gives another split the second time")
            ordered = [row for row in rows if row in kept] + [row for row in rows if row in held]
            expect(kept + held == ordered, "the rows of a part are not in the order given")
    choices = {frozenset(_kinds(_parts(answer, rows, 2, seed)[1])) for seed in range(20)}
    expect(len(choices) > 1, "every seed holds out the same kinds")
    # As numbers, because the order of a set of words changes from one process to the next.
    rows = _rows([0, 32, 64, 96, 128, 32, 160])
    for seed in range(8):
        held, turned = (_kinds(_parts(answer, r, 2, seed)[1]) for r in (rows, rows[::-1]))
        expect(held == turned, "the same rows in another order give other kinds for the same seed")
    kept, held = _parts(answer, rows, 0, 1)
    expect((len(kept), held) == (len(rows), []), "with nothing to hold out, a row is missing")
    expect(_parts(answer, [], 0, 1) == [[], []], "an empty list of rows gives something else")


_FAQ = """Questions we often hear

Q: When do you open?
A: At nine.
On Sundays at eleven.

Q: May I bring a dog?
Q: Is there a garden?
A:   Yes, behind the house.

It closes at dusk: see the sign, Q: and A: are on it.
Q:   Who bakes the bread?
A: We do."""


@exercise
def rows_from_faq(answer):
    """Each question with an answer becomes a row, and answers keep all their lines."""
    result = attempt(answer, _FAQ)
    expect(not isinstance(result, (str, dict)), "a list of rows is expected")
    rows = list(result)
    expect(all(isinstance(row, dict) for row in rows), "each row must be a dict")
    expect(
        all(set(row) == {"instruction", "input", "output"} for row in rows),
        "a row has other columns than `instruction`, `input` and `output`",
    )
    asked = [row["instruction"].strip() for row in rows]
    expect("May I bring a dog?" not in asked, "a question without an answer became a row")
    expect("Who bakes the bread?" in asked, "the last question of the page is lost")
    expect(not any("often hear" in str(row) for row in rows), "the title of the page got in")
    expect(
        asked == ["When do you open?", "Is there a garden?", "Who bakes the bread?"],
        "the questions are not those of the page, in its order",
    )
    expect(
        all(part == part.strip() for row in rows for part in (row["instruction"], row["output"])),
        "white space is left around a question or an answer",
    )
    expect(all(row["input"] == "" for row in rows), "`input` is not the empty text")
    expect("eleven" in rows[0]["output"], "the second line of an answer is lost")
    expect(
        rows[0]["output"].split("\n") == ["At nine.", "On Sundays at eleven."],
        "the lines of an answer are not joined by one line break",
    )
    expect("see the sign" in rows[1]["output"], "an answer ends at an empty line")
    expect("on it." in rows[1]["output"], "a `Q:` or `A:` in the middle of a line cuts the answer")
    expect("\n\n" not in rows[1]["output"], "an empty line is left in an answer")
    expect(rows[2]["output"] == "We do.", "the last answer of the page is not complete")
    expect(list(attempt(answer, "")) == [], "an empty page gives a row")
    windows = list(attempt(answer, "Q: One?\r\nA: Two.\r\nThree.\r\n"))
    expected = [{"instruction": "One?", "input": "", "output": "Two.\nThree."}]
    expect(windows == expected, "line ends of Windows get into the text")


_TEXT = "The old mill has 120 windows and 3 floors. It opens at nine, and it is open on Mondays."
_SHUT = "The barn is never locked. It has no windows."


def _survival(answer, output, text):
    result = attempt(answer, output, text)
    try:
        return bool(result)
    except ValueError:
        return None


@exercise
def survives(answer):
    """Only answers that are whole, and that the text supports, survive."""
    good = {
        "an answer whose every word is in the text is dropped": "The mill opens at nine.",
        "a capital letter makes a word foreign": "THE OLD MILL has 3 floors.",
        "an answer with exactly 80 % of its words in it is dropped": "It opens at nine daily.",
        "an answer with a number of the text is dropped": "It has 120 windows.",
        "an answer that ends in an exclamation mark is dropped": "It is open on Mondays!",
        "an answer with white space at its end is dropped": "It opens at nine. \n",
    }
    for fault, output in good.items():
        expect(_survival(answer, output, _TEXT) is True, fault)
    bad = {
        "an empty answer survives": "",
        "an answer of spaces survives": "  \n",
        "an answer of nothing but punctuation survives": "...",
        "an answer that breaks off survives": "The old mill has 120 windows and",
        "an answer with 75 % of its words in the text survives": "Mill opens at ten.",
        "an answer about something else survives": "Whales sing to each other.",
        "an answer with a wrong number survives": "The old mill has 210 windows and 3 floors.",
        "a number that is only part of a number of the text survives": "It has 12 windows.",
        "a second number, a wrong one, survives": "The old mill has 120 windows and 4 floors.",
        "an answer that says not where the text does not survives": "It is not open on Mondays.",
        "a capital letter hides a denial": "No, it is open on Mondays and it opens at nine.",
        "parts of words count as words of the text": "It ill as pen loo win on.",
    }
    for fault, output in bad.items():
        expect(_survival(answer, output, _TEXT) is False, fault)
    expect(
        _survival(answer, "The barn is never locked.", _SHUT) is True,
        "a denial is dropped although the text has one",
    )
    expect(
        _survival(answer, "The barn is not locked.", _SHUT) is True,
        "a denial in another word than the text's is dropped",
    )
    expect(_survival(answer, "It opens.", "") is False, "with an empty text, an answer survives")
