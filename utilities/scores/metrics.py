"""Scores for generated text, row by row and for all rows.

Each compares a prediction with its reference and has its range beside it in `RANGES`. None of them
knows whether a sentence is true: they count what the two texts have in common.
"""

import functools
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd

from utilities.scores.statistics import Estimate, bootstrap, share_of

# Scripts that are written without spaces: each sign counts as a word.
_SIGN = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"


_WORD = re.compile(rf"[{_SIGN}]|[^\s{_SIGN}]+")


# Signs that say which number it is: 1.5, 1/2, 12:30, -5.
_OF_NUMBERS = re.compile(r"(?<=\d)[./:\u2044](?=\d)|(?<![\w)])[-\u2212](?=\d)")


_LETTERS = re.compile(rf"[{_SIGN}]|[^\W_{_SIGN}]+")


def normalize(text: str) -> str:
    """Return text in lower case, without punctuation and symbols, with single spaces.

    Those of numbers stay, or 1.5 would equal 15; but for the comma, which only groups digits.
    Articles stay, unlike in SQuAD's script: in short answers they are part of what is learned.

    Example:
        >>> normalize("  Run `make  course`. ")
        'run make course'
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    if not folded.isalnum():
        needed = {found.start() for found in _OF_NUMBERS.finditer(folded)}
        folded = "".join(
            sign
            for place, sign in enumerate(folded)
            if unicodedata.category(sign)[0] not in "PS" or place in needed
        )
    return " ".join(unicodedata.normalize("NFKC", folded).split())


def words(text: str) -> list[str]:
    """Return the words of a text after `normalize`; Chinese and Japanese signs one by one."""
    return _WORD.findall(normalize(text))


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


def contains(prediction: str, reference: str) -> bool:
    """Say whether the reference's words stand in the prediction, in a row; never when it has none.

    Example:
        >>> contains("I think it is Paris, of course.", "Paris")
        True
    """
    looked_for = " ".join(words(reference))
    return bool(looked_for) and f" {looked_for} " in f" {' '.join(words(prediction))} "


def token_f1(prediction: str, reference: str) -> float:
    """Return the harmonic mean of precision and recall of words, 0 to 1; order does not count.

    Source:
        P. Rajpurkar et al., "SQuAD" (2016), but articles count.

    Example:
        >>> round(token_f1("One pass", "One pass over the rows."), 3)
        0.571
    """
    said, wanted = words(prediction), words(reference)
    common = sum((Counter(said) & Counter(wanted)).values())
    if not said or not wanted:
        return float(said == wanted)
    return 2 * common / (len(said) + len(wanted))


def repetition(prediction: str) -> float:
    """Return the share of three-word runs that came before in the same text, 0 to 1.

    Above about a half the text goes in circles.

    Example:
        >>> repetition("the mask of the mask of the mask")
        0.5
    """
    found = words(prediction)
    runs = list(zip(found, found[1:], found[2:], strict=False))
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


@functools.cache
def _rouge_scorer():
    from rouge_score.rouge_scorer import RougeScorer

    class Tokenizer:
        # The package's own drops all that is not ASCII.
        def tokenize(self, text: str) -> list[str]:
            return _LETTERS.findall(text.lower())

    return RougeScorer(["rouge1", "rouge2", "rougeL"], tokenizer=Tokenizer())


def rouge(prediction: str, reference: str) -> dict[str, float]:
    """Return ROUGE-1, ROUGE-2 and ROUGE-L as F1, each 0 to 1, without stemming.

    Source:
        C.-Y. Lin, "ROUGE" (2004), by the package rouge-score, with words of any script.
    """
    scores = _rouge_scorer().score(reference, prediction)
    return {name: score.fmeasure for name, score in scores.items()}


def bleu_counts(predictions: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """Return what BLEU is made of, by sacrebleu: float64 of shape (n, 10).

    Columns: matching runs of 1 to 4 words, all runs of 1 to 4 words, words of the prediction, words
    of the reference. Sums over rows give BLEU over these rows; see `bleu_of`.
    """
    from sacrebleu.metrics import BLEU

    scorer = BLEU(effective_order=True)
    scores = [scorer.sentence_score(p, [r]) for p, r in zip(predictions, references, strict=True)]
    rows = [[*s.counts, *s.totals, s.sys_len, s.ref_len] for s in scores]
    return np.array(rows, dtype=np.float64).reshape(-1, 10)


def bleu_of(counts: np.ndarray, sentence: bool = False) -> np.ndarray:
    """Return BLEU, 0 to 100, of sums over rows of what `bleu_counts` returns.

    Args:
        counts: of shape (…, 10).
        sentence: leave out run lengths that the prediction is too short for.

    Source:
        K. Papineni et al., "BLEU" (2002); run lengths without a match are smoothed ("exp") as in
        M. Post, "A call for clarity in reporting BLEU scores" (2018). Equal to sacrebleu's.
    """
    matches, runs = counts[..., :4], counts[..., 4:8]
    said, wanted = counts[..., 8], counts[..., 9]
    missed = (matches == 0) & (runs > 0)
    matches = np.where(missed, 0.5 ** missed.cumsum(-1), matches)
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(matches / runs)
        used = runs > 0 if sentence else np.ones_like(runs, dtype=bool)
        mean = np.where(used, logs, 0).sum(-1) / used.sum(-1)
        value = 100 * np.exp(mean + np.minimum(0, 1 - wanted / said))
    return np.where((counts[..., :4].sum(-1) > 0) & np.isfinite(value), value, 0.0)


def chrf(prediction: str, reference: str) -> float:
    """Return chrF, 0 to 100: an F-score of runs of 1 to 6 characters, recall counting more.

    Source:
        M. Popović, "chrF" (2015), by sacrebleu.
    """
    return _chrf_scorer().sentence_score(prediction, [reference]).score


@functools.cache
def _chrf_scorer():
    from sacrebleu.metrics import CHRF

    return CHRF()


def tfidf_similarity(predictions: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """Return the cosine of each pair's TF-IDF vectors over words: 0 to 1, float64 of shape (n,).

    Rare words weigh more than common ones; how rare, the references say, so that what a prediction
    gets does not depend on the other predictions.
    """
    from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer

    counter = CountVectorizer(analyzer=words)
    try:
        counter.fit([*predictions, *references])
    except ValueError:  # not one word in all of them
        return np.zeros(len(predictions))
    said, wanted = counter.transform(predictions), counter.transform(references)
    weigh = TfidfTransformer().fit(wanted)
    products = weigh.transform(said).multiply(weigh.transform(wanted))
    return np.asarray(products.sum(axis=1)).ravel().clip(0, 1)


def cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the cosine of each pair of rows, -1 to 1: float64 of shape (n,)."""
    first, second = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    # Rounding may go beyond 1 by a hair.
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
"""Every column that `summarize` knows, with the lowest and the highest value it can have.

Of `repetition` less is better, of `perplexity` too; `words` is neither; of all others more is.
"""


