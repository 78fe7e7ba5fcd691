"""Right and wrong answers to the exercises of notebook 03, for tests/test_checks.py."""

import random
import re

import numpy as np

from utilities.prompts.built_in import ALPACA
from utilities.scores.metrics import words

WITH_INPUT, WITHOUT_INPUT = ALPACA.templates


def hydrate(row):
    if (row.get("input") or "").strip():
        return WITH_INPUT.format(instruction=row["instruction"], input=row["input"])
    return WITHOUT_INPUT.format(instruction=row["instruction"])


def hydrate_by_format(row):
    return ALPACA.prompt(row)


def hydrate_by_parts(row):
    given = row["input"] if "input" in row and row["input"] is not None else ""
    paired = ", paired with an input that provides further context" if given.strip() else ""
    parts = [
        f"Below is an instruction that describes a task{paired}. Write a response that "
        "appropriately completes the request.",
        f"### Instruction:\n{row['instruction']}",
    ]
    parts += [f"### Input:\n{given}"] if given.strip() else []
    return "\n\n".join([*parts, "### Response:\n"])


def hydrate_truthy(row):
    template = WITH_INPUT if row["input"] else WITHOUT_INPUT
    return template.format(**row)


def hydrate_truthy_get(row):
    template = WITH_INPUT if row.get("input") else WITHOUT_INPUT
    return template.format(**row)


def hydrate_no_none(row):
    template = WITH_INPUT if row.get("input", "").strip() else WITHOUT_INPUT
    return template.format(**row)


def hydrate_by_key(row):
    return (WITH_INPUT if "input" in row else WITHOUT_INPUT).format(**row)


def hydrate_none_as_text(row):
    given = str(row.get("input", "")).strip()
    return (WITH_INPUT if given else WITHOUT_INPUT).format(**{**row, "input": row.get("input")})


def hydrate_replace(row):
    template = WITH_INPUT if (row.get("input") or "").strip() else WITHOUT_INPUT
    text = template.replace("{instruction}", row["instruction"])
    return text.replace("{input}", row.get("input") or "")


def hydrate_stripped(row):
    given = (row.get("input") or "").strip()
    template = WITH_INPUT if given else WITHOUT_INPUT
    return template.format(instruction=row["instruction"], input=given)


def hold_out_kinds(rows, count, seed):
    kinds = sorted({row["kind"] for row in rows})
    chosen = random.Random(seed).sample(kinds, count)
    kept = [row for row in rows if row["kind"] not in chosen]
    return kept, [row for row in rows if row["kind"] in chosen]


def hold_out_kinds_numpy(rows, count, seed):
    kinds = sorted({row["kind"] for row in rows})
    chosen = np.random.default_rng(seed).permutation(kinds)[:count].tolist()
    parts = [], []
    for row in rows:
        parts[row["kind"] in chosen].append(row)
    return parts


def hold_out_unsorted(rows, count, seed):
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    chosen = random.Random(seed).sample(kinds, count)
    kept = [row for row in rows if row["kind"] not in chosen]
    return kept, [row for row in rows if row["kind"] in chosen]


def hold_out_set(rows, count, seed):
    kinds = {row["kind"] for row in rows}
    chosen = random.Random(seed).sample(list(kinds), count)
    kept = [row for row in rows if row["kind"] not in chosen]
    return kept, [row for row in rows if row["kind"] in chosen]


def hold_out_rows(rows, count, seed):
    places = set(random.Random(seed).sample(range(len(rows)), count))
    kept = [row for n, row in enumerate(rows) if n not in places]
    return kept, [row for n, row in enumerate(rows) if n in places]


def hold_out_swapped(rows, count, seed):
    return hold_out_kinds(rows, count, seed)[::-1]


def hold_out_first(rows, count, seed):
    chosen = sorted({row["kind"] for row in rows})[:count]
    kept = [row for row in rows if row["kind"] not in chosen]
    return kept, [row for row in rows if row["kind"] in chosen]


def hold_out_with_repeats(rows, count, seed):
    kinds = sorted({row["kind"] for row in rows})
    chosen = random.Random(seed).choices(kinds, k=count)
    kept = [row for row in rows if row["kind"] not in chosen]
    return kept, [row for row in rows if row["kind"] in chosen]


_unseeded = random.Random(5)


def hold_out_unseeded(rows, count, seed):
    return hold_out_kinds(rows, count, _unseeded.random())


