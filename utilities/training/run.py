"""Fine-tuning: from features to a run folder.

    python -m utilities.training configs/course_assistant/finetune.yaml [key=value …]

One `train` for all weights, for some of them (`freeze`) and for an adapter (`lora`). Weights stay
in float32; autocast does the products in bfloat16 where the machine has it.

A run folder appears whole or not at all (what is in it: see `utilities.training.run_folder`). While training goes
on it is called `NAME.partial`; the same command, started again after the run was killed, goes on
from the newest whole checkpoint there, and comes to the same losses and weights.
"""

import contextlib
import ctypes
import errno
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from utilities import models
from utilities.config import StrictModel
from utilities.dataprep.prepared import Prepared
from utilities.devices import resolve_precision
from utilities.errors import TrainingError
from utilities.features.collation import PaddingCollator
from utilities.features.tokenization import (
    TokenizedExamples,
    features_fingerprint,
    tokenize_rows,
)
from utilities.files import fingerprint_of, versions
from utilities.models import adapters
from utilities.models.freezing import freeze, trained_weights
from utilities.prompts.base import PromptFormat
from utilities.rows.sources import Source, read_rows
from utilities.tracking import tracked
from utilities.training.callbacks import HistoryFile, Samples
from utilities.training.distributed import first_finds, processes
from utilities.training.preflight_checks import as_records, check_data, preflight, tell
from utilities.training.run_folder import HISTORY, SAMPLES, Run, git_state
from utilities.training.settings import Settings, TrainingConfig, make_training_arguments
from utilities.training.trainer import SupervisedTrainer
from utilities.training.unfinished_run import UnfinishedRun


def train(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    train_data: TokenizedExamples,
    output_dir: str | Path,
    *,
    prompt_format: PromptFormat,
    choice: models.ModelChoice,
    eval_data: TokenizedExamples | None = None,
    config: StrictModel | None = None,
    callbacks: Sequence[transformers.TrainerCallback] = (),
    **settings: Any,
) -> Run:
    """Fine-tune a model and write a run folder.

    The model is trained in place. Progress and the loss are shown while it runs.

    Args:
        model: in float32, as `models.load` gives it.
        tokenizer: the model's own.
        train_data: what `tokenize_rows` or `Prepared.examples` returned.
        output_dir: the run folder to make.
        prompt_format: how the prompts were made; saved with the model.
        choice: where the base model came from; recorded.
        eval_data: validation features; evaluated after each epoch unless `eval_strategy` says
            otherwise.
        config: written into the run folder as `config.yaml`.
        callbacks: of the library's kind, beside those of this package.
        settings: those of `Settings` and any field of the library's `TrainingArguments`, such as
            `lora=Lora(r=8)`, `learning_rate=1e-3`, `max_steps=100`.

    Raises:
        TrainingError: the folder exists or another run is writing it, the weights are not float32,
            settings do not fit together, there is nothing to learn, the loss is not finite, or
            memory or disk do not suffice.
        FreezingError: see `freezing.freeze`.
        AdapterError: see `adapters.attach`.
    """
    options = Settings.of(**settings)
    job = UnfinishedRun(options, Path(output_dir), eval_data is not None)
    job.record = _record(options, job.arguments, choice, prompt_format, train_data, eval_data)
    if run := job.finished():
        return run
    embeddings = model.get_input_embeddings().num_embeddings
    findings = check_data(train_data, tokenizer, embeddings, "training")
    findings += check_data(eval_data, tokenizer, embeddings, "validation") if eval_data else []
    wanted = options.lora.base_dtype if options.lora else "float32"
    if any(weight.dtype != getattr(torch, wanted) for weight in model.parameters()):
        raise TrainingError(f"the weights are not {wanted}; load the model with dtype {wanted}")
    with (
        job.place() as checkpoint,
        _told(),
        tracked(options.tracking, job.partial, job.folder.name) as tracker,
    ):
        transformers.set_seed(options.seed)  # an adapter begins with random numbers
        if options.freeze:
            freeze(model, options.freeze)
        if options.lora:
            model = adapters.attach(model, options.lora)
        job.record["weights"] = trained_weights(model).to_dict(orient="records")
        trainer = SupervisedTrainer(
            model=model,
            args=make_training_arguments(
                job.partial / "checkpoints",
                options.seed,
                options.precision,
                **job.arguments | tracker,
            ),
            train_dataset=train_data.features,
            eval_dataset=eval_data.features if eval_data else None,
            processing_class=tokenizer,
            data_collator=PaddingCollator(tokenizer.pad_token_id),
            callbacks=[*_callbacks(options, job.partial, tokenizer, eval_data), *callbacks],
            max_tokens=options.max_tokens,
            prompt_loss=options.prompt_loss,
        )
        if trainer.is_fsdp_enabled and options.lora and options.lora.merge:
            raise TrainingError(
                "lora.merge: no process of FSDP holds all weights; leave it out, and "
                "models.load merges when it reads the run folder"
            )
        _keep_freed_memory()
        # FSDP has no model on this device yet, and perhaps no room for a whole one.
        if options.preflight and not checkpoint and not trainer.is_fsdp_enabled:
            findings += preflight(trainer, train_data)
            tell(findings)
        job.record["preflight"] = as_records(findings)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        job.record |= _outcome(trainer)
        # The Trainer leaves autocast wrapped around `forward`: the model would answer otherwise
        # than the saved one does.
        trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
        job.finish(trainer, prompt_format, options.lora, config)
    return first_finds(lambda: Run.load(job.folder))


