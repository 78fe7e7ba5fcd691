import pytest

from utilities.training import checkpoints


@pytest.fixture
def checkpoint(tmp_path):
    folder = tmp_path / "checkpoint-10"
    (folder / "deep").mkdir(parents=True)
    (folder / "weights").write_bytes(bytes(range(256)) * 100)
    (folder / "deep" / "state").write_text("ten")
    checkpoints.seal(folder)
    return folder


def test_whole(checkpoint):
    assert checkpoints.fault_of(checkpoint) is None


def test_what_is_wrong_is_named(checkpoint):
    (checkpoint / "deep" / "state").write_text("tem")
    assert checkpoints.fault_of(checkpoint) == "deep/state is damaged"
    (checkpoint / "deep" / "state").unlink()
    assert checkpoints.fault_of(checkpoint) == "deep/state is missing"
    (checkpoint / checkpoints.SEAL).write_text("{")
    assert "cannot be read" in checkpoints.fault_of(checkpoint)
    (checkpoint / checkpoints.SEAL).unlink()
    assert checkpoints.fault_of(checkpoint) == "it was not finished"


def test_the_newest_is_that_of_the_most_steps(checkpoint, tmp_path, caplog):
    for name in ("checkpoint-9", "checkpoint-100", "checkpoint-best", "other"):
        (tmp_path / name).mkdir()
    names = [path.name for path in checkpoints.of_run(tmp_path)]
    assert names == ["checkpoint-100", "checkpoint-10", "checkpoint-9"]
    assert checkpoints.newest_complete(tmp_path) == checkpoint
    assert "checkpoint-100 is not used: it was not finished" in caplog.text
    assert checkpoints.newest_complete(tmp_path / "other") is None
