"""Pre-flight: checks of data, loss, learning rate, time, memory and disk before the first step.

Their values are logged and recorded; what cannot work stops the run with one message.
"""

import contextlib
import logging
import math
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from pydantic import BaseModel
from transformers import PreTrainedTokenizerBase
from transformers.training_args import OptimizerNames

from utilities.devices import Precision, available_memory
from utilities.errors import TrainingError
from utilities.features.tokenization import IGNORE_INDEX, TokenizedExamples, row_lengths
from utilities.models.modes import training_mode
from utilities.planning.model_sizes import ModelShape
from utilities.planning.planner import memory
from utilities.training.batches import RowChoice, RowsByChoice
from utilities.training.config_checks import trial_scheduler
from utilities.training.settings import Settings
from utilities.training.trainer import SupervisedTrainer

logger = logging.getLogger(__name__)


TRIAL_TOKENS = 512  # most tokens of a timed pass
# As planning calls what the base model of an adapter may be held in.
PRECISION_OF: dict[str, Precision] = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}


class Check(BaseModel):
    """One line of the pre-flight."""

    check: str
    """Name of the check."""
    value: str
    """Its result, with unit."""
    verdict: Literal["ok", "warning"] = "ok"
    """`ok` or `warning`."""


def check_data(
    data: TokenizedExamples, tokenizer: PreTrainedTokenizerBase, embeddings: int, name: str
) -> list[Check]:
    """Check the features of one part of the data.

    Args:
        data: what `tokenize_rows` or `Prepared.examples` returned.
        tokenizer: the model's own.
        embeddings: rows of the model's embedding table.
        name: name of the part, for messages.

    Raises:
        TrainingError: there is nothing to learn, or the ids are not this model's.
    """
    features = data.features
    if not len(features):
        raise TrainingError(f"the {name} data are empty: no row to learn from")
    columns = features.with_format("arrow")[:]
    ids, labels = (
        columns[column].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        for column in ("input_ids", "labels")
    )
    learned = labels != IGNORE_INDEX
    if not learned.any():
        raise TrainingError(
            f"the {name} data have no supervised token: every label is {IGNORE_INDEX}, "
            "so there is nothing to learn; look at the responses and at max_length"
        )
    if ids.max() >= embeddings or ids.min() < 0:
        raise TrainingError(
            f"the {name} data hold token id {ids.max()}, but the model knows {embeddings} tokens; "
            "they were tokenized for another model"
        )
    ends = int((labels[learned] == tokenizer.eos_token_id).sum())
    # A response begins at a learned token that comes after one that is not.
    spans = int((learned & ~np.roll(learned, 1)).sum())
    examples = max(data.counts.get("kept", len(features)), 1)
    return [
        Check(
            check=f"{name}: learned tokens",
            value=f"{learned.sum():,} of {len(ids):,} ({learned.mean():.0%})",
            verdict="ok" if learned.mean() >= 0.02 else "warning",
        ),
        Check(
            check=f"{name}: ends of text learned",
            value=f"{ends:,} for {examples:,} examples, {spans:,} responses",
            verdict="ok" if ends == examples else "warning",
        ),
    ]


def preflight(
    trainer: SupervisedTrainer, data: TokenizedExamples, settings: Settings
) -> list[Check]:
    """Time two passes of the untrained model, and estimate what the run will need.

    Model, gradients and the state of the random numbers are as before afterwards.

    Args:
        trainer: ready to train.
        data: its training data.
        settings: those that it was made with.

    Raises:
        TrainingError: the untrained loss is not finite, or the disk is too small.
    """
    weights = list(trainer.model.parameters())
    trained = sum(weight.numel() for weight in weights if weight.requires_grad)
    everything = sum(weight.numel() for weight in weights)
    dtypes = sorted({str(weight.dtype).removeprefix("torch.") for weight in weights})
    loss, rate = _two_passes(trainer, data)
    return [
        Check(check="weights to train", value=f"{trained:,} of {everything:,}, {dtypes[0]}"),
        _learning_rates(trainer),
        _untrained_loss(loss, trainer.model.config.vocab_size),
        _time(trainer, data, rate),
        # Of most kinds of models the shape is known, but not of all.
        *([_memory(trainer, data, settings, trained)] if trainer.shape else []),
        _disk(trainer, everything, trained),
    ]


