"""Splits that stay honest: rows that belong together stay together, whatever is added later.

A row's side follows from a hash of its group's key and the seed, not from its place. So the split
is the same on every machine, and new rows do not move the old ones.
"""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from utilities.readers import DataError


def split_rows(
    rows: Sequence[dict[str, Any]],
    sizes: Mapping[str, float],
    seed: int,
    group: Callable[[dict[str, Any]], str],
    stratum: Callable[[dict[str, Any]], str] | None = None,
) -> dict[str, list[dict[str, Any]]]:
    """Split rows by name, keeping rows of one group together.

    Args:
        rows: any dicts.
        sizes: for each part that is set aside, such as `{"validation": 0.1, "test": 50}`, a share
            of the rows (below 1) or a number of them (1 or more). The rest is `train`.
        seed: another seed gives another split.
        group: says which group a row belongs to, e.g. `lambda row: row["fact_id"]`. Rows with the
            same question must share a group, or the test leaks into the training.
        stratum: says of which kind a row is; each part gets its share of every kind.

    Returns:
        `train` and the parts asked for, each with its rows in the order given.

    Raises:
        DataError: a size is out of range, or a part would be empty.

    Example:
        `split_rows(rows, {"test": 0.2}, seed=42, group=lambda row: row["question"])["test"]`
    """
    keys = [group(row) for row in rows]
    strata = [stratum(row) for row in rows] if stratum else None
    parts: dict[str, list] = {name: [] for name in ("train", *sizes)}
    for row, part in zip(rows, assign_parts(keys, sizes, seed, strata), strict=True):
        parts[part].append(row)
    return parts


def assign_parts(
    keys: Sequence[str],
    sizes: Mapping[str, float],
    seed: int,
    strata: Sequence[str] | None = None,
) -> list[str]:
    """Return the part of each row, given the key of its group; see `split_rows`.

    Shares without strata are met by chance: a group is in the test when its hash, read as a number
    between 0 and 1, is below the share. That never moves a row. Numbers, and shares of strata, are
    met as nearly as whole groups allow, by filling up in the order of the hashes: new rows can
    then push out as many old ones as come in, and no more.
    """
    check_sizes(sizes)
    places = {key: _place(key, seed) for key in set(keys)}
    if strata is None and all(size < 1 for size in sizes.values()):
        part_of = {key: _by_threshold(place, sizes) for key, place in places.items()}
    else:
        part_of = _by_rank(keys, places, sizes, strata or [""] * len(keys))
    parts = [part_of[key] for key in keys]
    counts = Counter(parts)
    if empty := [name for name in ("train", *sizes) if not counts[name]]:
        raise DataError(
            f"the split leaves no rows for {' and '.join(empty)} "
            f"({len(keys)} rows in {len(places)} groups); change the sizes or bring more rows"
        )
    return parts


def check_sizes(sizes: Mapping[str, float]) -> None:
    """Raise a DataError when no split can have these sizes."""
    for name, size in sizes.items():
        whole = 1 <= size < float("inf") and size == int(size)
        if name == "train" or not (0 < size < 1 or whole):
            raise DataError(
                f"the part {name!r} has the size {size}; expected a share between 0 and 1, or a "
                "whole number of rows, and train is what the others leave"
            )
    if sum(size for size in sizes.values() if size < 1) >= 1:
        raise DataError(f"the shares {dict(sizes)} leave nothing to train on")


