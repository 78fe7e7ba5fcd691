"""Checks of the bug museum in notebook 06: code that answers, cuts and scores."""

import math

import torch

from utilities.checks import Fault, attempt, exercise, expect, same_numbers

WORDS = [*"abcdefghijklmnopqrstuvwxyz", "Question:", "Answer:"]


def _tokenizer():
    """Return a tokenizer with one token per word, whose `<end>` is a special token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({word: n for n, word in enumerate(["<end>", *WORDS])}))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.decoder = decoders.WordPiece()
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>", pad_token="<end>")


class _Model:
    """A stand-in for a model: it generates a fixed answer, up to the limit of `generate`."""

    device = torch.device("cpu")

    def __init__(self, answer: list[int]):
        self.answer = answer

    def __deepcopy__(self, memo):
        return self

    def generate(
        self,
        inputs=None,
        input_ids=None,
        attention_mask=None,
        max_length=None,
        max_new_tokens=None,
        **_,
    ):
        prompt = input_ids if input_ids is not None else inputs
        if max_new_tokens is None:
            max_new_tokens = (max_length or 20) - prompt.shape[1]
        if max_new_tokens < 1:
            raise ValueError(f"the prompt has {prompt.shape[1]} tokens, over max_length")
        generated = torch.tensor([self.answer[:max_new_tokens]])
        return torch.cat([prompt, generated], dim=1)


@exercise
def length_counts_prompt(answer):
    """An answer is as long as it needs to be, however long its question is."""
    tokenizer = _tokenizer()
    text = "a b c d e f g h i j"
    model = _Model([*tokenizer(text)["input_ids"], tokenizer.eos_token_id])
    for length in (3, 15, 28, 60):
        prompt = " ".join(["Question:", *["z"] * length, "Answer:"])
        try:
            result = attempt(answer, model, tokenizer, prompt)
        except Fault as fault:
            if "over max_length" not in str(fault):
                raise
            raise Fault(f"a question of {length} words gets an error for an answer") from None
        expect(isinstance(result, str), "the function returns a text")
        expect(result.strip(), f"a question of {length} words gets a blank answer")
        expect(
            "Question:" not in result, f"a question of {length} words comes back with its answer"
        )
        expect(result.strip() == text, f"a question of {length} words gets its answer cut off")


@exercise
def sliced_by_characters(answer):
    """The whole answer is kept, and nothing of the prompt, marks or none."""
    tokenizer = _tokenizer()
    text = "a b c d e f"
    prompts = {
        "an ordinary prompt": "Question: x y Answer:",
        "a prompt with a mark in it": "Question: x Answer: y <end> Question: z Answer:",
        "a prompt with two spaces in a row": "Question:  x   y Answer:",
        "a prompt that ends in white space": "Question: x Answer: \n",
    }
    for end, tail in {"": [], ", ended by its mark": [tokenizer.eos_token_id]}.items():
        for name, prompt in prompts.items():
            ids = tokenizer(prompt)["input_ids"] + tokenizer(text)["input_ids"] + tail
            result = attempt(answer, tokenizer, prompt, ids)
            expect(isinstance(result, str), "the function returns a text")
            expect(result.strip(), f"{name}{end}: nothing of the answer is left")
            expect("Answer:" not in result, f"{name}{end}: a piece of the prompt is kept")
            expect(result.strip() == text, f"{name}{end}: a piece of the answer is missing")


ROWS = [{"question": f"question {n}", "answer": f"answer {n}"} for n in range(8)]


def _share(result) -> float:
    value = float(result)
    expect(math.isfinite(value) and 0 <= value <= 1, "a score is a share, from 0 to 1")
    return value


@exercise
def swallowed_failures(answer):
    """Every row counts, and a failure counts as wrong."""
    replies = {row["question"]: row["answer"] for row in ROWS}

    def whole(question):
        return replies[question]

    def half(question):
        if int(question.split()[-1]) % 2:
            raise RuntimeError("the connection is lost")
        return replies[question]

    def none(question):
        raise RuntimeError("the connection is lost")

    def wrong(question):
        return "something else"

    expect(same_numbers([_share(attempt(answer, whole, ROWS))], [1]), "all right is not 100 %")
    expect(same_numbers([_share(attempt(answer, wrong, ROWS))], [0]), "all wrong is not 0 %")
    value = _share(attempt(answer, half, ROWS))
    expect(value < 1, "half of the questions fail, and the score is full: they were left out")
    expect(same_numbers([value], [0.5]), "half of the questions fail, and the score is not a half")
    expect(same_numbers([_share(attempt(answer, none, ROWS))], [0]), "all fail: that is 0 %")


@exercise
def stale_answer(answer):
    """Each row is scored by the answer that was given to it."""
    replies = {row["question"]: row["answer"] for row in ROWS}
    some = {**replies, "question 1": "no", "question 5": "no", "question 6": "no"}
    systems = {
        "a system that is always right": (replies.__getitem__, 1),
        "a system that is always wrong": (lambda question: "no", 0),
        "a system that is right in five of eight": (some.__getitem__, 5 / 8),
    }
    for name, (ask, expected) in systems.items():
        value = _share(attempt(answer, ask, ROWS))
        expect(same_numbers([value], [expected]), f"{name} gets {value:.0%}")
