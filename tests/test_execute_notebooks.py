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
        cells = [new_markdown_cell(f"# {name} <b>"), new_code_cell(source)]
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
