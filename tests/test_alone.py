"""The notebooks run on a GPT-NeoX too: no cell may assume one model's answers or tokens."""

import subprocess
import sys

import pytest

from tests.conftest import ROOT

PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_notebook_runs_on_the_model_of_a_stand_in_hub(path, hub, tmp_path, clean_environment):
    copy = tmp_path / path.name
    copy.write_bytes(path.read_bytes())
    settings = {"HF_ENDPOINT": hub.url, "COURSE_PROFILE": "ci"}
    program = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--nbmake"]
    done = subprocess.run(
        [*program, f"--rootdir={tmp_path}", str(copy)],
        env=clean_environment | settings,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert any("resolve" in request for request in hub.requests), "the model was not fetched"