def log_checks(checks: list[Check]) -> None:
    """Log the checks, warnings as warnings."""
    for check in checks:
        level = logging.WARNING if check.verdict == "warning" else logging.INFO
        logger.log(level, "%s: %s", check.check, check.value)


def _two_passes(trainer: SupervisedTrainer, data: TokenizedExamples) -> tuple[float, float]:
    """Return the untrained loss in nats, and the seconds per token, forward and backward."""
    lengths = np.array(row_lengths(data.features))
    typical = np.argsort(np.abs(lengths - np.median(lengths)), kind="stable")
    count = max(1, min(8, TRIAL_TOKENS // max(int(lengths[typical[0]]), 1)))
    rows = RowsByChoice(data.features)
    batch = trainer.data_collator([rows[RowChoice(int(i))] for i in typical[:count]])
    inputs = trainer.on_device(batch)
    model = trainer.model
    seconds, loss = 0.0, math.nan
    with _random_numbers_kept(), torch.enable_grad(), training_mode(model):
        for _ in range(2):  # the first one warms up
            start = time.monotonic()
            with trainer.accelerator.autocast(), trainer.activations_within_budget(inputs):
                result = trainer.loss_of(model, inputs, 1 / max(_learned(inputs), 1))
            loss = result.loss.item()
            if math.isfinite(loss):
                result.loss.backward()
            seconds = time.monotonic() - start
            model.zero_grad(set_to_none=True)
    if not math.isfinite(loss):
        raise TrainingError(
            f"the loss of the untrained model is {loss}: its weights are damaged, or the precision "
            "is too low for them; set precision to fp32"
        )
    return loss, seconds / int(lengths[typical[:count]].sum())


def _learned(inputs: dict[str, torch.Tensor]) -> int:
    """Count the supervised tokens; a row's first token has nothing to be predicted from."""
    return int((inputs["labels"][:, 1:] != IGNORE_INDEX).sum())


@contextlib.contextmanager
def _random_numbers_kept() -> Iterator[None]:
    """Context manager: restore torch's random state afterwards."""
    devices = list(range(torch.cuda.device_count()))
    with torch.random.fork_rng(devices=devices):
        yield


def _learning_rates(trainer: SupervisedTrainer) -> Check:
    """Run the scheduler for the first steps, on an optimizer of one weight."""
    steps = total_steps(trainer)
    scheduler = trial_scheduler(trainer.args, steps)
    rates = []
    for _ in range(min(4, steps)):
        rates.append(scheduler.optimizer.param_groups[0]["lr"])
        scheduler.optimizer.step()
        with contextlib.suppress(TypeError):  # a scheduler that follows a metric needs one to step
            scheduler.step()
    return Check(
        check="learning rate, first steps",
        value=", ".join(f"{rate:.2g}" for rate in rates) + f" … ({steps:,} steps)",
        verdict="ok" if any(rates) else "warning",
    )


def total_steps(trainer: SupervisedTrainer) -> int:
    """Return the number of steps of the whole run."""
    args = trainer.args
    if args.max_steps > 0:
        return args.max_steps
    batches = len(trainer.get_train_dataloader())
    return max(
        math.ceil(args.num_train_epochs * -(-batches // args.gradient_accumulation_steps)), 1
    )


def _untrained_loss(loss: float, vocabulary: int) -> Check:
    chance = math.log(vocabulary)
    return Check(
        check="loss before training",
        value=f"{loss:.2f} nats a token; guessing among {vocabulary:,} tokens gives {chance:.2f}",
        verdict="ok" if loss < 1.5 * chance else "warning",
    )


def _time(trainer: SupervisedTrainer, data: TokenizedExamples, rate: float) -> Check:
    args, rows = trainer.args, len(data.features)
    per_step = args.train_batch_size * args.gradient_accumulation_steps
    tokens = sum(row_lengths(data.features)) / rows
    epochs = total_steps(trainer) / max(math.ceil(rows / (per_step * args.world_size)), 1)
    minutes = rate * tokens * rows * epochs / args.world_size / 60
    return Check(
        check="time, from two passes",
        value=f"about {minutes:.1f} min for {epochs:.1f} epochs "
        f"({1 / rate:,.0f} tokens/s a process, optimizer and evaluations left out)",
    )


def _memory(
    trainer: SupervisedTrainer, data: TokenizedExamples, settings: Settings, trained: int
) -> Check:
    needed = needed_memory(trainer, data, settings, trained)
    free = available_memory(trainer.args.device)
    return Check(
        check="memory",
        value=f"about {needed / 1e9:.1f} GB; {free / 1e9:.1f} GB are free",
        verdict="ok" if needed < free else "warning",
    )


def needed_memory(
    trainer: SupervisedTrainer, data: TokenizedExamples, settings: Settings, trained: int
) -> int:
    """Return the bytes that training needs, as `planning.memory` estimates them.

    Args:
        trainer: ready to train, with a model of which the shape is known.
        data: its training data.
        settings: those that it was made with.
        trained: number of weights that are trained.
    """
    args, shape = trainer.args, cast(ModelShape, trainer.shape)
    longest = max(row_lengths(data.features))
    rows = max(1, min(args.train_batch_size, trainer.max_tokens // longest))
    return memory(
        shape,
        settings.method,
        rows,
        longest,
        "bf16" if args.bf16 else "fp16" if args.fp16 else "fp32",
        optimizer_kind(OptimizerNames(args.optim).value),
        activation_checkpointing=trainer.checkpoints_activations(rows * longest),
        trained_layers=_reached_layers(trainer, shape) if settings.method == "freeze" else None,
        rank=settings.lora.r if settings.lora else 8,
        base=PRECISION_OF[settings.lora.base_dtype] if settings.lora else "fp32",
        trained=trained,
    ).total


def optimizer_kind(name: str) -> str:
    """Return the kind of optimizer, of those that `planning.memory` knows, by the library's name.

    Where none is like it, AdamW, which has the most state, is assumed.
    """
    if "8bit" in name or "4bit" in name:
        return "adamw_8bit"
    if "adafactor" in name:
        return "adafactor"
    return "sgd" if name == "sgd" or "lomo" in name else "adamw"


def _reached_layers(trainer: SupervisedTrainer, shape: ModelShape) -> int:
    """Return how many layers, counted from the top, the backward pass of a frozen model reaches."""
    model = trainer.bare_model
    lowest = shape.layers - 1
    for name, weight in model.named_parameters():
        if not weight.requires_grad:
            continue
        if weight is model.get_input_embeddings().weight:
            return shape.layers
        number = re.search(r"\.(\d+)\.", name)  # as in `gpt_neox.layers.3.mlp.weight`
        if number:
            lowest = min(lowest, int(number[1]))
    return shape.layers - lowest


def _disk(trainer: SupervisedTrainer, everything: int, trained: int) -> Check:
    """Estimate weights once, and for each checkpoint that is kept weights and optimizer state."""
    args = trainer.args
    weights = 4 * (trained if trainer.is_adapter else everything)
    kept = 0
    if args.save_strategy != "no":
        # One more than the limit, because old checkpoints go only when the new one is complete.
        kept = min(trainer.save_total_limit or 10**9, _saves(trainer)) + 1
    needed = weights + kept * (weights + (0 if args.save_only_model else 8 * trained))
    free = shutil.disk_usage(_existing(Path(str(args.output_dir)))).free
    if needed > free:
        raise TrainingError(
            f"the run needs about {needed / 1e9:.1f} GB of disk for weights and {kept} "
            f"checkpoints, but {free / 1e9:.1f} GB are free; lower save_total_limit, save less "
            "often, or choose another output_dir"
        )
    return Check(check="disk", value=f"{needed / 1e9:.1f} GB; {free / 1e9:.1f} GB are free")


def _saves(trainer: SupervisedTrainer) -> int:
    """Return the number of checkpoints that the run writes."""
    args, steps = trainer.args, total_steps(trainer)
    if args.save_strategy == "steps":
        every = args.save_steps if args.save_steps >= 1 else max(1, args.save_steps * steps)
        return math.ceil(steps / every)
    return math.ceil(args.num_train_epochs) if args.max_steps <= 0 else steps


def _existing(folder: Path) -> Path:
    """Return the nearest parent folder that exists."""
    while not folder.exists():
        folder = folder.parent
    return folder


def as_records(checks: list[Check]) -> list[dict[str, Any]]:
    """Return the checks as dicts for JSON."""
    return [check.model_dump() for check in checks]
