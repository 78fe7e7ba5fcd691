"""The training functions of the original labs, under their original names.

The labs' cells get them by `from utilities import *`.
"""

import logging
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
import torch
import transformers
from datasets import Dataset
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments

from utilities.audit.text_checks import comparable, template_frames
from utilities.errors import DataError, RunnerError, nearest
from utilities.features.collation import PaddingCollator
from utilities.features.tokenization import TokenizedExamples, tokenize_rows
from utilities.prompts.base import PromptFormat
from utilities.prompts.built_in import QUESTION_ANSWER
from utilities.prompts.chat import ChatFormat
from utilities.rows.sources import Source, read_rows
from utilities.rows.splitting import split_rows
from utilities.training.trainer import SupervisedTrainer as _Trainer
from utilities.upstream import use_one_gpu

logger = logging.getLogger(__name__)


HELD_OUT, SEED = 0.1, 123


def tokenize_and_split_data(
    training_config: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase
) -> tuple[Dataset, Dataset]:
    """Read question/answer rows, split them 90 to 10 by question, and tokenize them.

    Rows without a question or an answer, or with nothing to learn, are left out with a warning.

    Args:
        training_config: `{"model": {"max_length": 2048, …}, "datasets": {"path": …, "use_hf": …},
            "verbose": …}`. Without `use_hf` the path is a file; with it, a dataset of the hub,
            whose split `train` is read.
        tokenizer: the model's tokenizer.

    Returns:
        (train, test), each with `question` (the prompt, in the format of the training), `answer`,
        and lists of int, of equal length in a row: `input_ids`, `attention_mask`, and `labels`,
        which are −100 on the prompt.

    Raises:
        RunnerError: the config lacks a key.
        DataError: there is nothing to read, or nothing to learn.
    """
    max_length = _value(training_config, "model", "max_length")
    kwargs = {"path": str(_value(training_config, "datasets", "path"))}
    if _value(training_config, "datasets", "use_hf"):
        kwargs["split"] = "train"
        source = Source(method="load_dataset", kwargs=kwargs, on_bad_rows="skip")
    else:
        source = Source(method="files", kwargs=kwargs, on_bad_rows="skip")
    rows = bare_rows(read_rows(source, QUESTION_ANSWER))
    parts, features = split_and_tokenize(rows, QUESTION_ANSWER, tokenizer, max_length)
    if training_config.get("verbose"):
        for name, (_, counts) in features.items():
            sys.stdout.write(f"{name}: {counts['kept']:,} rows, {counts['tokens']:,} tokens\n")
    train, test = (_with_texts(features[name].features, parts[name]) for name in parts)
    return train, test


def _value(config: Mapping[str, Any], block: str, key: str) -> Any:
    keys = config.get(block, {})
    if key not in keys:
        raise RunnerError(
            f"training_config[{block!r}] lacks {key!r}{nearest(key, keys)} "
            f"It has: {', '.join(keys) or 'nothing'}"
        )
    return keys[key]


def _with_texts(features: Dataset, rows: Sequence[dict[str, str]]) -> Dataset:
    """Add prompt and answer as columns to the features of the rows that were kept."""
    examples = [QUESTION_ANSWER.example(row) for row in rows]
    by_text = {example["prompt"] + example["response"]: example for example in examples}
    kept = [by_text[text] for text in features["full_text"]]
    for column, part in {"question": "prompt", "answer": "response"}.items():
        features = features.add_column(column, [example[part] for example in kept])
    return features.select_columns(["question", "answer", "input_ids", "attention_mask", "labels"])


