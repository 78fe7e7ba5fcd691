"""Right and wrong answers to the exercises of notebook 01, for tests/test_checks.py."""

import math
from collections import Counter
from fractions import Fraction


def tidy(text):
    return text.strip().lower()


def consistency_by_counter(answers):
    lists = [[tidy(text) for text in texts] for texts in answers.values() if texts]
    agreeing = sum(Counter(texts).most_common(1)[0][1] for texts in lists)
    total = sum(map(len, lists))
    return agreeing / total if total else 0.0


def consistency_by_loops(answers):
    agreeing = total = 0
    for texts in answers.values():
        plain = [tidy(text) for text in texts]
        agreeing += max((plain.count(text) for text in plain), default=0)
        total += len(plain)
    return 0 if total == 0 else Fraction(agreeing, total)


def mean_over_facts(answers):
    shares = [consistency_by_counter({fact: texts}) for fact, texts in answers.items() if texts]
    return sum(shares) / len(shares) if shares else 0


def agree_with_first(answers):
    lists = [[tidy(text) for text in texts] for texts in answers.values()]
    total = sum(map(len, lists))
    return sum(texts.count(texts[0]) for texts in lists if texts) / total if total else 0


def letter_by_letter(answers):
    total = sum(map(len, answers.values()))
    agreeing = sum(max(map(texts.count, texts), default=0) for texts in answers.values())
    return agreeing / total if total else 0


def one_common_answer(answers):
    everything = [tidy(text) for texts in answers.values() for text in texts]
    return max(map(everything.count, everything), default=0) / max(1, len(everything))


def all_or_nothing(answers):
    lists = [texts for texts in answers.values() if texts]
    return sum(len(set(map(tidy, texts))) == 1 for texts in lists) / max(1, len(lists))


def without_guard(answers):
    lists = [[tidy(text) for text in texts] for texts in answers.values() if texts]
    return sum(Counter(t).most_common(1)[0][1] for t in lists) / sum(map(len, lists))


def breaks_on_empty_fact(answers):
    lists = [[tidy(text) for text in texts] for texts in answers.values()]
    agreeing = sum(Counter(texts).most_common(1)[0][1] for texts in lists)
    return agreeing / sum(map(len, lists)) if lists else 0


def request(way):
    read = way["prompt_tokens"] * way["price_read"]
    return (read + way["answer_tokens"] * way["price_written"]) / 1_000_000


def cost_by_request(prompted, tuned, training_cost):
    saving = request(prompted) - request(tuned)
    pays = math.ceil(training_cost / saving) if saving > 0 else None
    return 1000 * request(prompted), 1000 * request(tuned), pays


def cost_as_dict(prompted, tuned, training_cost):
    long, short = (
        (way["prompt_tokens"] * way["price_read"] + way["answer_tokens"] * way["price_written"])
        / 1000
        for way in (prompted, tuned)
    )
    result = {"prompted": long, "tuned": short, "break_even": None}
    if long > short:
        thousands = training_cost / (long - short)
        result["break_even"] = float(math.ceil(thousands * 1000))
    return result


def prices_for_one_token(prompted, tuned, training_cost):
    first, second, pays = cost_by_request(prompted, tuned, training_cost)
    return first * 1e6, second * 1e6, pays


def single_requests(prompted, tuned, training_cost):
    return request(prompted), request(tuned), cost_by_request(prompted, tuned, training_cost)[2]


def one_price(prompted, tuned, training_cost):
    long, short = (
        (way["prompt_tokens"] + way["answer_tokens"]) * way["price_read"] / 1000
        for way in (prompted, tuned)
    )
    return long, short, cost_by_request(prompted, tuned, training_cost)[2]


def in_thousands(prompted, tuned, training_cost):
    first, second, _ = cost_by_request(prompted, tuned, training_cost)
    saving = first - second
    return first, second, training_cost / saving if saving > 0 else None


def not_whole(prompted, tuned, training_cost):
    first, second, _ = cost_by_request(prompted, tuned, training_cost)
    saving = (first - second) / 1000
    return first, second, training_cost / saving if saving > 0 else None


