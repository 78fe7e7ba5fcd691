"""Right and wrong answers to the exercises of notebook 08, for tests/test_checks.py."""

import numpy as np

# ---- lora_weights ----


def lora_by_sum(matrices, layers, rank, targets):
    chosen = targets or list(matrices)
    return layers * rank * sum(sum(matrices[name]) for name in chosen)


def lora_by_loop(matrices, layers, rank, targets):
    count = np.int64(0)
    for name, (inputs, outputs) in matrices.items():
        if not targets or name in targets:
            count += rank * inputs + outputs * rank
    return layers * count


def lora_for(count, every=True, deep=True):
    """Return an answer that counts one matrix by `count`, and perhaps overlooks something."""

    def answer(matrices, layers, rank, targets):
        chosen = targets or (list(matrices) if every else [])
        sums = sum(count(*matrices[name], rank) for name in chosen)
        return sums * (layers if deep else 1)

    return answer


# ---- where_it_flattens ----


def flattens_by_loop(sizes, means, spreads):
    best = int(np.argmax(means))
    floor = means[best] - spreads[best]
    rows = sorted(zip(sizes, means, spreads, strict=True))
    for size, mean, spread in rows:
        if mean + spread >= floor:
            return size
    return None


def flattens_by_min(sizes, means, spreads):
    mean, spread = max(zip(means, spreads, strict=True))
    reach = np.array(means) + np.array(spreads)
    return np.array(sizes)[reach >= mean - spread].min()


def flattens_for(own=1.0, best=1.0, *, strict=False, first=False, place=False):
    """Return an answer with another idea of what is near enough, or of what is wanted."""

    def answer(sizes, means, spreads):
        top = max(range(len(means)), key=means.__getitem__)
        floor = means[top] - best * spreads[top]
        reach = [mean + own * spread for mean, spread in zip(means, spreads, strict=True)]
        near = [
            i for i, value in enumerate(reach) if value > floor or (value == floor and not strict)
        ]
        chosen = near[0] if first else min(near, key=lambda i: sizes[i])
        return chosen if place else sizes[chosen]

    return answer


def flattens_at_the_largest(sizes, means, spreads):
    floor = means[-1] - spreads[-1]
    return min(s for s, m, d in zip(sizes, means, spreads, strict=True) if m + d >= floor)


# ---- training_memory ----


def memory_by_parts(weights, share, mixed):
    trained = weights * share
    gradients, optimizer = 4 * trained, 8 * trained
    copies = 2 * weights if mixed else 0
    return 4 * weights + gradients + optimizer + copies


def memory_by_weight(weights, share, mixed):
    return np.float64(weights) * (4 + 12 * share + 2 * bool(mixed))


# ---- choose_setup ----


def setup_in_steps(options, memory_gb, minutes):
    fitting = [
        option
        for option in options
        if option["memory_gb"] <= 0.9 * memory_gb and option["minutes"] <= minutes
    ]
    if not fitting:
        return "none"
    best = max(fitting, key=lambda option: option["score"])
    near = [option for option in fitting if option["high"] >= best["low"]]
    return min(near, key=lambda option: option["minutes"])["name"]


def setup_by_sorting(options, memory_gb, minutes):
    best, chosen, least = None, "none", float("inf")
    for option in sorted(options, key=lambda option: -option["score"]):
        if option["memory_gb"] > 0.9 * memory_gb or option["minutes"] > minutes:
            continue
        best = best or option
        if option["high"] >= best["low"] and option["minutes"] < least:
            chosen, least = option["name"], option["minutes"]
    return chosen


def setup_for(
    usable=0.9, in_time=lambda needed, given: needed <= given, key="minutes", compare="fitting"
):
    """Return an answer that looks at something else than it should."""

    def answer(options, memory_gb, minutes):
        fitting = [
            option
            for option in options
            if option["memory_gb"] <= usable * memory_gb and in_time(option["minutes"], minutes)
        ]
        if not fitting:
            return "none"
        among = {"fitting": fitting, "all": options, "nothing": fitting}[compare]
        best = max(among, key=lambda option: option["score"])
        near = [option for option in fitting if option["high"] >= best["low"]]
        near = fitting if compare == "nothing" else near
        if not near:
            return "none"
        return min(near, key=lambda option: option[key])["name"]

    return answer


