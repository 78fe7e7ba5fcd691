"""Right and wrong answers to the exercises of notebook 04, for tests/test_checks.py."""

import re
import string

import numpy as np
import torch

from utilities.audit.text_checks import comparable


def headings(question, answer=None):
    prompt = f"### Question:\n{question}\n\n### Answer:\n"
    return prompt if answer is None else prompt + answer


def colon(question, answer=""):
    return f"Question: {question}\nAnswer:" + (f" {answer}" if answer else "")


def by_arrow(question, answer=None):
    parts = [question, " =>"] if answer is None else [question, " =>", "\n", answer]
    return "".join(parts)


def trailing_space(question, answer=""):
    return f"Question: {question}\nAnswer: {answer or ''}"


def blank_line(question, answer=""):
    return f"### Question:\n{question}\n\n### Answer:\n\n{answer}"


def glued(question, answer=""):
    return f"Question: {question}\nAnswer:{answer}"


def no_mark(question, answer=""):
    return f"Question: {question}\n{answer}"


def heading_in_training_only(question, answer=None):
    return f"{question} =>" if answer is None else f"{question} =>\n### Answer:\n{answer}"


def two_templates(question, answer=None):
    return f"Q: {question}\nA:" if answer is None else f"Question: {question}\nAnswer: {answer}"


def forgets_the_question(question, answer=None):
    return "### Answer:\n" if answer is None else f"{question}\n### Answer:\n{answer}"


def adds_the_end(question, answer=None):
    return headings(question) if answer is None else headings(question, answer) + "</s>"


def tidies_the_answer(question, answer=None):
    return headings(question, answer and answer.strip(".").lower())


def by_replacing(question, answer=None):
    text = "### Question:\n{question}\n\n### Answer:\n{answer}".replace("{question}", question)
    return text.replace("{answer}", answer or "")


def by_turns(input_ids, turns):
    labels = []
    for speaker, size in turns:
        start = len(labels)
        ids = input_ids[start : start + size]
        labels += ids if speaker == "assistant" else [-100] * size
    return labels + [-100] * (len(input_ids) - len(labels))


def in_a_tensor(input_ids, turns):
    labels = torch.full((len(input_ids),), -100)
    start = 0
    for speaker, size in turns:
        if speaker == "assistant":
            labels[start : start + size] = torch.tensor(input_ids[start : start + size])
        start += size
    return labels


def in_an_array(input_ids, turns):
    ids = np.array(input_ids, dtype=int)
    who = np.repeat([speaker for speaker, _ in turns], [size for _, size in turns])
    who = np.concatenate([who, ["padding"] * (len(ids) - len(who))])
    return np.where(who == "assistant", ids, -100)


def masks_every_end(input_ids, turns):
    return [-100 if label == 2 else label for label in by_turns(input_ids, turns)]


def learns_all(input_ids, turns):
    return list(input_ids)


def learns_the_padding(input_ids, turns):
    used = sum(size for _, size in turns)
    return by_turns(input_ids, turns)[:used] + input_ids[used:]


def from_the_first_answer(input_ids, turns):
    start = next((i for i, (who, _) in enumerate(turns) if who == "assistant"), len(turns))
    before = sum(size for _, size in turns[:start])
    used = sum(size for _, size in turns)
    return [-100] * before + input_ids[before:used] + [-100] * (len(input_ids) - used)


def only_the_last_answer(input_ids, turns):
    return by_turns(input_ids, [("user", size) for _, size in turns[:-1]] + turns[-1:])


def learns_every_end(input_ids, turns):
    labels = by_turns(input_ids, turns)
    place = -1
    for _, size in turns:
        place += size
        labels[place] = input_ids[place]
    return labels


def shifts(input_ids, turns):
    labels = by_turns(input_ids, turns)
    return [*labels[1:], -100] if labels else []


def no_labels_for_padding(input_ids, turns):
    return by_turns(input_ids, turns)[: sum(size for _, size in turns)]


def ones_and_zeros(input_ids, turns):
    return [int(label != -100) for label in by_turns(input_ids, turns)]


def ones_and_ignored(input_ids, turns):
    return [1 if label != -100 else -100 for label in by_turns(input_ids, turns)]


def by_trying(lengths, share):
    return next(
        limit
        for limit in range(1, max(lengths) + 1)
        if sum(length > limit for length in lengths) / len(lengths) <= share
    )


def by_sorting(lengths, share):
    return sorted(lengths, reverse=True)[int(share * len(lengths))]


def by_quantile(lengths, share):
    return np.quantile(lengths, 1 - share, method="inverted_cdf")


def normal(text):
    kept = [letter for letter in text.casefold() if letter.isalnum() or letter.isspace()]
    return " ".join("".join(kept).split())


def by_set(train, test):
    known = {normal(row["question"]) for row in train}
    return [index for index, row in enumerate(test) if normal(row["question"]) in known]


def by_package(train, test):
    known = {comparable(row["question"]) for row in train}
    return (index for index, row in enumerate(test) if comparable(row["question"]) in known)


