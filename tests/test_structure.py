"""The order of the package: who may import whom, and how large anything may get."""

import ast
import subprocess
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.test_run_page import make_run

PACKAGE = ROOT / "utilities"
FILES = sorted(PACKAGE.rglob("*.py"))
# From the top to the ground: a room imports from lower floors only.
FLOORS = [
    {"__main__", "runner"},
    {"audit", "benchmark", "checks", "evaluation", "training"},
    {"scores"},
    {"dataprep", "inference"},
    {"commands", "features"},
    {"planning", "rows"},
    {"models", "prompts", "tracking"},
    {"config"},
    {"colab", "devices", "files", "hub", "notebook", "pages", "plots", "upstream"},
    {"errors"},
]
FLOOR = {room: number for number, floor in enumerate(FLOORS) for room in floor}
LINES_OF_A_MODULE, LINES_OF_A_FUNCTION = 450, 60


def name_of(path: Path) -> str:
    """Return the dotted name of a module; a package's is that of its folder."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str | None:
    """Return the package or single module right under `utilities` that a module belongs to."""
    return module.split(".")[1] if "." in module else None


MODULES = {name_of(path): path for path in FILES}


@cache
def imports_of(path: Path) -> frozenset[str]:
    """Return the modules that a file imports anywhere, also inside functions and for types."""
    found = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: imports are written in full"
            # What is imported may be a module itself, or a name in one.
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else node.module for name in names]
        else:
            continue
        found |= {name for name in names if name.split(".")[0] == "utilities"}
    return frozenset(found)


def test_the_package_is_looked_through():
    assert len(FILES) > 70
    assert {room_of(name) for name in MODULES} - {None} == set(FLOOR)
    assert room_of("utilities.training.run") == "training"
    assert "utilities.scores.metrics" in imports_of(PACKAGE / "training" / "callbacks.py")


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down(module):
    own = room_of(module)
    for target in imports_of(MODULES[module]):
        room = room_of(target)
        assert room is not None, f"{module} imports the face of the whole package"
        if room != own and own is not None:
            assert FLOOR[own] < FLOOR[room], f"{module} imports {target}, which stands above it"


def test_no_module_imports_itself_in_a_circle():
    graph = {name: imports_of(path) - {name} for name, path in MODULES.items()}
    # A package's face is loaded with each of its modules, and imports them: that is no circle.
    faces = {name for name, path in MODULES.items() if path.name == "__init__.py"}
    inner = {name: targets - faces for name, targets in graph.items() if name not in faces}
    try:
        tuple(TopologicalSorter(inner).static_order())
    except CycleError as error:
        pytest.fail(" → ".join(error.args[1]))


def test_no_name_of_a_face_is_a_module_of_its_package():
    """Python would put the module in place of the name as soon as the module is loaded."""
    for stub in PACKAGE.rglob("__init__.pyi"):
        tree = ast.parse(stub.read_text(encoding="utf-8"))
        names = {
            a.name for n in tree.body if isinstance(n, ast.ImportFrom) and n.module for a in n.names
        }
        assert names, stub
        modules = {path.stem for path in stub.parent.iterdir() if path.suffix == ".py"}
        modules |= {path.name for path in stub.parent.iterdir() if path.is_dir()}
        assert not names & modules, stub


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_nothing_is_too_long(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LINES_OF_A_MODULE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = node.end_lineno - node.lineno + 1
            assert length <= LINES_OF_A_FUNCTION, f"{node.name} has {length} lines"


def loaded_by(program: str) -> set[str]:
    """Return which heavy libraries a program loads."""
    heavy = "{'torch', 'transformers', 'datasets', 'peft', 'lm_eval'}"
    program += f"\nimport sys; print(*sorted({heavy} & set(sys.modules)))"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


LIGHT = """
import utilities
from utilities import devices, errors, files, hub, notebook, plots, tracking
from utilities.config import bundled, course_profile, load_config
from utilities.pages import charts, html
from utilities.planning import plan, ModelShape
from utilities.prompts import QUESTION_ANSWER, PromptFormat
from utilities.rows import read_rows, split_rows
from utilities.scores import bootstrap, compare, error_counts, mcnemar, prediction_table, score
plan("pythia-70m", {"rows": 10, "tokens": 100, "supervised_tokens": 50})
"""


PAGE_OF_A_RUN = """
from utilities.training import Run, write_dashboard
write_dashboard(Run.load({folder!r}))
"""


def test_light_packages_load_no_torch():
    assert loaded_by(LIGHT) == set()
    assert "torch" in loaded_by("from utilities import train; train")


def test_reading_and_drawing_a_run_folder_loads_no_torch(tmp_path):
    run = make_run(tmp_path / "run")
    assert loaded_by(PAGE_OF_A_RUN.format(folder=str(run.folder))) == set()
    assert (run.folder / "dashboard.html").is_file()
