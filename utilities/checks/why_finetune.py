"""Checks of the exercises in notebook 01, on when fine-tuning is the right tool."""

import math
from collections.abc import Mapping
from typing import Any

from utilities.checks import attempt, exercise, expect, given, same_numbers

TOOLS = ("prompt", "retrieval", "fine-tune", "neither")
FEW_EXAMPLES = 50


@exercise
def consistency(answer: Any) -> None:
    """The share counts every answer once, forgives case and outer space, and takes empty facts."""

    def share(answers: dict[str, list[str]]) -> float:
        value = attempt(answer, answers)
        expect(not isinstance(value, (str, list, tuple, dict)), "expected one number, the share")
        return float(value)

    def is_near(answers: dict[str, list[str]], expected: float) -> bool:
        return math.isclose(share(answers), expected, abs_tol=1e-6)

    same = {"a": ["Yes.", "Yes.", "Yes."], "b": ["No.", "No."]}
    expect(
        not is_near(same, 100) and is_near(same, 1),
        "answers that are all the same give 1, not 100 or another number",
    )
    expect(
        is_near({"a": ["Yes.", "Yes.", "No.", "Yes."]}, 3 / 4),
        "in one fact, the answers that agree with its most common one are counted",
    )
    expect(
        is_near({"a": ["No.", "Yes.", "Yes.", "Yes.", "Yes."]}, 4 / 5),
        "what counts is the most common answer, not the first one",
    )
    expect(
        is_near({"a": ["Yes.", "yes.", " YES. \n"]}, 1),
        "case and white space around an answer make no difference",
    )
    expect(
        is_near({"a": ["Yes.", "No."], "b": ["Yes."] * 6}, 7 / 8),
        "facts with many answers weigh more: share all the answers, not the facts",
    )
    expect(
        is_near({"a": ["Yes."] * 3, "b": ["No."] * 3}, 1),
        "each fact has a most common answer of its own",
    )
    expect(is_near({"a": ["Yes.", "No.", "Maybe."]}, 1 / 3), "a tie counts one of the answers")
    expect(is_near({"a": [], "b": ["Yes."]}, 1), "a fact without answers changes nothing")
    expect(is_near({}, 0), "without any answer the share is 0")


@exercise
def cost_per_thousand(answer: Any) -> None:
    """Both ways are costed by the thousand, and the break-even is a whole request, or None."""

    def costs(prompted: dict[str, float], tuned: dict[str, float], once: float) -> tuple:
        value = attempt(answer, prompted, tuned, once)
        if isinstance(value, Mapping):
            value = value.values()
        expect(not isinstance(value, (str, int, float)), "expected three values, in this order")
        first, second, pays = tuple(value)
        return float(first), float(second), pays

    def way(prompt: int, reply: int, reads: float, writes: float) -> dict[str, float]:
        names = ("prompt_tokens", "answer_tokens", "price_read", "price_written")
        return dict(zip(names, (prompt, reply, reads, writes), strict=True))

    long, short = way(800, 50, 2.0, 6.0), way(40, 20, 0.5, 1.5)
    first, second, pays = costs(long, short, 500)
    for name, result, expected in (("prompted", first, 1.9), ("tuned", second, 0.05)):
        expect(
            not math.isclose(result, expected * 1000, rel_tol=1e-6),
            f"the {name} way: prices are for a million tokens, requests come by the thousand",
        )
        expect(
            not math.isclose(result, expected / 1000, rel_tol=1e-6),
            f"the {name} way: that is the cost of one request, not of a thousand",
        )
        expect(
            same_numbers([result], [expected]),
            f"the {name} way: tokens read and tokens written each have a price of their own",
        )
    expect(pays is not None, "the tuned way is cheaper here, so there is a break-even")
    expect(
        not math.isclose(pays, 500 / (1.9 - 0.05), rel_tol=1e-3),
        "the break-even is a number of requests, not of thousands",
    )
    expect(float(pays).is_integer(), "a break-even is a whole number of requests")
    expect(int(pays) >= 270271, "at your break-even the training has not been paid back yet")
    expect(int(pays) == 270271, "fewer requests than your break-even pay the training back")
    dear = way(40, 20, 90.0, 90.0)
    expect(
        costs(long, dear, 500)[2] is None,
        "where the tuned way costs more a request, it never pays: the break-even is None",
    )
    expect(
        costs(long, long, 500)[2] is None,
        "where both ways cost the same a request, training is never paid back",
    )
    free = costs(long, short, 0)[2]
    expect(free is not None and free == 0, "training that costs nothing pays from request 0 on")
    exact = costs(way(500_000, 0, 2.0, 2.0), way(250_000, 0, 2.0, 2.0), 8)[2]
    expect(exact == 16, "a saving that fits the training cost evenly needs no further request")