def _record(
    settings: Settings,
    arguments: dict[str, Any],
    choice: models.ModelChoice,
    prompt_format: PromptFormat,
    train_data: TokenizedExamples,
    eval_data: TokenizedExamples | None,
) -> dict[str, Any]:
    """Return what is known of a run before it starts, with a fingerprint of all that decides it."""
    told = settings.model_dump(mode="json", exclude_none=True)
    told |= {"precision": resolve_precision(settings.precision), "training_arguments": arguments}
    record = {
        "model": choice.record(),
        "method": settings.method,
        "settings": told,
        "prompt_format": prompt_format.model_dump(mode="json"),
        "data": {
            name: {**data.counts, "fingerprint": features_fingerprint(data.features)}
            for name, data in {"train": train_data, "validation": eval_data}.items()
            if data
        },
    }
    shown = {"if_exists", "tracking", "preflight"}
    deciding = {name: value for name, value in told.items() if name not in shown}
    quiet = {name: value for name, value in arguments.items() if name != "disable_tqdm"}
    count = processes(arguments.get("ddp_timeout", 1800)).num_processes
    if count > 1:  # each takes a batch of its own
        deciding["processes"] = count
    # Not of the reason for the choice, which may be worded anew each time.
    record["fingerprint"] = fingerprint_of(
        {**record, "model": choice.name, "settings": {**deciding, "training_arguments": quiet}}
    )
    return record


def _callbacks(
    settings: Settings,
    partial: Path,
    tokenizer: PreTrainedTokenizerBase,
    eval_data: TokenizedExamples | None,
) -> list[transformers.TrainerCallback]:
    callbacks: list[transformers.TrainerCallback] = [HistoryFile(partial / HISTORY)]
    if eval_data and settings.samples:
        rows = list(
            eval_data.features.select(range(min(settings.samples, len(eval_data.features))))
        )
        callbacks.append(Samples(partial / SAMPLES, rows, tokenizer))
    if settings.early_stopping:
        stopping = settings.early_stopping
        callbacks.append(transformers.EarlyStoppingCallback(stopping.patience, stopping.threshold))
    return callbacks