def setup_that_returns_nothing(options, memory_gb, minutes):
    found = setup_in_steps(options, memory_gb, minutes)
    return None if found == "none" else found


def setup_with_the_best_score(options, memory_gb, minutes):
    fitting = [o for o in options if o["memory_gb"] <= 0.9 * memory_gb and o["minutes"] <= minutes]
    return max(fitting, key=lambda o: o["score"])["name"] if fitting else "none"


def setup_as_a_dict(options, memory_gb, minutes):
    name = setup_in_steps(options, memory_gb, minutes)
    return next((option for option in options if option["name"] == name), name)


ANSWERS = {
    "lora_weights": {
        "right": [lora_by_sum, lora_by_loop],
        "wrong": [
            (lora_for(lambda n, m, r: n * m), "the layer itself has"),
            (lora_for(lambda n, m, r: r * n), "rank 1 is counted wrong"),
            (lora_for(lambda n, m, r: 2 * r * n), "not square"),
            (lora_for(lambda n, m, r: n + m), "grow with the rank"),
            (lora_for(lambda n, m, r: r * (n + m), deep=False), "every layer of the model"),
            (lora_for(lambda n, m, r: r * (n + m), every=False), "empty list of targets"),
            (
                lambda matrices, layers, rank, targets: lora_by_sum(matrices, layers, rank, []),
                "not among the targets",
            ),
        ],
    },
    "where_it_flattens": {
        "right": [flattens_by_loop, flattens_by_min],
        "wrong": [
            (flattens_for(place=True), "not a place or a score"),
            (lambda sizes, means, spreads: sizes[means.index(max(means))], "the best size"),
            (flattens_for(strict=True), "touching counts"),
            (flattens_for(first=True), "any order"),
            (flattens_for(own=0, best=2), "the smaller size counts too"),
            (flattens_for(own=2, best=0), "the best size counts too"),
            (flattens_at_the_largest, "need not be at the largest"),
            (lambda sizes, means, spreads: sizes[0], "around 0.75 and 0.9375 are apart"),
        ],
    },
    "training_memory": {
        "right": [memory_by_parts, memory_by_weight],
        "wrong": [
            (lambda n, share, mixed: memory_by_parts(n, share, mixed) / 1e9, "in bytes"),
            (lambda n, share, mixed: n * (4 + 8 * share), "hold only one"),
            (lambda n, share, mixed: 16 * n, "only the weights themselves"),
            (lambda n, share, mixed: n * 16 * share, "only the weights themselves"),
            (lambda n, share, mixed: n * (8 + 8 * share), "only the weights themselves"),
            (lambda n, share, mixed: n * (4 + 12 * (share > 0)), "for that quarter alone"),
            (lambda n, share, mixed: n * (4 + 12 * share) / (2 if mixed else 1), "not less"),
            (lambda n, share, mixed: n * (4 + 12 * share + 4 * mixed), "of two bytes a weight"),
            (lambda n, share, mixed: n * (4 + (12 + 2 * mixed) * share), "frozen ones too"),
        ],
    },
    "choose_setup": {
        "right": [setup_in_steps, setup_by_sorting],
        "wrong": [
            (setup_for(usable=1), "above 90 %"),
            (setup_for(in_time=lambda needed, given: needed < given), "exactly the minutes"),
            (setup_for(in_time=lambda needed, given: True), "ready in time"),
            (setup_that_returns_nothing, "a name from the list"),
            (setup_as_a_dict, "not the whole option"),
            (setup_for(compare="nothing"), "clearly worse"),
            (setup_with_the_best_score, "fewer minutes decide"),
            (setup_for(key="memory_gb"), "fewer minutes decide"),
            (setup_for(compare="all"), "the best of all"),
        ],
    },
}
