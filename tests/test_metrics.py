import re
import string
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, example, given, settings, strategies as st

from utilities.scores.metrics import (
    RANGES,
    SHARES,
    bleu_counts,
    bleu_of,
    chrf,
    contains,
    cosines,
    is_exact_match,
    normalize,
    repetition,
    rouge,
    score_rows,
    summarize,
    tfidf_similarity,
    token_f1,
    words,
)
from utilities.scores.statistics import bootstrap, share_of

# Few words, so that two texts have some in common.
VOCABULARY = [
    "the",
    "The",
    "cat",
    "sat",
    "on",
    "a",
    "mat",
    ",",
    "not",
    "hat.",
    "3.5",
    "don't",
    "猫",
    "Über",
]
LIKE_TEXTS = st.lists(st.sampled_from(VOCABULARY), max_size=12).map(" ".join)
TEXTS = LIKE_TEXTS | st.text(max_size=25)
PAIRS = st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=5)
ASCII = st.text("aAbB1 .,_-'") | st.text(
    string.ascii_letters + string.digits + string.punctuation + " "
)


@pytest.mark.parametrize(
    ("prediction", "reference", "strict", "normalized"),
    [
        ("Run make course.", "Run make course.", True, True),
        (" Run make course.\n", "Run make course.", True, True),
        ("run `make course`", "Run make course.", False, True),
        ("Run  make\ncourse", "Run make course.", False, True),
        ("Run make test.", "Run make course.", False, False),
        ("The label", "label", False, False),
        ("", "x", False, False),
    ],
)
def test_exact_match(prediction, reference, strict, normalized):
    assert is_exact_match(prediction, reference) is strict
    assert is_exact_match(prediction, reference, normalized=True) is normalized


@given(st.text())
def test_normalizing_twice_changes_nothing(text):
    assert normalize(normalize(text)) == normalize(text)


def test_words_of_scripts_without_spaces():
    assert words("我是cat、です。") == ["我", "是", "cat", "で", "す"]


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        ("It is PARIS, of course!", "paris", True),
        ("It is Paris of course", "Paris, of", True),
        ("It is Parisian", "Paris", False),  # whole words only
        ("of Paris", "Paris of", False),  # in their order
        ("Paris", "", False),
        ("Paris", "?!", False),
        ("", "Paris", False),
    ],
)
def test_contains(prediction, reference, expected):
    assert contains(prediction, reference) is expected


def plain_words(text):
    return "".join(sign for sign in text.lower() if sign not in string.punctuation).split()


@settings(max_examples=200, deadline=None)
@given(ASCII, ASCII)
@example("a a b", "b a a c")
@example("", "")
@example("...", "a")
def test_token_f1_is_that_of_precision_and_recall(first, second):
    # The signs of numbers are kept, -1 is not 1; `plain_words` does not know that.
    assume(not re.search(r"[-./:]\d", f"{first} {second}"))
    said, wanted = plain_words(first), plain_words(second)
    common = sum(min(count, wanted.count(word)) for word, count in Counter(said).items())
    expected = float(said == wanted)
    if common:
        precision, recall = common / len(said), common / len(wanted)
        expected = 2 * precision * recall / (precision + recall)
    assert token_f1(first, second) == pytest.approx(expected, abs=1e-12)


@given(TEXTS, TEXTS)
def test_token_f1_is_symmetric(first, second):
    assert 0 <= token_f1(first, second) == token_f1(second, first) <= 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", 0), ("a a", 0), ("a b c d", 0), ("a a a a", 1 / 2), ("A b, c a b c!", 1 / 4)],
)
def test_repetition(text, expected):
    assert repetition(text) == expected


@settings(max_examples=150, deadline=None)
@given(PAIRS)
@example([("the cat sat on", "the cat sat on a mat")])
@example([("the cat", "the mat"), ("", "a"), ("a", "")])
def test_bleu_is_sacrebleu_s(pairs):
    from sacrebleu.metrics import BLEU

    predictions, references = map(list, zip(*pairs, strict=True))
    counts = bleu_counts(predictions, references)
    corpus = BLEU().corpus_score(predictions, [references]).score
    assert bleu_of(counts.sum(0)) == pytest.approx(corpus, abs=1e-6)
    scorer = BLEU(effective_order=True)
    rows = [scorer.sentence_score(p, [r]).score for p, r in pairs]
    assert bleu_of(counts, sentence=True) == pytest.approx(rows, abs=1e-6)