@exercise
def fit_facts(answer: Any) -> None:
    """The question is kept whole, the best facts that fit stand above it, the best one nearest."""

    def words(text: str) -> int:
        return len(text.split())

    def lines(question: str, facts: list[str], budget: int, count: Any = words) -> list[str]:
        value = attempt(answer, question, facts, budget, count)
        expect(isinstance(value, str), "expected the prompt as one text")
        expect(question in value, "the question is lost, or changed")
        result = [line for line in value.split("\n") if line.strip()]
        expect(result[-1] == question, "the question is the last line of the prompt")
        expect(
            not result[:-1] or count(value) <= budget,
            "the prompt is over the budget: give all of it to `count`, question and line ends too",
        )
        expect(
            all(line in facts for line in result[:-1]),
            "above the question stand whole facts, one a line, and nothing else",
        )
        return result[:-1]

    question = "Who wrote it?"
    facts = ["Ada wrote it.", "It is short.", "It has ten pages."]
    result = lines(question, facts, 100)
    expect(set(result) == set(facts), "with room for all facts, none is left out")
    expect(len(result) == len(facts), "a fact stands in the prompt once")
    expect(result[-1] == facts[0], "the best fact stands nearest to the question")
    expect(result == facts[::-1], "the facts are ordered: the worse, the farther from the question")

    result = lines(question, facts, 6)
    expect(result, "a fact that fills the budget to the last token still fits")
    expect(result == facts[:1], "with room for one fact, it is the best one")
    expect(lines(question, facts, 5) == [], "no fact fits into this budget, and none is cut")
    expect(lines(question, facts, 1) == [], "the question is kept, even where the budget is less")
    expect(lines(question, [], 100) == [], "without facts the prompt is the question")

    result = lines(question, ["one two three four five six", "Ada wrote it."], 7)
    expect(result == ["Ada wrote it."], "a fact that is too long is skipped, a shorter one may fit")
    result = lines(question, ["abc", "defg", "hi"], len(question) + 4 + 3, len)
    expect(result == ["hi", "abc"], "how long a text is, the given `count` decides")


CASES: dict[str, tuple[str, str]] = {
    "A shop": ("retrieval", "prices and stock change daily; what changes must be looked up"),
    "B greeting": ("prompt", "there are no examples yet; what can be tried within minutes?"),
    "C messages": ("fine-tune", "at two million a month each token of a prompt is paid for again"),
    "D tax": ("neither", "an exact rule exists, and it must hold every time"),
    "E letters": ("fine-tune", "it is the form that fails, and hundreds of good examples exist"),
    "F contracts": ("retrieval", "each answer must name the page that it comes from"),
}
MINE = ("exact rule", "a prompt is enough", "facts change", "examples", "tool")


@exercise
def choose_tool(table: Any) -> None:
    """Every case gets a tool that its facts, form, examples and numbers call for, yours too."""
    table = given(table)
    expect(isinstance(table, Mapping), "expected a table: a dict with a line for every case")
    for case, (tool, reason) in CASES.items():
        expect(case in table, f"the case {case!r} is missing")
        expect(table[case] in TOOLS, f"{case}: choose one of {', '.join(TOOLS)}")
        expect(table[case] == tool, f"{case}: {reason}")
    expect("my task" in table, "your own task is missing: the line 'my task'")
    _check_own_task(given(table["my task"]))


def _check_own_task(mine: Any) -> None:
    expect(isinstance(mine, Mapping), "my task: expected a dict with your answers")
    missing = [name for name in MINE if name not in mine]
    expect(not missing, f"my task: these answers are missing: {', '.join(missing)}")
    rule, enough, change = (mine[name] for name in MINE[:3])
    examples, tool = mine["examples"], mine["tool"]
    expect(
        all(value in (True, False) for value in (rule, enough, change)),
        "my task: the first three answers are True or False",
    )
    expect(
        isinstance(examples, int) and not isinstance(examples, bool) and examples >= 0,
        "my task: `examples` is how many you have, a whole number",
    )
    expect(tool in TOOLS, f"my task: choose one of {', '.join(TOOLS)}")
    if rule:
        expect(tool == "neither", "my task: an exact rule is code, and needs no model")
    elif enough:
        expect(tool == "prompt", "my task: a prompt is enough, you say; then stop there")
    elif change:
        expect(tool == "retrieval", "my task: the facts change; they must come with the request")
    elif examples >= FEW_EXAMPLES:
        expect(tool == "fine-tune", "my task: a prompt is not enough, and the examples are there")
    else:
        expect(tool == "prompt", "my task: so few examples teach little; which tool needs none?")
