"""Sizes against models and published counts, operations against torch's counter."""

import doctest
import math
from types import SimpleNamespace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig

from tests.conftest import FAMILIES, family_model, tiny_model
from utilities.errors import PlanningError
from utilities.models.adapters import Lora, attach
from utilities.planning import model_sizes
from utilities.planning.model_sizes import (
    SHAPES,
    ModelShape,
    memory_footprint,
    step_flops,
    trained_part,
)

PUBLISHED = {
    "pythia-70m": 70_426_624,
    "pythia-160m": 162_322_944,
    "pythia-410m": 405_334_016,
    "pythia-1b": 1_011_781_632,
    "pythia-1.4b": 1_414_647_808,
    "pythia-2.8b": 2_775_208_960,
    "pythia-6.9b": 6_857_302_016,
    "pythia-12b": 11_846_072_320,
    "SmolLM2-135M": 134_515_008,
    "SmolLM2-360M": 361_821_120,
    "SmolLM2-1.7B": 1_711_376_384,
    "Qwen2.5-0.5B": 494_032_768,
    "Qwen2.5-1.5B": 1_543_714_304,
    "Qwen2.5-7B": 7_615_616_512,
    "Llama-3.2-1B": 1_235_814_400,
    "Llama-3.2-3B": 3_212_749_824,
    "Llama-3.1-8B": 8_030_261_248,
    "Llama-3.1-70B": 70_553_706_496,
}


def test_the_examples_in_docstrings_hold():
    found = doctest.testmod(model_sizes)
    assert found.failed == 0 and found.attempted > 1


def test_weights_are_those_published():
    assert len(PUBLISHED) == len(SHAPES)
    for name, weights in PUBLISHED.items():
        assert ModelShape.of(name).weights == pytest.approx(weights, rel=1e-4), name


@pytest.mark.parametrize("family", FAMILIES)
def test_sizes_are_read_from_configs_of_many_kinds(family):
    model = family_model(family, layers=3)
    shape = ModelShape.of(model.config)
    assert shape == ModelShape.of(model) == ModelShape.of(shape)
    assert shape.weights == pytest.approx(model.num_parameters(), rel=0.01)
    blocks = sum(
        w.numel()
        for name, w in model.named_parameters()
        if w.ndim == 2 and not any(part in name for part in ("embed", "wte", "wpe", "lm_head"))
    )
    assert shape.layer_weights == blocks
    assert shape.head_weights == model.get_output_embeddings().weight.numel()


@pytest.mark.parametrize("architecture", ["gpt_neox", "llama"])
def test_the_tiny_models_of_the_tests_have_their_weights(architecture, caplog):
    model = tiny_model(architecture)
    assert ModelShape.of(model).weights == model.num_parameters()
    assert not caplog.records


def test_names_are_found_without_organisation_and_suffix():
    assert ModelShape.of("HuggingFaceTB/SmolLM2-135M-Instruct").name.endswith("SmolLM2-135M")
    assert ModelShape.of("pythia-70m-deduped") is SHAPES["EleutherAI/pythia-70m"]


def test_a_model_that_is_otherwise_made_is_told(caplog):
    model = tiny_model("llama")
    model.extra = torch.nn.Linear(300, 300)
    ModelShape.of(model)
    assert "plans for it will be off" in caplog.text


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("pythia-70", "did you mean 'pythia-70m'"),
        (SimpleNamespace(model_type="bert", hidden_size=8), "it has no num_attention_heads"),
        (7, "Give a name, a transformers config"),
        (
            SimpleNamespace(model_type="t5", hidden_size=8, is_encoder_decoder=True),
            "no plain decoder",
        ),
        (AutoConfig.for_model("mixtral"), "no plain decoder"),
    ],
)
def test_a_model_without_these_sizes_is_refused(model, told):
    with pytest.raises(PlanningError, match=told):
        ModelShape.of(model)


def test_the_footprint_is_the_librarys(model):
    assert memory_footprint(model) == model.get_memory_footprint()
    assert memory_footprint(model.half()) == pytest.approx(2 * model.num_parameters(), rel=0.02)


