"""The labs' three lines: a model by name is asked, trained and compared; and the command line."""

import io
import shutil

import pandas as pd
import pytest
import torch

import utilities
from tests.conftest import ROWS
from utilities import models
from utilities.errors import DataError, RunnerError
from utilities.features.tokenization import encode_texts
from utilities.inference.local_model import inference
from utilities.models.adapters import Lora
from utilities.prompts.base import PromptFormat
from utilities.prompts.built_in import QUESTION_ANSWER, get_format
from utilities.runner import __main__
from utilities.runner.runner import BasicModelRunner

QUICK = {"max_steps": 2, "precision": "fp32", "preflight": False, "learning_rate": 1e-2}


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def trained(model_folder, tmp_path_factory):
    """A runner that trained for two steps."""
    folder = tmp_path_factory.mktemp("trained")
    model = BasicModelRunner(str(model_folder), folder / "runs")
    model.load_data([{"input": row["question"], "output": row["answer"]} for row in ROWS])
    model.train(**QUICK)
    return model


def test_the_labs_find_all_their_names_here():
    names = {"BasicModelRunner", "Trainer", "inference", "is_exact_match"}
    assert set(utilities.__all__) == names | {"tokenize_and_split_data"}
    found: dict[str, object] = {}
    exec("from utilities import *", found)
    assert all(callable(found[name]) for name in utilities.__all__)


# The labs' own cell, as it was written for pandas 2.
@pytest.mark.filterwarnings("ignore:Passing a list to DataFrame.from_dict")
def test_three_lines_train_and_compare(model_folder, data_file, capsys):
    model = BasicModelRunner(str(model_folder))
    model.load_data_from_jsonlines(str(data_file), input_key="question", output_key="answer")
    run_id = model.train(is_public=True, **QUICK)

    told = capsys.readouterr().out
    assert told.startswith("Everything stays on this machine; is_public changes nothing.\n")
    assert f"python -m utilities.runner chat {run_id}\n" in told
    assert run_id.startswith("pythia-tiny-") and f"runs/{run_id}/dashboard.html" in told
    assert (model.run.folder / "dashboard.html").stat().st_size > 5_000

    out = model.evaluate()
    assert out["job_id"] == run_id
    lofd = []
    for e in out["eval_results"]:
        trained, base = e["outputs"][0]["output"], e["outputs"][1]["output"]
        lofd.append({"question": e["input"], "trained model": trained, "Base Model": base})
    df = pd.DataFrame.from_dict(lofd)
    df.style.set_properties(**{"text-align": "left"}).set_properties(**{"vertical-align": "top"})
    assert len(df) == 1 and df["question"][0] in {row["question"] for row in ROWS}
    names = [output["model_name"] for output in out["eval_results"][0]["outputs"]]
    assert names == [run_id, "pythia-tiny"]
    kept_apart = {row["question"]: row["answer"] for row in ROWS}
    assert out["eval_results"][0]["target"] == kept_apart[df["question"][0]]


def test_the_saved_model_answers_after_training(trained):
    prompt = QUESTION_ANSWER.prompt(ROWS[0])
    assert trained(ROWS[0]["question"]) == trained([prompt])[0]  # a template is not put in twice
    by_id = BasicModelRunner(trained.run.folder.name, trained.output_dir)
    assert by_id(["Why pad?", "Mars?"], 12) == trained(["Why pad?", "Mars?"], 12)
    model, tokenizer = models.load(str(trained.run.folder))
    assert inference(prompt, model, tokenizer) == trained(ROWS[0]["question"])


def test_the_same_call_gives_the_same_run(trained, model_folder, capsys):
    again = BasicModelRunner(str(model_folder), trained.output_dir)
    data = pd.DataFrame([{"q": row["question"], "a": row["answer"]} for row in ROWS])
    again.load_data_from_dataframe(data, "q", "a")
    before = (trained.run.folder / "run.json").stat().st_mtime_ns
    assert again.train(**QUICK) == trained.run.folder.name
    assert (trained.run.folder / "run.json").stat().st_mtime_ns == before
    other = again.train(prompt_format="alpaca", lora=Lora(r=2), **QUICK)
    assert other != trained.run.folder.name and (again.run.folder / "adapter_config.json").is_file()
    assert again("Why?", 4) == BasicModelRunner(other, trained.output_dir)("Why?", 4)
    assert sorted(path.name for path in trained.output_dir.iterdir()) == sorted(
        [other, trained.run.folder.name]
    )


def test_a_run_is_trained_further_in_its_own_format(trained, tmp_path):
    tuned = tmp_path / "tuned"
    shutil.copytree(trained.run.folder, tuned)
    get_format("alpaca").save(tuned)
    further = BasicModelRunner(tuned)
    further.rows = trained.rows
    assert further.train(**QUICK).startswith("tuned-tuned-from-pythia-tiny-")
    assert PromptFormat.load(further.run.folder).name == "alpaca"


