"""Fine-tuning: from features to a run folder.

    python -m utilities.training configs/course_assistant/finetune.yaml [key=value …]

One `train` for all weights, for some of them (`freeze`) and for an adapter (`lora`). Weights stay
in float32; autocast does the products in bfloat16 where the machine has it.

A run folder is written atomically (for what is in it, see `run_folder`). During training it is
called `NAME.partial`; the same command, started again after the run was killed, resumes from the
newest complete checkpoint there, and comes to the same losses and weights.

What a run sets for the whole process, and leaves: the seed of Python's, numpy's and torch's random
numbers, as the library's Trainer does, so that what a notebook draws next is reproducible too; the
process group of accelerate, which a process joins once; and the C library's rule for freed memory
(see `_keep_freed_memory`), which has no way back. All else is restored.
"""

import contextlib
import ctypes
import errno
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

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
from utilities.training.config_checks import check_settings
from utilities.training.distributed import on_rank_0, processes
from utilities.training.preflight_checks import (
    Check,
    as_records,
    check_data,
    log_checks,
    preflight,
)
from utilities.training.run_folder import HISTORY, SAMPLES, Run, git_state
from utilities.training.settings import (
    DEFAULT_SETTINGS,
    Settings,
    TrainingConfig,
    make_training_arguments,
)
from utilities.training.trainer import SupervisedTrainer
from utilities.training.unfinished_run import UnfinishedRun


