"""One order of many systems, from comparisons in pairs."""

import math

import numpy as np
import pandas as pd
from scipy import special

from utilities.errors import JudgingError


def bradley_terry(pairs: pd.DataFrame, resamples: int = 500, seed: int = 42) -> pd.DataFrame:
    """Rank systems by comparisons in pairs.

    One of strength x beats one of strength y with probability 1 / (1 + exp(y - x)). The strengths
    are the likeliest ones, when each system also won and lost half a comparison with an average
    one: so those without defeat stay finite, and those never compared, even indirectly, can be.

    Args:
        pairs: `first`, `second` and `winner`: one of the two, or "tie", which is half a win for
            each. Comparisons without a winner (None, NaN) are left out.
        resamples: how often comparisons are weighted at random for the intervals.
        seed: of the weights.

    Returns:
        One row per system, the best first: `system`, `strength` (log-odds, their mean is 0), `elo`
        (1500 + 400 strength / ln 10), `low`, `high` (its 95 % interval, by the Bayesian bootstrap),
        `n` (comparisons), `wins` (ties are half).

    Raises:
        JudgingError: there is no comparison, or a winner is neither of the two.

    Source:
        R. A. Bradley and M. E. Terry, Biometrika 39 (1952). The intervals: D. B. Rubin, "The
        Bayesian bootstrap", The Annals of Statistics 9 (1981). Newton steps, shortened so that they
        cannot overshoot: T. Sun and Q. Tran-Dinh, "Generalized self-concordant functions: a recipe
        for Newton-type methods", Mathematical Programming 178 (2019).
    """
    if missing := sorted({"first", "second", "winner"} - set(pairs)):
        raise JudgingError(f"the comparisons lack the columns {missing}")
    pairs = pairs[pairs["winner"].notna()]
    if not len(pairs):
        raise JudgingError("there is no comparison with a winner")
    first, second, winner = (pairs[name].to_numpy(object) for name in ("first", "second", "winner"))
    known = (winner == first) | (winner == second) | (winner == "tie")
    for place in np.flatnonzero(~known | (first == second))[:1]:
        raise JudgingError(
            f"comparison {pairs.index[place]}: {winner[place]!r} won, of {first[place]!r} and "
            f"{second[place]!r}; expected one of two different systems, or 'tie'"
        )
    systems, codes = np.unique(np.concatenate([first, second]), return_inverse=True)
    a, b = codes.reshape(2, -1)
    halves = np.where(winner == first, 2, np.where(winner == second, 0, 1))
    # Each pair in one order, so that the weights depend on neither order.
    kinds = np.where(a < b, [a, b, halves], [b, a, 2 - halves])
    (a, b, halves), counts = np.unique(kinds, axis=1, return_counts=True)
    # Drawn again, the comparisons of an undefeated system would always be the same; with weights,
    # the prior's half comparisons vary too, so that its interval has a width.
    draws = np.random.default_rng(seed)
    weights = np.vstack([counts, draws.gamma(counts, size=(resamples, len(counts)))])
    half_each = np.full((2, len(systems)), 0.5)
    priors = np.stack([half_each, *draws.gamma(half_each, size=(resamples, *half_each.shape))])
    wins = np.zeros((1 + resamples, len(systems), len(systems)))
    for i, j, half, count in zip(a, b, halves, weights.T, strict=True):
        wins[:, i, j] += count * half / 2
        wins[:, j, i] += count * (2 - half) / 2
    strengths = _strengths(wins, priors)
    elo = 1500 + 400 / math.log(10) * strengths
    low, high = np.quantile(elo[1:], [0.025, 0.975], axis=0)
    found = {"system": systems, "strength": strengths[0], "elo": elo[0], "low": low, "high": high}
    found |= {
        "n": (wins[0] + wins[0].T).sum(axis=1).round().astype(int),
        "wins": wins[0].sum(axis=1),
    }
    ranked = pd.DataFrame(found).sort_values("strength", ascending=False, kind="stable")
    return ranked.reset_index(drop=True)


def _strengths(wins: np.ndarray, priors: np.ndarray) -> np.ndarray:
    """Return the likeliest strengths.

    Args:
        wins: of shape (tables, winner, loser).
        priors: wins and losses against an average system, (tables, 2, systems), above 0.

    Returns:
        Of shape (tables, systems); each table's mean is 0.
    """
    games = wins + wins.transpose(0, 2, 1)
    strengths = np.zeros(wins.shape[:2])
    diagonal = np.arange(wins.shape[1])
    for _ in range(100):
        chances = special.expit(strengths[:, :, None] - strengths[:, None, :])
        above_average = special.expit(strengths)
        slope = (wins - games * chances).sum(axis=2)
        slope += priors[:, 0] - priors.sum(axis=1) * above_average
        curvature = -games * chances * (1 - chances)
        own = priors.sum(axis=1) * above_average * (1 - above_average)
        curvature[:, diagonal, diagonal] += own - curvature.sum(axis=2)
        step = np.linalg.solve(curvature, slope[..., None])[..., 0]
        if np.abs(step).max() < 1e-9:
            break
        reach = step.max(axis=1, initial=0) - step.min(axis=1, initial=0) + 1e-12
        strengths += step * (np.log1p(reach) / reach)[:, None]
    return strengths - strengths.mean(axis=1, keepdims=True)
