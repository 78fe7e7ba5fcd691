import pytest
import torch
from torch.nn import functional

from tests.conftest import ROWS, tiny_model
from utilities.features.collation import PaddingCollator
from utilities.features.tokenization import IGNORE_INDEX, tokenize_examples
from utilities.models.output_head import has_plain_head, replaced_forward
from utilities.prompts.built_in import QUESTION_ANSWER
from utilities.training import loss as module
from utilities.training.loss import supervised_loss


@pytest.fixture
def batch(tokenizer):
    data = tokenize_examples([QUESTION_ANSWER.example(row) for row in ROWS], tokenizer, 128)
    return PaddingCollator(tokenizer.pad_token_id)(list(data.features))


def gradients(model):
    return {name: weight.grad for name, weight in model.named_parameters()}


# In one block, in blocks of 3 positions, and of 1; and with the softmax cut finer than that.
@pytest.mark.parametrize("block", [2**25, 3 * 512, 1])
@pytest.mark.parametrize("rows_in_cache", [1, 32])
@pytest.mark.parametrize("architecture", ["gpt_neox", "llama", "gpt2"])
def test_fused_loss_and_gradients_equal_the_library_s(
    architecture, block, rows_in_cache, batch, monkeypatch
):
    monkeypatch.setattr(module, "LOGITS_BLOCK", block)
    monkeypatch.setattr(module, "ROWS_IN_CACHE", rows_in_cache)
    model = tiny_model(architecture)  # GPT-2's head shares its weights with the embeddings
    expected = model(**batch).loss
    expected.backward()
    wanted = gradients(model)
    model.zero_grad()
    count = int((batch["labels"] != IGNORE_INDEX).sum())
    head = model.get_output_embeddings()
    found = supervised_loss(model, head, scale=1 / count, fused=True, **batch)
    found.loss.backward()
    assert found.loss.item() == pytest.approx(expected.item(), abs=1e-5)
    assert found.nats.mean().item() == pytest.approx(expected.item(), abs=1e-5)
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, wanted[name], atol=1e-5, rtol=1e-4)


def test_only_supervised_positions_reach_the_head(model, batch):
    head, seen = model.get_output_embeddings(), []
    head.register_forward_hook(lambda _, inputs, output: seen.append(output.shape))
    found = supervised_loss(model, head, **batch)
    assert seen == [(1, len(found.nats), 512)]
    supervised_loss(model, head, fused=True, **batch)
    assert seen[1] == (1, 1, 1), "no logits leave the head"
    model(input_ids=batch["input_ids"])  # the loss has left nothing behind
    assert seen[2][:2] == batch["input_ids"].shape


def test_memory_does_not_grow_with_the_number_of_positions(monkeypatch):
    monkeypatch.setattr(module, "LOGITS_BLOCK", 4 * 1000)
    largest = []
    original = torch.mm

    def mm(*arguments, **options):
        result = original(*arguments, **options)
        largest.append(result.numel())
        return result

    monkeypatch.setattr(torch, "mm", mm)
    hidden, weight = torch.randn(50, 8, requires_grad=True), torch.randn(1000, 8)
    targets = torch.randint(0, 1000, (50,))
    loss, _ = module._LinearCrossEntropy.apply(hidden, weight, targets, 1.0)
    assert max(largest) == 4 * 1000
    assert len(largest) > 20
    expected = functional.cross_entropy(hidden @ weight.t(), targets, reduction="sum")
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_gradient_that_is_scaled_later(batch):
    """As a GradScaler does it."""
    model = tiny_model("llama")
    head = model.get_output_embeddings()
    (supervised_loss(model, head, fused=True, **batch).loss * 8).backward()
    scaled = gradients(model)
    model.zero_grad()
    supervised_loss(model, head, fused=True, **batch).loss.backward()
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(scaled[name], 8 * gradient)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast(dtype, batch):
    model = tiny_model("gpt_neox")
    head = model.get_output_embeddings()
    supervised_loss(model, head, fused=True, **batch).loss.backward()
    exact = gradients(model)
    model.zero_grad()
    with torch.autocast("cpu", dtype):
        found = supervised_loss(model, head, fused=True, **batch)
    found.loss.backward()
    assert found.nats.dtype == torch.float32
    for name, gradient in gradients(model).items():
        assert gradient.dtype == torch.float32
        similarity = functional.cosine_similarity(gradient.flatten(), exact[name].flatten(), dim=0)
        assert similarity > 0.99, name


def test_a_batch_without_a_supervised_token(batch):
    model = tiny_model("llama")
    batch["labels"] = torch.full_like(batch["labels"], IGNORE_INDEX)
    found = supervised_loss(model, model.get_output_embeddings(), fused=True, **batch)
    found.loss.backward()
    assert found.loss.item() == 0
    assert all(not gradient.any() for gradient in gradients(model).values())


def test_heads_that_are_more_than_a_product():
    assert has_plain_head(tiny_model("gpt_neox"))
    assert has_plain_head(tiny_model("llama"))
    capped = tiny_model("llama")
    original = capped.forward

    def forward(*arguments, **options):
        output = original(*arguments, **options)
        output.logits = 0.01 * torch.tanh(output.logits / 0.01)
        return output

    capped.forward = forward
    assert not has_plain_head(capped)
    assert not has_plain_head(tiny_model("phi")), "its head has a bias"


def test_a_head_with_a_bias_learns_all_the_same(batch):
    model = tiny_model("phi")
    expected = model(**batch).loss
    found = supervised_loss(model, model.get_output_embeddings(), **batch)
    assert found.nats.mean().item() == pytest.approx(expected.item(), abs=1e-5)


def test_a_replaced_forward_gives_the_earlier_one_back():
    layer, ones = torch.nn.Linear(2, 2), torch.ones(1, 2)
    own = layer(ones)
    with replaced_forward(layer, lambda hidden: hidden):
        with pytest.raises(ZeroDivisionError), replaced_forward(layer, lambda hidden: 2 * hidden):
            assert torch.equal(layer(ones), 2 * ones)
            raise ZeroDivisionError
        assert torch.equal(layer(ones), ones)
    assert torch.equal(layer(ones), own) and "forward" not in vars(layer)
