"""Metrics for generated text, row by row and for all rows.

Each compares a prediction with its reference; `RANGES` has their ranges. None of them knows whether
a sentence is true: they count what the two texts have in common.
"""

import functools
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from utilities.scores.statistics import Estimate, bootstrap, share_of

# Chinese and Japanese, which are written without spaces: each character counts as a word.
_SIGN = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"


_WORD = re.compile(rf"[{_SIGN}]|[^\s{_SIGN}]+")


# Punctuation that is part of a number: 1.5, 1/2, 12:30, -5.
_OF_NUMBERS = re.compile(r"(?<=\d)[./:\u2044](?=\d)|(?<![\w)])[-\u2212](?=\d)")


_LETTERS = re.compile(rf"[{_SIGN}]|[^\W_{_SIGN}]+")


def normalize(text: str) -> str:
    """Return text in lower case, without punctuation and symbols, with single spaces.

    Punctuation of numbers is kept, or 1.5 would equal 15, except for the comma, which only groups
    digits. Articles are kept, unlike in SQuAD's script: in short answers they are learned too.

    Example:
        >>> normalize("  Run `make  course`. ")
        'run make course'
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    if not folded.isalnum():
        kept = {match.start() for match in _OF_NUMBERS.finditer(folded)}
        folded = "".join(
            character
            for index, character in enumerate(folded)
            if unicodedata.category(character)[0] not in "PS" or index in kept
        )
    return " ".join(unicodedata.normalize("NFKC", folded).split())


def words(text: str) -> list[str]:
    """Return the words of a text after `normalize`; Chinese and Japanese characters one by one."""
    return _WORD.findall(normalize(text))


def is_exact_match(prediction: str, reference: str, normalized: bool = False) -> bool:
    """Whether a prediction equals the reference, without white space at the ends.

    Args:
        prediction: the model's answer.
        reference: the right answer.
        normalized: compare after `normalize`, which ignores case and punctuation.
    """
    if normalized:
        return normalize(prediction) == normalize(reference)
    return prediction.strip() == reference.strip()


def contains(prediction: str, reference: str) -> bool:
    """Whether the prediction contains the reference's words in a row; False if it has no words.

    Example:
        >>> contains("I think it is Paris, of course.", "Paris")
        True
    """
    phrase = " ".join(words(reference))
    return bool(phrase) and f" {phrase} " in f" {' '.join(words(prediction))} "


def token_f1(prediction: str, reference: str) -> float:
    """Return token F1, 0 to 1: the harmonic mean of the words' precision and recall.

    Source:
        P. Rajpurkar et al., "SQuAD" (2016), but articles count.

    Example:
        >>> round(token_f1("One pass", "One pass over the rows."), 3)
        0.571
    """
    predicted, expected = words(prediction), words(reference)
    common = sum((Counter(predicted) & Counter(expected)).values())
    if not predicted or not expected:
        return float(predicted == expected)
    return 2 * common / (len(predicted) + len(expected))


def repetition(prediction: str) -> float:
    """Return the share of repeated word trigrams, 0 to 1.

    Above about a half the text repeats itself.

    Example:
        >>> repetition("the mask of the mask of the mask")
        0.5
    """
    predicted = words(prediction)
    trigrams = list(zip(predicted, predicted[1:], predicted[2:], strict=False))
    return 1 - len(set(trigrams)) / len(trigrams) if trigrams else 0.0


@functools.cache
def _rouge_scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    class Tokenizer:
        # The package's own tokenizer drops all characters that are not ASCII.
        def tokenize(self, text: str) -> list[str]:
            return _LETTERS.findall(text.lower())

    return RougeScorer(["rouge1", "rouge2", "rougeL"], tokenizer=Tokenizer())


def rouge(prediction: str, reference: str) -> dict[str, float]:
    """Return ROUGE-1, ROUGE-2 and ROUGE-L as F1, each 0 to 1, without stemming.

    Source:
        C.-Y. Lin, "ROUGE" (2004); computed by the package rouge-score, with words of any script.
    """
    scores = _rouge_scorer().score(reference, prediction)
    return {name: score.fmeasure for name, score in scores.items()}


def bleu_counts(predictions: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """Return BLEU's sufficient statistics, by sacrebleu: float64 of shape (n, 10).

    Columns: matching n-grams of 1 to 4 words, all n-grams of 1 to 4 words, words of the prediction,
    words of the reference. Their sums over rows give the BLEU of these rows; see `bleu_of`.
    """
    from sacrebleu.metrics import BLEU

    scorer = BLEU(effective_order=True)
    scores = [scorer.sentence_score(p, [r]) for p, r in zip(predictions, references, strict=True)]
    rows = [[*s.counts, *s.totals, s.sys_len, s.ref_len] for s in scores]
    return np.array(rows, dtype=np.float64).reshape(-1, 10)


def bleu_of(counts: np.ndarray, sentence: bool = False) -> np.ndarray:
    """Return BLEU, 0 to 100, from sums of the rows of `bleu_counts`; float64 of shape (…).

    Args:
        counts: of shape (…, 10).
        sentence: leave out n-gram orders that the prediction is too short for.

    Source:
        K. Papineni et al., "BLEU" (2002); orders without a match are smoothed ("exp") as in
        M. Post, "A call for clarity in reporting BLEU scores" (2018). Equal to sacrebleu's.
    """
    matches, totals = counts[..., :4], counts[..., 4:8]
    predicted, expected = counts[..., 8], counts[..., 9]
    # Smoothing: the first order without a match counts 1/2 match, the second 1/4, and so on.
    missed = (matches == 0) & (totals > 0)
    matches = np.where(missed, 0.5 ** missed.cumsum(-1), matches)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_precisions = np.log(matches / totals)
        used = totals > 0 if sentence else np.ones_like(totals, dtype=bool)
        mean = np.where(used, log_precisions, 0).sum(-1) / used.sum(-1)
        brevity_penalty = np.minimum(0, 1 - expected / predicted)
        value = 100 * np.exp(mean + brevity_penalty)
    # Without one match at all, BLEU is 0 and not what smoothing makes of it.
    return np.where((counts[..., :4].sum(-1) > 0) & np.isfinite(value), value, 0.0)


def chrf(prediction: str, reference: str) -> float:
    """Return chrF, 0 to 100: the F2 score of character n-grams of 1 to 6.

    Source:
        M. Popović, "chrF" (2015); computed by sacrebleu.
    """
    return _chrf_scorer().sentence_score(prediction, [reference]).score


@functools.cache
def _chrf_scorer() -> Any:
    from sacrebleu.metrics import CHRF

    return CHRF()


def tfidf_similarity(predictions: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """Return the cosine of each pair's TF-IDF vectors over words: 0 to 1, float64 of shape (n,).

    Document frequencies are those of the references, so that the value of a prediction does not
    depend on the other predictions.
    """
    from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer

    counter = CountVectorizer(analyzer=words)
    try:
        counter.fit([*predictions, *references])
    except ValueError:  # no words in any text
        return np.zeros(len(predictions))
    predicted, expected = counter.transform(predictions), counter.transform(references)
    tfidf = TfidfTransformer().fit(expected)
    products = tfidf.transform(predicted).multiply(tfidf.transform(expected))
    return np.asarray(products.sum(axis=1)).ravel().clip(0, 1)


def cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the cosine of each pair of rows, -1 to 1: float64 of shape (n,)."""
    first, second = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    # Rounding may exceed 1 in the last digit.
    return ((first * second).sum(axis=1) / np.where(lengths > 0, lengths, 1)).clip(-1, 1)


