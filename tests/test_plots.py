import numpy as np
import pandas as pd

from tests.conftest import ROWS
from utilities import plots
from utilities.features import mask_views
from utilities.features.packing import pack
from utilities.features.tokenization import tokenize_examples
from utilities.prompts.built_in import QUESTION_ANSWER


def test_mask_view_marks_exactly_what_is_learned(tokenizer):
    row = {"question": "a < b?", "answer": "Yes & no."}
    example = QUESTION_ANSWER.example(row)
    view = mask_views.mask_view(tokenize_examples([example], tokenizer, 99).features[0], tokenizer)
    assert str(view) == example["prompt"] + "[Yes & no.<|endoftext|>]"
    page = view._repr_html_()
    assert "&lt;" in page and "&amp;" in page and "a < b" not in page.replace("&nbsp;", " ")
    learned = view.table[view.table["supervised"]]
    assert page.count("#0072b2") == len(learned)
    assert f"underlined: learned ({len(learned)} of {len(view.table)} tokens)" in page
    assert list(learned["label"]) == list(learned["id"])


def test_mask_view_tells_packed_examples_and_padding_apart(tokenizer):
    examples = [QUESTION_ANSWER.example(row) for row in ROWS[:2]]
    features = tokenize_examples(examples, tokenizer, 99).features
    length = sum(map(len, features["input_ids"])) + 3
    view = mask_views.mask_view(pack(features, length, tokenizer.pad_token_id)[0], tokenizer)
    assert view.table.groupby("example")["position"].min().tolist() == [0, 0, 0]
    page = view._repr_html_()
    assert [page.count(f">{name}<") for name in ("example 1", "example 2", "padding")] == [1, 1, 1]
    assert str(view).count("[") == 2 and str(view).endswith("<|padding|>" * 3)


def test_packing_picture_draws_every_example_twice_and_the_blocks():
    lengths, bins = [3, 5, 2], [[1, 2], [0]]
    padded, packed, attention = plots.packing_picture(lengths, bins, 8).axes
    assert padded.get_title() == "padded: 33% is padding"
    assert packed.get_title() == "packed: 38% is padding"
    assert {text.get_text() for text in packed.texts} == {"1", "2", "3"}
    allowed = attention.images[0].get_array()
    assert allowed.shape == (7, 7) and allowed.sum() == 5 * 6 / 2 + 2 * 3 / 2


def test_loss_curve_shows_both_losses():
    history = pd.DataFrame({"step": [1, 2, 3], "loss": [3.0, 2, 1], "eval_loss": [None, 2.5, 2]})
    axes = plots.loss_curve(history).axes[0]
    assert [len(line.get_xdata()) for line in axes.lines] == [3, 2]
    assert axes.get_ylim()[0] == 0
    assert len(plots.loss_curve(history[["step", "loss"]]).axes[0].lines) == 1


def test_score_bars_show_every_system_with_its_interval():
    rows = [
        {
            "system": name,
            "metric": "exact_match",
            "value": v,
            "low": v / 2,
            "high": 1.0,
            "n": len(ROWS),
        }
        for name, v in [("base", 0.0), ("tuned", 0.8)]
    ]
    axes = plots.score_bars(pd.DataFrame(rows), "exact_match").axes[0]
    assert [bar.get_width() for bar in axes.patches] == [0.8, 0.0]
    assert [text.get_text() for text in axes.texts] == ["80%", "0%"]
    assert "tuned (n = 8)" in [label.get_text() for label in axes.get_yticklabels()]


def test_length_histogram_counts_every_row():
    figure = plots.length_histogram({"a": [3, 4, 5], "b": [9]}, limit=8)
    assert len(figure.axes[0].patches) == 2 and len(figure.axes[0].lines) == 1


def test_published_figures_over_size_and_training():
    from utilities.benchmark.compare import published

    figure = plots.arc_figures(published("arc_easy"))
    by_size, by_step = figure.axes
    assert (by_size.get_xscale(), by_step.get_xscale()) == ("log", "symlog")
    assert by_size.get_ylim() == (0, 1)
    points = by_step.containers[0].lines[0].get_xdata()
    assert points[0] == 0 and len(points) == 27
    names = by_size.get_legend_handles_labels()[1]
    assert names == ["the Pile", "the Pile, deduplicated"]


def test_a_learning_curve_shows_every_run_and_bars_between_seeds():
    runs = pd.DataFrame({"rows": [8, 8, 16, 16], "score": [0.5, 0.7, 0.8, 0.8]})
    axes = plots.learning_curve(runs, untrained=0.4).axes[0]
    curve, points = axes.containers[0], axes.lines[-3]
    assert [round(y, 6) for y in curve.lines[0].get_ydata()] == [0.6, 0.8]
    bars = [segment[:, 1].tolist() for segment in curve.lines[2][0].get_segments()]
    assert np.round(bars, 6).tolist() == [[0.5, 0.7], [0.8, 0.8]]
    assert len(points.get_xdata()) == 4
    assert [label.get_text() for label in axes.get_xticklabels()] == ["8", "16"]
    labels = axes.get_legend_handles_labels()[1]
    assert "before training" in labels
    assert (
        "before training" not in plots.learning_curve(runs).axes[0].get_legend_handles_labels()[1]
    )