def test_bleu_of_known_texts():
    same, other = "One pass over all the rows.", "Two mats"
    assert bleu_of(bleu_counts([same, same], [same, other]), sentence=True).tolist() == [100, 0]
    assert bleu_counts([], []).shape == (0, 10)
    # Runs of four have no match, so half of one counts; the prediction is two words short.
    (counts,) = bleu_counts(["the cat sat on a mat"], ["the cat sat at on a rug mat"])
    assert counts.tolist() == [6, 3, 1, 0, 6, 5, 4, 3, 6, 8]
    expected = 100 * (6 / 6 * 3 / 5 * 1 / 4 * 0.5 / 3) ** (1 / 4) * np.exp(1 - 8 / 6)
    assert bleu_of(counts) == pytest.approx(expected)


@settings(max_examples=100, deadline=None)
@given(TEXTS, TEXTS)
def test_chrf_is_sacrebleu_s(prediction, reference):
    from sacrebleu.metrics import CHRF

    assert chrf(prediction, reference) == CHRF().sentence_score(prediction, [reference]).score


@settings(max_examples=200, deadline=None)
@given(ASCII, ASCII)
@example("the cat sat", "the mat sat on a cat")
def test_rouge_is_the_package_s_on_ascii(prediction, reference):
    from rouge_score.rouge_scorer import RougeScorer

    expected = RougeScorer(["rouge1", "rouge2", "rougeL"]).score(reference, prediction)
    assert rouge(prediction, reference) == {name: f.fmeasure for name, f in expected.items()}


def test_rouge_reads_any_script():
    assert rouge("Über «жизнь»!", "über жизнь") == {"rouge1": 1, "rouge2": 1, "rougeL": 1}
    assert rouge("我是猫", "我是狗")["rouge1"] == pytest.approx(2 / 3)


@settings(max_examples=100, deadline=None)
@given(PAIRS)
def test_tfidf_similarity(pairs):
    predictions, references = zip(*pairs, strict=True)
    found = tfidf_similarity(predictions, references)
    assert found.shape == (len(pairs),)
    assert ((found >= 0) & (found <= 1)).all()
    shared = [bool(set(words(p)) & set(words(r))) for p, r in pairs]
    assert (found > 0).tolist() == shared
    same = tfidf_similarity(predictions, predictions)
    assert same == pytest.approx([float(bool(words(text))) for text in predictions])


def test_rare_words_weigh_more():
    common, rare = tfidf_similarity(["a cat", "b cat", "a"], ["a dog", "b dog", "a"])[:2]
    assert 0 < common < rare < 1


def test_tfidf_similarity_of_a_row_does_not_depend_on_other_predictions():
    references = ["a dog", "a cat", "two mats"]
    first, second = (tfidf_similarity(["a cat", *more], references) for more in ("yz", ["a", "a"]))
    assert first[0] == second[0] > 0


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_cosines_are_scikit_learn_s(kind):
    from sklearn.metrics.pairwise import paired_cosine_distances

    first, second = np.random.default_rng(0).normal(size=(2, 500, 3)).astype(kind)
    first[0] = 0
    second[1], second[2] = first[1], -2 * first[2]
    found = cosines(first, second)
    assert found[:3] == pytest.approx([0, 1, -1], abs=1e-6)
    expected = 1 - paired_cosine_distances(first, second)
    assert found[1:] == pytest.approx(expected[1:], abs=1e-6)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_cosines_stay_in_their_range(kind):
    rows = np.random.default_rng(0).normal(size=(500, 3)).astype(kind)
    assert cosines(rows, rows).max() <= 1
    assert cosines(rows, -rows).min() >= -1


@settings(max_examples=100, deadline=None)
@given(PAIRS)
def test_scores_of_any_text_are_in_their_ranges(pairs):
    table = score_rows(*zip(*pairs, strict=True))
    assert len(table) == len(pairs)
    for name, column in table.items():
        low, high = RANGES[name]
        assert column.astype(float).between(low, high).all(), name


