import pandas as pd

from tests.conftest import ROWS
from utilities import plots
from utilities.prompts import QUESTION_ANSWER
from utilities.tokenization import tokenize_examples


def test_mask_view_marks_exactly_what_is_learned(tokenizer):
    row = {"question": "a < b?", "answer": "Yes & no."}
    example = QUESTION_ANSWER.example(row)
    view = plots.mask_view(tokenize_examples([example], tokenizer, 99).features[0], tokenizer)
    prompt, learned = str(view).split("[", 1)
    assert prompt == example["prompt"]
    assert ("[" + learned).replace("][", "") == "[Yes & no.<|endoftext|>]"
    page = view._repr_html_()
    assert "&lt;" in page and "&amp;" in page and "a < b" not in page
    assert page.count("border-bottom") == sum(view.supervised)


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
