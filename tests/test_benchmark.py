import json
import random
import socket

import numpy as np
import pandas as pd
import pytest
import torch

from tests.conftest import run_module, tiny_model
from tests.stand_in_hub import StandInHub
from utilities.benchmark import compare, harness, tasks
from utilities.benchmark.arc_files import read_arc
from utilities.benchmark.choices import score_choices
from utilities.benchmark.compare import compare_items
from utilities.benchmark.harness import run_benchmark
from utilities.config import bundled
from utilities.errors import BenchmarkError, DataError
from utilities.inference import likelihood

ITEMS = [
    json.loads(line)
    for line in bundled("data/science_questions/test.jsonl").read_text("utf-8").splitlines()
]


@pytest.fixture
def offline(monkeypatch):
    """No socket connects anywhere."""

    def refuse(*_):
        raise AssertionError("a test reached for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)


def harness_results(model, tokenizer, items):
    """Score items as the harness itself does; returns (log-probability, greedy) per choice."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    own = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=8)
    requests = [
        Instance("loglikelihood", {}, (f"Question: {item['question']}\nAnswer:", f" {choice}"), n)
        for n, item in enumerate(items)
        for choice in item["choices"]["text"]
    ]
    return own.loglikelihood(requests, disable_tqdm=True)


@pytest.mark.parametrize("family", ["gpt_neox", "llama", "gpt2"])
def test_scores_by_hand_are_the_harness_s_item_by_item(family, tokenizer):
    model = tiny_model(family)
    items = ITEMS[:100]
    asked = [(f"Question: {i['question']}\nAnswer:", i["choices"]["text"]) for i in items]
    found = score_choices(model, tokenizer, asked, batch_tokens=2000)
    theirs = np.array([value for value, _ in harness_results(model, tokenizer, items)])
    assert found["log_probability"].to_numpy() == pytest.approx(theirs, abs=2e-3)
    lengths = np.array([len(c) for i in items for c in i["choices"]["text"]])
    picked = theirs.reshape(100, 4).argmax(1)
    picked_norm = (theirs / lengths).reshape(100, 4).argmax(1)
    assert found["picked"].to_numpy().reshape(100, 4).argmax(1).tolist() == picked.tolist()
    assert (
        found["picked_norm"].to_numpy().reshape(100, 4).argmax(1).tolist() == picked_norm.tolist()
    )
    assert len(set(picked)) > 1 and picked.tolist() != picked_norm.tolist()


def test_greedy_choices_are_told(tokenizer):
    model = tiny_model("llama")
    asked = tokenizer("Why?")["input_ids"]
    likely = model.generate(torch.tensor([asked]), max_new_tokens=4, do_sample=False)[0].tolist()
    likely = likely[len(asked) :]
    other = [*likely[:-1], (likely[-1] + 1) % 400]
    questions = [(asked, [likely, other, likely[:1]])]
    ((first, second, third),) = likelihood.choice_log_probabilities(model, questions, 1)
    assert (first[1], second[1], third[1]) == (True, False, True)
    monolithic = likelihood.log_probabilities_of_ids(model, [(asked, likely), (asked, other)], 1)
    assert [first[0], second[0]] == pytest.approx(monolithic, abs=1e-4)


def test_the_whole_path_offline(tokenizer, offline):
    model = tiny_model("gpt_neox").train()
    torch.manual_seed(7)
    random.seed(7)
    np.random.seed(7)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    found = run_benchmark(model, tokenizer, limit=40, name="tiny")
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1] and np.random.get_state()[1].tolist() == states[2]
    assert model.training
    line = found.scores.iloc[0]
    assert (line["task"], line["n"], line["of"], line["chance"]) == (
        "science_questions",
        40,
        336,
        0.25,
    )
    assert line["acc_low"] < line["acc"] < line["acc_high"]
    assert (line["model"], line["source"], line["version"]) == ("tiny", "memory", 1.0)
    assert line["harness"] == found.record["versions"]["lm_eval"]
    samples = found.samples
    assert samples["acc"].mean() == line["acc"] and samples["acc_norm"].mean() == line["acc_norm"]
    asked = [(row.question, row.choices) for row in samples.itertuples()]
    own = score_choices(model.eval(), tokenizer, asked)
    picked = own[own["picked"]].groupby("item").head(1)
    right = [row.choices[row.right] for row in samples.itertuples()]
    assert (picked["choice"].to_numpy() == right).mean() == line["acc"]
    by_id = [ITEMS[row.item]["question"] in row.question for row in samples.itertuples()]
    assert all(by_id)


def test_a_limit_draws_at_random_and_alike_for_every_model(tokenizer):
    one = run_benchmark(tiny_model("llama"), tokenizer, limit=20)
    same = run_benchmark(tiny_model("gpt_neox"), tokenizer, limit=20)
    other = run_benchmark(tiny_model("llama"), tokenizer, limit=20, seed=1)
    assert one.samples["item"].tolist() == same.samples["item"].tolist() != list(range(20))
    assert one.samples["item"].tolist() != other.samples["item"].tolist()
    with pytest.raises(BenchmarkError, match="not asked the same items"):
        compare_items(one, other)


def test_two_models_on_the_same_items(tokenizer):
    one = run_benchmark(tiny_model("llama"), tokenizer, limit=30)
    two = run_benchmark(tiny_model("gpt_neox"), tokenizer, limit=30)
    table, flips = compare_items(one, two)
    line = table.iloc[0]
    assert line["gained"] - line["lost"] == round(30 * (line["after"] - line["before"]))
    counts = flips["change"].value_counts()
    assert counts.get("wrong → right", 0) == line["gained"]
    gained = flips[flips["change"] == "wrong → right"]
    assert (gained["after"] == gained["right"]).all()
    same, none = compare_items(one, one)
    assert same["p"].item() == 1 and none.empty


def test_a_model_in_training_is_scored_as_it_will_be_used(tokenizer):
    model = tiny_model("gpt2")  # it has dropout
    expected = run_benchmark(model, tokenizer, limit=10).samples["log_probabilities"]
    found = run_benchmark(model.train(), tokenizer, limit=10).samples["log_probabilities"]
    assert found.tolist() == expected.tolist() and model.training


@pytest.mark.parametrize(
    ("target", "more", "right", "norm"),
    [
        (1, {"acc_norm": 0.0}, 1, False),
        ("b", {}, 1, None),
        ("z", {}, None, None),
        ([0, 1], {}, None, None),
    ],
)
def test_items_of_other_tasks(target, more, right, norm):
    log = {"doc_id": 3, "target": target, "acc": 1.0, **more}
    log |= {"arguments": [("q", " a"), ("q", " b")], "filtered_resps": [(-2.0, 0), (-1.0, 0)]}
    row = harness._sample("any", log)
    assert (row["right"], row["acc_norm"], row["picked"], row["acc"]) == (right, norm, 1, True)
    with pytest.raises(BenchmarkError, match="does not say of each item"):
        harness._sample("any", {**log, "acc": 0.31})


def test_texts_without_a_token(tokenizer):
    for item in (("", ["a"]), ("q", ["a", ""])):
        with pytest.raises(BenchmarkError, match="needs some text"):
            score_choices(tiny_model("llama"), tokenizer, [item])


def test_nothing_is_printed(tokenizer, capfd):
    run_benchmark(tiny_model("llama"), tokenizer, limit=5)
    told = capfd.readouterr()
    assert told.out == "" and told.err == ""


ARC = [
    {key: item[key] for key in ("id", "question", "choices", "answerKey")} for item in ITEMS[:30]
]


def as_lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_arc_from_a_file_in_either_form(tokenizer, tmp_path, offline, monkeypatch):
    monkeypatch.setenv("FINETUNING_LAB_CACHE", str(tmp_path / "cache"))
    from_hub, from_ai2 = tmp_path / "hub.jsonl", tmp_path / "ai2.jsonl"
    from_hub.write_text(as_lines(ARC))
    listed = [
        {
            "id": row["id"],
            "question": {
                "stem": row["question"],
                "choices": [
                    {"text": text, "label": label}
                    for text, label in zip(*row["choices"].values(), strict=True)
                ],
            },
            "answerKey": row["answerKey"],
        }
        for row in ARC
    ]
    from_ai2.write_text(as_lines(listed))
    parquet = tmp_path / "arc.parquet"
    pd.DataFrame(ARC).to_parquet(parquet)
    assert read_arc(from_hub) == read_arc(from_ai2) == read_arc(parquet)
    model = tiny_model("llama")
    own = run_benchmark(model, tokenizer, ["arc_easy"], data_files={"arc_easy": from_ai2})
    bundled_ones = run_benchmark(model, tokenizer)
    assert own.scores["task"].tolist() == ["arc_easy"] and own.scores["n"].item() == 30
    expected = bundled_ones.samples.iloc[:30]
    assert own.samples["acc"].tolist() == expected["acc"].tolist()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"answerKey": "E"}, "line 2: answerKey 'E' is not one of A, B, C, D"),
        ({"question": " "}, "line 2: the question is empty"),
        ({"choices": {"text": ["a"], "label": ["A"]}}, "line 2: 1 choices and 1 labels"),
        ({"choices": {"text": ["a", ""], "label": ["A", "B"]}}, "line 2: a choice is empty"),
        ({"choices": None}, "line 2: it lacks 'choices'"),
        ({"choices": 5}, "line 2: "),
    ],
)
def test_a_broken_row_of_arc_is_named(tmp_path, change, told):
    path = tmp_path / "arc.jsonl"
    path.write_text(as_lines([ARC[0], {**ARC[1], **change}]))
    with pytest.raises(DataError, match=told):
        read_arc(path)


def test_other_faults_of_an_arc_file(tmp_path):
    path = tmp_path / "arc.jsonl"
    path.write_text(as_lines([ARC[0]]) + "{broken\n")
    with pytest.raises(DataError, match="line 2: not valid JSON"):
        read_arc(path)
    path.write_text("\n")
    with pytest.raises(DataError, match="no item"):
        read_arc(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_arc(tmp_path / "nowhere.jsonl")


@pytest.fixture
def arc_hub(model_folder, tmp_path):
    """A hub that has a small ARC, in the shape of the real one."""
    folder = tmp_path / "ai2_arc"
    (folder / "ARC-Easy").mkdir(parents=True)
    for split in ("train", "validation", "test"):
        pd.DataFrame(ARC).to_parquet(folder / "ARC-Easy" / f"{split}-00000-of-00001.parquet")
    files = "".join(
        f"  - split: {split}\n    path: ARC-Easy/{split}-*\n"
        for split in ("train", "validation", "test")
    )
    head = f"---\nconfigs:\n- config_name: ARC-Easy\n  data_files:\n{files}---\n"
    (folder / "README.md").write_text(head)
    with StandInHub({"EleutherAI/pythia-70m": model_folder}, {"allenai/ai2_arc": folder}) as hub:
        yield hub


def test_the_harness_s_own_task_from_a_hub(arc_hub, clean_environment, tmp_path):
    config = tmp_path / "arc.yaml"
    config.write_text("model: auto\ntasks: [arc_easy]\noutput_dir: out\n")
    environment = clean_environment | {"HF_ENDPOINT": arc_hub.url}
    done = run_module("utilities.benchmark", config, environment=environment)
    assert done.returncode == 0, done.stderr + "\n".join(arc_hub.requests)
    report = json.loads((tmp_path / "out" / "scores.json").read_text())
    (line,) = report["scores"]
    assert (line["task"], line["n"], line["model"]) == ("arc_easy", 30, "EleutherAI/pythia-70m")
    rows = pd.read_json(tmp_path / "out" / "samples.jsonl", lines=True)
    assert rows["acc"].mean() == line["acc"]


def test_command_line_compares_with_the_base_model(model_folder, tmp_path, clean_environment):
    config = tmp_path / "arc.yaml"
    config.write_text(
        f"model: {model_folder}\nbase_model: {model_folder}\nlimit: 10\noutput_dir: out\n"
    )
    done = run_module("utilities.benchmark", config, environment=clean_environment)
    assert done.returncode == 0, done.stderr
    assert "science_questions" in done.stdout and "gained" in done.stdout
    assert (tmp_path / "out" / "flips.csv").is_file()
    bad = run_module("utilities.benchmark", config, "limit=0", environment=clean_environment)
    assert bad.returncode == 2 and "limit" in bad.stderr


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            {"tasks": ["science_question"]},
            "no task 'science_question', did you mean 'science_quest",
        ),
        ({"tasks": ["arc_eesy"]}, "no task 'arc_eesy', did you mean 'arc_easy'"),
        ({"tasks": []}, "name one at least"),
        ({"limit": 0}, "limit must be 1 or more"),
        ({"data_files": {"arc_easy": "x"}}, "'arc_easy', which is not among the tasks"),
        ({"tasks": ["mmlu"], "data_files": {"mmlu": "x"}}, "only arc_easy and arc_challenge"),
    ],
)
def test_bad_requests(tokenizer, options, told):
    with pytest.raises(BenchmarkError, match=told):
        run_benchmark(tiny_model("llama"), tokenizer, **options)


def test_a_loaded_model_without_its_tokenizer():
    with pytest.raises(BenchmarkError, match="needs its tokenizer too"):
        run_benchmark(tiny_model("llama"))


def test_a_context_too_small_for_an_item(tokenizer):
    model = tiny_model("llama")
    model.config.max_position_embeddings = 40
    with pytest.raises(BenchmarkError, match="context holds 40: 'Question: "):
        run_benchmark(model, tokenizer, limit=20)


def test_a_hub_that_cannot_be_reached(tokenizer, monkeypatch):
    monkeypatch.setattr(tasks, "probe", lambda *_: "the hub cannot be reached: ConnectError")
    with pytest.raises(
        BenchmarkError, match=r"cannot be reached.*Take the task `science_questions`"
    ):
        run_benchmark(tiny_model("llama"), tokenizer, ["arc_easy"])


def test_published_figures():
    easy = compare.published("arc_easy")
    last = easy[(easy["model"] == "pythia-1.4b") & (easy["step"] == 143000)]
    assert last["acc"].item() == 0.6065
    assert 0 in set(easy[easy["model"] == "pythia-70m"]["step"])
