"""Baselines without a language model: nearest neighbour, and most frequent answer."""

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
    """Answer each test row with the response of the nearest training prompt.

    A model that does not beat this baseline has learned no more than a look-up.

    Similarity is the cosine of TF-IDF vectors over character n-grams of 2 to 5 within words, which
    tolerates typos. Prompts are compared with the format's own words, which are in all of them and
    so weigh least.
    """
    vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True)
    train = vectorizer.fit_transform([prompt_format.prompt(row) for row in train_rows]).T.tocsc()
    test = vectorizer.transform([prompt_format.prompt(row) for row in test_rows])
    nearest: list[int] = []
    for start in range(0, test.shape[0], 256):  # in blocks, since the products are dense
        nearest += (test[start : start + 256] @ train).toarray().argmax(axis=1).tolist()
    return [prompt_format.reference(train_rows[index]) for index in nearest]


def most_frequent_answer(train_rows: Sequence[dict[str, Any]], prompt_format: PromptFormat) -> str:
    """Return the most frequent response of the training rows; of equals, the first.

    It is the answer of the majority baseline, which does not read the question.
    """
    return Counter(map(prompt_format.reference, train_rows)).most_common(1)[0][0]
