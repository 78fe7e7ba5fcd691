"""Near duplicates: texts that share most of their words."""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

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
