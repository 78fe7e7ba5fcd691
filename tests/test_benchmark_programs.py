"""The programs in `benchmarks/` start, and the small one runs to its end on a tiny model."""

import importlib.util
import re
import sys

import pytest

from tests.conftest import ROOT

PROGRAMS = sorted((ROOT / "benchmarks").glob("*.py"))


def load(path):
    spec = importlib.util.spec_from_file_location(f"benchmarks_{path.stem}", path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_there_are_programs():
    assert {path.stem for path in PROGRAMS} >= {"dialogue_summaries", "evaluation", "training"}


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_a_program_shows_its_help(path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [path.name, "--help"])
    with pytest.raises(SystemExit) as end:
        load(path).main()
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: {path.name}")


def test_dialogues_are_summarized_before_and_after_training(model_folder, monkeypatch, capsys):
    program = load(ROOT / "benchmarks" / "dialogue_summaries.py")
    monkeypatch.setenv("COURSE_MODEL", str(model_folder))
    monkeypatch.setattr(sys, "argv", ["dialogue_summaries.py", "--limit", "3"])
    assert program.main() == 0
    table = capsys.readouterr().out
    assert "3 test dialogues" in table
    names = re.findall(r"^\| (.+?) \| -?[01]\.\d{3} \|", table, flags=re.MULTILINE)
    assert names == [
        "first sentence of the dialogue",
        "untuned model",
        "tuned model",
        "tuned − untuned",
        "tuned − first sentence",
    ]


def test_generation_uses_the_batch_of_the_program(model_folder):
    """`--stopping` compares two kinds of batch, so generation has to use the one that is set."""
    program = load(ROOT / "benchmarks" / "evaluation.py")
    used = []

    class Watched(program._Waiting):
        def step(self):
            used.append(len(self.indices))
            return super().step()

    original = program.local_model.Batch
    try:
        model, tokenizer = program.models.load(str(model_folder))
        program.stopping(Watched)(model, tokenizer, ["Why?", "How?", "Where?"])
    finally:
        program.local_model.Batch = original
    assert used and set(used) == {3}, "no answer leaves before the last one has ended"