def hold_out_losing(rows, count, seed):
    kept, held = hold_out_kinds(rows, count, seed)
    return kept, held[:-1]


def hold_out_shuffled(rows, count, seed):
    kept, held = hold_out_kinds(rows, count, seed)
    random.Random(seed).shuffle(kept)
    return kept, held


def hold_out_one_list(rows, count, seed):
    return hold_out_kinds(rows, count, seed)[1]


def rows_from_faq(text):
    return [row for row in faq_keeps_unanswered(text) if row["output"]]


def rows_from_faq_by_pattern(text):
    for entry in re.split(r"^Q:", text.replace("\r\n", "\n"), flags=re.MULTILINE)[1:]:
        asked, *said = re.split(r"^A:", entry, maxsplit=1, flags=re.MULTILINE)
        if said:
            lines = [line.strip() for line in said[0].splitlines() if line.strip()]
            yield {"instruction": asked.strip(), "input": "", "output": "\n".join(lines)}


def faq_pairs_of_lines(text):
    lines = [line for line in text.splitlines() if line.startswith(("Q:", "A:"))]
    return [
        {"instruction": q[2:].strip(), "input": "", "output": a[2:].strip()}
        for q, a in zip(lines[::2], lines[1::2], strict=False)
    ]


def faq_one_line(text):
    rows, asked = [], None
    for line in text.splitlines():
        if line.startswith("Q:"):
            asked = line[2:].strip()
        elif line.startswith("A:") and asked:
            rows.append({"instruction": asked, "input": "", "output": line[2:].strip()})
    return rows


def faq_blocks(text):
    rows = []
    for block in text.split("\n\n"):
        if "Q:" in block and "A:" in block:
            asked, said = block.split("Q:")[-1].split("A:")[:2]
            rows.append({"instruction": asked.strip(), "input": "", "output": said.strip()})
    return rows


def faq_splits_anywhere(text):
    rows = []
    for part in text.split("Q:")[1:]:
        asked, _, said = part.partition("A:")
        if said:
            rows.append({"instruction": asked.strip(), "input": "", "output": said.strip()})
    return rows


def faq_keeps_unanswered(text):
    rows = []
    for line in text.splitlines():
        if line.startswith("Q:"):
            rows.append({"instruction": line[2:].strip(), "input": "", "output": ""})
        elif rows and line.strip():
            said = line.removeprefix("A:").strip()
            rows[-1]["output"] = f"{rows[-1]['output']}\n{said}".strip()
    return rows


def faq_in_one_line(text):
    return [{**row, "output": row["output"].replace("\n", " ")} for row in rows_from_faq(text)]


def faq_without_the_last(text):
    return rows_from_faq(text)[:-1]


def faq_question_and_answer(text):
    rows = rows_from_faq(text)
    return [{"question": row["instruction"], "answer": row["output"]} for row in rows]


def faq_not_stripped(text):
    return [{**row, "instruction": f" {row['instruction']}"} for row in rows_from_faq(text)]


DENIALS = {"not", "no", "never"}


def survives(output, text):
    said, known = words(output), set(words(text))
    if not said or output.strip()[-1] not in ".!?":
        return False
    if any(word not in known for word in said if re.search(r"\d", word)):
        return False
    if DENIALS & set(said) and not DENIALS & known:
        return False
    return sum(word in known for word in said) / len(said) >= 0.8


def survives_by_hand(output, text):
    said, known = (set(re.findall(r"\w+", part.lower())) for part in (output, text))
    numbers = {word for word in said if any(sign.isdigit() for sign in word)}
    denies, may_deny = (bool(part & DENIALS) for part in (said, known))
    return np.bool_(
        bool(said)
        and re.search(r"[.!?]\s*$", output) is not None
        and numbers <= known
        and denies <= may_deny
        and 5 * len(said & known) >= 4 * len(said)
    )


def survives_words_only(output, text):
    said, known = words(output), words(text)
    return output.strip().endswith((".", "!", "?")) and sum(w in known for w in said) >= 0.8 * len(
        said
    )


def survives_without_numbers(output, text):
    said, known = words(output), set(words(text))
    if not said or output.strip()[-1] not in ".!?":
        return False
    if DENIALS & set(said) and not DENIALS & known:
        return False
    return sum(word in known for word in said) / len(said) >= 0.8


