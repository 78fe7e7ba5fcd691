"""Train/test splits by group: rows that belong together are in the same part.

A row's part follows from a hash of its group's key and the seed, not from its position. So the
split is the same on every machine, and new rows do not move the old ones.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from utilities.errors import DataError


def split_rows(
    rows: Sequence[dict[str, Any]],
    sizes: Mapping[str, float],
    seed: int,
    group: Callable[[dict[str, Any]], str],
    stratum: Callable[[dict[str, Any]], str] | None = None,
) -> dict[str, list[dict[str, Any]]]:
    """Split rows into named parts, keeping the rows of a group together.

    Args:
        rows: any dicts.
        sizes: for each held-out part, such as `{"validation": 0.1, "test": 50}`, a share of the
            rows (below 1) or a number of rows (1 or more). The rest is `train`.
        seed: seed of the hash; another seed gives another split.
        group: returns the group of a row, e.g. `lambda row: row["fact_id"]`. Rows with the same
            question must share a group, or the test leaks into the training.
        stratum: returns the stratum of a row; each part gets its share of every stratum.

    Returns:
        The rows of `train` and of the held-out parts, in the order given.

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

    Shares without strata are met on average: a group is in the test when its hash, read as a number
    between 0 and 1, is below the share. That never moves a row. Numbers, and shares of strata, are
    met as nearly as whole groups allow, by filling the parts in the order of the hashes: new rows
    can then push out as many old ones as come in, and no more.
    """
    check_sizes(sizes)
    hashes = {key: _unit_hash(key, seed) for key in set(keys)}
    if strata is None and all(size < 1 for size in sizes.values()):
        part_of = {key: _by_threshold(value, sizes) for key, value in hashes.items()}
    else:
        part_of = _by_rank(keys, hashes, sizes, strata or [""] * len(keys))
    parts = [part_of[key] for key in keys]
    counts = Counter(parts)
    if empty := [name for name in ("train", *sizes) if not counts[name]]:
        raise DataError(
            f"the split leaves no rows for {' and '.join(empty)} "
            f"({len(keys)} rows in {len(hashes)} groups); change the sizes or add rows"
        )
    return parts


def check_sizes(sizes: Mapping[str, float]) -> None:
    """Raise a DataError if no split can have these sizes."""
    for name, size in sizes.items():
        is_number = 1 <= size < float("inf") and size == int(size)
        if name == "train" or not (0 < size < 1 or is_number):
            raise DataError(
                f"the part {name!r} has the size {size}; expected a share between 0 and 1, or a "
                "whole number of rows; train is the rest and has no size"
            )
    if sum(size for size in sizes.values() if size < 1) >= 1:
        raise DataError(f"the shares {dict(sizes)} leave nothing to train on")


def _unit_hash(key: str, seed: int) -> float:
    """Return a hash of a group's key, as a number from 0 up to 1."""
    digest = hashlib.sha256(f"{seed}\n{key}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8]) / 2**64


def _by_threshold(unit_hash: float, sizes: Mapping[str, float]) -> str:
    """Return the part in whose interval a hash is; the parts' shares divide 0 to 1."""
    end = 0.0
    for name, share in sizes.items():
        end += share
        if unit_hash < end:
            return name
    return "train"


def _by_rank(
    keys: Sequence[str],
    hashes: Mapping[str, float],
    sizes: Mapping[str, float],
    strata: Sequence[str],
) -> dict[str, str]:
    """Fill each part, stratum by stratum, with the groups that have the lowest hashes.

    Rows that one stratum could not give, because groups stay whole, are owed to the next one.
    """
    rows_of = Counter(keys)
    # The last value of a key counts in a dict; reversed, it is that of the group's first row.
    stratum_of = dict(zip(reversed(keys), reversed(strata), strict=True))
    groups: dict[str, list[str]] = defaultdict(list)
    for key in sorted(hashes, key=lambda key: (hashes[key], key)):
        groups[stratum_of[key]].append(key)
    part_of = dict.fromkeys(hashes, "train")
    for name, size in sizes.items():
        share = size if size < 1 else size / len(keys)
        owed = 0.0  # rows that the part should have so far, less those that it has
        for stratum in sorted(groups):
            owed += share * sum(rows_of[key] for key in groups[stratum])
            for key in groups[stratum]:
                # Up to twice what is owed, the part is nearer to its size with it than without.
                if part_of[key] == "train" and rows_of[key] <= 2 * owed:
                    part_of[key] = name
                    owed -= rows_of[key]
                if owed < 0.5:
                    break
    return part_of
