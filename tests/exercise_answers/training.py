"""Right and wrong answers to the exercises of notebook 05, for tests/test_checks.py."""

import math
from itertools import pairwise

import numpy as np


def steps_by_ceiling(rows, batch, accumulation, epochs):
    return math.ceil(rows / (batch * accumulation)) * epochs


def steps_by_loop(rows, batch, accumulation, epochs):
    steps = 0
    for _ in range(epochs):
        steps += len(range(0, rows, batch * accumulation))
    return steps


def rates_by_rule(steps, peak, warmup):
    rising = [peak * step / warmup for step in range(warmup)]
    falling = [peak * (steps - step) / (steps - warmup) for step in range(warmup, steps)]
    return rising + falling


def rates_by_interpolation(steps, peak, warmup):
    places = [0, warmup, steps] if warmup else [0, steps]
    rates = [0, peak, 0] if warmup else [peak, 0]
    return np.interp(np.arange(steps), places, rates)


def stop_by_counting(losses, patience):
    best, waited = 0, 0
    for place, loss in enumerate(losses[1:], 1):
        if loss < losses[best]:
            best, waited = place, 0
        else:
            waited += 1
            if waited == patience:
                return place, best
    return len(losses) - 1, best


def stop_by_looking_back(losses, patience):
    for place in range(len(losses)):
        seen = losses[: place + 1]
        best = seen.index(min(seen))
        if place - best >= patience:
            return place, best
    return len(losses) - 1, best


def stop_at_first_rise(losses, patience):
    for place, (before, after) in enumerate(pairwise(losses), 1):
        if after > before:
            return place, place - 1
    return len(losses) - 1, len(losses) - 1


ANSWERS = {
    "steps_in_all": {
        "right": [steps_by_ceiling, steps_by_loop],
        "wrong": [
            (lambda rows, batch, acc, epochs: rows // (batch * acc) * epochs, "a row is lost"),
            (lambda rows, batch, acc, epochs: math.ceil(rows / batch) * epochs, "accumulation"),
            (lambda rows, batch, acc, epochs: math.ceil(rows / batch / acc), "three epochs"),
            (
                lambda rows, batch, acc, epochs: math.ceil(rows * epochs / (batch * acc)),
                "each epoch ends with a step of its own",
            ),
            (lambda rows, batch, acc, epochs: rows / (batch * acc) * epochs, "must be whole"),
            (
                lambda rows, batch, acc, epochs: math.ceil(rows / batch) // acc * epochs,
                "each epoch ends with a step of its own",
            ),
            (lambda rows, batch, acc, epochs: rows * epochs, "the number of steps is wrong"),
        ],
    },
    "learning_rates": {
        "right": [rates_by_rule, rates_by_interpolation],
        "wrong": [
            (lambda steps, peak, warmup: [peak] * steps, "rate of zero"),
            (
                lambda steps, peak, warmup: [
                    peak * (step + 1) / warmup if step < warmup else peak for step in range(steps)
                ],
                "rate of zero",
            ),
            (
                lambda steps, peak, warmup: [
                    peak * step / warmup if step < warmup else peak for step in range(steps)
                ],
                "straight line",
            ),
            (
                lambda steps, peak, warmup: [*rates_by_rule(steps, peak, warmup), 0.0],
                "one rate for each step",
            ),
            (
                lambda steps, peak, warmup: [
                    *[peak * step / warmup for step in range(warmup)],
                    *np.linspace(peak, 0, steps - warmup),
                ],
                "the last step still moves",
            ),
            (
                lambda steps, peak, warmup: [
                    step / warmup if step < warmup else (steps - step) / (steps - warmup)
                    for step in range(steps)
                ],
                "a peak other than 1",
            ),
            (
                lambda steps, peak, warmup: [
                    peak * step / steps if step < warmup else peak * (steps - step) / steps
                    for step in range(steps)
                ],
                "half-way through the warm-up",
            ),
        ],
    },
    "contradiction": {
        "right": [
            [("Is it raining?", "yes"), ("Is it raining?", "no")],
            [("a", "x"), ("a", "y"), ("b", "x"), ("b", "z"), ("a", "x"), ("a", "y")],
        ],
        "wrong": [
            ([("Is it raining?", "yes"), ("Is it cold?", "no")], "by heart"),
            ([("Is it raining?", "yes")], "at least two"),
            ([("q", "yes"), ("q", "no"), ("q", "perhaps")], "above ln 2"),
            ([("q", "yes"), ("q", "no"), ("q", "no")], "below ln 2"),
            ([("q", "yes"), ("q", "no"), ("r", "yes")], "below ln 2"),
            ([("q", "yes it is"), ("q", "no it is not")], "more than one word"),
            (["yes", "no"], "must be a pair"),
        ],
    },
    "stop_early": {
        "right": [stop_by_counting, stop_by_looking_back],
        "wrong": [
            (stop_at_first_rise, "second evaluation in a row"),
            (lambda losses, patience: (len(losses) - 1, losses.index(min(losses))), "was over"),
            (
                lambda losses, patience: (stop_by_counting(losses, patience)[0],) * 2,
                "the last evaluation is kept",
            ),
            (
                lambda losses, patience: (stop_by_counting(losses, patience)[0], 1),
                "not the best of the evaluations",
            ),
            (
                lambda losses, patience: stop_by_counting(losses, patience + 1),
                "was over before",
            ),
            (lambda losses, patience: stop_by_counting(losses, patience)[0], "wrong form"),
            (
                lambda losses, patience: (
                    stop_by_counting(losses, patience)
                    if len(set(losses)) > 1
                    else (len(losses) - 1, len(losses) - 1)
                ),
                "an equal loss is no gain",
            ),
        ],
    },
}