def train(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    train_data: TokenizedExamples,
    output_dir: str | Path,
    settings: Settings = DEFAULT_SETTINGS,
    *,
    prompt_format: PromptFormat,
    choice: models.ModelChoice,
    eval_data: TokenizedExamples | None = None,
    config: StrictModel | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> Run:
    """Fine-tune a model in place and write a run folder; progress and loss are shown.

    Args:
        model: in float32, with its `tokenizer`, as `models.load` returns both.
        train_data: what `tokenize_rows` or `Prepared.examples` returned.
        output_dir: the run folder to make.
        settings: such as `Settings.of(max_steps=100, lora=Lora(r=8), learning_rate=1e-3)`.
        prompt_format: how the prompts were made; saved with the model.
        choice: where the base model came from; recorded.
        eval_data: validation features, evaluated after each epoch unless `eval_strategy` is set.
        config: written into the run folder as `config.yaml`.
        callbacks: the library's callbacks, beside those of this package.

    Raises:
        TrainingError: settings cannot work (see `check_settings`), the weights are not float32,
            nothing is to be learned, the loss is not finite, or memory or disk are too small.
        LabError: see `tracking.tracked`, `freezing.freeze` and `adapters.attach`.
    """
    run = check_settings(settings, output_dir, eval_data is not None)
    run.record = _record(settings, run.arguments, choice, prompt_format, train_data, eval_data)
    if finished := run.finished():
        return finished
    checks = _check_inputs(model, tokenizer, settings, train_data, eval_data)
    with run.reserved() as checkpoint, _shortages_explained():
        with (
            tracked(settings.tracking, run.partial, run.folder.name) as tracker,
            _method_applied(model, settings) as model,
        ):
            arguments = make_training_arguments(
                run.partial / "checkpoints", settings, eval_data is not None, **tracker.arguments
            )
            own = _callbacks(settings, run.partial, tokenizer, eval_data)
            trainer = SupervisedTrainer(
                model,
                arguments,
                PaddingCollator(tokenizer.pad_token_id),
                train_data.features,
                eval_data.features if eval_data else None,
                tokenizer,
                callbacks=[*tracker.callbacks, *own, *callbacks],
                max_tokens=settings.max_tokens,
                prompt_loss=settings.prompt_loss,
            )
            _work(trainer, run, settings, train_data, checks, checkpoint)
        # Trackers write until here, and to where the folder is now: it moves next.
        run.finish(trainer, prompt_format, settings.lora, config)
    return on_rank_0(lambda: Run.load(run.folder))


def _record(
    settings: Settings,
    arguments: dict[str, Any],
    choice: models.ModelChoice,
    prompt_format: PromptFormat,
    train_data: TokenizedExamples,
    eval_data: TokenizedExamples | None,
) -> dict[str, Any]:
    """Return what is known of a run before it starts, with a fingerprint of what decides it."""
    # Of a `TrainingConfig` only its part that is `Settings`: data and model are recorded as such.
    names = set(Settings.model_fields)
    values: dict[str, Any] = settings.model_dump(mode="json", include=names, exclude_none=True)
    values |= {"precision": resolve_precision(settings.precision), "training_arguments": arguments}
    record: dict[str, Any] = {
        "model": choice.record(),
        "method": settings.method,
        "settings": values,
        "prompt_format": prompt_format.model_dump(mode="json"),
        "data": {
            name: {**data.counts, "fingerprint": features_fingerprint(data.features)}
            for name, data in {"train": train_data, "validation": eval_data}.items()
            if data
        },
    }
    without_effect = {"if_exists", "tracking", "preflight"}
    deciding = {name: value for name, value in values.items() if name not in without_effect}
    deciding["training_arguments"] = {
        name: value for name, value in arguments.items() if name != "disable_tqdm"
    }
    if (count := processes().num_processes) > 1:  # each has batches of its own
        deciding["processes"] = count
    # Without the reason for the model's choice, which may be worded differently each time.
    record["fingerprint"] = fingerprint_of({**record, "model": choice.name, "settings": deciding})
    return record


def _check_inputs(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    settings: Settings,
    train_data: TokenizedExamples,
    eval_data: TokenizedExamples | None,
) -> list[Check]:
    """Check data and weights, before anything is written."""
    embeddings = len(cast(torch.Tensor, model.get_input_embeddings().weight))
    checks = check_data(train_data, tokenizer, embeddings, "training")
    if eval_data:
        checks += check_data(eval_data, tokenizer, embeddings, "validation")
    dtype = _dtype_to_load(settings)
    if any(weight.dtype != getattr(torch, dtype) for weight in model.parameters()):
        raise TrainingError(f"the weights are not {dtype}; load the model with dtype {dtype}")
    return checks


def _dtype_to_load(settings: Settings) -> str:
    return settings.lora.base_dtype if settings.lora else "float32"


@contextlib.contextmanager
def _method_applied(model: PreTrainedModel, settings: Settings) -> Iterator[PreTrainedModel]:
    """Context manager: the model with weights frozen, or with an adapter."""
    transformers.set_seed(settings.seed)  # an adapter begins with random numbers
    if settings.lora:
        yield adapters.attach(model, settings.lora)
        return
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    try:
        if settings.freeze:
            freeze(model, settings.freeze)
        yield model
    finally:  # or the next run with this model would not train the frozen weights either
        for weight in trained:
            weight.requires_grad_()


def _work(
    trainer: SupervisedTrainer,
    run: UnfinishedRun,
    settings: Settings,
    train_data: TokenizedExamples,
    checks: list[Check],
    checkpoint: Path | None,
) -> None:
    """Do the pre-flight and the training, and record them."""
    if trainer.is_fsdp_enabled and settings.lora and settings.lora.merge:
        raise TrainingError(
            "lora.merge: no process of FSDP holds all weights; leave it out, and "
            "models.load merges when it reads the run folder"
        )
    run.record["weights"] = trained_weights(trainer.model).to_dict(orient="records")
    _keep_freed_memory()
    # FSDP has no model on this device yet, and perhaps no room for a whole one.
    if settings.preflight and not checkpoint and not trainer.is_fsdp_enabled:
        checks = checks + preflight(trainer, train_data, settings)
        log_checks(checks)
    run.record["preflight"] = as_records(checks)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    run.record |= _outcome(trainer)
    # The Trainer leaves autocast wrapped around `forward`: the model would answer otherwise than
    # the saved one does.
    trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)


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
    """Return time, totals, and the best checkpoint, whose weights are evaluated again.

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
        metric = str(trainer.args.metric_for_best_model)
        value = cast(float, state.best_metric)  # as there is a best checkpoint
        again = trainer.evaluate()[metric]
        if not math.isclose(again, value, rel_tol=1e-3, abs_tol=1e-4):
            raise TrainingError(
                f"the best checkpoint had {metric} {value:.6f}, but the weights loaded "
                f"from it have {again:.6f}; the run is kept unfinished"
            )
        outcome["best"] = {
            "step": state.best_global_step,
            "metric": metric,
            "value": value,
            "again": again,
        }
    return outcome


@contextlib.contextmanager
def _shortages_explained() -> Iterator[None]:
    """Context manager: turn errors of full memory or disk into one message that says what helps."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise TrainingError(_OUT_OF_MEMORY) from error
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise TrainingError(_DISK_FULL) from error
    except Exception as error:
        if "No space left on device" in str(error):  # errors of safetensors and torch
            raise TrainingError(_DISK_FULL) from error
        if isinstance(error, RuntimeError) and "can't allocate memory" in str(error):
            raise TrainingError(_OUT_OF_MEMORY) from error
        raise


