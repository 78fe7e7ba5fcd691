import pytest
import torch
from datasets import Dataset

from tests.conftest import ROWS, tiny_model
from tests.test_training import fit
from utilities.features.tokenization import tokenize_examples
from utilities.prompts.built_in import QUESTION_ANSWER
from utilities.training.settings import Settings, make_training_arguments
from utilities.training.used_embedding_rows import NAME, UsedRows


@pytest.fixture
def data(tokenizer):
    return tokenize_examples([QUESTION_ANSWER.example(row) for row in ROWS], tokenizer, 128)


def large(architecture):
    """A model of which the data use less than half the vocabulary."""
    return tiny_model(architecture, vocab_size=2000)


@pytest.mark.parametrize("architecture", ["gpt_neox", "llama"])
def test_training_is_the_same_with_it_and_without(
    architecture, tokenizer, data, tmp_path, monkeypatch
):
    models, runs = [], []
    for name in ("with", "without"):
        models.append(large(architecture))
        attached = []
        if name == "with":
            original = UsedRows.__init__

            def note(self, *arguments, original=original, attached=attached):
                attached.append(self)
                original(self, *arguments)

            monkeypatch.setattr(UsedRows, "__init__", note)
        else:
            monkeypatch.setattr(UsedRows, "attach", lambda *arguments: None)
        runs.append(fit(models[-1], tokenizer, data, tmp_path / name, max_steps=8, eval_data=data))
        assert len(attached) == (name == "with")
    columns = ["loss", "grad_norm", "eval_loss"]
    torch.testing.assert_close(
        torch.tensor(runs[0].history[columns].to_numpy()),
        torch.tensor(runs[1].history[columns].to_numpy()),
        atol=1e-4,
        rtol=1e-4,
        equal_nan=True,
    )
    before = large(architecture).get_input_embeddings().weight
    for model in models:
        table = model.get_input_embeddings()
        assert table.weight.requires_grad and NAME not in dict(table.named_parameters())
        ids = data.features["input_ids"]
        used = torch.tensor(sorted({i for row in ids for i in row} - {table.padding_idx}))
        changed = (table.weight != before).any(dim=1).nonzero().flatten()
        assert len(changed) > 0 and set(changed.tolist()) <= set(used.tolist())
    for (name, one), other in zip(
        models[0].named_parameters(), models[1].parameters(), strict=True
    ):
        torch.testing.assert_close(one, other, atol=2e-4, rtol=1e-3, msg=lambda m, n=name: n + m)


def test_saved_models_know_nothing_of_it(tokenizer, data, tmp_path):
    from safetensors import safe_open

    run = fit(
        large("gpt_neox"), tokenizer, data, tmp_path / "run", save_strategy="steps", save_steps=2
    )
    for file in run.folder.rglob("model.safetensors"):
        with safe_open(file, "pt") as weights:
            assert not [name for name in weights.keys() if NAME in name]  # noqa: SIM118


@pytest.mark.parametrize(
    ("model", "options"),
    [
        (lambda: tiny_model("gpt2", vocab_size=2000), {}),  # its head shares the table
        (lambda: large("llama"), {"weight_decay": 0.1}),
        (lambda: large("llama"), {"optim": "adafactor"}),
    ],
)
def test_where_it_would_change_something_it_is_left(model, options, data, tmp_path):
    arguments = make_training_arguments(tmp_path, Settings.of(**options))
    assert UsedRows.attach(model(), arguments, data.features) is None


def test_where_most_rows_are_used_it_is_left(tmp_path):
    model, arguments = large("llama"), make_training_arguments(tmp_path)
    for count, wanted in [(900, True), (1100, False)]:
        features = Dataset.from_dict({"input_ids": [list(range(2, count))]})
        attached = UsedRows.attach(model, arguments, features)
        assert (attached is not None) == wanted
        if attached:
            attached.detach()


def test_the_gradient_of_rows(data):
    table = torch.nn.Embedding(50, 4)
    ids = torch.tensor([[3, 7, 3], [9, 9, 9]])
    weights = torch.randn(2, 3, 4)
    (table(ids) * weights).sum().backward()
    expected, table.weight.grad = table.weight.grad, None
    rows = UsedRows(table, torch.tensor([3, 7]))  # 9 is not among them, so it stays
    (table(ids) * weights).sum().backward()
    torch.testing.assert_close(getattr(table, NAME).grad, expected[[3, 7]])
    assert table.weight.grad is None
    rows.detach()
    assert torch.equal(table(ids), torch.nn.functional.embedding(ids, table.weight))
