import json
import shutil

import pytest
import torch

from tests.conftest import ROWS, run_module, tiny_model
from tests.test_training import fit
from utilities import errors, models
from utilities.errors import AdapterError
from utilities.features.tokenization import tokenize_examples
from utilities.models.adapters import Lora, attach
from utilities.models.choice import ModelChoice
from utilities.prompts.built_in import QUESTION_ANSWER


@pytest.fixture
def data(tokenizer):
    return tokenize_examples([QUESTION_ANSWER.example(row) for row in ROWS], tokenizer, 128)


@pytest.fixture
def base(model, tokenizer, tmp_path):
    """A model and where it is, since an adapter needs its base model again."""
    folder = tmp_path / "base"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model, models.choose(str(folder))


def logits(model, tokenizer):
    ids = tokenizer("What is an epoch?", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        return model.eval()(ids).logits


def test_a_new_adapter_changes_nothing(model, tokenizer):
    before = logits(model, tokenizer)
    torch.testing.assert_close(logits(attach(model, Lora()), tokenizer), before)


def test_only_the_adapter_is_trained(base, tokenizer, data, tmp_path):
    model, choice = base
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    run = fit(model, tokenizer, data, tmp_path / "run", lora=Lora(r=4), choice=choice)
    after = dict(model.named_parameters())
    for name, weight in before.items():
        same = after.get(name, after.get(name.replace(".weight", ".base_layer.weight")))
        if same is None:
            same = after[name.replace(".bias", ".base_layer.bias")]
        assert torch.equal(same, weight), name
    trained = run.record["weights"][-1]
    added = {name: w for name, w in after.items() if "lora_" in name}
    assert trained["trained"] == sum(weight.numel() for weight in added.values()) > 0
    assert all(name.split(".lora_")[0].split(".")[-1] != "lm_head" for name in added)
    assert run.record["method"] == "lora"


@pytest.mark.filterwarnings("error::FutureWarning", "error::DeprecationWarning")
def test_training_an_adapter_uses_no_deprecated_name(base, tokenizer, data, tmp_path):
    _, choice = base
    options = {"max_tokens": 20, "activation_checkpointing": True}
    for number in range(2):  # with checkpointing of all passes, and of those of long rows
        fit(
            models.load(choice)[0],
            tokenizer,
            data,
            tmp_path / str(number),
            lora=Lora(r=2, merge=bool(number)),
            choice=choice,
            max_steps=1,
            **options,
        )
        options.pop("activation_checkpointing", None)
    models.load(str(tmp_path / "0"))


@pytest.mark.parametrize("merge", [False, True])
def test_a_run_loads_as_the_model_in_memory_answers(base, tokenizer, data, tmp_path, merge):
    model, choice = base
    untuned = logits(model, tokenizer)
    lora = Lora(r=4, dropout=0.1, merge=merge)
    run = fit(model, tokenizer, data, tmp_path / "run", lora=lora, choice=choice)
    assert (run.folder / "adapter_model.safetensors").is_file() != merge
    assert (run.folder / "model.safetensors").is_file() == merge
    assert (run.folder / "adapter" / "adapter_model.safetensors").is_file() == merge
    tuned, _ = models.load(str(run.folder))
    torch.testing.assert_close(
        logits(tuned, tokenizer), logits(model, tokenizer), atol=1e-5, rtol=1e-4
    )
    assert (logits(tuned, tokenizer) - untuned).abs().max() > 1e-2


def test_export_needs_nothing_of_this_package(base, tokenizer, data, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, choice = base
    run = fit(model, tokenizer, data, tmp_path / "run", lora=Lora(r=4), choice=choice)
    done = run_module("utilities.models", "export", run.folder, tmp_path / "exported")
    assert done.returncode == 0, done.stderr
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "exported")
    torch.testing.assert_close(
        logits(exported, tokenizer), logits(model, tokenizer), atol=1e-5, rtol=1e-4
    )
    assert AutoTokenizer.from_pretrained(tmp_path / "exported").eos_token_id == 0
    again = run_module("utilities.models", "export", run.folder, tmp_path / "exported")
    assert again.returncode == 2
    assert "exists already" in again.stderr


def test_a_layer_that_is_not_there(model):
    name = "query_key_value" if model.config.model_type == "gpt_neox" else "q_proj"
    with pytest.raises(AdapterError, match=f"did you mean '{name}'"):
        attach(model, Lora(targets=[name + "s"]))


def test_an_adapter_whose_weights_are_damaged(base, tokenizer, data, tmp_path):
    model, choice = base
    run = fit(model, tokenizer, data, tmp_path / "run", lora=Lora(r=4), choice=choice)
    (run.folder / "adapter_model.safetensors").write_bytes(b"not weights")
    with pytest.raises(AdapterError, match="cannot be loaded"):
        models.load(str(run.folder))


def test_an_adapter_whose_model_is_gone(base, tokenizer, data, tmp_path):
    model, choice = base
    run = fit(model, tokenizer, data, tmp_path / "run", lora=Lora(r=4), choice=choice)
    shutil.rmtree(choice.folder)
    with pytest.raises(errors.ModelError, match="there is no model folder"):
        models.load(str(run.folder))


def test_an_adapter_on_the_offline_model(fake_offline_model, tokenizer, data, tmp_path):
    choice = ModelChoice("tiny", "offline model", "a test", fake_offline_model)
    model, _ = models.load(choice)
    run = fit(model, tokenizer, data, tmp_path / "run", lora=Lora(r=2), choice=choice)
    tuned, _ = models.load(str(run.folder))
    torch.testing.assert_close(
        logits(tuned, tokenizer), logits(model, tokenizer), atol=1e-5, rtol=1e-4
    )
    assert json.loads((run.folder / "run.json").read_text())["model"]["source"] == "offline model"


def test_gpt_2_has_linear_layers_of_its_own_kind(tokenizer, data, tmp_path):
    model = tiny_model("gpt2")
    run = fit(model, tokenizer, data, tmp_path / "run", lora=Lora(r=2, merge=True))
    tuned, _ = models.load(str(run.folder))
    assert run.history["loss"].iloc[-1] < run.history["loss"].iloc[0]
    assert tuned.config.model_type == "gpt2"
