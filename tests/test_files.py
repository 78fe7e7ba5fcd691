"""Results on disk: whole or not at all, and what happens when one exists."""

import json
import os
from dataclasses import dataclass

import pytest

from utilities import files
from utilities.errors import DataError, TrainingError
from utilities.files import (
    ResultKind,
    atomic_folder,
    atomic_write,
    cache_folder,
    fingerprint_of,
    is_in_the_way,
    replace_folder,
    versions,
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


class Killed(BaseException):
    """As an interruption comes: no `except Exception` sees it."""


def test_a_file_appears_at_the_end_of_the_block(tmp_path):
    path = tmp_path / "scores.json"
    with atomic_write(path) as partial:
        partial.write_text("new")
        assert not path.exists() and partial.parent == tmp_path
    assert path.read_text() == "new" and names(tmp_path) == ["scores.json"]


@pytest.mark.parametrize("error", [ValueError, Killed])
def test_a_write_that_fails_half_way_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "scores.json"
    path.write_text("old")
    with pytest.raises(error), atomic_write(path) as partial:
        partial.write_text("half")
        raise error
    assert path.read_text() == "old" and names(tmp_path) == ["scores.json"]
    with pytest.raises(error), atomic_write(tmp_path / "first.json"):
        raise error  # before anything was written
    assert names(tmp_path) == ["scores.json"]


def test_what_a_killed_write_left_is_replaced(tmp_path):
    path = tmp_path / "scores.json"
    (tmp_path / "scores.json.partial").write_text("half of something much longer")
    with atomic_write(path) as partial:
        partial.write_text("new")
    assert path.read_text() == "new" and names(tmp_path) == ["scores.json"]


def test_the_bytes_reach_the_disk_before_the_name(tmp_path, monkeypatch):
    steps = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(files.os, "fsync", lambda file: (steps.append("fsync"), fsync(file)))
    monkeypatch.setattr(files.os, "replace", lambda *two: (steps.append("replace"), replace(*two)))
    with atomic_write(tmp_path / "scores.json") as partial:
        partial.write_text("new")
        assert steps == []
    assert steps == ["fsync", "replace"]


def test_a_folder_appears_as_a_whole(tmp_path):
    folder = tmp_path / "models" / "tuned"
    with atomic_folder(folder) as partial:
        (partial / "weights").write_text("w")
        assert not folder.exists() and partial.name == "tuned.partial"
    assert names(folder) == ["weights"] and names(folder.parent) == ["tuned"]
    with atomic_folder(folder) as partial:
        (partial / "other").write_text("w")
    assert names(folder) == ["other"] and names(folder.parent) == ["tuned"]


@pytest.mark.parametrize("error", [ValueError, Killed])
def test_a_folder_that_fails_half_way_leaves_the_old_one(tmp_path, error):
    folder = tmp_path / "tuned"
    folder.mkdir()
    (folder / "weights").write_text("old")
    with pytest.raises(error), atomic_folder(folder) as partial:
        (partial / "weights").write_text("half")
        raise error
    assert (folder / "weights").read_text() == "old" and names(tmp_path) == ["tuned"]


def test_what_a_killed_process_left_is_not_in_the_new_folder(tmp_path):
    leftover = tmp_path / "tuned.partial" / "checkpoints"
    leftover.mkdir(parents=True)
    with atomic_folder(tmp_path / "tuned") as partial:
        (partial / "weights").write_text("w")
    assert names(tmp_path / "tuned") == ["weights"] and names(tmp_path) == ["tuned"]


def test_killed_between_the_renames_the_old_folder_is_still_there(tmp_path, monkeypatch):
    new, folder = tmp_path / "new", tmp_path / "run"
    for each in (new, folder):
        each.mkdir()
        (each / "weights").write_text(each.name)
    rename, done = type(new).rename, []

    def die_at_the_second(path, target):
        if done:
            raise Killed
        done.append(target)
        return rename(path, target)

    monkeypatch.setattr(type(new), "rename", die_at_the_second)
    with pytest.raises(Killed):
        replace_folder(new, folder)
    assert {path.read_text() for path in tmp_path.rglob("weights")} == {"new", "run"}


@dataclass
class Result:
    record: dict

    @classmethod
    def load(cls, folder):
        return cls(json.loads((folder / "run.json").read_text()))


RUN = ResultKind("run folder", "run.json", "output_dir", TrainingError)
DATASET = ResultKind("prepared dataset", "dataprep.json", "dataset_path", DataError)


def finished(folder, fingerprint="a"):
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps({"fingerprint": fingerprint}))
    return folder


def test_refuse(tmp_path):
    RUN.check_writable(tmp_path / "new", "refuse")
    folder = finished(tmp_path / "run")
    with pytest.raises(TrainingError, match="run exists already; choose another output_dir, or se"):
        RUN.check_writable(folder, "refuse")
    with pytest.raises(DataError, match="another dataset_path, or set if_exists to `reuse` or `ov"):
        (folder / "dataprep.json").write_text("{}")
        DATASET.check_writable(folder, "refuse")
    assert RUN.reusable(folder, "refuse", "a", Result.load) is None


def test_reuse(tmp_path):
    folder = finished(tmp_path / "run")
    RUN.check_writable(folder, "reuse")
    assert RUN.reusable(folder, "reuse", "a", Result.load) == Result({"fingerprint": "a"})
    assert RUN.reusable(folder, "reuse", "b", Result.load) is None
    assert RUN.reusable(tmp_path / "new", "reuse", "a", Result.load) is None


def test_overwrite(tmp_path):
    folder = finished(tmp_path / "run")
    RUN.check_writable(folder, "overwrite")
    assert RUN.reusable(folder, "overwrite", "a", Result.load) is None


@pytest.mark.parametrize("if_exists", ["refuse", "reuse", "overwrite"])
def test_what_is_not_a_result_is_never_written_over(tmp_path, if_exists):
    folder, file, empty = tmp_path / "thesis", tmp_path / "file", tmp_path / "empty"
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    file.write_text("")
    for taken in (folder, file):
        with pytest.raises(DataError, match="is not a prepared dataset; it is left untouched"):
            DATASET.check_writable(taken, if_exists)
    empty.mkdir()
    assert is_in_the_way(folder, "run.json") and not is_in_the_way(empty, "run.json")
    if if_exists != "refuse":
        DATASET.check_writable(empty, if_exists)


def test_a_fingerprint_is_of_the_content_alone():
    assert fingerprint_of({"a": 1, "b": (1, 2)}) == fingerprint_of({"b": [1, 2], "a": 1})
    assert fingerprint_of({"a": 1}) != fingerprint_of({"a": 2})
    assert fingerprint_of({"a": 1}) == "f9d86028c6e0d64e"  # what was made before stays reusable


def test_versions_and_the_cache_folder(tmp_path, monkeypatch):
    assert {"python", "torch", "transformers", "datasets"} <= set(versions())
    monkeypatch.setenv("FINETUNING_LAB_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("FINETUNING_LAB_CACHE")
    assert cache_folder().name == "finetuning-lab"
