import logging
import math
import shutil
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tests.conftest import ROWS, tiny_model
from tests.test_training import fit
from utilities.devices import available_memory
from utilities.errors import TrainingError
from utilities.features.tokenization import tokenize_examples
from utilities.models.freezing import GROUPS
from utilities.planning.model_sizes import ModelShape
from utilities.planning.planner import OPTIMIZER_BYTES, memory
from utilities.prompts.built_in import QUESTION_ANSWER
from utilities.training import preflight_checks
from utilities.training.preflight_checks import check_data
from utilities.training.settings import Settings, make_training_arguments
from utilities.training.trainer import SupervisedTrainer


@pytest.fixture
def data(tokenizer):
    return tokenize_examples([QUESTION_ANSWER.example(row) for row in ROWS], tokenizer, 128)


def findings(model, tokenizer, data, folder, **options):
    run = fit(model, tokenizer, data, folder, **options)
    return {finding["check"]: finding for finding in run.record["preflight"]}


def test_it_tells_what_the_run_will_be(model, tokenizer, data, tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="utilities"):
        found = findings(
            model, tokenizer, data, tmp_path / "run", max_steps=20, warmup_steps=4, eval_data=data
        )
    assert {finding["verdict"] for finding in found.values()} == {"ok"}
    counts = data.counts
    assert (
        f"{counts['supervised_tokens']:,} of {counts['tokens']:,}"
        in (found["training: learned tokens"]["value"])
    )
    assert found["training: ends of text learned"]["value"] == "8 for 8 examples, 8 responses"
    weights = sum(weight.numel() for weight in model.parameters())
    assert found["weights to train"]["value"] == f"{weights:,} of {weights:,}, float32"
    rates = found["learning rate, first steps"]["value"]
    assert rates == "0, 0.0025, 0.005, 0.0075 … (20 steps)"
    assert f"gives {math.log(512):.2f}" in found["loss before training"]["value"]
    assert {"time, from two passes", "memory", "disk"} < set(found)
    assert "learning rate, first steps: 0, 0.0025" in caplog.text


def test_the_learning_rates_are_those_of_the_run(tokenizer, data, tmp_path):
    run = fit(tiny_model("llama"), tokenizer, data, tmp_path / "run", lr_scheduler_type="cosine")
    told = next(f for f in run.record["preflight"] if f["check"].startswith("learning rate"))
    seen = ", ".join(f"{rate:.2g}" for rate in run.history["learning_rate"].dropna())
    assert told["value"] == f"{seen} … (4 steps)"


def test_it_changes_nothing(tokenizer, data, tmp_path):
    runs = [
        fit(tiny_model("gpt2"), tokenizer, data, tmp_path / str(preflight), preflight=preflight)
        for preflight in (True, False)  # GPT-2 has dropout, so random numbers count
    ]
    assert runs[0].history["loss"].tolist() == runs[1].history["loss"].tolist()
    assert len(runs[1].record["preflight"]) == 2, "the data are looked at in any case"


def relabeled(data, labels):
    return data._replace(features=data.features.map(lambda row: {"labels": labels(row["labels"])}))


def test_nothing_to_learn(tokenizer, data, tmp_path):
    masked = relabeled(data, lambda labels: [-100] * len(labels))
    with pytest.raises(TrainingError, match="training data have no supervised token"):
        fit(tiny_model("llama"), tokenizer, masked, tmp_path / "run")
    with pytest.raises(TrainingError, match="validation data have no supervised token"):
        fit(tiny_model("llama"), tokenizer, data, tmp_path / "run", eval_data=masked)
    assert not list(tmp_path.iterdir())


def test_empty_data(tokenizer, data, tmp_path):
    empty = data._replace(features=data.features.select([]))
    with pytest.raises(TrainingError, match="training data are empty"):
        fit(tiny_model("llama"), tokenizer, empty, tmp_path / "run")


def test_tokens_of_another_model(tokenizer, data, tmp_path):
    with pytest.raises(TrainingError, match="tokenized for another model"):
        fit(tiny_model("llama", vocab_size=50), tokenizer, data, tmp_path / "run")


def test_responses_without_an_end_are_a_warning(tokenizer, data):
    endless = relabeled(data, lambda labels: [-100 if i == 0 else i for i in labels])
    _, ends = check_data(endless, tokenizer, 512, "training")
    assert ends.verdict == "warning"
    assert ends.value.startswith("0 for 8 examples")


def test_little_to_learn_is_a_warning(tokenizer, data):
    few = relabeled(data, lambda labels: [-100] * (len(labels) - 1) + labels[-1:])
    wide = few._replace(
        features=few.features.map(
            lambda row: {
                "input_ids": [5] * 99 + row["input_ids"][-1:],
                "labels": [-100] * 99 + row["labels"][-1:],
            }
        )
    )
    learned, _ = check_data(wide, tokenizer, 512, "training")
    assert learned.verdict == "warning"
    assert learned.value == "8 of 800 (1%)"


def test_a_model_worse_than_guessing_is_a_warning(tokenizer, data, tmp_path, caplog):
    model = tiny_model("llama")
    model.get_output_embeddings().weight.data *= 300
    found = findings(model, tokenizer, data, tmp_path / "run", learning_rate=1e-6)
    assert found["loss before training"]["verdict"] == "warning"
    assert "loss before training" in caplog.text