def rounded_down(prompted, tuned, training_cost):
    first, second, pays = not_whole(prompted, tuned, training_cost)
    return first, second, None if pays is None else int(pays)


def always_one_more(prompted, tuned, training_cost):
    first, second, pays = rounded_down(prompted, tuned, training_cost)
    return first, second, None if pays is None else pays + 1 if training_cost else 0


def never_none(prompted, tuned, training_cost):
    first, second, _ = cost_by_request(prompted, tuned, training_cost)
    return first, second, math.ceil(training_cost / abs((first - second) / 1000))


def divides_by_zero(prompted, tuned, training_cost):
    first, second, _ = cost_by_request(prompted, tuned, training_cost)
    if second > first:
        return first, second, None
    return first, second, math.ceil(training_cost / ((first - second) / 1000))


def only_two(prompted, tuned, training_cost):
    return cost_by_request(prompted, tuned, training_cost)[:2]


def fit_from_the_end(question, facts, budget, count):
    prompt = question
    for fact in facts:
        longer = f"{fact}\n{prompt}"
        if count(longer) <= budget:
            prompt = longer
    return prompt


def fit_by_list(question, facts, budget, count):
    chosen = []
    for fact in facts:
        if count("\n".join([fact, *chosen, question])) <= budget:
            chosen.insert(0, fact)
    return "\n".join([*chosen, question])


def fit_best_first(question, facts, budget, count):
    *chosen, _ = fit_by_list(question, facts, budget, count).split("\n")
    return "\n".join([*reversed(chosen), question])


def fit_question_first(question, facts, budget, count):
    *chosen, _ = fit_by_list(question, facts, budget, count).split("\n")
    return "\n".join([question, *chosen])


def fit_all(question, facts, budget, count):
    return "\n".join([*reversed(facts), question])


def fit_facts_only(question, facts, budget, count):
    chosen = []
    for fact in facts:
        if count("\n".join([fact, *chosen])) <= budget:
            chosen.insert(0, fact)
    return "\n".join([*chosen, question])


def fit_strictly_below(question, facts, budget, count):
    return fit_by_list(question, facts, budget - 1, count)


def fit_until_first_miss(question, facts, budget, count):
    chosen = []
    for fact in facts:
        if count("\n".join([fact, *chosen, question])) > budget:
            break
        chosen.insert(0, fact)
    return "\n".join([*chosen, question])


def fit_worst(question, facts, budget, count):
    chosen = []
    for fact in reversed(facts):
        if count("\n".join([*chosen, fact, question])) <= budget:
            chosen.append(fact)
    return "\n".join([*chosen, question])


def fit_cut(question, facts, budget, count):
    return "\n".join([*reversed(facts), question])[-budget:]


def fit_or_nothing(question, facts, budget, count):
    return "" if count(question) > budget else fit_by_list(question, facts, budget, count)


def fit_own_count(question, facts, budget, count):
    return fit_by_list(question, facts, budget, lambda text: len(text.split()))


def fit_without_line_ends(question, facts, budget, count):
    chosen, used = [], count(question)
    for fact in facts:
        if used + count(fact) <= budget:
            chosen.insert(0, fact)
            used += count(fact)
    return "\n".join([*chosen, question])


CASES = {
    "A shop": "retrieval",
    "B greeting": "prompt",
    "C messages": "fine-tune",
    "D tax": "neither",
    "E letters": "fine-tune",
    "F contracts": "retrieval",
}


def own(rule, enough, change, examples, tool):
    names = ("exact rule", "a prompt is enough", "facts change", "examples", "tool")
    return dict(zip(names, (rule, enough, change, examples, tool), strict=True))


def decided(mine=None, **others):
    mine = mine or own(False, False, False, 400, "fine-tune")
    return (
        CASES | {"my task": mine} | {name.replace("_", " "): tool for name, tool in others.items()}
    )