SHARES = ("exact_match", "normalized_exact_match", "turned_down", "contains")


def score_rows(predictions: Sequence[str], references: Sequence[str]) -> pd.DataFrame:
    """Score each prediction; a table of one row each.

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

    Shares have Wilson's interval, all others the bootstrap's. BLEU is that of the corpus, which is
    not the mean of its sentences'; perplexity is that of all tokens together; the rest are means.

    Args:
        table: `prediction`, `reference`, and any of the columns of `RANGES`; one with gaps is left
            out. For `perplexity` it has `reference_log_probability` and `reference_tokens`; there,
            rows without are left out.

    Raises:
        ValueError: the table is empty.
    """
    if not len(table):
        raise ValueError("expected one row at least, found none")
    whole = [name for name in RANGES if name in table and table[name].notna().all()]
    found = {name: share_of(table[name]) for name in SHARES if name in whole}
    means = [name for name in whole if name not in {*SHARES, "bleu", "perplexity"}]
    if means:
        found |= zip(means, bootstrap(table[means].to_numpy(dtype=float)), strict=True)
    if "bleu" in table:
        counts = bleu_counts(table["prediction"], table["reference"])
        (found["bleu"],) = bootstrap(counts, lambda means: bleu_of(means * len(table))[..., None])
    if "perplexity" in table:
        columns = ["reference_log_probability", "reference_tokens"]
        known = table[columns].dropna().to_numpy(dtype=float)
        if len(known):
            (found["perplexity"],) = bootstrap(
                known, lambda means: np.exp(-means[..., :1] / means[..., 1:])
            )
    return {name: found[name] for name in RANGES if name in found}