def test_an_untrained_loss_that_is_not_finite(tokenizer, data, tmp_path):
    model = tiny_model("llama")
    model.get_output_embeddings().weight.data.fill_(float("inf"))
    with pytest.raises(TrainingError, match="loss of the untrained model is"):
        fit(model, tokenizer, data, tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_a_disk_too_small(tokenizer, data, tmp_path, monkeypatch):
    usage = SimpleNamespace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(TrainingError, match=r"needs about .* GB of disk .* lower save_total_limit"):
        fit(tiny_model("llama"), tokenizer, data, tmp_path / "run")


def test_memory_that_will_hardly_suffice(tokenizer, data, tmp_path, monkeypatch):
    monkeypatch.setattr(preflight_checks, "available_memory", lambda device: 1000)
    found = findings(tiny_model("llama"), tokenizer, data, tmp_path / "run")
    assert found["memory"]["verdict"] == "warning"


def test_what_is_free_is_a_plausible_number():
    assert 1e8 < available_memory(torch.device("cpu")) < 1e14


FULL = {"method": "full"}
MEMORY = {
    "full": ({}, FULL),
    "checkpointing": (
        {"activation_checkpointing": True},
        {**FULL, "activation_checkpointing": True},
    ),
    "adafactor": ({"optim": "adafactor"}, {**FULL, "optimizer": "adafactor"}),
    "sgd": ({"optim": "sgd"}, {**FULL, "optimizer": "sgd"}),
    "bf16": ({"precision": "bf16"}, {**FULL, "precision": "bf16"}),
    "freeze": (
        {"freeze": {"groups": ["embeddings"]}},
        {"method": "freeze", "trained_layers": 2},
    ),
    "freeze all but the last layer": (
        {"freeze": {"groups": list(GROUPS), "keep": ["layers.1"]}},
        {"method": "freeze", "trained_layers": 1},
    ),
    "lora": ({"lora": {"r": 4}}, {"method": "lora", "rank": 4}),
    "lora on one matrix": (
        {"lora": {"r": 4, "targets": ["q_proj"]}},
        {"method": "lora", "rank": 4},
    ),
    "lora on 16 bits": (
        {"lora": {"r": 4, "base_dtype": "bfloat16"}},
        {"method": "lora", "rank": 4, "base": "bf16"},
    ),
}


def memory_model(settings):
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}
    config = AutoConfig.for_model("llama", **sizes, num_hidden_layers=2, vocab_size=1000)
    dtype = getattr(torch, settings.get("lora", {}).get("base_dtype", "float32"))
    return AutoModelForCausalLM.from_config(config, dtype=dtype)


@pytest.mark.parametrize("case", MEMORY)
def test_memory_is_that_of_planning_with_the_same_settings(
    case, tokenizer, data, tmp_path, monkeypatch
):
    settings, arguments = MEMORY[case]
    totals = []

    def note(*positional, original=preflight_checks.memory, **named):
        totals.append(original(*positional, **named).total)
        return SimpleNamespace(total=1000 * totals[0])  # so that a small model counts in GB

    monkeypatch.setattr(preflight_checks, "memory", note)
    model = memory_model(settings)
    shape = ModelShape.of(model)
    run = fit(model, tokenizer, data, tmp_path / "run", max_steps=1, **settings)
    line = next(line for line in run.record["preflight"] if line["check"] == "memory")
    sizes = {"rows": 8, "row_length": max(len(ids) for ids in data.features["input_ids"])}
    trained = run.record["weights"][-1]["trained"]
    needed = memory(shape, trained=trained, **sizes, **arguments).total
    assert totals == [needed]
    assert line["value"].startswith(f"about {needed / 1e6:.1f} GB; ")
    full = memory(shape, **sizes).total
    assert (needed == full) == (case == "full"), "the setting counts"


def test_a_row_longer_than_a_pass_is_counted_with_checkpointing(tokenizer, data, tmp_path):
    longest = max(len(ids) for ids in data.features["input_ids"])
    values = {}
    for max_tokens in (longest, longest - 1):
        folder, model = tmp_path / str(max_tokens), memory_model({})
        settings = Settings.of(precision="fp32", disable_tqdm=True)
        trainer = SupervisedTrainer(
            model=model,
            args=make_training_arguments(folder, settings),
            train_dataset=data.features,
            max_tokens=max_tokens,
        )
        assert trainer.checkpoints_activations(longest) == (max_tokens < longest)
        trained = sum(weight.numel() for weight in model.parameters())
        needed = preflight_checks.needed_memory(trainer, data, settings, trained)
        checkpointing = {"activation_checkpointing": max_tokens < longest}
        expected = memory(ModelShape.of(model), rows=1, row_length=longest, **checkpointing)
        assert needed == values.setdefault(max_tokens, expected.total)
    assert values[longest] > values[longest - 1]


def test_the_kind_of_optimizer():
    kinds = {
        "adamw_torch_fused": "adamw",
        "adamw_bnb_8bit": "adamw_8bit",
        "paged_lion_8bit": "adamw_8bit",
        "adamw_torch_4bit": "adamw_8bit",
        "galore_adafactor": "adafactor",
        "sgd": "sgd",
        "adalomo": "sgd",
        "schedule_free_sgd": "adamw",
        "lion_32bit": "adamw",
    }
    assert {name: preflight_checks.optimizer_kind(name) for name in kinds} == kinds
    assert set(kinds.values()) == set(OPTIMIZER_BYTES)
