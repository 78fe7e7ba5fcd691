"""Data preparation: from a source to a dataset on disk, whole or not at all, and never stale."""

import json
import resource
import signal
import subprocess
import sys
import time

import pytest
from datasets import Dataset, DatasetDict, load_dataset, load_from_disk

from tests.conftest import ROOT, ROWS, run_module
from utilities.dataprep import preparation, shards
from utilities.dataprep.preparation import _parts, prepare
from utilities.dataprep.prepared import Prepared, summary
from utilities.dataprep.settings import DataprepConfig, Split
from utilities.errors import DataError
from utilities.features.tokenization import IGNORE_INDEX, tokenize_rows
from utilities.models.loading import load_tokenizer
from utilities.prompts.base import PromptFormat
from utilities.prompts.built_in import QUESTION_ANSWER, get_format
from utilities.rows.sources import read_rows
from utilities.training.run import run_training
from utilities.training.settings import TrainingConfig


@pytest.fixture
def many_rows(tmp_path):
    path = tmp_path / "many.jsonl"
    rows = [
        {**row, "question": f"{n} {row['question']}", "kind": n % 4}
        for n in range(40)
        for row in ROWS
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def config(model_folder, many_rows, tmp_path):
    def make(**changes):
        values = {
            "source": str(many_rows),
            "base_model": str(model_folder),
            "max_length": 128,
            "writer": {"kwargs": {"dataset_path": str(tmp_path / "out")}},
            "rows_per_shard": 50,
            **changes,
        }
        return DataprepConfig(**values)

    return make


def test_the_dataset_is_what_tokenizing_all_rows_gives(config, many_rows):
    prepared = prepare(config())
    tokenizer = load_tokenizer(config().base_model)
    expected = tokenize_rows(read_rows(many_rows, QUESTION_ANSWER), QUESTION_ANSWER, tokenizer, 128)
    dataset = load_from_disk(str(prepared.folder))
    assert isinstance(dataset, Dataset) and dataset[:] == expected.features[:]
    assert prepared.examples().features[:] == expected.features[:]
    assert prepared.examples().counts == expected.counts
    assert prepared.record["counts"] | {"parts": 0} == {
        "read": 320,
        "bad": 0,
        "rows": 320,
        "parts": 0,
    }
    assert PromptFormat.load(prepared.folder) == QUESTION_ANSWER
    assert Prepared.open(prepared.folder) == prepared
    assert [path.name for path in prepared.folder.parent.glob("out*")] == ["out"]


def test_preparing_twice_gives_the_same_files(config, tmp_path):
    split = {"sizes": {"validation": 0.2}, "near_duplicates": None}
    contents = []
    for name in ("one", "two"):
        kwargs = {"dataset_path": str(tmp_path / name)}
        folder = prepare(config(split=split, writer={"kwargs": kwargs})).folder
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        contents.append({str(path.relative_to(folder)): path.read_bytes() for path in files})
    assert contents[0] == contents[1]
    assert {"dataset_dict.json", "train/state.json", "validation/state.json"} <= set(contents[0])
    arrow = [name for name in contents[0] if name.startswith("train/data-")]
    assert len(arrow) == 7 and "train/data-00006-of-00007.arrow" in arrow  # one file per shard


@pytest.mark.parametrize("num_proc", [1, 2])
def test_parquet_and_more_processes_give_the_same(config, num_proc, tmp_path):
    one = prepare(config())
    kwargs = {"dataset_path": str(tmp_path / "parquet")}
    two = prepare(config(writer={"method": "parquet", "kwargs": kwargs}, num_proc=num_proc))
    assert two.examples().features[:] == one.examples().features[:]
    assert two.record["counts"] == one.record["counts"]
    files = sorted(path.name for path in two.folder.glob("*.parquet"))
    assert files[0] == "train-00000-of-00007.parquet" and len(files) == 7
    loaded = load_dataset("parquet", data_files=str(two.folder / "*.parquet"), split="train")
    assert loaded[:] == one.examples().features[:]


def test_parts_are_disjoint_and_follow_the_split(config):
    split = {
        "sizes": {"validation": 0.2, "test": 40},
        "near_duplicates": None,
        "stratify_by": "kind",
    }
    prepared = prepare(config(split=split))
    assert prepared.parts == ["train", "validation", "test"]
    loaded = load_from_disk(str(prepared.folder))
    assert isinstance(loaded, DatasetDict)
    sizes = {name: len(part) for name, part in loaded.items()}
    assert sum(sizes.values()) == 320 and sizes["test"] == 40 and sizes["validation"] == 64
    texts = [set(part["full_text"]) for part in loaded.values()]
    assert sum(map(len, texts)) == len(set().union(*texts)) == 320
    assert {part: len(prepared.examples(part).features) for part in prepared.parts} == sizes
    with pytest.raises(DataError, match="no part 'tests', did you mean 'test'"):
        prepared.examples("tests")


def test_rewordings_stay_on_one_side(config, tmp_path):
    questions = ["what is an epoch", "What is an epoch?", "what, is, an epoch"]
    rows = [{"question": q + " " + w, "answer": "x"} for w in "abcdefghijklmnop" for q in questions]
    path = tmp_path / "rewordings.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    prepared = prepare(config(source=str(path), split={"sizes": {"test": 0.3}}))
    texts = [set(prepared.examples(part).features["full_text"]) for part in prepared.parts]
    last = [{text.split("\n")[1].split()[-1] for text in part} for part in texts]
    assert not last[0] & last[1]


def test_packed_shards_hold_every_example(config):
    plain = prepare(config()).examples()
    packed = prepare(config(packing="best_fit", packed_length=256, if_exists="overwrite"))
    features, counts = packed.examples()
    assert {len(ids) for ids in features["input_ids"]} == {256}
    assert counts["positions"] == 256 * counts["packed_rows"] == 256 * len(features)
    learned = sum(label != IGNORE_INDEX for row in features["labels"] for label in row)
    assert learned == plain.counts["supervised_tokens"]
    assert sum(row.count(0) for row in features["position_ids"]) >= 320
    assert f"{counts['tokens'] / counts['positions']:.1%} of positions used" in summary(
        packed, load_tokenizer(config().base_model)
    )
    padded = prepare(config(packing="pad", if_exists="overwrite")).examples().features
    assert {len(ids) for ids in padded["input_ids"]} == {128}


def test_nothing_stale_is_reused(config, many_rows):
    first = prepare(config())
    same = prepare(config(if_exists="reuse", num_proc=2))
    assert same.record == first.record
    with pytest.raises(DataError, match="exists already"):
        prepare(config())
    stamp = (first.folder / "dataprep.json").stat().st_mtime_ns
    changes = [
        {"max_length": 100},
        {"packing": "best_fit"},
        {"prompt_format": "plain"},
        {"source": {"kwargs": {"path": str(many_rows)}, "limit": 60}},
    ]
    seen = {first.record["fingerprint"]}
    for change in changes:
        seen.add(prepare(config(**change, if_exists="reuse")).record["fingerprint"])
    assert len(seen) == 1 + len(changes)
    many_rows.write_text(many_rows.read_text().replace("One pass", "A pass"))
    assert prepare(config(if_exists="reuse")).record["fingerprint"] not in seen
    assert (first.folder / "dataprep.json").stat().st_mtime_ns != stamp


@pytest.mark.parametrize("if_exists", ["refuse", "reuse", "overwrite"])
def test_a_folder_that_is_something_else_is_never_touched(config, tmp_path, if_exists):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match="is not a prepared dataset; it is left untouched"):
        prepare(config(if_exists=if_exists))
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["thesis.txt"]