def survives_without_denials(output, text):
    said, known = words(output), set(words(text))
    if not said or output.strip()[-1] not in ".!?":
        return False
    if any(word not in known for word in said if re.search(r"\d", word)):
        return False
    return sum(word in known for word in said) / len(said) >= 0.8


def survives_substring(output, text):
    said, known = words(output), text.lower()
    if not said or output.strip()[-1] not in ".!?":
        return False
    if DENIALS & set(said) and not DENIALS & set(words(text)):
        return False
    if any(word not in known for word in said if word.isdigit()):
        return False
    return sum(word in known for word in said) / len(said) >= 0.8


def survives_above(output, text):
    said, known = words(output), set(words(text))
    return survives(output, text) and sum(word in known for word in said) / len(said) > 0.8


def survives_every_word(output, text):
    return survives(output, text) and set(words(output)) <= set(words(text))


def survives_no_denial_ever(output, text):
    return survives(output, text) and not DENIALS & set(words(output))


def survives_period_only(output, text):
    return survives(output, text) and output.strip().endswith(".")


def survives_unstripped(output, text):
    return survives(output, text) and output.endswith((".", "!", "?"))


def survives_cut(output, text):
    return survives(f"{output}.", text)


def survives_case(output, text):
    said, known = output.rstrip(" \n.!?").split(), re.findall(r"\w+", text)
    return survives(output, text) and sum(w in known for w in said) >= 0.8 * len(said)


ANSWERS = {
    "hydrate": {
        "right": [hydrate, hydrate_by_format, hydrate_by_parts],
        "wrong": [
            (hydrate_truthy, "spaces and line breaks counts"),
            (hydrate_truthy_get, "spaces and line breaks counts"),
            (hydrate_no_none, "AttributeError"),
            (hydrate_by_key, "with an empty input"),
            (hydrate_none_as_text, "an input of None"),
            (hydrate_replace, "braces in the text"),
            (hydrate_stripped, "the white space around an input"),
            (lambda row: hydrate(row).rstrip(), "line break after `### Response:`"),
            (lambda row: hydrate(row) + row.get("output", ""), "gives away the output"),
            (lambda row: WITHOUT_INPUT.format(**row), "a row with an input"),
            (lambda row: {"prompt": hydrate(row)}, "the prompt must be text"),
        ],
    },
    "hold_out_kinds": {
        "right": [hold_out_kinds, hold_out_kinds_numpy],
        "wrong": [
            (hold_out_unsorted, "in another order give other kinds"),
            (hold_out_set, "in another order give other kinds"),
            (hold_out_rows, "stands in both parts"),
            (hold_out_swapped, "parts are swapped"),
            (hold_out_first, "every seed holds out"),
            (hold_out_with_repeats, "it holds out 1"),
            (hold_out_unseeded, "another split the second time"),
            (hold_out_losing, "a row is lost"),
            (hold_out_shuffled, "not in the order given"),
            (hold_out_one_list, "two lists are expected"),
        ],
    },
    "rows_from_faq": {
        "right": [rows_from_faq, rows_from_faq_by_pattern],
        "wrong": [
            (faq_pairs_of_lines, "without an answer became a row"),
            (faq_one_line, "second line of an answer"),
            (faq_blocks, "an answer ends at an empty line"),
            (faq_splits_anywhere, "questions are not those"),
            (faq_keeps_unanswered, "without an answer became a row"),
            (faq_in_one_line, "joined by one line break"),
            (faq_without_the_last, "the last question"),
            (faq_question_and_answer, "other columns than"),
            (faq_not_stripped, "white space is left"),
            (lambda text: "Q: and A:", "a list of rows"),
        ],
    },
    "survives": {
        "right": [survives, survives_by_hand],
        "wrong": [
            (survives_words_only, "nothing but punctuation"),
            (survives_without_numbers, "with a wrong number survives"),
            (survives_without_denials, "where the text does not survives"),
            (survives_substring, "only part of a number"),
            (survives_above, "exactly 80 %"),
            (survives_every_word, "exactly 80 %"),
            (survives_no_denial_ever, "a denial is dropped"),
            (survives_period_only, "exclamation mark"),
            (survives_unstripped, "white space at its end"),
            (survives_cut, "that breaks off"),
            (survives_case, "a capital letter makes"),
            (lambda output, text: False, "every word is in the text"),
            (lambda output, text: True, "an empty answer survives"),
        ],
    },
}