ANSWERS = {
    "consistency": {
        "right": [consistency_by_counter, consistency_by_loops],
        "wrong": [
            (mean_over_facts, "share all the answers, not the facts"),
            (agree_with_first, "not the first one"),
            (letter_by_letter, "case and white space"),
            (one_common_answer, "give 1, not 100"),
            (all_or_nothing, "that agree with its most common one"),
            (without_guard, "raises ZeroDivisionError"),
            (breaks_on_empty_fact, "raises IndexError"),
            (lambda answers: 100 * consistency_by_counter(answers), "not 100 or another number"),
            (lambda answers: [consistency_by_counter(answers)], "expected one number"),
        ],
    },
    "cost_per_thousand": {
        "right": [cost_by_request, cost_as_dict],
        "wrong": [
            (prices_for_one_token, "tokens written each have a price"),
            (
                lambda *a: tuple(
                    1000 * x if i < 2 else x for i, x in enumerate(cost_by_request(*a))
                ),
                "prices are for a million tokens",
            ),
            (single_requests, "cost of one request"),
            (one_price, "each have a price of their own"),
            (in_thousands, "not of thousands"),
            (not_whole, "is a whole number of requests"),
            (rounded_down, "has not been paid back yet"),
            (always_one_more, "needs no further request"),
            (never_none, "it never pays: the break-even is None"),
            (divides_by_zero, "raises ZeroDivisionError"),
            (only_two, "the wrong form"),
            (lambda *a: cost_by_request(*a)[0], "expected three values"),
        ],
    },
    "fit_facts": {
        "right": [fit_by_list, fit_from_the_end],
        "wrong": [
            (fit_best_first, "the best fact stands nearest"),
            (fit_question_first, "the question is the last line"),
            (fit_all, "is over the budget"),
            (fit_facts_only, "is over the budget"),
            (fit_strictly_below, "to the last token still fits"),
            (fit_until_first_miss, "is skipped, a shorter one may fit"),
            (fit_worst, "room for one fact, it is the best"),
            (fit_cut, "the question is lost"),
            (fit_or_nothing, "the question is lost"),
            (fit_own_count, "is over the budget"),
            (fit_without_line_ends, "is over the budget"),
            (lambda question, facts, budget, count: [*facts, question], "as one text"),
            (lambda question, facts, budget, count: question, "none is left out"),
        ],
    },
    "choose_tool": {
        "right": [
            decided(),
            decided(own(False, True, True, 0, "prompt")),
            decided(own(True, False, False, 0, "neither")),
            decided(own(False, False, True, 900, "retrieval")),
            decided(own(False, False, False, 3, "prompt")),
        ],
        "wrong": [
            (decided(A_shop="fine-tune"), "A shop: prices and stock change daily"),
            (decided(B_greeting="fine-tune"), "B greeting: there are no examples"),
            (decided(C_messages="prompt"), "C messages: at two million a month"),
            (decided(D_tax="fine-tune"), "D tax: an exact rule exists"),
            (decided(E_letters="retrieval"), "it is the form that fails"),
            (decided(F_contracts="fine-tune"), "name the page that it comes from"),
            (decided(A_shop="RAG"), "A shop: choose one of"),
            (
                {**dict(list(CASES.items())[:3]), "my task": own(0, 0, 0, 0, "prompt")},
                "'D tax' is missing",
            ),
            (dict(CASES), "your own task is missing"),
            (decided(own(False, False, True, 500, "fine-tune")), "must come with the request"),
            (decided(own(False, True, False, 500, "fine-tune")), "then stop there"),
            (decided(own(False, False, False, 3, "fine-tune")), "so few examples teach little"),
            (decided(own(True, False, False, 3, "fine-tune")), "an exact rule is code"),
            (decided(own(False, False, False, 800, "prompt")), "the examples are there"),
            (decided(own("no", False, False, 3, "prompt")), "are True or False"),
            (decided(own(False, False, False, "many", "prompt")), "a whole number"),
            (decided({"tool": "prompt"}), "these answers are missing"),
            (["retrieval", "prompt"], "expected a table"),
        ],
    },
}
