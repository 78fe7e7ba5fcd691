"""The page of a run: what is on it, that nothing in it can run, and that gaps do no harm."""

import dataclasses
import json
from html.parser import HTMLParser

import jinja2
import pandas as pd
import pytest

from utilities.pages.html import write_page
from utilities.training.run_folder import Run
from utilities.training.run_page import write_dashboard

EVIL = "<script>alert('x')</script>\"><img src=http://example.com onerror=alert(1)>"
RECORD = {
    "model": {"name": "pythia-tiny", "source": "folder", "reason": "it was asked for"},
    "method": "freeze",
    "settings": {"seed": 42, "training_arguments": {"learning_rate": 2e-4, "max_steps": 20}},
    "prompt_format": {"name": "plain", "template": "Q: {question}\nA:", "response": " {answer}"},
    "data": {
        "train": {"kept": 321, "tokens": 14560, "fingerprint": "3f9a12c4d8e01b77"},
        "validation": {"kept": 40, "tokens": 1800, "fingerprint": "aa12c4d8e01b7712"},
    },
    "weights": [
        {"group": "norms", "weights": 1000, "trained": 0, "share": 0.0},
        {"group": "feed_forward", "weights": 3000, "trained": 3000, "share": 1.0},
        {"group": "all", "weights": 4000, "trained": 3000, "share": 0.75},
    ],
    "git": {"commit": "0123abc", "changed": 2},
    "versions": {"python": "3.11.9", "torch": "2.13.0"},
    "fingerprint": "c0ffee12",
    "seconds": 133.4,
    "preflight": [
        {"check": "learned tokens", "value": "43 %", "verdict": "ok"},
        {"check": "ends of text", "value": 3, "verdict": "warning"},
    ],
    "best": {"step": 10, "metric": "eval_loss", "value": 0.6312},
    "totals": {
        "tokens": 43680,
        "supervised_tokens": 18720,
        "flops": 3.5e13,
        "tokens_per_second": 327.4,
    },
}
HISTORY = [
    {"step": 1, "epoch": 0.1, "loss": 3.2, "loss_response": 3.4, "learning_rate": 2e-4},
    {"step": 10, "epoch": 1.0, "loss": 1.1, "loss_response": 1.2, "learning_rate": 1e-4},
    {"step": 10, "epoch": 1.0, "eval_loss": 0.6312, "eval_loss_end": 0.2},
    {"step": 20, "epoch": 2.0, "loss": 0.4, "loss_response": 0.5, "learning_rate": 0.0},
    {"step": 20, "epoch": 2.0, "eval_loss": 0.7, "eval_loss_end": 0.1},
]
SAMPLES = [
    {"step": 10, "prompt": "Why?", "reference": "So.", "prediction": "Because."},
    {"step": 20, "prompt": "Why?", "reference": "So.", "prediction": " So."},
    {"step": 20, "prompt": "Why?", "reference": "So.", "prediction": " So."},  # asked twice
    {"step": 20, "prompt": "How?", "reference": "Thus.", "prediction": "So."},
]


def make_run(folder, record=RECORD, history=HISTORY, samples=SAMPLES):
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(record))
    for name, rows in {"history": history, "samples": samples}.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Run.load(folder)


class Page(HTMLParser):
    """Parses strictly enough: every tag that opens is closed, in order."""

    VOID = frozenset({"meta", "br"})

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.texts, self.labels, self.headings = [], [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.labels += [value for name, value in attributes if name == "aria-label"]
        assert not [name for name, _ in attributes if name.startswith(("on", "src", "href"))]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)
        if self.open[-1:] == ["h2"]:
            self.headings.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


def read(run, others=()):
    path = write_dashboard(run, others)
    assert path == run.folder / "dashboard.html"
    return Page(path.read_text(encoding="utf-8"))


def test_all_that_a_run_recorded_is_on_its_page(tmp_path):
    page = read(make_run(tmp_path / "tiny"))
    for text in (
        *("pythia-tiny", "it was asked for", "freeze", "of 4,000 (75.0%)", "40 validation"),
        *("3f9a12c4d8e01b77", "training_arguments.learning_rate", "0.0002", "2 min 13 s"),
        *("327 tokens/s", "35 TFLOP", "262 GFLOP/s", "torch 2.13.0", "0123abc, and changes"),
        *("✓ ok", "! warning", "Q: {question} A: {answer}", "Kept: step 10", "18,720"),
        *("Because.", "✓ equals the reference", "step 20", "from 3.200, nats per learned token"),
    ):
        assert text in page.text, text
    assert page.text.count("equals the reference") == 1