def test_scores_of_rows():
    table = score_rows(["Run make.", "run make", ""], ["Run make.", "Run make.", "No."])
    assert list(table["exact_match"]) == [True, False, False]
    assert list(table["normalized_exact_match"]) == list(table["contains"]) == [True, True, False]
    assert list(table["words"]) == [2, 2, 0]
    for name in ("token_f1", "rouge1", "rouge2", "rougeL", "tfidf_similarity"):
        assert list(table[name]) == pytest.approx([1, 1, 0]), name
    for name in ("bleu", "chrf"):
        assert table[name][0] == pytest.approx(100) and table[name][2] == 0
    assert list(score_rows([], []).columns) == list(table.columns)
    with pytest.raises(ValueError, match="zip"):
        score_rows(["a"], [])


@pytest.fixture(scope="module")
def table():
    draws = np.random.default_rng(0)
    lengths = draws.integers(4, 12, size=(2, 40))
    texts = [[" ".join(draws.choice(VOCABULARY[:5], n)) for n in row] for row in lengths]
    texts[1][:10] = texts[0][:10]
    rows = score_rows(*texts).assign(prediction=texts[0], reference=texts[1])
    tokens = draws.integers(3, 9, size=40).astype(float)
    rows["reference_tokens"] = tokens
    rows["reference_log_probability"] = -tokens * draws.uniform(0.5, 3, size=40)
    rows["perplexity"] = np.exp(-rows["reference_log_probability"] / tokens)
    unknown = ["perplexity", "reference_log_probability"]
    rows.loc[5, unknown] = np.nan
    return rows


def test_summary(table):
    from sacrebleu.metrics import BLEU

    found = summarize(table)
    assert list(found) == [name for name in RANGES if name in table]
    for name, estimate in found.items():
        assert estimate.low < estimate.value < estimate.high, name
        if name not in ("bleu", "perplexity"):
            assert estimate.value == pytest.approx(table[name].mean()), name
    texts = list(table["prediction"]), [list(table["reference"])]
    assert found["bleu"].value == pytest.approx(BLEU().corpus_score(*texts).score, abs=1e-6)
    known = table.drop(index=5)
    total = known["reference_log_probability"].sum() / known["reference_tokens"].sum()
    assert found["perplexity"].value == pytest.approx(np.exp(-total))


def test_intervals_of_a_summary(table):
    found = summarize(table)
    for name in set(SHARES) & set(found):
        assert found[name] == share_of(table[name]), name
    (expected,) = bootstrap(table["token_f1"])
    assert list(found["token_f1"]) == pytest.approx(list(expected))


def test_summary_of_what_is_there(table):
    assert list(summarize(table[["words", "exact_match"]])) == ["exact_match", "words"]
    assert summarize(table[["prediction", "reference"]]) == {}
    unknown = table.assign(reference_log_probability=np.nan)
    assert set(summarize(table)) - set(summarize(unknown)) == {"perplexity"}
    short = pd.DataFrame({"prediction": ["a b"], "reference": ["a b"], "bleu": [100.0]})
    assert summarize(short)["bleu"] == (0, 0, 0)  # the corpus has no run of four words


@pytest.mark.parametrize("columns", [["exact_match"], ["words"], ["prediction", "bleu"]])
def test_summary_of_no_rows(columns):
    empty = pd.DataFrame(columns=[*columns, "reference"], dtype=float)
    with pytest.raises(ValueError, match="found"):
        summarize(empty)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("1.5", "15", False),
        ("½ cup", "12 cup", False),
        ("½ cup", "1/2 cup", False),  # NFKC writes a fraction slash
        ("-5", "5", False),
        ("12:30", "1230", False),
        ("1,000", "1000", True),
        ("It is 42.", "it is 42", True),
        ("well-known", "wellknown", True),
        ("It costs $5!", "it costs 5", True),
    ],
)
def test_numbers_stay_what_they_are(one, other, same):
    assert is_exact_match(one, other, normalized=True) is same


def test_normalizing_twice_changes_nothing_more():
    assert normalize(normalize("e_\u0301")) == normalize("e_\u0301")


def test_a_share_with_gaps_is_left_out():
    table = pd.DataFrame({"prediction": "a", "reference": "a", "turned_down": [True, None, np.nan]})
    assert summarize(table) == {}
    with pytest.raises(ValueError, match="found none"):
        summarize(table.iloc[:0])
