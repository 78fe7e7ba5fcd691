"""The rules that every notebook keeps; running them is `pytest --nbmake notebooks`."""

import ast
import re
import statistics
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from tests.conftest import ROOT

PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SOLUTIONS = sorted((ROOT / "notebooks" / "solutions").glob("*.ipynb"))
COURSE = [
    "01_why_finetune",
    "02_where_finetuning_fits_in",
    "03_instruction_tuning",
    "04_data_preparation",
    "05_training",
    "06_evaluation",
    "07_error_analysis",
    "08_choosing_model_and_method",
    "09_dialogue_summaries",
    "10_arc_benchmark",
]
MAX_LINES, MEDIAN_LINES, MAX_COLUMNS, MAX_IN_A_ROW = 25, 7, 88, 3
FORBIDDEN = {
    "a star import": r"^\s*from \S+ import \*",
    "a shell command": r"^\s*[!%]",
    "silenced warnings": r"filterwarnings\(.ignore",
    "an absolute path": r"""["'](/(home|root|Users|content|work|tmp)/|[A-Z]:\\)""",
    "a swallowed exception": r"except[^\n]*:\s*(pass|continue)\b|except:",
    "a secret": r"\b(hf|sk|ghp)_[A-Za-z0-9]{16,}",
}
FILLERS = r"\b(simply|just|obviously|of course|easy as|blazing)\b"