RANGES = {
    "exact_match": (0, 1),
    "normalized_exact_match": (0, 1),
    "turned_down": (0, 1),
    "contains": (0, 1),
    "token_f1": (0, 1),
    "bleu": (0, 100),
    "chrf": (0, 100),
    "rouge1": (0, 1),
    "rouge2": (0, 1),
    "rougeL": (0, 1),
    "tfidf_similarity": (0, 1),
    "state_similarity": (-1, 1),
    "repetition": (0, 1),
    "words": (0, np.inf),
    "perplexity": (1, np.inf),
}
"""The metrics that `summarize` computes, each with its lowest and highest possible value.

Lower is better for `repetition` and `perplexity`, neither for `words`, higher for all others.
"""


SHARES = ("exact_match", "normalized_exact_match", "turned_down", "contains")
"""The metrics that are true or false for a row."""


def score_rows(predictions: Sequence[str], references: Sequence[str]) -> pd.DataFrame:
    """Return the metrics of each prediction, one row each.

    Columns, see `RANGES`: `exact_match`, `normalized_exact_match`, `contains` (bool), `token_f1`,
    `bleu` (of the sentence, smoothed), `chrf`, `rouge1`, `rouge2`, `rougeL`, `tfidf_similarity`,
    `repetition` (float), `words` (int).

    Raises:
        ValueError: the two have different lengths.
    """
    pairs = list(zip(predictions, references, strict=True))
    table = pd.DataFrame(index=range(len(pairs)))
    table["exact_match"] = [is_exact_match(*pair) for pair in pairs]
    table["normalized_exact_match"] = [is_exact_match(*pair, normalized=True) for pair in pairs]
    table["contains"] = [contains(*pair) for pair in pairs]
    table["token_f1"] = [token_f1(*pair) for pair in pairs]
    table["bleu"] = bleu_of(bleu_counts(predictions, references), sentence=True)
    table["chrf"] = [chrf(*pair) for pair in pairs]
    rouges = [rouge(*pair) for pair in pairs]
    for name in ("rouge1", "rouge2", "rougeL"):
        table[name] = [scores[name] for scores in rouges]
    table["tfidf_similarity"] = tfidf_similarity(predictions, references)
    table["repetition"] = [repetition(text) for text in predictions]
    table["words"] = [len(words(text)) for text in predictions]
    return table


