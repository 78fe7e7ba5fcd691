"""Near duplicates: pairs of texts whose word sets have a high Jaccard similarity."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

WORD = re.compile(r"\w+")

BLOCK = 2_000
"""Texts that are compared at once, which bounds the memory of the candidate pairs."""


def join_groups(keys: Sequence[str], texts: Sequence[str], threshold: float = 0.8) -> list[str]:
    """Join groups that hold near duplicates of one another, so that a split keeps them together.

    Groups are the connected components of a graph: its nodes are rows, its edges near duplicates
    and rows with the same key. So groups are joined in chains, whose ends may differ more.

    Args:
        keys: the key of each row's group.
        texts: the text of each row that is compared.
        threshold: see `near_duplicate_pairs`.

    Returns:
        The new key of each row: the key of the first row of its joined group.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    left, right, _ = near_duplicate_pairs(texts, threshold=threshold)
    # An edge from each row to the first row with its key.
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
    """Find all pairs of texts whose word sets have a Jaccard similarity of at least `threshold`.

    Exact. It is fast because only pairs that pass a prefix filter are compared: of two sets that
    overlap so much, both must contain one of the other's few rarest words (Chaudhuri et al. 2006,
    "A Primitive Operator for Similarity Joins").

    Args:
        texts: any texts. Case and punctuation are ignored; a text without words has no duplicate.
        others: texts to compare them with; None compares them with each other, each pair once.
        threshold: Jaccard similarity, above 0, up to 1.

    Returns:
        (indices into `texts`, indices into `others`, similarities), three arrays of equal length:
        int, int, float64. Compared with each other, the first index is the smaller one.
    """
    word_sets = [set(WORD.findall(text.lower())) for text in [*texts, *(others or ())]]
    sizes = np.array(list(map(len, word_sets)))
    prefixes = _word_matrix(_rarest_words(word_sets, threshold))
    # `others` come after `texts` in these lists; their indices are shifted by as much.
    shift = 0 if others is None else len(texts)
    prefixes_of_others = prefixes[shift:]
    blocks: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for start in range(0, len(texts), BLOCK):
        end = min(start + BLOCK, len(texts))
        # An entry (i, j) of this product is the number of rare words that i and j share, so its
        # non-zero entries are the candidates.
        candidates = (prefixes[start:end] @ prefixes_of_others.T).tocoo()
        left, right = candidates.row + start, candidates.col
        if others is None:  # each pair once, and no text with itself
            left, right = left[left < right], right[left < right]
        pairs = zip(left.tolist(), (right + shift).tolist(), strict=True)
        shared = np.array([len(word_sets[i] & word_sets[j]) for i, j in pairs], dtype=float)
        # A union of no words would divide by 0.
        union = np.maximum(sizes[left] + sizes[right + shift] - shared, 1)
        similarity = shared / union
        keep = similarity >= threshold - 1e-9  # rounding, as in _rarest_words
        blocks.append((left[keep], right[keep], similarity[keep]))
    if not blocks:
        return np.empty(0, int), np.empty(0, int), np.empty(0)
    left, right, similarity = map(np.concatenate, zip(*blocks, strict=True))
    return left, right, similarity


def _rarest_words(word_sets: Sequence[set[str]], threshold: float) -> list[list[int]]:
    """Return the numbers of each set's rarest words, as many as the prefix filter needs.

    A pair at the threshold t shares at least t·n of a set's n words. So at most n − ⌈t·n⌉ words are
    missing in the other set, and one of any n − ⌈t·n⌉ + 1 words is shared: the rarest ones make the
    fewest candidates.
    """
    frequency = Counter(word for words in word_sets for word in words)
    # Ordered by frequency, then by the word itself, so that the order is the same in every process.
    by_rarity = sorted(frequency, key=lambda word: (frequency[word], word))
    number_of = {word: number for number, word in enumerate(by_rarity)}
    rarest = []
    for words in word_sets:
        numbers = sorted(number_of[word] for word in words)
        # 0.8 · 5 may come out a hair above 4, which the ceiling would make 5.
        at_least_shared = int(np.ceil(threshold * len(numbers) - 1e-9))
        rarest.append(numbers[: len(numbers) - at_least_shared + 1])
    return rarest


def _word_matrix(rows: Sequence[Sequence[int]]) -> "csr_matrix":
    """Return a sparse matrix of texts by words: 1 where a text has a word."""
    from scipy.sparse import csr_matrix

    ends = np.cumsum([0, *map(len, rows)])
    columns = np.array([column for row in rows for column in row], dtype=np.int32)
    shape = (len(rows), 1 + columns.max(initial=0))
    return csr_matrix((np.ones(len(columns), np.int32), columns, ends), shape=shape)