def counted_flops(model, rows, length, supervised):
    """Count one step, forward and backward, with the head at supervised positions only."""
    base = model.get_base_model() if hasattr(model, "peft_config") else model
    ids = torch.randint(2, 500, (rows, length))
    with FlopCounterMode(display=False) as counter:
        hidden = base.base_model(input_ids=ids, use_cache=False).last_hidden_state
        logits = base.get_output_embeddings()(hidden[:, -supervised:])
        targets = torch.zeros(rows * supervised, dtype=torch.long)
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets).backward()
    return counter.get_total_flops()


def expected_flops(model, rows, length, supervised, *method, **options):
    # The counter's model computes the whole square of the attention scores, not half of it.
    shape = ModelShape.of(model)
    tokens, learned = rows * length, rows * supervised
    return step_flops(shape, tokens, learned, 2 * length, *method, **options)


@pytest.mark.parametrize("family", ["gpt_neox", "llama", "qwen3", "gpt2", "gpt_neo"])
def test_full_fine_tuning_takes_the_operations_that_are_counted(family):
    model = family_model(family, layers=3)
    counted = counted_flops(model, 2, 100, 30)
    assert expected_flops(model, 2, 100, 30) == pytest.approx(counted, rel=0.002)


@pytest.mark.parametrize("family", ["gpt_neox", "llama"])
def test_adapters_and_freezing_take_the_operations_that_are_counted(family):
    model = family_model(family, layers=6)
    for weight in model.parameters():
        weight.requires_grad = False
    for layer in (model.gpt_neox if family == "gpt_neox" else model.model).layers[4:]:
        layer.requires_grad_(True)
    counted = counted_flops(model, 2, 32, 8)
    expected = expected_flops(model, 2, 32, 8, "freeze", trained_layers=2)
    assert expected == pytest.approx(counted, rel=0.002)

    model = attach(family_model(family, layers=6), Lora(r=4))
    counted = counted_flops(model, 2, 32, 8)
    expected = expected_flops(model, 2, 32, 8, "lora", rank=4)
    # GPT-NeoX's first feed-forward block reads the embedding too, and its gradient is left out.
    assert expected == pytest.approx(counted, rel=0.03 if family == "gpt_neox" else 0.003)


def test_activation_checkpointing_repeats_the_forward_pass():
    model = family_model("llama", layers=3)
    model.activation_checkpointing_enable()
    counted = counted_flops(model, 2, 32, 8)
    expected = expected_flops(model, 2, 32, 8, activation_checkpointing=True)
    assert expected == pytest.approx(counted, rel=0.002)


def test_six_operations_a_weight_and_token_are_the_rule_of_thumb():
    shape = ModelShape.of("Llama-3.1-70B")
    computing = shape.layer_weights + shape.head_weights
    assert step_flops(shape, 1e6, 1e6, 1) == pytest.approx(6 * computing * 1e6, rel=1e-4)
    assert step_flops(shape, 1e6, 0, 1) == pytest.approx(6 * shape.layer_weights * 1e6, rel=1e-4)
    assert step_flops(shape, 0, 0, 1) == 0


def test_adapter_weights_are_those_that_peft_makes():
    for family in ("gpt_neox", "llama"):
        model = attach(family_model(family, layers=2), Lora(r=4))
        made = sum(w.numel() for name, w in model.named_parameters() if "lora_" in name)
        assert trained_part(ModelShape.of(model), "lora", None, rank=4) == (1, 0, made)


@pytest.mark.parametrize(
    ("arguments", "options", "told"),
    [
        ((10, 20, 5), {}, "20 supervised tokens of 10"),
        ((10, -1, 5), {}, "-1 supervised tokens"),
        ((10, 5, 0), {}, "row_length is 0"),
        ((math.nan, 5, 5), {}, "supervised tokens of nan"),
        ((10, 5, 5, "frozen"), {}, "no method 'frozen', did you mean 'freeze'"),
        ((10, 5, 5, "freeze"), {}, "trained_layers is None with method 'freeze'"),
        ((10, 5, 5, "full"), {"trained_layers": 1}, "the other methods take none"),
        ((10, 5, 5, "freeze"), {"trained_layers": 7}, "`freeze` needs 1 to 6"),
        ((10, 5, 5, "lora"), {"rank": 0}, "rank is 0"),
    ],
)
def test_operations_of_nonsense_are_refused(arguments, options, told):
    with pytest.raises(PlanningError, match=told):
        step_flops(ModelShape.of("pythia-70m"), *arguments, **options)
