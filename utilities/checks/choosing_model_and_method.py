"""Checks of the exercises of notebook 08, on choosing model and method."""

from collections.abc import Sequence
from typing import Any

from utilities.checks import attempt, exercise, expect

_LAYER = {"query": (8, 8), "key": (8, 4), "value": (8, 4), "up": (8, 32), "down": (32, 8)}


def _is(result: Any, expected: float) -> bool:
    """Whether this is the number, as an int, a float, or a scalar of numpy or torch."""
    return abs(float(result) - expected) <= 1e-6 * max(1, abs(expected))


@exercise
def lora_weights(answer: Any) -> None:
    """Two thin matrices beside each adapted layer, and nothing else, are counted."""
    square, flat = {"query": (6, 6)}, {"up": (5, 20)}
    result = attempt(answer, square, 1, 1, ["query"])
    expect(
        not _is(result, 36),
        "a 6 × 6 layer with rank 1 counts as many weights as the layer itself has: "
        "the adapter stands beside it and is much smaller",
    )
    expect(_is(result, 12), "one 6 × 6 layer with rank 1 is counted wrong")
    expect(
        _is(attempt(answer, flat, 1, 1, ["up"]), 25),
        "a layer that is not square is counted wrong: one matrix has its inputs, "
        "the other its outputs",
    )
    expect(_is(attempt(answer, flat, 1, 4, ["up"]), 100), "the count must grow with the rank")
    expect(
        _is(attempt(answer, flat, 3, 4, ["up"]), 300),
        "every layer of the model has adapters of its own, not only the first",
    )
    some = attempt(answer, _LAYER, 2, 4, ["query", "down"])
    expect(_is(some, 448), "matrices that are not among the targets are counted, or targets missed")
    every = attempt(answer, _LAYER, 2, 4, [])
    expect(_is(every, 960), "an empty list of targets must stand for all matrices")
    expect(
        _is(attempt(answer, _LAYER, 30, 8, ["value"]), 2880),
        "a deep model with one target is counted wrong",
    )


def _flattens(
    answer: Any, sizes: Sequence[int], means: Sequence[float], spreads: Sequence[float]
) -> float:
    return float(attempt(answer, sizes, means, spreads))


@exercise
def where_it_flattens(answer: Any) -> None:
    """The smallest size whose bar meets the bar of the best size is found."""
    result = _flattens(
        answer, [8, 16, 32, 48, 64], [0.5, 0.75, 0.8125, 0.90625, 0.9375], [0.0625] * 5
    )
    expect(
        result in (8, 16, 32, 48, 64), "the answer must be one of the sizes, not a place or a score"
    )
    expect(result != 64, "the best size is returned, though a smaller one is within the noise")
    expect(
        result == 32,
        "bars of 0.0625 around 0.75 and 0.9375 are apart, around 0.8125 and 0.9375 they touch; "
        "touching counts",
    )
    expect(
        _flattens(answer, [64, 8, 32, 16], [0.875, 0.5, 0.8125, 0.75], [0.0625] * 4) == 16,
        "the sizes may come in any order; the smallest is wanted, not the first in the list",
    )
    expect(
        _flattens(answer, [10, 20, 40], [0.5, 0.625, 0.875], [0.0625, 0.25, 0.0625]) == 20,
        "the spread of the smaller size counts too: a wide bar reaches up",
    )
    expect(
        _flattens(answer, [10, 20, 40], [0.5, 0.625, 0.875], [0.0625, 0.0625, 0.25]) == 20,
        "the spread of the best size counts too: a wide bar reaches down",
    )
    expect(
        _flattens(answer, [10, 20, 40], [0.5, 0.75, 0.625], [0.0625] * 3) == 20,
        "the best score need not be at the largest size",
    )
    expect(
        _flattens(answer, [10, 20, 40], [0.25, 0.5, 0.75], [0.0] * 3) == 40,
        "without any spread only the best size is as good as the best",
    )
    expect(_flattens(answer, [5], [0.5], [0.25]) == 5, "a table of one size has an answer too")
    expect(
        _flattens(answer, [4, 8, 16], [0.75, 0.75, 0.75], [0.0] * 3) == 4,
        "where all sizes are equal, the smallest suffices",
    )


