"""Plans: bytes against what autograd keeps, tables against what they follow from."""

import doctest
import math
import subprocess
import sys
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from datasets import Dataset

from tests.conftest import family_model
from utilities.errors import PlanningError
from utilities.models.adapters import Lora, attach
from utilities.planning import planner
from utilities.planning.machines import HARDWARE
from utilities.planning.model_sizes import ModelShape, step_flops
from utilities.planning.planner import memory, plan
from utilities.training import loss, trainer

DATA = {"rows": 1000, "tokens": 200_000, "supervised_tokens": 50_000}


def test_the_module_and_a_plan_do_without_torch():
    code = (
        "import sys; from utilities.planning import plan; "
        f"plan('pythia-70m', {DATA}, None); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_the_examples_in_docstrings_hold():
    found = doctest.testmod(planner)
    assert found.failed == 0 and found.attempted > 3


# ---- memory ----


def kept_bytes(model, rows, length, autocast):
    """Return the bytes autograd keeps for the backward pass, weights apart."""
    weights = {w.untyped_storage().data_ptr() for w in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    body = getattr(model, "get_base_model", lambda: model)().base_model
    body.set_attn_implementation("sdpa")
    ids = torch.randint(2, 500, (rows, length))
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=autocast),
    ):
        body(input_ids=ids, use_cache=False)
    return sum(size for size, _ in kept.values())


@pytest.mark.parametrize(
    ("method", "family", "precision", "least", "most"),
    [
        ("full", "gpt_neox", "fp32", 0.99, 1.01),
        ("full", "llama", "fp32", 0.99, 1.01),
        *(("full", name, "bf16", 0.99, 1.01) for name in ("gpt_neox", "llama", "qwen2", "mistral")),
        ("full", "qwen3", "bf16", 1 / 1.3, 6 / 7),
        ("lora", "gpt_neox", "bf16", 0.98, 8 / 7),
        ("lora", "llama", "bf16", 0.98, 8 / 7),
    ],
)
def test_a_layer_keeps_the_bytes_that_autograd_keeps(method, family, precision, least, most):
    kept, planned = [], []
    for layers in (1, 2):
        model = family_model(family, layers)
        shape = ModelShape.of(model)
        if method == "lora":
            model = attach(model, Lora(r=2))
        needed = memory(shape, method, 4, 64, precision)
        kept.append(kept_bytes(model, 4, 64, precision == "bf16") - needed.copies)
        planned.append(needed.activations)
    ratio = (planned[1] - planned[0]) / (kept[1] - kept[0])
    assert least <= ratio <= most


def test_the_parts_of_full_fine_tuning_are_16_bytes_a_weight():
    shape = ModelShape.of("pythia-160m")
    needed = memory(shape, rows=4, row_length=128)
    assert needed.weights + needed.gradients + needed.optimizer == 16 * shape.weights
    assert needed.logits == 4 * min(512 * shape.vocabulary, loss.LOGITS_BLOCK)
    assert needed.copies == needed.adapters == 0
    parts = (needed.activations, needed.logits)
    assert needed.total == 16 * shape.weights + sum(parts)
    assert "weights 0.65" in str(needed) and "adapters" not in str(needed)


def test_what_is_frozen_has_no_gradient_and_no_state():
    shape = ModelShape.of("SmolLM2-135M")
    full, lora = memory(shape), memory(shape, "lora")
    half = memory(shape, "lora", precision="bf16", base="bf16")
    freeze = memory(shape, "freeze", trained_layers=3)
    assert lora.gradients == lora.optimizer == half.copies == 0
    assert lora.weights == full.weights == 2 * half.weights
    assert 0 < lora.adapters < 0.05 * full.optimizer
    assert freeze.activations == pytest.approx(full.activations / 10)
    assert freeze.gradients == 2 * freeze.optimizer / 4 < full.gradients / 10
    lighter = memory(shape, optimizer="sgd", activation_checkpointing=True)
    assert lighter.optimizer == 0 and lighter.activations < full.activations / 5


def test_the_limits_are_those_of_the_trainer():
    assert planner.LOGITS == loss.LOGITS_BLOCK
    limits = {"cpu": trainer.MAX_TOKENS["cpu"], "gpu": trainer.MAX_TOKENS["cuda"]}
    assert limits == planner.PASS_TOKENS


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"rows": 0}, "rows is 0; give a number above 0"),
        ({"row_length": math.inf}, "row_length is inf"),
        ({"rows": "8"}, "rows is '8'"),
        ({"optimizer": "adam"}, "no optimizer 'adam', did you mean 'adamw'"),
        ({"precision": "bf61"}, "no precision 'bf61'"),
        ({"base": "bf16"}, "only `lora` leaves it frozen"),
    ],
)
def test_memory_of_nonsense_is_refused(options, told):
    with pytest.raises(PlanningError, match=told):
        memory(ModelShape.of("pythia-70m"), **options)


# ---- plans ----


def test_a_large_model_fits_where_people_fit_it():
    table = plan("meta-llama/Llama-3.1-8B", DATA, None).set_index(["hardware", "method"])
    full, lora = (table.xs(method, level="method") for method in ("full", "lora"))
    assert (full.memory_gb > 128).all()
    assert not full.fits["A100 80 GB"] and full.gpus["A100 80 GB"] == 3
    assert full.remedy["A100 80 GB"] == "LoRA; 3 GPUs with FSDP"
    assert lora.fits["A100 40 GB"] and lora.remedy["A100 40 GB"] == ""
    assert lora.remedy["L4"].startswith("activation checkpointing")
    assert pd.isna(full.gpus["laptop"]) and math.isnan(full.minutes["laptop"])
    assert full.remedy["laptop"] == "a GPU, or a smaller model"
    assert list(full.index) == list(HARDWARE)

    short = {"rows": 1000, "tokens": 60_000, "supervised_tokens": 20_000}
    line = plan("Llama-3.1-8B", short, "L4", "lora").iloc[0]
    assert line.fits and 16 < line.memory_gb < 21.6


