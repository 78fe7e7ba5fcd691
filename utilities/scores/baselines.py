"""Baselines that know no language."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from sklearn.feature_extraction.text import TfidfVectorizer

from utilities.prompts.base import PromptFormat


def nearest_question_answers(
    train_rows: Sequence[dict[str, Any]],
    test_rows: Sequence[dict[str, Any]],
    prompt_format: PromptFormat,
) -> list[str]:
    """Answer each test row with the response of the most similar training prompt.

    This rival knows no language. A model that does not beat it has learned to look up.

    Similarity is the cosine of TF-IDF vectors over character n-grams of 2 to 5 within words, which
    forgives typos. Prompts are compared as the format makes them; what they share cancels out.
    """
    vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True)
    known = vectorizer.fit_transform([prompt_format.prompt(row) for row in train_rows]).T.tocsc()
    asked = vectorizer.transform([prompt_format.prompt(row) for row in test_rows])
    nearest: list[int] = []
    for start in range(0, asked.shape[0], 256):  # a dense block at a time
        nearest += (asked[start : start + 256] @ known).toarray().argmax(axis=1).tolist()
    return [prompt_format.reference(train_rows[index]) for index in nearest]


def most_frequent_answer(train_rows: Sequence[dict[str, Any]], prompt_format: PromptFormat) -> str:
    """Return the most frequent response of the training rows, the first of equals.

    A system that answers every question with it has understood nothing.
    """
    return Counter(map(prompt_format.reference, train_rows)).most_common(1)[0][0]