def summarize(table: pd.DataFrame) -> dict[str, Estimate]:
    """Return each metric over all rows of a prediction table, with its 95 % interval.

    Shares have Wilson's interval, all others the bootstrap's. BLEU is corpus BLEU, which is not the
    mean of sentence BLEU; perplexity is that of all tokens together; the rest are means.

    Args:
        table: `prediction`, `reference`, and any of the columns of `RANGES`; a column with missing
            values is left out. `perplexity` also needs `reference_log_probability` and
            `reference_tokens`; rows without them are left out.

    Raises:
        ValueError: the table is empty.
    """
    if not len(table):
        raise ValueError("expected one row at least, found none")
    complete = [name for name in RANGES if name in table and table[name].notna().all()]
    estimates = {name: share_of(table[name]) for name in SHARES if name in complete}
    means = [name for name in complete if name not in {*SHARES, "bleu", "perplexity"}]
    if means:
        estimates |= zip(means, bootstrap(table[means].to_numpy(dtype=float)), strict=True)
    if "bleu" in table:
        counts = bleu_counts(table["prediction"], table["reference"])
        # Means times n are the sums that BLEU needs.
        (estimates["bleu"],) = bootstrap(
            counts, lambda means: bleu_of(means * len(table))[..., None]
        )
    if "perplexity" in table:
        columns = ["reference_log_probability", "reference_tokens"]
        known = table[columns].dropna().to_numpy(dtype=float)
        if len(known):
            # exp of the mean loss per token: a ratio of two means over rows.
            (estimates["perplexity"],) = bootstrap(
                known, lambda means: np.exp(-means[..., :1] / means[..., 1:])
            )
    return {name: estimates[name] for name in RANGES if name in estimates}