def _place(key: str, seed: int) -> float:
    """Return where a group stands between 0 and 1."""
    digest = hashlib.sha256(f"{seed}\n{key}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8]) / 2**64


def _by_threshold(place: float, sizes: Mapping[str, float]) -> str:
    end = 0.0
    for name, share in sizes.items():
        end += share
        if place < end:
            return name
    return "train"


def _by_rank(
    keys: Sequence[str],
    places: Mapping[str, float],
    sizes: Mapping[str, float],
    strata: Sequence[str],
) -> dict[str, str]:
    """Fill up each part, stratum by stratum, with the groups that come first."""
    rows_of = Counter(keys)
    stratum_of = dict(zip(reversed(keys), reversed(strata), strict=True))  # a group's first row's
    groups: dict[str, list[str]] = defaultdict(list)
    for key in sorted(places, key=lambda key: (places[key], key)):
        groups[stratum_of[key]].append(key)
    part_of = dict.fromkeys(places, "train")
    for name, size in sizes.items():
        wanted = size if size < 1 else size / len(keys)
        owed = 0.0  # rows this part should have by now, less those it has
        for stratum in sorted(groups):
            owed += wanted * sum(rows_of[key] for key in groups[stratum])
            for key in groups[stratum]:
                if part_of[key] == "train" and rows_of[key] <= 2 * owed:
                    part_of[key] = name
                    owed -= rows_of[key]
                if owed < 0.5:
                    break
    return part_of


WORD = re.compile(r"\w+")


def join_groups(keys: Sequence[str], texts: Sequence[str], threshold: float = 0.8) -> list[str]:
    """Join groups that hold near duplicates of one another, so that a split keeps them together.

    Args:
        keys: the key of each row's group.
        texts: of each row, what is compared.
        threshold: see `near_duplicate_pairs`. Groups are joined in chains, so the two ends of a
            chain may differ more.

    Returns:
        The new key of each row: the key of the first row of its joined group.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    left, right, _ = near_duplicate_pairs(texts, threshold=threshold)
    first_with: dict[str, int] = {}
    same_key = [first_with.setdefault(key, index) for index, key in enumerate(keys)]
    left, right = np.append(left, same_key), np.append(right, np.arange(len(keys)))
    links = coo_matrix((np.ones(len(left)), (left, right)), shape=(len(keys), len(keys)))
    _, groups = connected_components(links, directed=False)
    key_of: dict[int, str] = {}
    return [key_of.setdefault(group, key) for group, key in zip(groups.tolist(), keys, strict=True)]


def near_duplicate_pairs(
    texts: Sequence[str], others: Sequence[str] | None = None, threshold: float = 0.8
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find all pairs of texts that share at least a share of their words.

    Exact, and fast because of a filter: of two sets that overlap so much, each must hold one of
    the other's few rarest words (Chaudhuri et al. 2006, "A Primitive Operator for Similarity
    Joins"). Only such pairs are compared.

    Args:
        texts: any texts. Case and punctuation do not count; a text without words has no duplicate.
        others: what to compare them with; None compares them with each other, each pair once.
        threshold: Jaccard similarity of the word sets, above 0, up to 1.

    Returns:
        (indices into `texts`, indices into `others`, similarities), three arrays of equal length.
        Compared with each other, the first index is the smaller one.
    """
    from scipy.sparse import csr_matrix

    both = [*texts, *(others or ())]
    sets = [set(WORD.findall(text.lower())) for text in both]
    frequency = Counter(word for words in sets for word in words)
    rank = {word: i for i, (word, _) in enumerate(sorted(frequency.items(), key=lambda x: x[::-1]))}
    ranked = [sorted(map(rank.__getitem__, words)) for words in sets]
    # A pair at the threshold t shares at least t·n words, so one of the n − ⌈t·n⌉ + 1 rarest.
    rarest = [row[: len(row) - int(np.ceil(threshold * len(row) - 1e-9)) + 1] for row in ranked]

    def matrix(rows: Sequence[Sequence[int]]) -> csr_matrix:
        ends = np.cumsum([0, *map(len, rows)])
        columns = np.array([column for row in rows for column in row], dtype=np.int32)
        shape = (len(rows), max(len(rank), 1))
        return csr_matrix((np.ones(len(columns), np.int32), columns, ends), shape=shape)

    prefixes = matrix(rarest)
    of_others = prefixes[len(texts) :] if others is not None else prefixes
    size = np.array(list(map(len, sets)))
    found: list[tuple[np.ndarray, ...]] = []
    for start in range(0, len(texts), 2_000):
        end = min(start + 2_000, len(texts))
        candidates = (prefixes[start:end] @ of_others.T).tocoo()
        left, right = candidates.row + start, candidates.col
        if others is None:
            left, right = left[left < right], right[left < right]
        else:
            right = right + len(texts)
        shared = np.array(
            [len(sets[i] & sets[j]) for i, j in zip(left.tolist(), right.tolist(), strict=True)],
            dtype=float,
        )
        similarity = shared / np.maximum(size[left] + size[right] - shared, 1)
        keep = similarity >= threshold - 1e-9
        right = right - (len(texts) if others is not None else 0)
        found.append((left[keep], right[keep], similarity[keep]))
    if not found:
        return np.empty(0, int), np.empty(0, int), np.empty(0)
    return tuple(np.concatenate(parts) for parts in zip(*found, strict=True))