_OUT_OF_MEMORY = (
    "out of memory. What helps, the cheapest first: lower max_tokens (it does not change "
    "what is learned), activation_checkpointing: true, a lower max_length, method: lora, "
    "precision: bf16, a smaller model"
)


_DISK_FULL = (
    "the disk is full. Complete checkpoints are kept: make room and start the same command again, "
    "or lower save_total_limit"
)


# Parameters of mallopt, from glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


def _keep_freed_memory() -> None:
    """Have the C library of Linux, glibc, keep freed memory for the next step.

    By default it gives large blocks back to the system as soon as they are freed. Each step frees
    and allocates all gradients, and the system clears every page that it hands out: on two cores
    that was measured to take a fifth to a third of the steps of Pythia 70M. Other C libraries and
    systems are left as they are.
    """
    if sys.platform != "linux":
        return
    library = ctypes.CDLL(None)  # the C library that Python itself runs on
    if hasattr(library, "mallopt"):
        library.mallopt(M_MMAP_THRESHOLD, 2**30)  # take blocks below 1 GB from the heap
        library.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)  # do not give the heap's end back


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
    """Return training data, validation data if there are any, and the prompt format."""
    if config.prepared:
        prepared = Prepared.open(config.prepared)
        has_validation = "validation" in prepared.parts
        config.arguments(has_validation)  # settings that need validation data are refused now
        prepared.check_tokenizer(tokenizer)
        eval_data = prepared.examples("validation") if has_validation else None
        return prepared.examples(), eval_data, PromptFormat.load(config.prepared)
    source = cast(Source, config.train)  # the config has either `prepared` or `train`
    train_data = read_features(source, config, tokenizer)
    validation = config.validation
    eval_data = read_features(validation, config, tokenizer) if validation else None
    return train_data, eval_data, config.prompt_format.bind(tokenizer)


def run_training(config: TrainingConfig) -> Run:
    """Check, read and tokenize, load the model, train, and write the run folder.

    Raises:
        LabError: of the module where the fault lies; nothing is left half-written.
    """
    # Whether a prepared dataset has validation data is known once it is open.
    may_have_validation = config.validation is not None or config.prepared is not None
    check_settings(config, config.output_dir, may_have_validation)
    choice = models.choose(config.base_model)
    tokenizer = models.load_tokenizer(choice)
    train_data, eval_data, prompt_format = _read_data(config, tokenizer)
    model, tokenizer = models.load(choice, _dtype_to_load(config))
    return train(
        model,
        tokenizer,
        train_data,
        config.output_dir,
        config,
        prompt_format=prompt_format,
        choice=choice,
        eval_data=eval_data,
        config=config,
    )