@exercise
def training_memory(answer: Any) -> None:
    """Weights, gradients, optimizer and copies are each counted for the weights they belong to."""
    million = 1_000_000
    whole = attempt(answer, million, 1.0, False)
    expect(float(whole) > 1000, "the answer must be in bytes, not in MB or GB")
    expect(
        not _is(whole, 12 * million),
        "AdamW keeps two averages of each trained weight; 12 bytes a weight hold only one",
    )
    expect(_is(whole, 16 * million), "full training in fp32 is wrong, though its share is 1")
    idle = attempt(answer, million, 0.0, False)
    expect(
        _is(idle, 4 * million),
        "with a share of 0 nothing is trained, and only the weights themselves take memory",
    )
    expect(
        _is(attempt(answer, million, 0.25, False), 7 * million),
        "with a quarter trained, gradients and averages are wanted for that quarter alone",
    )
    mixed = attempt(answer, million, 1.0, True)
    expect(
        float(mixed) > float(whole),
        "mixed precision needs more than fp32 here, not less: "
        "the float32 weights stay, and copies come on top",
    )
    expect(_is(mixed, 18 * million), "mixed precision adds one copy of two bytes a weight")
    expect(
        _is(attempt(answer, 2 * million, 0.5, True), 24 * million),
        "the copies are made of all weights, frozen ones too, since all take part in products",
    )
    expect(_is(attempt(answer, 0, 1.0, True), 0), "a model without weights needs no memory")


def _option(name: str, memory_gb: float, minutes: float, low: float, score: float, high: float):
    return {
        "name": name,
        "memory_gb": memory_gb,
        "minutes": minutes,
        "low": low,
        "score": score,
        "high": high,
    }


_OPTIONS = [
    _option("full, large", 40, 50, 0.86, 0.92, 0.97),
    _option("full, small", 6, 10, 0.70, 0.80, 0.88),
    _option("LoRA, large", 12, 30, 0.80, 0.88, 0.94),
    _option("LoRA, small", 2, 12, 0.50, 0.60, 0.69),
    _option("frozen, small", 3, 5, 0.55, 0.66, 0.75),
]


def _chosen(answer: Any, options: list[dict[str, Any]], memory_gb: float, minutes: float) -> str:
    """Return the learner's choice; None is a wrong word here, not an exercise not started."""
    names = [option["name"] for option in options]

    def named(*case: Any) -> Any:
        choice = answer(*case)
        return "nothing" if choice is None else choice

    result = attempt(named, options, memory_gb, minutes)
    expect(not isinstance(result, dict), "the name of the option is wanted, not the whole option")
    expect(result in [*names, "none"], "the answer must be a name from the list, or the word none")
    return result


@exercise
def choose_setup(answer: Any) -> None:
    """What fits is compared, and the quickest that is not clearly worse is taken."""
    tight = [_option("tight", 10, 5, 0.5, 0.8, 0.95), _option("roomy", 4, 9, 0.4, 0.5, 0.6)]
    attempt(answer, tight, 12, 5)  # a stub ends here
    expect(
        _chosen(answer, tight, 12, 5) == "tight",
        "an option that takes exactly the minutes there are is in time",
    )
    expect(
        _chosen(answer, tight, 10.5, 60) == "roomy",
        "10 GB of 10.5 is above 90 %: that option does not fit",
    )
    for case, fault in {
        (1, 60): "with 1 GB no option fits, and the word none is wanted",
        (100, 1): "with one minute no option is ready in time, and the word none is wanted",
    }.items():
        expect(_chosen(answer, _OPTIONS, *case) == "none", fault)
    expect(_chosen(answer, [], 100, 60) == "none", "an empty list has no option, so none")
    apart = [_option("best", 4, 30, 0.85, 0.9, 0.95), _option("quick", 4, 3, 0.4, 0.5, 0.6)]
    expect(
        _chosen(answer, apart, 16, 60) == "best",
        "the quickest option is taken though it is clearly worse than the best that fits",
    )
    light = [_option("slow", 2, 20, 0.7, 0.8, 0.9), _option("fast", 8, 6, 0.6, 0.7, 0.8)]
    expect(
        _chosen(answer, light, 16, 60) == "fast",
        "of two that are about as good, fewer minutes decide, not less memory or more score",
    )
    expect(
        _chosen(answer, _OPTIONS, 16, 60) == "full, small",
        "among options whose interval meets that of the best one that fits, the quickest is wanted",
    )
    expect(
        _chosen(answer, _OPTIONS, 5, 60) == "frozen, small",
        "the intervals are compared with the best of those that fit, not with the best of all",
    )
