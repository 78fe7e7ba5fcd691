"""The labs' training cells run here as they are, on a tiny model and without a network."""

import json
import logging

import pandas as pd
import pytest
import torch
from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainingArguments

from tests.conftest import ROWS, tiny_model
from utilities.errors import RunnerError
from utilities.features.tokenization import encode_texts
from utilities.inference.local_model import answer_ids, inference
from utilities.runner.lab_functions import Trainer, tokenize_and_split_data
from utilities.scores.metrics import is_exact_match


@pytest.fixture
def training_config(model_folder, data_file):
    return {
        "model": {"pretrained_name": str(model_folder), "max_length": 2048},
        "datasets": {"use_hf": False, "path": str(data_file)},
        "verbose": True,
    }


def training_arguments(output_dir, **fields):
    """Build what the labs' cell builds, with the names that the library has today."""
    return TrainingArguments(
        **{
            "learning_rate": 1.0e-3,
            "num_train_epochs": 1,
            "max_steps": 3,
            "per_device_train_batch_size": 1,
            "output_dir": str(output_dir),
            "disable_tqdm": False,
            "eval_steps": 120,
            "save_steps": 120,
            "warmup_steps": 1,
            "per_device_eval_batch_size": 1,
            "eval_strategy": "steps",
            "logging_strategy": "steps",
            "logging_steps": 1,
            "optim": "adafactor",
            "gradient_accumulation_steps": 4,
            "load_best_model_at_end": True,
            "save_total_limit": 1,
            "metric_for_best_model": "eval_loss",
            "greater_is_better": False,
            **fields,
        }
    )


def test_the_training_cells(training_config, model_folder, tmp_path, capsys):
    model_name = training_config["model"]["pretrained_name"]
    max_steps = 3
    tokenizer = AutoTokenizer.from_pretrained(model_name)
    tokenizer.pad_token = tokenizer.eos_token
    train_dataset, test_dataset = tokenize_and_split_data(training_config, tokenizer)
    assert "train: 7 rows" in capsys.readouterr().out

    base_model = AutoModelForCausalLM.from_pretrained(model_name)  # float16, as it was saved
    before = inference(test_dataset[0]["question"], base_model, tokenizer)
    assert isinstance(before, str)
    arguments = training_arguments(tmp_path / "lab")
    model_flops = 1e6 * arguments.gradient_accumulation_steps
    trainer = Trainer(
        model=base_model,
        model_flops=model_flops,
        total_steps=max_steps,
        args=arguments,
        train_dataset=train_dataset,
        eval_dataset=test_dataset,
    )
    trainer.train()

    assert all(weight.dtype == torch.float32 for weight in base_model.parameters())
    last = trainer.history.set_index("step").loc[3]
    assert last["remaining_time"] == 0 and last["iter_time"] > 0
    assert last["flops"] == pytest.approx(model_flops / last["iter_time"])
    assert last["eval_loss"] > 0 and len(trainer.history) == 3
    told = capsys.readouterr().out
    assert told.count("GFLOP/s") == 3 and "step 1 of 3: loss" in told
    assert "iter_time" not in told  # the library does not print it all once more

    save_dir = str(tmp_path / "lab" / "final")
    trainer.save_model(save_dir)
    saved = AutoModelForCausalLM.from_pretrained(save_dir, local_files_only=True)
    assert saved.config.use_cache
    question = test_dataset[0]["question"]
    assert inference(question, saved, tokenizer) == inference(question, base_model, tokenizer)

    # The best checkpoint is the model that is left, output head and all.
    best = AutoModelForCausalLM.from_pretrained(trainer.state.best_model_checkpoint)
    ids = torch.tensor([test_dataset[0]["input_ids"]])
    with torch.no_grad():
        torch.testing.assert_close(best(ids).logits, base_model(ids).logits)

    exact_matches, predictions = [], []
    for item in test_dataset:
        predicted = inference(item["question"], base_model, tokenizer, max_output_tokens=8)
        predictions.append([predicted, item["answer"]])
        exact_matches.append(is_exact_match(predicted, item["answer"]))
    assert len(exact_matches) == len(test_dataset) and sum(exact_matches) == 0
    pd.DataFrame(predictions, columns=["predicted_answer", "target_answer"])


# What a learner types who follows the original labs, cell by cell: everything of the package comes
# by the star import, and `inference` is that name too, not the package of the same name.
CELLS = (
    """
import logging
import pandas as pd
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainingArguments
from utilities import *

logger = logging.getLogger(__name__)
""",
    """
tokenizer = AutoTokenizer.from_pretrained(folder)
tokenizer.pad_token = tokenizer.eos_token
settings = {
    "model": {"pretrained_name": folder, "max_length": 512},
    "datasets": {"use_hf": False, "path": rows},
    "verbose": True,
}
train_rows, test_rows = tokenize_and_split_data(settings, tokenizer)
print(train_rows)
""",
    """
base_model = AutoModelForCausalLM.from_pretrained(folder)
base_model.to("cuda" if torch.cuda.device_count() else "cpu")
question = test_rows[0]["question"]
before = inference(question, base_model, tokenizer)
""",
    """
training_args = TrainingArguments(
    output_dir=output, max_steps=2, per_device_train_batch_size=1, optim="adafactor",
    logging_steps=1, disable_tqdm=False,
)
trainer = Trainer(
    model=base_model, model_flops=1e6, total_steps=2, args=training_args,
    train_dataset=train_rows, eval_dataset=test_rows,
)
training_output = trainer.train()
""",
    """
after = inference(question, base_model, tokenizer, max_input_tokens=500, max_output_tokens=20)
is_right = is_exact_match(after, test_rows[0]["answer"])
""",
)