def test_backups_beside_the_target_are_never_touched(config, tmp_path):
    for name in ("out.old", "out.partial"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match=r"out.partial holds thesis.txt, so it is left untouched"):
        prepare(config())
    (tmp_path / "out.partial").rename(tmp_path / "elsewhere")
    prepare(config())
    prepare(config(if_exists="overwrite"))
    assert (tmp_path / "out.old" / "thesis.txt").is_file()
    assert sorted(path.name for path in tmp_path.glob("*out*")) == ["out", "out.old"]


CHATS = [
    {
        "messages": [
            {"role": "system", "content": "You are a kind and patient helper of all who ask you."},
            {"role": "user", "content": f"question {n % 20}"},
            {"role": "assistant", "content": f"answer {n}"},
        ]
    }
    for n in range(40)
]
ALPACAS = [
    {"instruction": "Summarize.", "input": " ".join(f"w{n}{k}" for k in range(6)), "output": "s"}
    for n in range(40)
]


@pytest.mark.parametrize(("name", "rows", "groups"), [("chat", CHATS, 20), ("alpaca", ALPACAS, 40)])
def test_a_split_compares_what_is_asked(config, tmp_path, name, rows, groups):
    """Not the answers, nor a system prompt or an instruction that all rows share."""
    path = tmp_path / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    split = Split(sizes={"test": 0.3})
    prompt_format = get_format(name)
    parts = _parts(config(source=str(path)).source, split, prompt_format)
    asked: dict[str, set] = {"train": set(), "test": set()}
    for row, part in zip(rows, parts, strict=True):
        asked[part].add(prompt_format.request(row))
    assert not asked["train"] & asked["test"]
    assert len(asked["train"]) + len(asked["test"]) == groups
    assert 3 <= len(asked["test"]) <= 20


