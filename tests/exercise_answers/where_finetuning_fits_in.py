"""Right and wrong answers to the exercises of notebook 02, for tests/test_checks.py."""

import math

import numpy as np
import torch


def pairs_by_slices(ids, context):
    starts = range(0, len(ids) - context, context)
    inputs = [ids[start : start + context] for start in starts]
    return inputs, [ids[start + 1 : start + context + 1] for start in starts]


def pairs_by_tensor(ids, context):
    count = max(0, (len(ids) - 1) // context)
    tensor = torch.tensor(ids, dtype=torch.long)
    inputs = tensor[: count * context].reshape(count, context)
    return inputs, tensor[1 : count * context + 1].reshape(count, context)


def pairs_not_shifted(ids, context):
    inputs, _ = pairs_by_slices(ids, context)
    return inputs, [list(row) for row in inputs]


def pairs_shifted_back(ids, context):
    inputs, targets = pairs_by_slices(ids, context)
    return targets, inputs


def pairs_overlapping(ids, context):
    starts = range(len(ids) - context)
    inputs = [ids[start : start + context] for start in starts]
    return inputs, [ids[start + 1 : start + context + 1] for start in starts]


def pairs_with_the_rest(ids, context):
    inputs = [ids[start : start + context] for start in range(0, len(ids), context)]
    return inputs, [ids[start + 1 : start + context + 1] for start in range(0, len(ids), context)]


def pairs_with_a_gap(ids, context):
    starts = range(0, len(ids) - context, context + 1)
    inputs = [ids[start : start + context] for start in starts]
    return inputs, [ids[start + 1 : start + context + 1] for start in starts]


def pairs_without_the_last(ids, context):
    inputs, targets = pairs_by_slices(ids, context)
    return inputs[:-1], targets[:-1]


def pairs_wrapping_around(ids, context):
    starts = range(0, len(ids) - context + 1, context)
    inputs = [ids[start : start + context] for start in starts]
    shifted = ids[1:] + ids[:1]
    return inputs, [shifted[start : start + context] for start in starts]


def loss_with_math(probabilities):
    surprises = [-math.log(p) if p > 0 else math.inf for p in probabilities]
    loss = sum(surprises) / len(surprises)
    return loss, math.exp(loss)


def loss_with_torch(probabilities):
    loss = -torch.tensor(probabilities, dtype=torch.float64).log().mean()
    return loss, loss.exp()


def loss_in_base(base):
    def answer(probabilities):
        loss, perplexity = loss_with_math(probabilities)
        return loss / math.log(base), perplexity

    return answer


def loss_of_the_mean(probabilities):
    loss = -math.log(sum(probabilities) / len(probabilities))
    return loss, math.exp(loss)


def loss_summed(probabilities):
    loss = loss_with_math(probabilities)[0] * len(probabilities)
    return loss, math.exp(loss)


def loss_with_the_mean_of_inverses(probabilities):
    loss, _ = loss_with_math(probabilities)
    return loss, sum(1 / p for p in probabilities if p) / len(probabilities)


def loss_clipped(probabilities):
    loss = -np.log(np.clip(probabilities, 1e-12, 1)).mean()
    return loss, np.exp(loss)


def read_by_partition(text):
    asked, _, said = text.removeprefix("### Question:\n").partition("\n\n### Answer:\n")
    return asked, said


def read_by_index(text):
    start = len("### Question:\n")
    border = "\n\n### Answer:\n"
    middle = text.index(border, start)
    return {"question": text[start:middle], "answer": text[middle + len(border) :]}


def read_stripped(text):
    return tuple(part.strip() for part in read_by_partition(text))


def read_after_the_last(text):
    asked, _, said = text.removeprefix("### Question:\n").rpartition("\n\n### Answer:\n")
    return asked, said


def read_by_replacing(text):
    asked, said = read_by_partition(text)
    return asked, said.split("\n### Question:")[0]


def read_with_all_headings_gone(text):
    asked, _, said = text.replace("### Question:\n", "").partition("\n\n### Answer:\n")
    return asked, said


def read_by_the_words(text):
    asked, said = text.removeprefix("### Question:\n").split("### Answer:", 1)
    return asked[:-2], said[1:]


def read_by_the_words_loosely(text):
    asked, said = text.removeprefix("### Question:\n").split("### Answer:", 1)
    return asked, said


def read_with_the_heading(text):
    asked, _, said = text.partition("\n\n### Answer:\n")
    return asked, said


def read_first_lines(text):
    asked, said = read_by_partition(text)
    return asked, said.splitlines()[0] if said else said


def shapes_by_loop(rows, tokenize):
    found = []
    for text_in, text_out in rows:
        length_in, length_out = len(tokenize(text_in)), len(tokenize(text_out))
        if length_in == length_out:
            found.append("even")
        elif length_in >= 2 * length_out:
            found.append("extraction")
        else:
            found.append("expansion" if length_out >= 2 * length_in else "even")
    return found


def shapes_by_generator(rows, tokenize):
    sizes = np.array([[len(tokenize(text)) for text in row] for row in rows]).reshape(-1, 2)
    out, into = sizes[:, 1] >= 2 * sizes[:, 0], sizes[:, 0] >= 2 * sizes[:, 1]
    return (
        "even" if a == b else "expansion" if a else "extraction"
        for a, b in zip(out, into, strict=True)
    )


def shapes_told_by(tell, count=len):
    def answer(rows, tokenize):
        return [tell(count(tokenize(a)), count(tokenize(b))) for a, b in rows]

    return answer


def shapes_of_letters(rows, tokenize):
    return shapes_by_loop(rows, lambda text: text)


def shapes_of_words(rows, tokenize):
    return shapes_by_loop(rows, str.split)


def swapped(a, b):
    return "expansion" if a >= 2 * b else "extraction" if b >= 2 * a else "even"


def without_even(a, b):
    return "extraction" if a >= b else "expansion"


def strictly_twice(a, b):
    return "extraction" if a > 2 * b else "expansion" if b > 2 * a else "even"


def two_empty_sides(a, b):
    return "extraction" if a >= 2 * b else "expansion" if b >= 2 * a else "even"


ANSWERS = {
    "next_token_pairs": {
        "right": [pairs_by_slices, pairs_by_tensor],
        "wrong": [
            (pairs_not_shifted, "nothing is shifted"),
            (pairs_shifted_back, "does not begin the text"),
            (pairs_overlapping, "rows overlap"),
            (pairs_with_the_rest, "with a context of 4, a row holds"),
            (pairs_with_a_gap, "one came back"),
            (pairs_without_the_last, "one came back"),
            (pairs_wrapping_around, "no next token"),
            (lambda ids, context: pairs_by_slices(ids, context)[0][0], "must return two things"),
        ],
    },
    "loss_and_perplexity": {
        "right": [loss_with_math, loss_with_torch],
        "wrong": [
            (loss_in_base(2), "in base 2"),
            (loss_in_base(10), "in base 10"),
            (loss_in_base(1 / math.e), "is not above 0"),
            (loss_summed, "the loss is a sum"),
            (loss_of_the_mean, "the logarithm of each probability first"),
            (loss_with_the_mean_of_inverses, "the perplexity does not belong to the loss"),
            (lambda p: (loss_with_math(p)[0],) * 2, "the perplexity is not that of guessing"),
            (loss_clipped, "must make both infinite"),
            (lambda p: loss_with_math(p)[0], "must return two things"),
        ],
    },
    "read_back": {
        "right": [read_by_partition, read_by_index],
        "wrong": [
            (read_after_the_last, "holds the line '### Answer:'"),
            (read_by_replacing, "holds the line '### Question:'"),
            (read_with_all_headings_gone, "holds the line '### Question:'"),
            (read_by_the_words, "in its middle is cut there"),
            (read_by_the_words_loosely, "line breaks of the format cling"),
            (read_stripped, "belong to the answer are lost"),
            (read_with_the_heading, "a heading is left"),
            (read_first_lines, "holds the line '### Answer:'"),
            (lambda text: text, "must return two things"),
        ],
    },
    "task_shapes": {
        "right": [shapes_by_loop, shapes_by_generator],
        "wrong": [
            (shapes_told_by(swapped), "are swapped"),
            (shapes_told_by(without_even), "though neither side has twice"),
            (shapes_told_by(strictly_twice), "exactly twice as many"),
            (shapes_told_by(two_empty_sides), "equal length are not even"),
            (shapes_of_letters, "letters are counted"),
            (shapes_of_words, "handed over is not used"),
            (lambda rows, tokenize: shapes_by_loop(rows[:1], tokenize), "as many words as rows"),
            (shapes_told_by(lambda a, b: "Extraction"), "another word than"),
        ],
    },
}