def test_figures_have_words_and_a_table_beside_them(tmp_path):
    page = read(make_run(tmp_path / "tiny"))
    assert page.labels[0] == (
        "Loss per learned token. training: from 3.2 at step 1 to 0.4 at 20; "
        "validation: from 0.631 at step 10 to 0.7 at 20."
    )
    assert len(page.labels) == page.tags.count("figure") == 3
    assert "details" in page.tags and "eval loss end" in page.text


def everywhere(value):
    """Put what would run into every text."""
    if isinstance(value, dict):
        return {k if k in KEYS else f"{k}{EVIL}": everywhere(v) for k, v in value.items()}
    if isinstance(value, list):
        return [everywhere(item) for item in value]
    return f"{value}{EVIL}" if isinstance(value, str) else value


KEYS = {*RECORD, *RECORD["model"], *RECORD["data"], *RECORD["data"]["train"], *RECORD["weights"][0]}
KEYS |= {*RECORD["preflight"][0], *RECORD["best"], *RECORD["git"], *RECORD["totals"]}
KEYS |= {*RECORD["prompt_format"], "step", "prompt", "reference", "prediction"}
KEYS -= {"validation"}  # a part may have any name


def test_nothing_in_data_becomes_markup(tmp_path):
    plain = read(make_run(tmp_path / "a"), [make_run(tmp_path / "b")])
    name = EVIL.replace("/", "")
    evil = [
        make_run(tmp_path / part / name, everywhere(RECORD), HISTORY, everywhere(SAMPLES))
        for part in "ab"
    ]
    page = read(evil[0], [evil[1]])
    assert page.tags == plain.tags
    assert {"script", "img", "link", "iframe"}.isdisjoint(page.tags)
    assert page.text.count("<script>alert('x')</script>") > 20
    text = (evil[0].folder / "dashboard.html").read_text()
    assert "default-src 'none'" in text
    for foreign in ("<script", "<img", "url(", "@import"):
        assert foreign not in text


@pytest.mark.parametrize("left_out", [*RECORD, "all but the model"])
def test_what_was_not_recorded_is_left_out(tmp_path, left_out):
    record = {key: value for key, value in RECORD.items() if key != left_out}
    if left_out == "all but the model":
        record = {"model": RECORD["model"], "best": None, "git": None}
    run = make_run(tmp_path / "tiny", record, [], [])
    page = read(run)
    assert "figure" not in page.tags
    (run.folder / "samples.jsonl").unlink()
    assert read(Run.load(run.folder)).text == page.text


def test_odd_values_are_shown_all_the_same(tmp_path):
    record = {**RECORD, "settings": {"a": None, "b": [], "c": [{"d": "\ud83d"}], "e": float("nan")}}
    samples = [{"step": 1, "prompt": "Why?", "reference": "", "prediction": "line\nline"}]
    run = make_run(tmp_path / "tiny", record, HISTORY, samples)
    history = [{"step": 1, "loss": float("inf")}, {"step": 2, "loss": 0.0, "grad_norm": "?"}]
    page = read(dataclasses.replace(run, history=pd.DataFrame(history)))
    assert page.labels == ["Loss per learned token. training: from 0 at step 2 to 0 at 2."]


def test_a_variable_that_a_template_lacks_is_an_error(tmp_path):
    path = tmp_path / "page.html"
    with pytest.raises(jinja2.UndefinedError, match="'record' is undefined"):
        write_page(path, "training/run_page.html.jinja", title="tiny", cards=[])
    assert not path.exists()


def test_runs_stand_side_by_side(tmp_path):
    settings = {"seed": 42, "training_arguments": {"learning_rate": 1e-3, "max_steps": 20}}
    runs = [
        make_run(tmp_path / "first"),
        make_run(tmp_path / "second", {**RECORD, "settings": settings}),
    ]
    page = read(runs[0], runs[1:])
    assert "Validation loss of each run" in page.text and "second" in page.text
    assert "0.001" in page.text


def test_a_long_history_stays_a_small_page(tmp_path):
    history = [{"step": step, "loss": 5 / step, "learning_rate": 1e-4} for step in range(1, 20_000)]
    run = make_run(tmp_path / "long", history=history)
    read(run)
    assert (run.folder / "dashboard.html").stat().st_size < 300_000
