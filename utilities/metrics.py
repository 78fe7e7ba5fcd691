"""Scores for generated text, each with the interval that belongs beside it."""

import math
import string
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize(text: str) -> str:
    """Return text in lower case, without ASCII punctuation, with single spaces.

    Articles stay, unlike in SQuAD's script: in short answers they are part of what is learned.

    Example:
        >>> normalize("  Run `make  course`. ")
        'run make course'
    """
    return " ".join(text.lower().translate(_PUNCTUATION).split())


def is_exact_match(prediction: str, reference: str, normalized: bool = False) -> bool:
    """Say whether a prediction equals the reference, white space at the ends aside.

    Args:
        prediction: what the model wrote.
        reference: what it should have written.
        normalized: compare after `normalize`, which forgives case and punctuation.
    """
    if normalized:
        return normalize(prediction) == normalize(reference)
    return prediction.strip() == reference.strip()


class Share(NamedTuple):
    """A share of successes with its interval; all three are between 0 and 1."""

    value: float
    low: float
    high: float


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> Share:
    """Return a share with Wilson's score interval.

    Unlike the usual plus-or-minus it stays between 0 and 1 and has a width even at 0 of n, where
    the usual one claims certainty.

    Args:
        successes: from 0 to n.
        n: trials, 1 or more.
        confidence: of the interval, between 0 and 1.

    Raises:
        ValueError: the numbers are out of range.

    Source:
        E. B. Wilson, "Probable inference, the law of succession, and statistical inference",
        JASA 22 (1927).

    Example:
        >>> [round(x, 3) for x in wilson_interval(8, 10)]
        [0.8, 0.49, 0.943]
    """
    if not (n >= 1 and 0 <= successes <= n and 0 < confidence < 1):
        raise ValueError(
            f"expected 0 ≤ successes ≤ n, n ≥ 1 and 0 < confidence < 1, "
            f"found {successes}, {n} and {confidence}"
        )
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = successes / n
    center = share + z**2 / (2 * n)
    spread = z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    scale = 1 + z**2 / n
    return Share(share, max(0.0, (center - spread) / scale), min(1.0, (center + spread) / scale))


def share_of(hits: Sequence[bool]) -> Share:
    """Return the share of true values with its 95 % Wilson interval."""
    return wilson_interval(sum(map(bool, hits)), len(hits))
