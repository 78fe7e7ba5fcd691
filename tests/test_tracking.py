import contextlib
import json
import os
import sqlite3
import struct
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.conftest import ROWS, tiny_model
from tests.test_evaluation import config
from tests.test_resume import Killed, StopAt
from tests.test_training import fit
from utilities import tracking
from utilities.errors import TrackingError
from utilities.evaluation import run_evaluation
from utilities.features.tokenization import tokenize_examples
from utilities.prompts.built_in import QUESTION_ANSWER

TAGS = {"group": "lab", "job_type": "finetune", "name": "first"}
TRACKERS = ["tensorboard", "wandb", "trackio"]
RUNS = [("course", "first"), ("course", "second"), ("other", "third")]  # project and name


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


# A notebook does many runs in one process.


def records(tracker, folder):
    """All that a tracker wrote beneath a folder: project and name of each run, and its figures."""
    readers = {"tensorboard": of_tensorboard, "wandb": of_wandb, "trackio": of_trackio}
    found = {}
    for run, figures in readers[tracker](Path(folder)):
        found.setdefault(run, []).append(figures)
    return found


def of_tensorboard(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for file in sorted(folder.rglob("events.out*")):
        events, steps = EventAccumulator(str(file)).Reload(), {}
        for tag in events.Tags()["scalars"]:
            for event in events.Scalars(tag):
                steps.setdefault(event.step, {})[tag] = event.value
        for step in sorted(steps):  # TensorBoard knows neither project nor name
            yield None, {"train/global_step": step, **steps[step]}


def of_wandb(folder):
    for file in sorted(folder.rglob("*.wandb")):
        end = time.monotonic() + 60
        # wandb closes its file a moment after `finish` has returned.
        while not (rows := list(rows_of_wandb(file))) or "exit" not in rows[-1][1]:
            assert time.monotonic() < end, f"{file} has no end"
            time.sleep(0.05)
        yield from rows


def rows_of_wandb(file):
    from wandb.proto.wandb_internal_pb2 import Record

    # LevelDB's log format after a header of 7 bytes: a record may lie in several pieces.
    content, position, record, run = file.read_bytes(), 7, b"", None
    while position < len(content):
        if (left := 2**15 - position % 2**15) < 7:
            position += left
            continue
        start = position + 7
        size, kind = struct.unpack("<HB", content[position + 4 : start])
        record, position = record + content[start : start + size], start + size
        if kind in (1, 4):  # whole, or the last piece
            told, record = Record.FromString(record), b""
            what = told.WhichOneof("record_type")
            if what == "run":
                run = told.run.project, told.run.display_name
            elif what == "history":
                items = told.history.item
                yield run, {i.key or i.nested_key[0]: json.loads(i.value_json) for i in items}
            elif what == "exit":
                yield run, {"exit": told.exit.exit_code}


def of_trackio(folder):
    for file in sorted(folder.rglob("*.db")):
        with contextlib.closing(sqlite3.connect(file)) as database:
            rows = database.execute("select run_name, metrics from metrics order by id").fetchall()
        for name, metrics in rows:
            yield (file.stem, name), json.loads(metrics)


def losses(figures):
    return [row["train/loss"] for row in figures if "train/loss" in row]


@contextlib.contextmanager
def nothing_lasts():
    """Check that what trackers have as long as the process lives is the same afterwards."""
    import trackio
    import wandb

    def state():
        modules = [sys.modules[name] for name in sorted(sys.modules) if name.startswith("trackio")]
        names = ("TRACKIO_DIR", "MEDIA_DIR", "ARTIFACTS_DIR", "init")
        context = trackio.context_vars
        return {
            "wandb": [wandb.setup().settings.model_dump(), wandb.run],
            "trackio": {vars(module).get(name) for module in modules for name in names},
            "context": [context.current_run.get(), context.current_project.get()],
            "threads": {
                each for each in threading.enumerate() if type(each).__name__ != "TMonitor"
            },
            "environment": {k: v for k, v in os.environ.items() if k != "PYTEST_CURRENT_TEST"},
        }

    before = state()
    yield
    assert state() == before


@pytest.fixture
def unused(monkeypatch):
    """Trackers as in a process that has not used them yet."""
    import wandb

    wandb.teardown()
    for name in list(sys.modules):
        if name.partition(".")[0] == "trackio":
            monkeypatch.delitem(sys.modules, name)


@pytest.mark.parametrize("tracker", TRACKERS)
def test_each_training_of_a_process_has_its_own_records(tracker, tokenizer, data, tmp_path):
    runs = []
    with nothing_lasts():
        for number, (project, name) in enumerate(RUNS, start=1):
            chosen = {"tracker": tracker, "project": project, "name": name}
            options = {"learning_rate": number / 100, "max_steps": number + 1, "tracking": chosen}
            runs.append(fit(tiny_model("llama"), tokenizer, data, tmp_path / name, **options))
    for run, key in zip(runs, RUNS, strict=True):
        ((found, figures),) = records(tracker, run.folder).items()
        assert found == (None if tracker == "tensorboard" else key)
        assert losses(figures) == pytest.approx(run.history["loss"].tolist())
    assert not list(tmp_path.glob("*.partial"))  # a tracker that writes later would make one


@pytest.mark.parametrize("tracker", TRACKERS)
def test_each_evaluation_of_a_process_has_its_own_records(
    tracker, model_folder, data_file, tmp_path
):
    expected = {}
    with nothing_lasts():
        for number, (project, name) in enumerate(RUNS, start=3):
            options = {
                "test": {"kwargs": {"path": str(data_file)}, "limit": number},
                "tracking": {"tracker": tracker, "project": project},
                "output_dir": tmp_path / name,
            }
            scores = run_evaluation(config(model_folder, data_file, tmp_path, **options)).scores
            expected[name] = {
                f"{row.system}/{row.metric}": row.value for row in scores.itertuples()
            }
    assert len({json.dumps(figures) for figures in expected.values()}) == len(RUNS)
    for project, name in RUNS:
        ((found, rows),) = records(tracker, tmp_path / name).items()
        assert found == (None if tracker == "tensorboard" else (project, name))
        told = {figure: value for row in rows for figure, value in row.items()}
        figures = {figure: told[figure] for figure in expected[name]}
        assert figures == pytest.approx(expected[name], nan_ok=True)
        assert len(rows) == (2 if tracker == "wandb" else 1)  # wandb's end is a row


@pytest.mark.parametrize("tracker", TRACKERS)
def test_a_run_that_is_cut_off_and_goes_on(tracker, tokenizer, data, tmp_path):
    def part(name, **options):
        chosen = {"tracker": tracker, "project": "course", "name": name}
        options = {"save_strategy": "steps", "save_steps": 2, "tracking": chosen, **options}
        return fit(tiny_model("llama"), tokenizer, data, tmp_path / name, **options)

    with nothing_lasts(), pytest.raises(Killed):
        part("first", callbacks=[StopAt(3)])
    ((_, figures),) = records(tracker, tmp_path / "first.partial").items()
    assert len(losses(figures)) == 3
    if tracker == "wandb":
        assert figures[-1] == {"exit": 1}  # so it is told as failed
    with nothing_lasts():
        part("second")
        run = part("first")
    ((key, figures),) = records(tracker, run.folder).items()
    assert key == (None if tracker == "tensorboard" else ("course", "first"))
    by_step = {
        row["train/global_step"]: row["train/loss"] for row in figures if "train/loss" in row
    }
    assert [by_step[step] for step in (1, 2, 3, 4)] == pytest.approx(run.history["loss"].tolist())
    assert len(losses(figures)) == 5  # the third step was done twice
    assert len(losses(*records(tracker, tmp_path / "second").values())) == 4


@pytest.mark.parametrize("tracker", TRACKERS)
def test_an_evaluation_after_training_leaves_nothing_open(tracker, tokenizer, data, tmp_path):
    with nothing_lasts():
        run = fit(
            tiny_model("llama"),
            tokenizer,
            data,
            tmp_path / "run",
            eval_data=data,
            eval_strategy="steps",
            eval_steps=2,
            load_best_model_at_end=True,
            tracking={"tracker": tracker},
        )
    assert not list(tmp_path.glob("*.partial"))
    ((_, figures),) = records(tracker, run.folder).items()
    evaluated = [row["eval/loss"] for row in figures if "eval/loss" in row]
    assert evaluated[-1] == pytest.approx(run.record["best"]["again"])


@pytest.mark.parametrize("tracker", ["wandb", "trackio"])
def test_the_first_use_of_a_tracker_leaves_nothing_of_the_run(tracker, unused, tmp_path):
    tracking.log_figures(tracking.Tracking(tracker=tracker), tmp_path / "run", {"score": 0.5})
    import trackio.utils
    import wandb

    assert records(tracker, tmp_path / "run")
    settings = wandb.setup().settings
    assert (settings.mode, settings.project, settings.silent) == ("online", None, False)
    folders = [
        Path(settings.root_dir),
        trackio.utils.TRACKIO_DIR,
        trackio.sqlite_storage.TRACKIO_DIR,
    ]
    assert not [folder for folder in folders if folder.is_relative_to(tmp_path)]


@pytest.mark.parametrize("tracker", TRACKERS)
def test_folders_that_the_user_set_win(tracker, tmp_path, monkeypatch):
    chosen = tracking.Tracking(tracker=tracker)
    tracking.log_figures(chosen, tmp_path / "before", {"score": 0.25})
    for name in ("TENSORBOARD_LOGGING_DIR", "WANDB_DIR", "TRACKIO_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "mine"))
    monkeypatch.setenv("WANDB_PROJECT", "my-project")
    with nothing_lasts():
        tracking.log_figures(chosen, tmp_path / "run", {"score": 0.5})
    assert not (tmp_path / "run").exists()
    ((key, figures),) = records(tracker, tmp_path / "mine").items()
    assert figures[0]["score"] == 0.5
    if tracker == "wandb":
        assert key[0] == "my-project"


def test_an_open_run_of_weights_and_biases_is_taken_over(tokenizer, data, tmp_path):
    import wandb

    mine = {"project": "mine", "name": "by hand", "dir": tmp_path / "mine"}
    chosen = {"tracker": "wandb"}
    with tracking._wandb_mode("offline"), wandb.init(**mine) as opened:
        with nothing_lasts():
            run = fit(tiny_model("llama"), tokenizer, data, tmp_path / "run", tracking=chosen)
        opened.log({"score": 0.5})
    assert not records("wandb", run.folder)
    ((key, figures),) = records("wandb", tmp_path / "mine").items()
    assert key == ("mine", "by hand")
    assert losses(figures) == pytest.approx(run.history["loss"].tolist())
    assert figures[-2]["score"] == 0.5 and figures[-1] == {"exit": 0}


def test_an_open_run_of_trackio_keeps_its_records(tmp_path):
    import trackio

    with tracking._trackio_patched(tmp_path / "mine"):
        trackio.init("mine", "by hand")
        trackio.log({"score": 0.25})
        tracking.log_figures(tracking.Tracking(tracker="trackio"), tmp_path / "run", {"score": 0.5})
    assert records("trackio", tmp_path / "mine") == {("mine", "by hand"): [{"score": 0.25}]}
    assert records("trackio", tmp_path / "run") == {("finetuning-lab", "run"): [{"score": 0.5}]}


@pytest.mark.parametrize("tracker", ["wandb", "trackio"])
def test_a_tracker_that_refuses(tracker, tokenizer, data, tmp_path, monkeypatch):
    chosen = {"tracker": tracker, "project": "registry-mine"}  # Trackio keeps such names to itself
    monkeypatch.setenv("WANDB_MODE", "sometimes")
    with nothing_lasts(), pytest.raises(TrackingError, match=f"{tracker} does not open the run"):
        fit(tiny_model("llama"), tokenizer, data, tmp_path / "run", tracking=chosen)
    assert not list(tmp_path.glob("run*"))


def test_a_tracker_that_is_broken(tmp_path, monkeypatch):
    def broken(name):
        raise ImportError(f"{name} lacks a part")

    monkeypatch.setattr(tracking.importlib, "import_module", broken)
    with pytest.raises(TrackingError, match="does not open the run: trackio lacks a part"):
        tracking.log_figures(tracking.Tracking(tracker="trackio"), tmp_path / "run", {"score": 1})


def test_trackio_starts_no_web_server_in_a_notebook(tokenizer, data, tmp_path, monkeypatch):
    import trackio

    monkeypatch.setattr(trackio.utils, "is_in_notebook", lambda: True)
    shown = []
    monkeypatch.setattr(trackio, "show", lambda *_, **options: shown.append(options))
    fit(tiny_model("llama"), tokenizer, data, tmp_path / "run", tracking={"tracker": "trackio"})
    assert not shown


def test_of_several_processes_the_first_one_tells(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with tracking.tracked(tracking.Tracking(tracker="wandb"), tmp_path / "run", "run") as tracker:
        tracker.log({"score": 0.5})
    assert not tracker.callbacks and not (tmp_path / "run").exists()
