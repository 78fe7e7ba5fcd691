"""The first cell: it installs what Colab lacks, and leaves alone what Colab has loaded."""

import subprocess
import sys
import tomllib
import types
from importlib import metadata
from pathlib import Path

import nbformat
import pytest
from packaging.requirements import Requirement

from tests.conftest import ROOT
from utilities import colab

NOTEBOOKS = sorted((ROOT / "notebooks").rglob("*.ipynb"))
REQUIREMENTS = [
    "torch>=2.11",
    "numpy>=1.26",
    "pandas>=2.2",
    "transformers<5.40,>=5.23",
    "rouge-score>=0.1.2",
    "datasets>=4.0",
    'lm-eval[hf]<0.5,>=0.4.13; extra == "benchmark"',
    'jupyterlab>=4.3; extra == "lab"',
]
COLAB = {"torch": "2.12.0", "numpy": "2.0.2", "pandas": "2.2.2", "datasets": "3.1.0"}


@pytest.fixture
def pip(monkeypatch):
    """The commands that would have been run, with what stood in their constraints."""
    commands = []

    def run(command, check):
        assert check
        place = command.index("-c") + 1 if "-c" in command else None
        commands.append((command, Path(command[place]).read_text() if place else ""))

    monkeypatch.setattr(subprocess, "run", run)
    return commands


@pytest.fixture
def colab_with(monkeypatch):
    def set_versions(**versions):
        have = COLAB | versions
        monkeypatch.setattr(colab, "version_of", have.get)
        monkeypatch.setattr(colab.lacking, "__defaults__", (have.get,))
        monkeypatch.setattr(metadata, "requires", lambda name: REQUIREMENTS)

    return set_versions


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_it_is_the_same_in_all_notebooks(path):
    first = next(c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code")
    assert first.source == colab.first_cell()


def test_the_address_stands_in_one_place():
    address = 'REPOSITORY = "https://'
    assert address in colab.first_cell()
    told = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (line,) = [line for line in told.splitlines() if line.startswith("Repository = ")]
    assert line.split('"')[1] in colab.first_cell()


def test_elsewhere_it_does_nothing(pip):
    exec(colab.first_cell(), {})
    assert not pip


def test_in_colab_it_installs_the_package_and_what_is_lacking(pip, colab_with, monkeypatch):
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    colab_with(transformers="5.23.0")
    exec(colab.first_cell(), {})
    (package, _), (rest, pins) = pip
    assert "--no-deps" in package and package[-1].startswith("git+https://")
    assert rest[-3:] == ["rouge-score>=0.1.2", "datasets>=4.0", "lm-eval[hf]<0.5,>=0.4.13"]
    assert pins.split() == [
        "torch==2.12.0",
        "numpy==2.0.2",
        "pandas==2.2.2",
        "transformers==5.23.0",
    ]


def test_when_all_is_there_nothing_is_installed(pip, colab_with, capsys):
    have = {"rouge-score": "0.1.2", "datasets": "4.1.0", "lm-eval": "0.4.13"}
    colab_with(transformers="5.23.0", **have)
    colab.install_requirements()
    assert not pip and not capsys.readouterr().out


@pytest.mark.parametrize("version", ["4.57.1", "5.22.0"])
def test_only_what_is_too_old_is_exchanged_and_a_restart_asked_for(
    pip, colab_with, capsys, version
):
    colab_with(transformers=version)
    colab.install_requirements()
    ((command, pins),) = pip
    assert command[-1] == "transformers<5.40,>=5.23"
    assert "transformers" not in pins and "torch==2.12.0" in pins
    told = capsys.readouterr().out
    assert "transformers was too old" in told and "Restart the session" in told


def test_the_requirements_above_are_the_project_s():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"], *project["optional-dependencies"]["benchmark"]]
    stated = {found.name: found.specifier for found in map(Requirement, lines)}
    assumed = [Requirement(line) for line in REQUIREMENTS if "jupyterlab" not in line]
    assert {found.name: found.specifier for found in assumed}.items() <= stated.items()


def test_the_real_requirements_hold_here():
    assert colab.lacking(metadata.requires(colab.PACKAGE)) == ([], [])