def _outcome(trainer: SupervisedTrainer) -> dict[str, Any]:
    """Return what a run came to: time, totals, and the best checkpoint, evaluated again.

    Raises:
        TrainingError: the weights in memory are not those of the best checkpoint.
    """
    state = trainer.state
    history = [row for row in state.log_history if "seconds" in row]
    seconds = history[-1]["seconds"] if history else 0.0
    tokens = state.num_input_tokens_seen
    outcome = {
        "seconds": seconds,
        "totals": {
            "steps": state.global_step,
            "tokens": tokens,
            "flops": state.total_flos,
            "tokens_per_second": round(tokens / seconds, 1) if seconds else None,
            "processes": trainer.args.world_size,
            "device": str(trainer.args.device),
        },
        "versions": versions(),
        "git": git_state(),
        "best": None,
    }
    if trainer.args.load_best_model_at_end and state.best_model_checkpoint:
        metric = trainer.args.metric_for_best_model
        again = trainer.evaluate()[metric]
        if not math.isclose(again, state.best_metric, rel_tol=1e-3, abs_tol=1e-4):
            raise TrainingError(
                f"the best checkpoint had {metric} {state.best_metric:.6f}, but the weights loaded "
                f"from it have {again:.6f}; the run is kept unfinished"
            )
        outcome["best"] = {
            "step": state.best_global_step,
            "metric": metric,
            "value": state.best_metric,
            "again": again,
        }
    return outcome


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Turn what a full disk or memory raises into one sentence that says what helps."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise TrainingError(_OUT_OF_MEMORY) from error
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise TrainingError(_DISK_FULL) from error
    except Exception as error:
        if "No space left on device" in str(error):  # safetensors and torch have their own kinds
            raise TrainingError(_DISK_FULL) from error
        if isinstance(error, RuntimeError) and "can't allocate memory" in str(error):
            raise TrainingError(_OUT_OF_MEMORY) from error
        raise


_OUT_OF_MEMORY = (
    "memory did not suffice. What helps, the cheapest first: lower max_tokens (it does not change "
    "what is learned), activation_checkpointing: true, a lower max_length, method: lora, "
    "precision: bf16, a smaller model"
)


_DISK_FULL = (
    "the disk is full. Whole checkpoints are kept: make room and start the same command again, or "
    "lower save_total_limit"
)


def _keep_freed_memory() -> None:
    """Have glibc keep freed memory for the next step, instead of giving it back to the system.

    Each step frees and allocates all gradients; getting those pages anew was measured to take a
    fifth of a step on two cores. Other C libraries and systems are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        mallopt(-3, 2**30)  # M_MMAP_THRESHOLD: blocks below 1 GB come from the heap
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: the heap is not cut back


def read_features(
    source: Source, config: TrainingConfig, tokenizer: PreTrainedTokenizerBase
) -> TokenizedExamples:
    """Read a source and tokenize it as the config says.

    Raises:
        DataError: see `sources.read_rows` and `tokenization.tokenize_rows`.
    """
    prompt_format = config.prompt_format.bind(tokenizer)
    rows = read_rows(source, prompt_format)
    return tokenize_rows(rows, prompt_format, tokenizer, config.max_length, config.shorten)


def _read_data(
    config: TrainingConfig, tokenizer: PreTrainedTokenizerBase
) -> tuple[TokenizedExamples, TokenizedExamples | None, PromptFormat]:
    if config.prepared:
        prepared = Prepared.open(config.prepared)
        prepared.check_tokenizer(tokenizer)
        has_validation = "validation" in prepared.parts
        eval_data = prepared.examples("validation") if has_validation else None
        return prepared.examples(), eval_data, PromptFormat.load(config.prepared)
    train_data = read_features(config.train, config, tokenizer)
    validation = config.validation
    eval_data = read_features(validation, config, tokenizer) if validation else None
    return train_data, eval_data, config.prompt_format.bind(tokenizer)


def run_training(config: TrainingConfig) -> Run:
    """Do all that a config says: read, tokenize, train, write the run folder.

    Raises:
        LabError: of the module where the fault lies; nothing is left half-written.
    """
    choice = models.choose(config.base_model)
    tokenizer = models.load_tokenizer(choice)
    train_data, eval_data, prompt_format = _read_data(config, tokenizer)
    dtype = config.lora.base_dtype if config.lora else "float32"
    model, tokenizer = models.load(choice, dtype)
    settings = {name: getattr(config, name) for name in Settings.model_fields}
    return train(
        model,
        tokenizer,
        train_data,
        config.output_dir,
        prompt_format=prompt_format,
        choice=choice,
        eval_data=eval_data,
        config=config,
        **settings,
    )