def test_every_remedy_works():
    shape, longest = ModelShape.of("Llama-3.2-3B"), 400
    data = {**DATA, "longest": longest}
    for line in plan(shape, data, None, "full").itertuples():
        if "activation checkpointing;" in line.remedy + ";" and "LoRA" not in line.remedy:
            again = plan(shape, data, line.hardware, "full", activation_checkpointing=True)
            assert again.fits[0]
        if "LoRA;" in line.remedy:
            assert plan(shape, data, line.hardware, "lora").fits[0]
        assert line.fits == (line.remedy == "")


def test_time_and_cost_follow_from_operations():
    table = plan("pythia-1b", DATA, ["H100", "T4"], "full", epochs=2, price_per_hour=6)
    shape = ModelShape.of("pythia-1b")
    assert table.flops[0] == 2 * step_flops(shape, 200_000, 50_000, 200)
    computing = table.flops[0] / (0.35 * 989e12) / 60
    assert computing < table.minutes[0] < 2 * computing
    assert table.dollars[0] == pytest.approx(table.minutes[0] / 60 * 6)
    assert list(table.precision) == ["bf16", "fp16"]
    # Two GPUs take half the time, and cost the same.
    cost = plan("pythia-2.8b", DATA, "RTX 3090", "full", price_per_hour=1)
    assert cost.gpus[0] > 1
    assert cost.dollars[0] == pytest.approx(cost.minutes[0] / 60 * cost.gpus[0])


def test_fewer_trained_weights_need_less():
    table = plan("SmolLM2-135M", DATA, method=["full", "freeze", "lora"], trained_layers=6)
    full, freeze, lora = table.itertuples()
    assert full.weights_trained == ModelShape.of("SmolLM2-135M").weights
    assert full.weights_trained > freeze.weights_trained > lora.weights_trained
    assert full.flops > lora.flops > freeze.flops
    assert full.memory_gb > lora.memory_gb > freeze.memory_gb
    assert list(table.gpus) == [0, 0, 0] and (table.dollars == 0).all()


def examples(rows, **columns):
    features = Dataset.from_dict({"input_ids": rows, **columns})
    return SimpleNamespace(features=features, counts={})


def test_data_are_counted_without_padding():
    rows = [[5] * length for length in (2, 4, 10)]
    labels = [[-100, 5], [-100, -100, 5, 5], [-100] * 5 + [5] * 5]
    shape = ModelShape.of("pythia-70m")
    line = plan(shape, examples(rows, labels=labels), method="full", epochs=1, batch_size=2).iloc[0]
    assert line.flops == step_flops(shape, 16, 8, (4 + 16 + 100) / 16)
    assert line.memory_gb == memory(shape, rows=1, row_length=14).total / 1e9


def test_packed_examples_attend_to_themselves_only():
    positions = [[0, 1, 2, 0, 1, 2, 3, 0], [0, 1, 2, 3, 4, 5, 6, 7]]
    data = examples([[5] * 8] * 2, labels=[[-100] * 7 + [5]] * 2, position_ids=positions)
    shape = ModelShape.of("pythia-70m")
    line = plan(shape, data, method="full", epochs=1).iloc[0]
    assert line.flops == step_flops(shape, 16, 2, (9 + 16 + 1 + 64) / 16)


def test_a_pass_is_no_larger_than_max_tokens():
    shape = ModelShape.of("pythia-70m")
    data = {**DATA, "longest": 300}
    by_limit = {
        limit: plan(shape, data, method="full", batch_size=8, max_tokens=limit).memory_gb[0]
        for limit in (None, 600, 100)
    }
    for limit, tokens in {None: 1024, 600: 600, 100: 300}.items():
        assert by_limit[limit] == memory(shape, rows=1, row_length=tokens).total / 1e9


@pytest.mark.parametrize(
    ("data", "options", "told"),
    [
        (DATA, {"hardware": "A1000"}, "no hardware 'A1000'"),
        (DATA, {"method": "lorra"}, "did you mean 'lora'"),
        (DATA, {"method": []}, "method is empty; name one or several of full, freeze, lora"),
        (DATA, {"epochs": 0}, "epochs is 0"),
        (DATA, {"batch_size": -1}, "batch_size is -1"),
        (DATA, {"max_tokens": 0}, "max_tokens is 0"),
        (DATA, {"method": "freeze"}, "trained_layers is None"),
        (DATA, {"price_per_hour": -1}, "price_per_hour is -1"),
        (DATA, {"trained_layers": 2}, "`freeze`, which is not in `method`"),
        (DATA, {"optimiser": "sgd"}, "no setting 'optimiser', did you mean 'optimizer'"),
        ({"rows": 5}, {}, "give TokenizedExamples, or a dict with rows, tokens"),
        ({**DATA, "tokens": 0}, {}, "tokens is 0"),
        ({**DATA, "longestt": 9}, {}, "did you mean 'longest'"),
        ("data.jsonl", {}, "give TokenizedExamples"),
        (Dataset.from_dict({"input_ids": [[5]]}), {}, "give TokenizedExamples"),
    ],
)
def test_plans_of_nonsense_are_refused(data, options, told):
    with pytest.raises(PlanningError, match=told):
        plan("pythia-70m", data, **options)