def test_a_source_that_changes_between_its_two_readings_is_told(config, many_rows, monkeypatch):
    parts = preparation._parts

    def change_after_the_first_reading(*arguments):
        found = parts(*arguments)
        many_rows.write_text(many_rows.read_text() + json.dumps(ROWS[0]) + "\n")
        return found

    monkeypatch.setattr(preparation, "_parts", change_after_the_first_reading)
    with pytest.raises(DataError, match="was changed while it was read"):
        prepare(config(split={"sizes": {"test": 0.3}}))


def test_a_damaged_dataset_is_told(config):
    prepared = prepare(config())
    next(prepared.folder.glob("*.arrow")).unlink()
    with pytest.raises(DataError, match="is damaged; prepare it anew"):
        prepared.examples()
    (prepared.folder / "dataprep.json").write_text("[]")
    with pytest.raises(DataError, match="is not a prepared dataset"):
        Prepared.open(prepared.folder)


def test_a_failed_run_leaves_what_was_there(config, many_rows, tmp_path):
    first = prepare(config())
    many_rows.write_text(many_rows.read_text() + '{"question": "?"}\n')
    with pytest.raises(DataError, match="line 321: lacks the column 'answer'"):
        prepare(config(if_exists="overwrite"))
    assert Prepared.open(tmp_path / "out") == first
    assert first.examples().counts["kept"] == 320


def write_config(tmp_path, many_rows, model_folder, **more):
    values = {
        "source": many_rows.name,
        "base_model": str(model_folder),
        "max_length": 128,
        "writer": {"kwargs": {"dataset_path": "out"}},
        "rows_per_shard": 4,
        **more,
    }
    path = tmp_path / "dataprep.yaml"
    path.write_text(json.dumps(values))  # JSON is YAML
    return path


def test_killed_at_any_moment_it_leaves_nothing_or_all_and_goes_on(
    config, many_rows, model_folder, tmp_path, clean_environment
):
    path = write_config(tmp_path, many_rows, model_folder)
    shards = tmp_path / "out.partial"
    finished: dict[str, int] = {}
    for wanted in (1, 30, 60):
        process = subprocess.Popen(
            [sys.executable, "-m", "utilities.dataprep", path],
            env=clean_environment,
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        while len(list(shards.glob("*/*.json"))) < wanted and process.poll() is None:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert process.returncode == -signal.SIGKILL, "it was done before it could be killed"
        assert not (tmp_path / "out").exists()
        for name, stamp in finished.items():  # what was done stays done
            assert (shards / name).stat().st_mtime_ns == stamp
        done = sorted(shards.glob("*/*.json"))
        assert len(done) >= wanted
        finished = {str(f.relative_to(shards)): f.stat().st_mtime_ns for f in done}
    done = run_module("utilities.dataprep", path, environment=clean_environment)
    assert done.returncode == 0, done.stderr
    resumed = Prepared.open(tmp_path / "out")
    whole = prepare(
        config(rows_per_shard=4, writer={"kwargs": {"dataset_path": str(tmp_path / "whole")}})
    )
    assert resumed.examples().features[:] == whole.examples().features[:]
    assert resumed.record["counts"] == whole.record["counts"]
    assert not shards.exists()


def test_killed_while_it_puts_the_shards_together(config, monkeypatch, tmp_path):

    class Killed(BaseException):
        pass

    def die(*_):
        raise Killed

    for step in ("replace_folder", "_save_to_disk"):
        with monkeypatch.context() as patch:
            patch.setattr(preparation, step, die)
            with pytest.raises(Killed):
                prepare(config())
        assert not (tmp_path / "out").exists() and (tmp_path / "out.partial").exists()
    with monkeypatch.context() as patch:
        patch.setattr(shards, "tokenize_rows", die)  # all shards are done already
        prepared = prepare(config())
    assert prepared.examples().counts["kept"] == 320


def test_the_remains_of_other_settings_are_not_used(config, tmp_path):
    remains = tmp_path / "out.partial" / "shards-of-another-run"
    remains.mkdir(parents=True)
    (remains / "00000.json").write_text("{}")
    assert prepare(config()).examples().counts["kept"] == 320
    assert not remains.exists()


def test_the_command_line_tells_every_stage_and_shows_examples(
    many_rows, model_folder, tmp_path, clean_environment
):
    path = write_config(tmp_path, many_rows, model_folder)
    done = run_module("utilities.dataprep", path, "source.limit=30", environment=clean_environment)
    assert "source" in done.stderr and done.returncode == 2  # a path alone has no further keys
    done = run_module("utilities.dataprep", path, "max_length=40", environment=clean_environment)
    assert done.returncode == 0, done.stderr
    assert "320 rows, 0 of them bad, 320 used" in done.stdout
    assert "prompt shortened" in done.stdout and "supervised tokens" in done.stdout
    assert done.stdout.count("--- row") == 3
    assert "[One pass over the rows.<|endoftext|>]" in done.stdout
    assert f"wrote:    {tmp_path / 'out'}" in done.stdout


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"max_length": 10}, "max_length is 10, too small for the prompt format question_answer"),
        ({"prompt_format": "chat"}, "has no chat template"),
        ({"prompt_format": "alpaca"}, None),
        ({"source": "nowhere.jsonl"}, "nowhere.jsonl: no such data file"),
        ({"split": {"sizes": {"test": 0.1}, "group_by": ["knd"]}}, "no column 'knd', did you mean"),
        ({"split": {"sizes": {"test": 400}}}, "leaves no rows for train"),
        ({"shorten": "drop", "max_length": 27}, "no row has anything to learn at max_length 27"),
    ],
)
def test_what_cannot_work_is_told_and_nothing_is_written(config, change, told, tmp_path):
    if told is None:
        assert prepare(config(**change)).examples().counts["kept"] == 320  # by convention
        return
    from utilities.errors import LabError

    with pytest.raises(LabError) as error:
        prepare(config(**change))
    assert told in str(error.value)
    assert not (tmp_path / "out").exists()


