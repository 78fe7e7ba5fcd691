"""Checks of the bug museum in notebook 10: code around a benchmark."""

from utilities.checks import attempt, exercise, expect


class _Tokenizer:
    """A toy tokenizer that splits words into pieces of up to three characters."""

    def __call__(self, text, **_):
        words = text.split()
        pieces = [word[n : n + 3] for word in words for n in range(0, len(word), 3)]
        return {"input_ids": list(range(len(pieces)))}

    def __deepcopy__(self, memo):
        return self


class _Coarse(_Tokenizer):
    """A toy tokenizer with one token per word."""

    def __call__(self, text, **_):
        return {"input_ids": list(range(len(text.split())))}


@exercise
def tokens_not_characters(answer):
    """The winner is the highest by character, whatever the tokenizer."""
    cases = [
        ([-6.0, -9.0], ["tea", "hot chocolate"], 1),
        ([-9.0, -8.0, -3.0], ["salt", "sand", "iron"], 2),
        ([-8.0, -8.5], ["an ax or a hoe", "photosynthesizing"], 1),
        ([-4.0, -7.0], ["a b c d", "abcdefghijklm"], 1),
        ([-5.0], ["moon"], 0),
    ]
    for values, choices, expected in cases:
        result = [
            int(attempt(answer, values, choices, tokenizer))
            for tokenizer in (_Tokenizer(), _Coarse())
        ]
        expect(result[0] == result[1], f"{choices}: the winner depends on the tokenizer")
        expect(result[0] == expected, f"{choices}: the winner is not the highest by character")


class _Kept(dict):
    """A cache that persists between calls, as a file does."""

    def __deepcopy__(self, memo):
        return self


@exercise
def one_cache_for_all(answer):
    """Each model has its own scores, and none is computed twice."""
    calls = []

    def scorer(factor):
        def score(item):
            calls.append(item)
            return [-float(factor * item), -1.0]

        return score

    kept, items = _Kept(), [3, 1, 2]
    for name, factor in (("base", 2), ("tuned", 5)):
        result = list(attempt(answer, kept, name, items, scorer(factor)))
        expected = [[-float(factor * item), -1.0] for item in items]
        expect(len(result) == len(items), "a score a row is wanted")
        expect(result == expected, f"the model {name!r} gets scores that are not its own")
    made = len(calls)
    expect(made == 6, "six scores of two models and three items are computed once each")
    again = list(attempt(answer, kept, "base", items[::-1], scorer(2)))
    expect(again == [[-4.0, -1.0], [-2.0, -1.0], [-6.0, -1.0]], "the order of items is lost")
    expect(len(calls) == made, "what is kept is computed again")
