"""Each notebook alone: an empty folder, the installed wheel, and a model hub with a GPT-NeoX.

No cell may need the repository, another notebook, or one model's answers and tokens.
"""

import shutil
import site
import subprocess
import sys
import zipfile

import pytest

from tests.conftest import ROOT

PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))
EXECUTE = """
import sys
import nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(notebook, timeout=300, extra_arguments=["--log-level=40"]).execute()
"""


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    program = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="session")
def fresh_python(wheel, tmp_path_factory):
    """A new environment with the wheel; what the wheel depends on is lent from this one."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    ask = "import site; print(site.getsitepackages()[0])"
    packages = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True)
    zipfile.ZipFile(wheel).extractall(packages.stdout.strip())
    # A path is lent as it is: the editable install that stands there has no say.
    with open(f"{packages.stdout.strip()}/lent.pth", "w", encoding="utf-8") as lent:
        lent.write("\n".join(site.getsitepackages()))
    return python


def test_the_wheel_holds_package_data_and_configs(wheel, fresh_python, tmp_path):
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder, inside in (("data", "data"), ("configs", "configs"), ("utilities", "")):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                place = "/".join(("utilities", inside, *path.relative_to(ROOT / folder).parts))
                assert place.replace("//", "/") in names
    ask = "import utilities; print(utilities.__file__)"
    found = subprocess.run(
        [fresh_python, "-c", ask], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert str(ROOT) not in found.stdout


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_notebook_runs_alone(path, fresh_python, hub, tmp_path, clean_environment):
    folder = tmp_path / "empty"
    folder.mkdir()
    shutil.copy(path, folder)
    done = subprocess.run(
        [fresh_python, "-c", EXECUTE, path.name],
        env=clean_environment | {"HF_ENDPOINT": hub.url, "COURSE_PROFILE": "ci"},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert any("resolve" in request for request in hub.requests), "the model was not fetched"