def test_all_rows_dropped_in_one_shard_is_no_error(config, many_rows, tmp_path):
    rows = [{"question": "q", "answer": "far too long " * 90}] * 50 + ROWS
    path = tmp_path / "long.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    counts = prepare(config(source=str(path))).examples().counts
    assert (counts["kept"], counts["dropped_too_long"]) == (8, 50)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"packed_length": 100}, "shorter than max_length"),
        ({"writer": {"kwargs": {"dataset_pth": "x"}}}, "did you mean 'dataset_path'"),
        ({"writer": {"method": "push_to_hub", "kwargs": {"dataset_path": "x"}}}, "needs repo_id"),
        ({"shorten": "prompt"}, "prompt_left"),
        ({"split": {"sizes": {}}}, "at least 1 item"),
        ({"split": {"sizes": {"test-a": 0.1}}}, "match pattern"),
        ({"split": {"sizes": {"train": 0.1}}}, "train is the rest and has no size"),
        ({"split": {"sizes": {"test": float("inf")}}}, "has the size inf"),
        ({"split": {"sizes": {"a": 0.5, "b": 0.5}}}, "leave nothing to train on"),
        ({"writer": {"kwargs": {"dataset_path": "s3://bucket/x"}}}, "a folder on this machine"),
        ({"writer": {"kwargs": {"dataset_path": None}}}, "a folder on this machine"),
    ],
)
def test_settings_that_cannot_work_are_told_at_once(config, fields, told):
    with pytest.raises(ValueError, match=told):
        config(**fields)


def test_a_target_that_cannot_be_written(config, many_rows):
    kwargs = {"dataset_path": str(many_rows / "below-a-file")}
    with pytest.raises(DataError, match=r"cannot write .*below-a-file"):
        prepare(config(writer={"kwargs": kwargs}))


@pytest.mark.skipif(sys.platform == "win32", reason="file size limits are of POSIX systems")
def test_a_full_disk_is_told_and_the_run_goes_on_later(
    many_rows, model_folder, tmp_path, clean_environment
):
    path = write_config(tmp_path, many_rows, model_folder, rows_per_shard=100)
    done = subprocess.run(
        [sys.executable, "-m", "utilities.dataprep", path],
        env=clean_environment,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000)),
    )
    assert done.returncode == 2, done.stderr
    assert f"error: cannot write {tmp_path / 'out'}" in done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "out").exists()
    assert run_module("utilities.dataprep", path, environment=clean_environment).returncode == 0


