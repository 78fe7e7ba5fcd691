"""The explanatory figures: made by their script, legible, and each in some notebook."""

import importlib
import re
import sys
from itertools import combinations

import matplotlib
import nbformat
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from tests.conftest import ROOT
from utilities.scores.error_classes import ADVICE, error_class

FOLDER = ROOT / "doc-data"
SVGS = sorted(FOLDER.glob("*.svg"))
SMALLEST = 12  # points


@pytest.fixture(scope="module")
def figures():
    """Import the script as it runs: with its own folder on the path."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        yield importlib.import_module("make_figures")
    for name in ("make_figures", "drawing"):
        sys.modules.pop(name, None)


@pytest.fixture(params=SVGS, ids=lambda path: path.stem)
def svg(request):
    return request.param.read_text(encoding="utf-8")


def used_in_notebooks():
    """Return the names of figures that markdown cells show."""
    names = set()
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "markdown":
                names |= set(re.findall(r"\]\(\.\./doc-data/([^)\s]+)\)", cell.source))
    return names


def test_the_committed_figures_are_what_the_script_makes(figures, tmp_path):
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    if f"\nmatplotlib=={matplotlib.__version__}\n" not in pins:
        pytest.skip("another matplotlib than in constraints.txt draws other bytes")
    with matplotlib.rc_context({"font.size": 40, "svg.fonttype": "none"}):  # somebody's own style
        figures.main(tmp_path)
    made = sorted(tmp_path.iterdir())
    assert [path.name for path in made] == [path.name for path in SVGS]
    for new, kept in zip(made, SVGS, strict=True):
        assert new.read_bytes() == kept.read_bytes(), f"{kept.name}: run doc-data/make_figures.py"


def test_text_is_inside_and_apart(figures):
    for draw in figures.FIGURES:
        with figures.style():
            figure = draw()
            FigureCanvasAgg(figure).draw()
            texts = [t for t in figure.findobj(Text) if t.get_text() and t.get_visible()]
            boxes = {t: t.get_window_extent() for t in texts if t.get_window_extent().width}
        where = draw.__name__
        for text, box in boxes.items():
            assert text.get_fontsize() >= SMALLEST, (where, text)
            assert box.x0 >= 0 and box.x1 <= figure.bbox.x1, (where, text)
            assert box.y0 >= 0 and box.y1 <= figure.bbox.y1, (where, text)
        for (one, here), (other, there) in combinations(boxes.items(), 2):
            assert not here.padded(-1).overlaps(there.padded(-1)), (where, one, other)


def test_letters_are_paths_of_legible_size(svg):
    assert "<text" not in svg
    sizes = [100 * float(scale) for scale in re.findall(r"scale\(([\d.]+) -[\d.]+\)", svg)]
    assert sizes and min(sizes) >= SMALLEST


def test_a_figure_is_small_dateless_and_alone(svg):
    assert len(svg.encode()) < 150_000
    assert svg.count("<title>") == 1
    assert not re.search(r"<(image|script|foreignObject)|@import|dc:date|Matplotlib", svg)
    references = re.findall(r"""href\s*=\s*["']([^"']*)|url\(([^)]*)\)""", svg)
    assert all((a or b).startswith("#") for a, b in references)


def test_every_figure_asks_a_question(figures):
    for draw in figures.FIGURES:
        assert re.fullmatch(r"[A-Z].*\?", draw.__doc__), draw.__name__


def test_examples_of_errors_have_their_class(figures):
    shown = {name: said for group in figures.ERRORS.values() for name, (said, _) in group.items()}
    assert set(shown) == set(ADVICE) - {"right"}
    for name, said in shown.items():
        off_topic = name == "answered_off_topic"
        asked = figures.OFF_TOPIC if off_topic else figures.ASKED
        wanted = figures.REFUSAL if off_topic else figures.WANTED
        stopped = "max_new_tokens" if name == "never_stops" else "end_of_text"
        found = error_class(asked, said, wanted, stopped, figures.REFUSAL, {"test", "make"})
        assert found == name


def test_figures_in_notebooks_exist():
    assert used_in_notebooks() <= {path.name for path in SVGS}


def test_every_figure_is_used_by_a_notebook():
    assert {path.name for path in SVGS} <= used_in_notebooks()
