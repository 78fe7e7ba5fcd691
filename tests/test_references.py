"""References in docstrings, comments and texts name modules, classes and functions that exist."""

import ast
import builtins
import importlib
import importlib.util
import json
import re
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.test_structure import MODULES

# `module.name`, `Class.method(…)`: the dotted name at the beginning of a text in backticks.
IN_BACKTICKS = re.compile(r"`([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+)[^`]*`")
OF_THE_PACKAGE = re.compile(r"\butilities(?!\.NAME\b)(?:\.[A-Za-z_]\w*(?![\w{]))+")
IMPORTED = re.compile(r"^\s*from (utilities[\w.]*) import (\w+(?:, \w+)*)$", re.MULTILINE)
A_FILE = re.compile(r"\.(?:css|csv|html|jinja|jsonl?|log|md|parquet|partial|png|pyi?|toml|yaml)$")
# `training` and `metrics` are enough to name a package or module of ours.
BY_SHORT_NAME: dict[str, list[str]] = {}
for _module in MODULES:
    BY_SHORT_NAME.setdefault(_module.split(".")[-1], []).append(_module)
# `Prepared` and `QUESTION_ANSWER` are enough to name a class or a constant of ours.
TOP_LEVEL: dict[str, list[str]] = {}
for _module, _path in MODULES.items():
    for _node in ast.parse(_path.read_text(encoding="utf-8")).body:
        match _node:
            case ast.ClassDef(name=_name) | ast.Assign(targets=[ast.Name(id=_name)]):
                TOP_LEVEL.setdefault(_name, []).append(f"{_module}.{_name}")
TEXTS = sorted(
    path
    for pattern in ("*.md", "*.py", "*.toml", "Makefile", "benchmarks/*", "configs/**/*.yaml")
    for path in ROOT.glob(pattern)
) + sorted(
    path
    for folder in ("data", "doc-data", "notebooks", "tests", "utilities")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in {".py", ".pyi", ".md", ".ipynb"}
)


@cache
def resolves(name: str) -> bool:
    """Say whether a dotted name from `utilities` on is a module, or something in one."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        module = ".".join(parts[:end])
        if module in MODULES or module == "utilities":
            return has_member(importlib.import_module(module), parts[end:])
    return False


def has_member(thing: object, parts: list[str]) -> bool:
    """Say whether an attribute of an attribute … exists; fields need no default."""
    for part in parts:
        owner = thing if isinstance(thing, type) else type(thing)
        fields = getattr(owner, "model_fields", None) or getattr(owner, "__annotations__", {})
        if hasattr(thing, part):
            thing = getattr(thing, part)
        else:
            return part in fields
    return True


def exists(reference: str, names: set[str], module: str) -> bool:
    """Say whether a reference of a module's docstring exists.

    It may begin with a name of the module, with a module, class or constant of ours by its short
    name, with a name that the documented function has, or with a library.
    """
    first, *rest = reference.split(".")
    if first == "utilities":
        return resolves(reference)
    if has_member(importlib.import_module(module), [first]):
        return has_member(importlib.import_module(module), [first, *rest])
    if first in BY_SHORT_NAME:
        return any(resolves(".".join([full, *rest])) for full in BY_SHORT_NAME[first])
    if first in TOP_LEVEL:
        return any(resolves(".".join([full, *rest])) for full in TOP_LEVEL[first])
    if first in names or hasattr(builtins, first):
        return True
    return importlib.util.find_spec(first) is not None


def docstrings(path: Path):
    """Yield (line, text, names) of docstrings, attributes' included, with the names around them."""
    tree = ast.parse(path.read_text(encoding="utf-8"))

    def visit(node: ast.AST, names: set[str]):
        for child in ast.iter_child_nodes(node):
            inner = set(names)
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                inner |= {n.arg for n in ast.walk(child) if isinstance(n, ast.arg)}
                inner |= {n.id for n in ast.walk(child) if isinstance(n, ast.Name)}
            match child:
                case ast.Expr(value=ast.Constant(value=str(text))):
                    yield child.lineno, text, names
            yield from visit(child, inner)

    yield from visit(tree, set())


@pytest.mark.parametrize("module", MODULES)
def test_references_of_docstrings_exist(module):
    for line, text, names in docstrings(MODULES[module]):
        for reference in IN_BACKTICKS.findall(text):
            if not A_FILE.search(reference):
                assert exists(reference, names, module), f"{module}, line {line}: {reference}"


def test_names_of_the_package_exist():
    assert len(TEXTS) > 150
    wrong = []
    # This file names what must not resolve, and the change log what has gone.
    for path in sorted({*TEXTS} - {Path(__file__), ROOT / "CHANGELOG.md"}):
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".ipynb":
            cells = json.loads(text)["cells"]
            text = "\n".join("".join(cell["source"]) for cell in cells)
        names = OF_THE_PACKAGE.findall(text)
        for module, imported in IMPORTED.findall(text):
            names += [f"{module}.{name}" for name in imported.split(", ")]
        for name in names:
            if not A_FILE.search(name) and not resolves(name):
                wrong.append(f"{path.relative_to(ROOT)}: {name}")
    assert not wrong, "\n".join(wrong)


def test_a_reference_to_nothing_is_noticed():
    assert exists("utilities.rows.readers.read_files", set(), "utilities.rows.sources")
    assert exists("readers.read_files", set(), "utilities.rows.sources")
    assert exists("Source.kwargs", set(), "utilities.rows.sources")
    assert exists("datasets.load_dataset", set(), "utilities.rows.sources")
    assert exists("row.columns", {"row"}, "utilities.rows.sources")
    assert not exists("utilities.readers.read_files", set(), "utilities.rows.sources")
    assert not exists("readers.read_all", set(), "utilities.rows.sources")
    assert not exists("errors.refusals", set(), "utilities.rows.sources")
    assert not exists("losses.sums", set(), "utilities.rows.sources")
    assert not exists("Source.keywords", set(), "utilities.rows.sources")
    assert not exists("Prepared.sample", set(), "utilities.rows.sources")
    assert resolves("utilities.train") and not resolves("utilities.judging")