def by_words(train, test):
    known = [re.findall(r"\w+", row["question"].lower()) for row in train]
    asked = [re.findall(r"\w+", row["question"].lower()) for row in test]
    return {index for index, words in enumerate(asked) if words in known}


def leaks(normalize):
    def find(train, test):
        known = {normalize(row["question"]) for row in train}
        return [i for i, row in enumerate(test) if normalize(row["question"]) in known]

    return find


def leaks_inside(train, test):
    texts = [normal(row["question"]) for row in train]
    asked = [normal(row["question"]) for row in test]
    return [i for i, text in enumerate(asked) if any(known in text for known in texts)]


def leaks_around(train, test):
    texts = [normal(row["question"]) for row in train]
    asked = [normal(row["question"]) for row in test]
    return [i for i, text in enumerate(asked) if any(text in known for known in texts)]


def leaks_by_answer(train, test):
    known = {row["answer"] for row in train}
    return [index for index, row in enumerate(test) if row["answer"] in known]


def only_the_first(train, test):
    return by_set(train, test)[:1]


def training_rows(train, test):
    return by_set(test, train)


def every_pair(train, test):
    return by_set(train, test) * 2


def the_questions(train, test):
    return [test[index]["question"] for index in by_set(train, test)]


ANSWERS = {
    "prompt_format": {
        "right": [headings, colon, by_arrow],
        "wrong": [
            (trailing_space, "the tokens do not: the prompt ends in [':', ' ']"),
            (blank_line, "the tokens do not: the prompt ends in [':', '\\n\\n']"),
            (glued, "there the training text has ['Answer', ':`']"),
            (no_mark, "no mark of your own follows"),
            (heading_in_training_only, "besides the answer, training has more text"),
            (two_templates, "does not begin with the prompt, for 'Which river"),
            (forgets_the_question, "the prompt does not hold the question"),
            (adds_the_end, "does not end with the answer as given"),
            (tidies_the_answer, "does not end with the answer as given"),
            (by_replacing, "the prompt does not hold the question 'What does {answer}"),
            (lambda question, answer: question, "raises TypeError"),
        ],
    },
    "repair_mask": {
        "right": [by_turns, in_a_tensor, in_an_array],
        "wrong": [
            (masks_every_end, "the end-of-text of an answer is masked in row 1"),
            (learns_all, "a token of the user's turn is learned in row 1"),
            (learns_the_padding, "padding is learned in row 1"),
            (from_the_first_answer, "a token of the user's turn is learned in row 2"),
            (only_the_last_answer, "a token of an answer is masked in row 2"),
            (learns_every_end, "the end-of-text after the user's turn is learned"),
            (shifts, "the end-of-text after the user's turn is learned"),
            (no_labels_for_padding, "not one label for each token in row 1"),
            (ones_and_zeros, "a token of the user's turn is learned"),
            (ones_and_ignored, "a label is not the id at its own place"),
        ],
    },
    "length_limit": {
        "right": [by_trying, by_sorting, by_quantile],
        "wrong": [
            (lambda lengths, share: max(lengths), "the limit is too generous"),
            (lambda lengths, share: np.quantile(lengths, 1 - share), "a whole number of tokens"),
            (lambda lengths, share: int(np.quantile(lengths, 1 - share)), "cuts the same rows"),
            (lambda lengths, share: sorted(lengths)[-2 - int(share * len(lengths))],
             "too tight: it cuts 2"),
            (lambda lengths, share: lengths[-1 - int(share * len(lengths))], "tokens, share 0.3"),
            (lambda lengths, share: by_sorting(lengths, share) + 1, "cuts the same rows"),
            (lambda lengths, share: round(sum(lengths) / len(lengths)), "too tight: it cuts 2"),
            (lambda lengths, share: 1 << (by_sorting(lengths, share) - 1).bit_length(),
             "cuts the same rows"),
            (lambda lengths, share: by_sorting(lengths, 0.25), "share 0)"),
            (lambda lengths, share: 30, "too tight: it cuts 1 of the rows (5 rows"),
        ],
    },
    "find_leak": {
        "right": [by_set, by_package, by_words],
        "wrong": [
            (leaks(str), "not found: a question in other capitals"),
            (leaks(str.lower), "not found: a question without its question mark"),
            (leaks(lambda text: text.lower().rstrip("?")), "with other white space"),
            (leaks(lambda text: "".join(normal(text).split())), "agrees without its spaces"),
            (leaks(lambda text: " ".join(text.lower().split()).rstrip(" ?")), "without its comma"),
            (leaks(lambda text: frozenset(normal(text).split())), "in another order"),
            (leaks(lambda text: re.sub(r"\d", "", normal(text))), "from training in a digit"),
            (leaks(lambda t: t.lower().translate(str.maketrans("", "", string.punctuation))),
             "with other white space"),
            (leaks_inside, "only contains a training question"),
            (leaks_around, "only a part of one in training"),
            (leaks_by_answer, "'Why LoRA?' is no leak"),
            (only_the_first, "the second of two leaked questions"),
            (training_rows, "the second of two leaked questions"),
            (every_pair, "more than once"),
            (the_questions, "the indices of the test rows"),
        ],
    },
}  # fmt: skip
