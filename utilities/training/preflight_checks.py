"""Pre-flight: what can be known before the first step, and what would make the run useless.

Findings are told; what can't work stops the run with one sentence.
"""

import contextlib
import logging
import math
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import transformers
from pydantic import BaseModel
from transformers import PreTrainedTokenizerBase

from utilities.devices import available_memory
from utilities.errors import TrainingError
from utilities.features.tokenization import IGNORE_INDEX, TokenizedExamples, row_lengths
from utilities.models.modes import training_mode
from utilities.planning.planner import memory
from utilities.training.batches import RowChoice, RowsByChoice
from utilities.training.trainer import SupervisedTrainer

logger = logging.getLogger(__name__)


TRIAL_TOKENS = 512  # of the two timed passes, at most


class Check(BaseModel):
    """One line of the pre-flight."""

    check: str
    """What was looked at."""
    value: str
    """What was found, with its unit."""
    verdict: Literal["ok", "warning"] = "ok"
    """`ok` or `warning`."""


def check_data(
    data: TokenizedExamples, tokenizer: PreTrainedTokenizerBase, embeddings: int, name: str
) -> list[Check]:
    """Look at the features of one part.

    Args:
        data: what `tokenize_rows` or `Prepared.examples` returned.
        tokenizer: the model's own.
        embeddings: how many tokens the model knows.
        name: of the part, for messages.

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
    spans = int((learned & ~np.roll(learned, 1)).sum())  # a response begins where learning does
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


def preflight(trainer: SupervisedTrainer, data: TokenizedExamples) -> list[Check]:
    """Try two passes of an untrained model, and say what the run will take.

    Nothing of the model, of its gradients or of the random numbers is changed.

    Args:
        trainer: ready to train.
        data: its training data.

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
        *([_memory(trainer, data)] if trainer.shape else []),
        _disk(trainer, everything, trained),
    ]


def tell(findings: list[Check]) -> None:
    """Log the findings, warnings as such."""
    for finding in findings:
        level = logging.WARNING if finding.verdict == "warning" else logging.INFO
        logger.log(level, "%s: %s", finding.check, finding.value)


def _two_passes(trainer: SupervisedTrainer, data: TokenizedExamples) -> tuple[float, float]:
    """Return the untrained loss, and the seconds that a token takes, forward and backward."""
    lengths = np.array(row_lengths(data.features))
    typical = np.argsort(np.abs(lengths - np.median(lengths)), kind="stable")
    count = max(1, min(8, TRIAL_TOKENS // max(int(lengths[typical[0]]), 1)))
    rows = RowsByChoice(data.features)
    batch = trainer.data_collator([rows[RowChoice(int(i))] for i in typical[:count]])
    inputs = trainer._prepare_inputs(batch)
    model = trainer.model
    seconds, loss = 0.0, math.nan
    with _random_numbers_kept(), torch.enable_grad(), training_mode(model):
        for _ in range(2):  # the first one warms up
            start = time.monotonic()
            with trainer.accelerator.autocast(), trainer.activations_within_budget(inputs):
                found = trainer._supervised_loss(model, inputs, 1 / max(_learned(inputs), 1))
            loss = found.loss.item()
            if math.isfinite(loss):
                found.loss.backward()
            seconds = time.monotonic() - start
            model.zero_grad(set_to_none=True)
    if not math.isfinite(loss):
        raise TrainingError(
            f"the loss of the untrained model is {loss}: its weights are damaged, or the precision "
            "is too low for them; set precision to fp32"
        )
    return loss, seconds / int(lengths[typical[:count]].sum())


def _learned(inputs: dict[str, torch.Tensor]) -> int:
    return int((inputs["labels"][:, 1:] != IGNORE_INDEX).sum())


@contextlib.contextmanager
def _random_numbers_kept() -> Iterator[None]:
    devices = list(range(torch.cuda.device_count()))
    with torch.random.fork_rng(devices=devices):
        yield


def _learning_rates(trainer: SupervisedTrainer) -> Check:
    """Say with which rates the first steps are made, by a scheduler of one weight."""
    args = trainer.args
    steps = total_steps(trainer)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=args.learning_rate)
    scheduler = transformers.get_scheduler(
        args.lr_scheduler_type,
        optimizer,
        num_warmup_steps=args.get_warmup_steps(steps),
        num_training_steps=steps,
        scheduler_specific_kwargs=args.lr_scheduler_kwargs,
    )
    rates = []
    for _ in range(min(4, steps)):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        with contextlib.suppress(TypeError):  # one that waits for a metric has no steps of its own
            scheduler.step()
    learns = any(rates)
    return Check(
        check="learning rate, first steps",
        value=", ".join(f"{rate:.2g}" for rate in rates) + f" … ({steps:,} steps)",
        verdict="ok" if learns else "warning",
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


def _memory(trainer: SupervisedTrainer, data: TokenizedExamples) -> Check:
    lengths = row_lengths(data.features)
    longest = max(lengths)
    rows = max(1, min(trainer.args.train_batch_size, trainer.max_tokens // longest))
    precision = "bf16" if trainer.args.bf16 else "fp16" if trainer.args.fp16 else "fp32"
    method = "lora" if trainer.is_adapter else "full"
    needed = memory(trainer.shape, method, rows, longest, precision).total
    there = available_memory(trainer.args.device)
    return Check(
        check="memory",
        value=f"about {needed / 1e9:.1f} GB; {there / 1e9:.1f} GB are free",
        verdict="ok" if needed < there else "warning",
    )


def _disk(trainer: SupervisedTrainer, everything: int, trained: int) -> Check:
    """Weights once, and for each checkpoint that is kept its weights and optimizer state."""
    args = trainer.args
    weights = 4 * (trained if trainer.is_adapter else everything)
    kept = 0
    if args.save_strategy != "no":
        kept = min(args.save_total_limit or 10**9, _saves(trainer)) + 1  # one more while it is made
    needed = weights + kept * (weights + (0 if args.save_only_model else 8 * trained))
    free = shutil.disk_usage(_existing(Path(args.output_dir))).free
    if needed > free:
        raise TrainingError(
            f"the run needs about {needed / 1e9:.1f} GB of disk for weights and {kept} "
            f"checkpoints, but {free / 1e9:.1f} GB are free; lower save_total_limit, save less "
            "often, or choose another output_dir"
        )
    return Check(check="disk", value=f"{needed / 1e9:.1f} GB; {free / 1e9:.1f} GB are free")


def _saves(trainer: SupervisedTrainer) -> int:
    args, steps = trainer.args, total_steps(trainer)
    if args.save_strategy == "steps":
        every = args.save_steps if args.save_steps >= 1 else max(1, args.save_steps * steps)
        return math.ceil(steps / every)
    return math.ceil(args.num_train_epochs) if args.max_steps <= 0 else steps


def _existing(folder: Path) -> Path:
    while not folder.exists():
        folder = folder.parent
    return folder


def as_records(findings: list[Check]) -> list[dict[str, Any]]:
    """Return findings as JSON can write them."""
    return [finding.model_dump() for finding in findings]