def test_a_base_model_gets_the_text_as_it_is(model_folder, tokenizer):
    model = BasicModelRunner(str(model_folder))
    loaded, _ = models.load(str(model_folder))
    text = "Tell me how to"
    (ids,) = encode_texts(tokenizer, [text])
    output = loaded.generate(torch.tensor([ids]), max_new_tokens=9, do_sample=False, pad_token_id=1)
    expected = tokenizer.decode(output[0, len(ids) :], skip_special_tokens=True).strip()
    assert model(text, max_new_tokens=9) == expected
    assert model([text, "Mars?"], max_new_tokens=9)[0] == expected
    assert model([]) == []
    mark = expected[3]
    assert model(text, max_new_tokens=9, stop=[mark]) == expected.split(mark)[0].strip()


def test_what_cannot_be_asked(trained, model_folder):
    with pytest.raises(RunnerError, match="expected text, or a list of texts, found 3"):
        trained(["Why?", 3])
    with pytest.raises(RunnerError, match="there is nothing to evaluate; call train"):
        BasicModelRunner(str(model_folder)).evaluate()
    with pytest.raises(RunnerError, match="no rows to train on; call load_data_from_jsonlines"):
        BasicModelRunner(str(model_folder)).train()
    name = trained.run.folder.name
    with pytest.raises(RunnerError, match=f"has no such run, did you mean '{name}'"):
        BasicModelRunner(name[:-1], trained.output_dir)("Why?")


def test_nothing_is_loaded_before_it_is_needed():
    BasicModelRunner("no/such/model").load_data([{"input": "Why?", "output": "So."}])


def test_rows_from_everywhere(tmp_path, caplog):
    rows = [{"ask": "Why?", "say": "So."}, {"ask": "", "say": "x"}, {"ask": "How?", "say": "Thus."}]
    frame = pd.DataFrame(rows)
    frame.to_csv(tmp_path / "rows.csv", index=False)
    frame.to_json(tmp_path / "rows.jsonl", orient="records", lines=True)
    expected = [{"question": "Why?", "answer": "So."}, {"question": "How?", "answer": "Thus."}]
    model = BasicModelRunner()
    for load, data in {
        model.load_data: rows,
        model.load_data_from_dataframe: frame,
        model.load_data_from_csv: tmp_path / "rows.csv",
        model.load_data_from_jsonlines: tmp_path / "rows.jsonl",
    }.items():
        caplog.clear()
        load(data, input_key="ask", output_key="say")
        assert model.rows == expected  # each time in place of the rows before
        assert "left out" in caplog.text
    with pytest.raises(DataError, match="lacks the column 'asks', did you mean 'ask'"):
        model.load_data(rows, "asks", "say")
    with pytest.raises(DataError, match="lacks the column 'input'"):
        model.load_data_from_jsonlines(tmp_path / "rows.jsonl")
    with pytest.raises(DataError, match="no usable row"):
        model.load_data(rows[1:2], "ask", "say")


def test_a_list_of_texts_is_one_question_and_other_things_are_none(caplog):
    model = BasicModelRunner()
    asked = [["Why pad", "a batch?"], 3]
    model.load_data([{"input": each, "output": "So."} for each in asked])
    assert model.rows == [{"question": "Why pad\n\na batch?", "answer": "So."}]
    assert "1 bad row(s) left out; the first: 'question' must be text, found int: 3" in caplog.text


def test_questions_that_stand_in_a_template_are_taken_out(caplog):
    model = BasicModelRunner()
    asked = [f"### Question:\n{text}\n\n### Answer:" for text in ("Why?", "")]
    model.load_data([{"input": text, "output": "So."} for text in asked])
    assert model.rows == [{"question": "Why?", "answer": "So."}]
    assert "1 row(s) left out, with nothing asked inside the template" in caplog.text


def test_the_command_writes_pages_and_names_faults(trained, capsys, monkeypatch):
    monkeypatch.chdir(trained.output_dir.parent)
    page = trained.run.folder / "dashboard.html"
    page.unlink()
    name = trained.run.folder.name
    assert __main__.main(["dashboard", name]) == 0
    assert page.is_file() and f"wrote: runs/{name}/dashboard.html" in capsys.readouterr().out
    assert __main__.main(["dashboard", name, str(trained.run.folder)]) == 0
    assert "Beside other runs" in page.read_text()
    assert __main__.main(["dashboard", "nothing"]) == 2
    assert capsys.readouterr().err.startswith("error: nothing is not a finished run")


def test_the_command_opens_a_chat(trained, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("Why?\n\nMars?\nquit\nnever read\n"))
    assert __main__.main(["chat", str(trained.run.folder), "--max-new-tokens", "8"]) == 0
    head, _, rest = capsys.readouterr().out.partition("End with `quit`.\n")
    assert "Each message is answered on its own" in head
    assert rest == "".join(f"{answer}\n\n" for answer in trained(["Why?", "Mars?"], 8))
