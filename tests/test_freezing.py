"""Freezing by group, for four architectures: what is frozen stays as it is, bit for bit."""

import pandas as pd
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tests.conftest import ROWS, tiny_model
from utilities.config import load_config
from utilities.errors import ConfigError, FreezingError
from utilities.features.tokenization import tokenize_examples
from utilities.models.choice import ModelChoice
from utilities.models.freezing import GROUPS, Freeze, freeze, trained_weights, weight_groups
from utilities.prompts.built_in import QUESTION_ANSWER
from utilities.training.run import run_training, train
from utilities.training.run_folder import Run
from utilities.training.settings import Settings, TrainingConfig

SIZES = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256},
    "gpt_neo": {
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 4,
        "attention_types": [[["global", "local"], 1]],
        "max_position_embeddings": 256,
    },
}


@pytest.fixture(params=["gpt_neox", "llama", "gpt2", "gpt_neo"])
def any_model(request):
    if request.param not in SIZES:
        return tiny_model(request.param)
    torch.manual_seed(0)
    ids = {"vocab_size": 512, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1}
    config = AutoConfig.for_model(request.param, **SIZES[request.param], **ids)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def test_every_weight_has_the_group_its_name_suggests(any_model):
    for name, group in weight_groups(any_model).items():
        if "norm" in name or ".ln_" in name:
            assert group == "norms", name
        elif "mlp" in name:
            assert group == "feed_forward", name
        elif "attn" in name or "attention" in name:
            assert group == "attention", name
        elif "embed" in name or "wte" in name or "wpe" in name:
            assert group == "embeddings", name
        else:
            assert (name, group) == ("lm_head.weight", "other")


def run(model, tokenizer, folder, frozen):
    data = tokenize_examples([QUESTION_ANSWER.example(row) for row in ROWS], tokenizer, 128)
    return train(
        model,
        tokenizer,
        data,
        folder,
        Settings.of(
            precision="fp32", freeze=frozen, max_steps=3, learning_rate=1e-2, disable_tqdm=True
        ),
        prompt_format=QUESTION_ANSWER,
        choice=ModelChoice("tiny", "folder", "a test made it"),
    )


@pytest.mark.parametrize("group", GROUPS)
def test_frozen_means_bit_identical(any_model, tokenizer, tmp_path, group):
    groups = weight_groups(any_model)
    if group not in groups.values():
        pytest.skip("this model has no such weights: its output head is its embedding")
    before = {name: weight.clone() for name, weight in any_model.named_parameters()}
    done = run(any_model, tokenizer, tmp_path / "run", Freeze(groups=[group]))
    loaded = AutoModelForCausalLM.from_pretrained(done.folder, dtype=torch.float32)
    for name, weight in loaded.named_parameters():
        same = torch.equal(weight, before[name])
        assert same == (groups[name] == group), name
    table = pd.DataFrame(done.record["weights"]).set_index("group")
    assert table.loc[group, "trained"] == 0 < table.loc[group, "weights"]
    others = table.drop(index=[group, "all"])
    assert (others["trained"] == others["weights"]).all()
    # Freezing ends with its run.
    assert trained_weights(any_model).set_index("group").loc["all", "share"] == 1
    assert done.record["settings"]["freeze"]["groups"] == [group]


def test_kept_parts_are_trained_all_the_same(any_model):
    layer = "h.1" if hasattr(any_model, "transformer") else "layers.1"
    freeze(any_model, Freeze(groups=GROUPS, keep=[layer]))
    groups = weight_groups(any_model)
    trained = [name for name, weight in any_model.named_parameters() if weight.requires_grad]
    assert trained and all(f".{layer}." in name for name in trained)
    assert {groups[name] for name in trained} == {"norms", "attention", "feed_forward"}
    table = trained_weights(any_model).set_index("group")
    assert table.loc["all", "trained"] == table.loc[list(GROUPS), "trained"].sum()
    assert table.loc["all", "weights"] == sum(w.numel() for w in any_model.parameters())
    freeze(any_model, Freeze(groups=[]))
    assert trained_weights(any_model)["share"].iloc[-1] == 1


def test_choices_that_cannot_be_made(any_model):
    with pytest.raises(FreezingError, match="all weights are frozen"):
        freeze(any_model, Freeze(groups=GROUPS))
    with pytest.raises(FreezingError, match="no part 'lm_heads', did you mean 'lm_head'"):
        freeze(any_model, Freeze(groups=["norms"], keep=["lm_heads"]))


def test_in_a_config(tmp_path, model_folder, data_file):
    text = (
        f"base_model: {model_folder}\ntrain: {data_file}\noutput_dir: run\nmethod: freeze\n"
        "precision: fp32\ntraining_arguments: {max_steps: 1, disable_tqdm: true}\n"
    )
    path = tmp_path / "finetune.yaml"
    path.write_text(text + "freeze: {groups: [embeddings, attention], keep: [layers.0]}\n")
    record = run_training(load_config(path, TrainingConfig)).record
    table = {line["group"]: line for line in record["weights"]}
    assert table["embeddings"]["trained"] == 0
    assert 0 < table["attention"]["trained"] < table["attention"]["weights"]
    assert Run.load(tmp_path / "run").record["settings"]["freeze"]["keep"] == ["layers.0"]
    path.write_text(text)
    with pytest.raises(ConfigError, match="`method: freeze` and the block `freeze` go together"):
        load_config(path, TrainingConfig)
    path.write_text(text + "freeze: {groups: [attn]}\n")
    with pytest.raises(ConfigError, match="attention"):
        load_config(path, TrainingConfig)
