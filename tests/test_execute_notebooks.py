"""The runner behind `make course`: a failing notebook fails the run and stops nobody else."""

import sys

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

import execute_notebooks


@pytest.fixture
def course(tmp_path, monkeypatch):
    (tmp_path / "notebooks").mkdir()
    for name, source in {"01_breaks": "1 / 0", "02_works": "print('hello')"}.items():
        needs = "**Needs:** about 2 minutes and 1 GB of memory"
        cells = [new_markdown_cell(f"# {name} <b>\n\n{needs}"), new_code_cell(source)]
        nbformat.write(new_notebook(cells=cells), tmp_path / "notebooks" / f"{name}.ipynb")
    monkeypatch.setattr(execute_notebooks, "NOTEBOOKS", tmp_path / "notebooks")
    monkeypatch.setattr(execute_notebooks, "PAGES", tmp_path / "pages")
    return tmp_path


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["execute_notebooks.py", *arguments])
    return execute_notebooks.main()


def test_one_failure_fails_the_run_and_the_others_still_run(course, monkeypatch, capsys):
    assert run(monkeypatch, "--save") == 1
    told = capsys.readouterr()
    assert "FAILED" in told.out and "ZeroDivisionError" in told.err
    index = (course / "pages" / "index.html").read_text()
    assert "failed" in index and "ran" in index and "02_works &lt;b&gt;" in index
    assert "hello" in (course / "pages" / "02_works.html").read_text()
    saved = nbformat.read(course / "notebooks" / "02_works.ipynb", as_version=4)
    assert saved.cells[1].outputs[0].text == "hello\n"
    assert saved.cells[1].execution_count is None
    broken = nbformat.read(course / "notebooks" / "01_breaks.ipynb", as_version=4)
    assert broken.cells[1].outputs == []


def test_notebooks_can_be_chosen(course, monkeypatch):
    assert run(monkeypatch, "02") == 0
    assert not (course / "pages" / "01_breaks.html").exists()


@pytest.mark.parametrize(("seconds", "slow"), [(239, False), (241, True)])
def test_a_notebook_over_twice_its_stated_time_is_told(course, monkeypatch, capsys, seconds, slow):
    clock = iter([0, seconds])
    monkeypatch.setattr(execute_notebooks, "execute", lambda path: (nbformat.read(path, 4), None))
    monkeypatch.setattr(execute_notebooks.time, "monotonic", lambda: next(clock))
    assert run(monkeypatch, "02") == 0
    told = capsys.readouterr().out
    assert ("over twice the 2 min it states" in told) == slow
    assert f"{seconds / 60:.1f} minutes in all" in told
    assert "2 min" in (course / "pages" / "index.html").read_text()


def test_a_page_holds_its_pictures_and_links_that_lead_somewhere(course, monkeypatch):
    (course / "picture.svg").write_text("<svg/>")
    (course / "notebooks" / "solutions").mkdir()
    (course / "notebooks" / "solutions" / "02_works.ipynb").write_text("{}")
    path = course / "notebooks" / "02_works.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.append(
        new_markdown_cell(
            "![a picture](../picture.svg) [one](01_breaks.ipynb) [solved](solutions/02_works.ipynb)"
            " [outside](https://example.org) [gone](nowhere.md)\n\n"
            "<details><summary>Hint 1</summary>\n\nLook.\n\n</details>"
        )
    )
    nbformat.write(notebook, path)
    assert run(monkeypatch, "02") == 0
    page = (course / "pages" / "02_works.html").read_text()
    assert "data:image/svg+xml;base64,PHN2Zy8+" in page
    assert 'href="01_breaks.html"' in page and 'href="https://example.org"' in page
    assert 'href="../notebooks/solutions/02_works.ipynb"' in page and 'href="nowhere.md"' in page
    inside = page.split("<details>")[1].split("</details>")[0]
    assert "Look." in inside