class Trainer(_Trainer):
    """The package's Trainer with the labs' arguments: it pads batches, and logs speed and time.

    With each training loss it logs `iter_time` (seconds per step), `flops` (floating point
    operations per second) and `remaining_time` (seconds).
    """

    def __init__(
        self,
        model: PreTrainedModel,
        args: TrainingArguments,
        data_collator: Callable[..., Any] | None = None,
        *,
        model_flops: float | None = None,
        total_steps: int | None = None,
        **kwargs: Any,
    ):
        """Initialize the library's Trainer, with two figures for the log.

        Half-precision weights are converted to float32, with a warning: on a CPU, plain optimizers
        turn them into NaN.

        Args:
            model: a causal language model.
            args: training arguments of the library.
            data_collator: makes a batch of rows; None pads them.
            model_flops: floating point operations of one step; None for an estimate from the
                tokens, without padding.
            total_steps: number of steps of the training; None for the Trainer's own number.
            kwargs: further arguments of the library's Trainer.
        """
        if model.dtype in (torch.float16, torch.bfloat16):
            logger.warning("the weights are %s; they are trained in float32", model.dtype)
            model.float()
        use_one_gpu(args)
        # Padding is masked by length, so any id is right.
        super().__init__(model, args, data_collator or PaddingCollator(0), **kwargs)
        model.config.use_cache = True  # the library turns it off, generation needs it
        self.model_flops, self.total_steps = model_flops, total_steps
        self.remove_callback(transformers.PrinterCallback)
        if self.pop_callback(transformers.ProgressCallback):
            self.add_callback(_Bar)

    @property
    def history(self) -> pd.DataFrame:
        """The log as a table, one row per logged step; losses in nats per token."""
        rows = [row for row in self.state.log_history if "train_runtime" not in row]
        return pd.DataFrame(rows).groupby("step", as_index=False).first()

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train as the library does, and remove Accelerate's wrapper of the model's `forward`.

        The wrapper computes in mixed precision; without it the model answers as when loaded anew.
        """
        output = super().train(*args, **kwargs)
        self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        return output

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add speed and remaining time to a training loss, and print a line."""
        step, last = self.state.global_step, self.total_steps or self.state.max_steps
        line = ""
        if "loss" in logs:
            elapsed = time.monotonic() - self.started
            done = self.state.total_flos if self.model_flops is None else self.model_flops * step
            pace, speed = elapsed / step, done / elapsed
            remaining = (last - step) * pace
            logs |= {"iter_time": pace, "flops": speed, "remaining_time": remaining}
            line = f"loss {logs['loss']:.3f}, {pace:.2f} s a step, {speed / 1e9:,.1f} GFLOP/s"
            line += f", {remaining:.0f} s left"
        elif "eval_loss" in logs:
            line = f"validation loss {logs['eval_loss']:.3f}"
        if line and self.is_world_process_zero():
            tqdm.write(f"step {step:,} of {last:,}: {line}")
        super().log(logs, start_time)


class _Bar(transformers.ProgressCallback):
    """The progress bar without the log lines, which the Trainer prints itself."""

    def on_log(self, *args: Any, **kwargs: Any) -> None:
        pass


def bare_rows(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Return question and answer of rows, the questions without their prompt template.

    Raises:
        DataError: no row has a question.
    """
    frames = template_frames(QUESTION_ANSWER)
    bare = [
        {"question": inside(_text(row["question"]), frames), "answer": _text(row["answer"])}
        for row in rows
    ]
    usable = [row for row in bare if row["question"].strip()]
    if not usable:
        raise DataError("the data: no usable row in it; each needs an input and an output")
    if lost := len(bare) - len(usable):
        logger.warning("%d row(s) left out, with nothing asked inside the template", lost)
    return usable


def _text(value: str | Sequence[str]) -> str:
    return value if isinstance(value, str) else QUESTION_ANSWER.list_separator.join(value)


def inside(text: str, frames: Sequence[re.Pattern[str]]) -> str:
    """Return the question of a text, without the prompt template, if it is in one."""
    for frame in frames:
        if match := frame.fullmatch(text.strip()):
            return match[1].strip()
    return text


def as_row(prompt_format: PromptFormat, question: str, answer: str = "") -> dict[str, Any]:
    """Return a question, and an answer if it is not empty, as a row of a format.

    Raises:
        RunnerError: the format does not have one column for each.
    """
    if isinstance(prompt_format, ChatFormat):
        turns = {"user": question} | ({"assistant": answer} if answer else {})
        return {"messages": [{"role": role, "content": text} for role, text in turns.items()]}
    columns = prompt_format.columns
    if len(columns) != 2 or len(prompt_format.prompt_columns) != 1:
        raise RunnerError(
            f"the prompt format {prompt_format.name} fills in {', '.join(columns)}; "
            "expected one column for the question and one for the answer, as in question_answer"
        )
    return dict(zip(columns, (question, answer), strict=True))


def split_and_tokenize(
    rows: Sequence[dict[str, str]],
    prompt_format: PromptFormat,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
) -> tuple[dict[str, list[dict[str, str]]], dict[str, TokenizedExamples]]:
    """Hold out a tenth, at least one row, and tokenize; equal questions are in the same part.

    Returns:
        (rows, features), each with `train` and `test`.
    """
    size = max(1, round(HELD_OUT * len(rows)))
    parts = split_rows(rows, {"test": size}, SEED, lambda row: comparable(row["question"]))
    features = {}
    for name, part in parts.items():
        formatted = [as_row(prompt_format, **row) for row in part]
        data = features[name] = tokenize_rows(formatted, prompt_format, tokenizer, max_length)
        if lost := data.counts["examples"] - data.counts["kept"]:
            logger.warning(
                "%s: %d row(s) left out, with nothing to learn: %s", name, lost, data.counts
            )
    return parts, features