def test_the_labs_cells_find_every_name_by_the_star_import(
    model_folder, data_file, tmp_path, capsys
):
    values = {"folder": str(model_folder), "rows": str(data_file), "output": str(tmp_path / "lab")}
    namespace = {"__name__": "__main__", **values}
    for number, cell in enumerate(CELLS, 1):
        exec(compile(cell, f"cell {number}", "exec"), namespace)
    assert namespace["training_output"].global_step == 2
    assert isinstance(namespace["before"], str) and isinstance(namespace["after"], str)
    assert namespace["is_right"] is False
    assert is_exact_match(f" {namespace['after']}\n", namespace["after"])
    assert "step 2 of 2: loss" in capsys.readouterr().out


def test_unequal_rows_in_mixed_precision_without_figures_to_tell(
    training_config, tmp_path, tokenizer, capsys
):
    train_dataset, _ = tokenize_and_split_data(training_config, tokenizer)
    arguments = training_arguments(
        tmp_path / "lab",
        per_device_train_batch_size=4,
        gradient_accumulation_steps=1,
        bf16=True,
        use_cpu=True,
        disable_tqdm=True,
        remove_unused_columns=False,
        eval_strategy="no",
        save_strategy="no",
        load_best_model_at_end=False,
    )
    arguments._n_gpu = 2
    model = tiny_model("llama")
    trainer = Trainer(model, arguments, train_dataset=train_dataset)
    assert trainer.args.n_gpu == 1
    trainer.train()
    assert trainer.history["flops"].gt(0).all() and trainer.history["loss"].notna().all()
    assert "iter_time" not in capsys.readouterr().out
    saved = tiny_model("llama")
    saved.load_state_dict(model.state_dict())
    ids = torch.tensor([train_dataset[0]["input_ids"]])
    assert torch.equal(model.eval()(ids).logits, saved(ids).logits)  # not under autocast any more


def test_masks_columns_and_split(training_config, tokenizer):
    parts = tokenize_and_split_data(training_config, tokenizer)
    columns = ["question", "answer", "input_ids", "attention_mask", "labels"]
    assert [part.column_names for part in parts] == [columns, columns]
    assert [len(part) for part in parts] == [7, 1]
    for row in [*parts[0], *parts[1]]:
        asked = encode_texts(tokenizer, [row["question"]], beginning=True)[0]
        told = [*encode_texts(tokenizer, [row["answer"]])[0], tokenizer.eos_token_id]
        assert row["question"].startswith("### Question:\n")
        assert row["input_ids"] == asked + told
        assert row["labels"] == [-100] * len(asked) + told
        assert row["attention_mask"] == [1] * len(row["input_ids"])
    again = tokenize_and_split_data(training_config, tokenizer)
    assert [part["question"][:] for part in again] == [part["question"][:] for part in parts]


def test_rows_that_ask_the_same_stay_together(tmp_path, training_config, tokenizer):
    asked = ["Why pad", "How", "Where", "When", "Who"]
    rows = [{"question": f"{text}{end}", "answer": "So."} for text in asked for end in ("?", " ?!")]
    path = tmp_path / "twice.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {**training_config, "datasets": {"use_hf": False, "path": str(path)}}
    parts = tokenize_and_split_data(config, tokenizer)
    train, test = (
        {text.split("\n")[1].rstrip("?! ") for text in part["question"]} for part in parts
    )
    assert len(test) == 1 and train | test == set(asked) and train.isdisjoint(test)


def test_what_is_left_out_is_told(tmp_path, training_config, tokenizer, caplog):
    long = "very " * 300
    rows = [*ROWS, {"question": "", "answer": ""}, {"question": "Is it long?", "answer": long}]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {
        "model": {"max_length": 128},
        "datasets": {"use_hf": False, "path": str(path)},
    }
    with caplog.at_level(logging.WARNING):
        parts = tokenize_and_split_data(config, tokenizer)
    assert sum(map(len, parts)) == len(ROWS)
    told = caplog.text
    assert "1 bad row(s) left out" in told and "line 9" in told
    assert "1 row(s) left out, with nothing to learn" in told
    for part in parts:  # the texts still stand beside their own ids
        for row in part:
            answer = [label for label in row["labels"] if label != -100]
            assert tokenizer.decode(answer, skip_special_tokens=True) == row["answer"]


def test_a_dataset_of_the_hub(tmp_path, training_config, tokenizer):
    folder = tmp_path / "dataset"
    folder.mkdir()
    lines = "".join(json.dumps({**row, "input_ids": [1]}) + "\n" for row in ROWS)
    (folder / "train.jsonl").write_text(lines)
    (folder / "test.jsonl").write_text(lines)
    config = {**training_config, "datasets": {"use_hf": True, "path": str(folder)}}
    train, test = tokenize_and_split_data(config, tokenizer)
    assert len(train) + len(test) == len(load_dataset(str(folder), split="train"))
    assert all(len(row["input_ids"]) > 9 for row in train)  # made anew, with this tokenizer


def test_a_misspelt_key_is_named(training_config, tokenizer):
    config = {**training_config, "model": {"mx_length": 2048}}
    with pytest.raises(RunnerError, match=r"lacks 'max_length', did you mean 'mx_length'\?"):
        tokenize_and_split_data(config, tokenizer)


def test_inference_is_cut_by_tokens(model, tokenizer):
    text = "word " * 300
    ids = encode_texts(tokenizer, [text])[0]
    assert inference(text, model, tokenizer, 20, 5) == inference(
        tokenizer.decode(ids[-20:]), model, tokenizer, 1000, 5
    )
    (answer,) = answer_ids(model, tokenizer, encode_texts(tokenizer, ["Why?"]), 5)
    assert inference("Why?", model, tokenizer, 5, 5) == tokenizer.decode(answer).strip()