HUB_SOURCE = {"method": "load_dataset", "kwargs": {"path": "school/questions", "split": "train"}}


def test_a_dataset_on_the_hub_is_fetched_cached_and_pushed(
    hub, model_folder, tmp_path, clean_environment, many_rows
):
    environment = clean_environment | {"HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_test"}
    kwargs = {"dataset_path": "out", "repo_id": "school/prepared", "private": True}
    path = write_config(
        tmp_path,
        many_rows,
        model_folder,
        source=HUB_SOURCE,
        writer={"method": "push_to_hub", "kwargs": kwargs},
        if_exists="reuse",
    )
    done = run_module("utilities.dataprep", path, environment=environment)
    assert done.returncode == 0, done.stderr
    (pushed,) = hub.inbox.glob("data/*.parquet")
    expected = Prepared.open(tmp_path / "out").examples().features
    assert Dataset.from_parquet(str(pushed))[:] == expected[:] and len(expected) == len(ROWS)

    hub.mode = "error"  # now the cache must do, and pushing fails without losing anything
    done = run_module("utilities.dataprep", path, environment=environment)
    assert done.returncode == 2
    assert "could not be pushed" in done.stderr and "The dataset is complete in" in done.stderr
    assert Prepared.open(tmp_path / "out").examples().features[:] == expected[:]


@pytest.mark.parametrize(
    ("mode", "name", "told"),
    [
        ("ok", "school/question", "the hub does not have it"),
        ("gated", "school/questions", "the hub wants a login for it"),
        ("hang", "school/questions", "the hub gave no answer within 3 seconds"),
    ],
)
def test_a_dataset_that_cannot_be_had(
    hub, mode, name, told, model_folder, tmp_path, clean_environment, many_rows
):
    source = {"method": "load_dataset", "kwargs": {"path": name, "split": "train"}}
    path = write_config(tmp_path, many_rows, model_folder, source=source)
    hub.mode = mode
    start = time.monotonic()
    environment = clean_environment | {"HF_ENDPOINT": hub.url}
    done = run_module("utilities.dataprep", path, environment=environment)
    assert done.returncode == 2 and time.monotonic() - start < 30
    assert f"error: dataset {name} is not available: {told}" in done.stderr
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("packing", ["none", "best_fit"])
def test_training_takes_a_prepared_dataset(config, tmp_path, model_folder, packing):
    prepared = prepare(config(packing=packing, split={"sizes": {"validation": 40}}))
    run = run_training(
        TrainingConfig(
            base_model=str(model_folder),
            prepared=prepared.folder,
            output_dir=tmp_path / "run",
            precision="fp32",
            training_arguments={"max_steps": 2, "disable_tqdm": True},
        )
    )
    assert run.record["data"]["train"]["kept"] == prepared.examples().counts["kept"]
    assert run.history["eval_loss"].notna().any()
    assert PromptFormat.load(run.folder) == QUESTION_ANSWER


def test_a_dataset_made_for_another_tokenizer_is_refused(config, tokenizer):
    from copy import deepcopy

    prepared = prepare(config())
    prepared.check_tokenizer(load_tokenizer(config().base_model))
    other = deepcopy(tokenizer)
    other.add_tokens(["fine-tuning"])
    with pytest.raises(DataError, match="was prepared with the tokenizer of pythia-tiny"):
        prepared.check_tokenizer(other)


def test_a_folder_that_is_no_prepared_dataset(tmp_path):
    with pytest.raises(DataError, match="is not a prepared dataset"):
        Prepared.open(tmp_path)


LAMINI = ROOT.parent / "shared" / "data" / "lamini_docs.jsonl"
PYTHIA = ROOT.parent / "shared" / "data" / "pythia-70m"


@pytest.mark.skipif(not LAMINI.is_file(), reason="the original course's rows are not here")
def test_real_rows_fill_packed_rows_to_98_percent(tmp_path):
    from transformers import AutoTokenizer

    from utilities.features.packing import pack
    from utilities.rows.sources import Source

    tokenizer = AutoTokenizer.from_pretrained(PYTHIA)
    source = Source(kwargs={"path": str(LAMINI)}, on_bad_rows="skip")
    rows = read_rows(source, QUESTION_ANSWER)
    features, counts = tokenize_rows(rows, QUESTION_ANSWER, tokenizer, 512)
    packed = pack(features, 2048, 1)
    assert counts["tokens"] / (2048 * len(packed)) > 0.98