def read(path):
    return nbformat.read(path, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def lines_of(cell):
    return [line for line in cell.source.splitlines() if line.strip()]


def section(text, heading):
    """Return the bullet points under a line that starts with a heading."""
    after = text.split(heading, 1)[1].split("\n**", 1)[0].split("\nNext", 1)[0]
    bullets = re.findall(r"^- (.+(?:\n  .+)*)", after, flags=re.MULTILINE)
    return [re.sub(r"\s+", " ", bullet) for bullet in bullets]


def name_of(path):
    return path.stem if path in PATHS else f"solutions-{path.stem}"


@pytest.fixture(params=[*PATHS, *SOLUTIONS], ids=name_of)
def path(request):
    return request.param


@pytest.fixture
def notebook(path):
    return read(path)


@pytest.fixture(params=PATHS, ids=name_of)
def lesson(request):
    return read(request.param)


def test_the_course_is_whole():
    assert [path.stem for path in PATHS] == COURSE
    assert [path.stem for path in SOLUTIONS] == COURSE


def test_frame(lesson):
    text = "\n".join(c.source for c in lesson.cells if c.cell_type == "markdown")
    assert len(re.findall(r"^# ", text, flags=re.MULTILINE)) == 1
    first, last = lesson.cells[0].source, lesson.cells[-1].source
    assert first.startswith("# ")
    assert re.search(r"\*\*Needs:\*\* about \d+ minutes? and \d+ GB of memory", first)
    assert "## Settings" in text
    goals = section(first, "**You will be able to**")
    assert len(goals) >= 3
    assert section(last, "## You can now") == goals
    assert "**Words from this notebook.**" in last


@pytest.mark.parametrize("place", range(len(PATHS)))
def test_each_notebook_leads_to_the_next(place):
    last = read(PATHS[place]).cells[-1].source
    target, *_ = re.findall(r"^Next\b[^\[]*\[[^\]]*\]\(([^)]+)\)", last, flags=re.MULTILINE)
    following = PATHS[place + 1].name if place + 1 < len(PATHS) else "../README.md"
    assert target == following, "the first link after Next"


def test_the_learner_predicts_before_she_sees(lesson):
    asked = [c for c in lesson.cells if "**Predict, then run.**" in c.source]
    assert len(asked) >= 2


def test_there_is_a_glossary(lesson):
    glossary = lesson.cells[-1].source.split("**Words from this notebook.**")[1]
    assert len(re.findall(r"\*[^*]+\*:", glossary)) >= 5


def test_a_lesson_is_made_of_small_steps(lesson):
    sizes = [len(lines_of(cell)) for cell in code_cells(lesson)]
    assert statistics.median(sizes) <= MEDIAN_LINES
    assert len(sizes) <= 50


def test_cells_are_small(notebook):
    assert max(len(lines_of(cell)) for cell in code_cells(notebook)) <= MAX_LINES
    for cell in code_cells(notebook):
        assert max(map(len, cell.source.splitlines())) <= MAX_COLUMNS


def test_prose_stands_between_code(notebook):
    in_a_row = 0
    for cell in notebook.cells:
        in_a_row = in_a_row + 1 if cell.cell_type == "code" else 0
        assert in_a_row <= MAX_IN_A_ROW


@pytest.mark.parametrize("what", FORBIDDEN)
def test_nothing_forbidden(notebook, what):
    for cell in code_cells(notebook):
        assert not re.search(FORBIDDEN[what], cell.source, flags=re.MULTILINE), cell.source


def test_prose_is_plain(notebook):
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            prose = re.sub(r"`[^`]*`|```.*?```", "", cell.source, flags=re.DOTALL)
            assert not re.search(FILLERS, prose, flags=re.IGNORECASE), cell.source
            paragraphs = re.split(r"\n\s*\n|\n(?=[-#|])", cell.source)
            assert all(len(p.splitlines()) <= 6 for p in paragraphs if "Words from" not in p)


def test_spelling(notebook):
    text = "\n".join(cell.source for cell in notebook.cells)
    done = subprocess.run(
        [sys.executable, "-m", "codespell_lib", "-"],
        input=text,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_links_and_images_resolve(path, notebook):
    for cell in notebook.cells:
        if cell.cell_type != "markdown":
            continue
        for alt, target in re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", cell.source):
            assert len(alt) > 20, f"{target} needs words that say what it shows"
            assert not target.startswith("http"), f"{target} must be local"
        for target in re.findall(r"\]\(([^)#]+)", cell.source):
            if not target.startswith("http"):
                assert (path.parent / target).exists(), target


def test_what_is_kept_is_clean(notebook, path):
    assert "widgets" not in notebook.metadata
    assert path.stat().st_size < 1_000_000
    for cell in code_cells(notebook):
        assert cell.execution_count is None
        assert not {"execution", "collapsed"} & set(cell.metadata)
        for output in cell.outputs:
            assert output.output_type != "error" or "raises-exception" in cell.metadata.get(
                "tags", []
            )
            assert "application/vnd.jupyter.widget-view+json" not in output.get("data", {})
            assert str(ROOT) not in str(output), "a path of the machine that ran it"


def test_outputs_are_kept_for_readers(lesson):
    with_output = sum(bool(cell.outputs) for cell in code_cells(lesson))
    assert with_output > len(code_cells(lesson)) / 2


def test_a_function_in_both_places_is_the_same_code(notebook):
    package = {}
    # Checks bear the names of the exercises that they check.
    modules = [p for p in (ROOT / "utilities").rglob("*.py") if p.parent.name != "checks"]
    for module in modules:
        for node in ast.parse(module.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef):
                package[node.name] = node
    assert {"encode_texts", "wilson_interval"} <= set(package), "the package is looked through"
    for cell in code_cells(notebook):
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.FunctionDef) and node.name in package:
                assert ast.dump(node) == ast.dump(package[node.name]), node.name


def test_notebooks_import_from_few_places():
    """A learner who carries on has to know no more than these packages."""
    places = set()
    for path in [*PATHS, *SOLUTIONS]:
        for cell in code_cells(read(path))[1:]:  # the first one is for Colab
            for node in ast.walk(ast.parse(cell.source)):
                if isinstance(node, ast.ImportFrom) and node.module.startswith("utilities"):
                    places.add(node.module)
    assert "utilities.scores" in places and len(places) <= 15, sorted(places)


def test_the_readme_lists_every_notebook_with_what_it_needs():
    readme = Path(ROOT / "README.md").read_text(encoding="utf-8")
    for path in PATHS:
        needs = r"\*\*Needs:\*\* about (\d+) minutes? and (\d+) GB"
        minutes, memory = re.search(needs, read(path).cells[0].source).groups()
        line = rf"\(notebooks/{path.name}\) \| [^|]+ \| {minutes} \| {memory} GB \|$"
        assert re.search(line, readme, flags=re.MULTILINE), line
