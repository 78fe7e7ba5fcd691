import os
from pathlib import Path

import pytest

from tests.conftest import ROWS, tiny_model
from tests.test_training import fit
from utilities import tracking
from utilities.errors import TrackingError
from utilities.features.tokenization import tokenize_examples
from utilities.prompts.built_in import QUESTION_ANSWER

TAGS = {"group": "lab", "job_type": "finetune", "name": "first"}


@pytest.fixture
def data(tokenizer):
    return tokenize_examples([QUESTION_ANSWER.example(row) for row in ROWS], tokenizer, 128)


@pytest.fixture(autouse=True)
def no_keys(monkeypatch, tmp_path):
    for name in list(os.environ):
        if name.startswith(("WANDB_", "TRACKIO_", "TENSORBOARD_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))  # so nobody is logged in


def test_none_by_default(tokenizer, data, tmp_path):
    run = fit(tiny_model("llama"), tokenizer, data, tmp_path / "run")
    assert not [path for path in run.folder.rglob("*") if "wandb" in path.name]
    assert not list(run.folder.rglob("events.out*"))


def test_tensorboard(tokenizer, data, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = fit(
        tiny_model("llama"),
        tokenizer,
        data,
        tmp_path / "run",
        tracking={"tracker": "tensorboard"},
    )
    (events,) = (run.folder / "tensorboard").rglob("events.out*")
    accumulator = EventAccumulator(str(events)).Reload()
    values = [event.value for event in accumulator.Scalars("train/loss")]
    assert values == pytest.approx(run.history["loss"].tolist())
    assert "TENSORBOARD_LOGGING_DIR" not in os.environ


def test_weights_and_biases_is_offline_without_a_key(tokenizer, data, tmp_path):
    run = fit(
        tiny_model("llama"),
        tokenizer,
        data,
        tmp_path / "run",
        tracking={"tracker": "wandb", "project": "own-project", **TAGS},
    )
    (record,) = run.folder.rglob("run-*.wandb")
    content = record.read_bytes()
    for text in (b"own-project", b"finetune", b"first", b"train/loss"):
        assert text in content
    assert "offline-run" in str(record)
    assert not [name for name in os.environ if name.startswith("WANDB_PROJECT")]


def test_a_key_comes_from_the_environment_only(monkeypatch, tmp_path):
    chosen = tracking.Tracking(tracker="wandb")
    with tracking.tracked(chosen, tmp_path, "run"):
        assert os.environ["WANDB_MODE"] == "offline"
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    with tracking.tracked(chosen, tmp_path, "run"):
        assert "WANDB_MODE" not in os.environ
    with pytest.raises(ValueError, match="api_key"):
        tracking.Tracking(tracker="wandb", api_key="secret")


def test_trackio(tokenizer, data, tmp_path):
    run = fit(
        tiny_model("llama"),
        tokenizer,
        data,
        tmp_path / "run",
        tracking={"tracker": "trackio", "project": "own-project", "name": "first"},
    )
    assert [path for path in Path(run.folder).rglob("*") if "own-project" in path.name]


def test_a_tracker_that_is_not_installed(tokenizer, data, tmp_path, monkeypatch):
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TrackingError, match="pip install trackio"):
        fit(tiny_model("llama"), tokenizer, data, tmp_path / "run", tracking={"tracker": "trackio"})
    assert not list(tmp_path.iterdir())
