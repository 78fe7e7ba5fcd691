"""Fine-tuning: from features to a run folder.

    python -m utilities.training configs/course_assistant/finetune.yaml [key=value …]

One `train` for all weights, for some of them (`freeze`) and for an adapter (`lora`). Weights stay
in float32; autocast does the products in bfloat16 where the machine has it.

A run folder appears whole or not at all (what is in it: see `utilities.runs`). While training goes
on it is called `NAME.partial`; the same command, started again after the run was killed, goes on
from the newest whole checkpoint there, and comes to the same losses and weights.
"""

import contextlib
import ctypes
import dataclasses
import errno
import io
import json
import logging
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, TypeVar, get_type_hints

import filelock
import torch
import transformers
import yaml
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from pydantic import Field, ValidationError, create_model, model_validator
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments

from utilities import adapters, checkpoints, models, plots
from utilities.adapters import Lora
from utilities.config import ConfigPath, ModelName, StrictModel, command_line, nearest
from utilities.dataprep import Prepared
from utilities.folders import (
    IfExists,
    fingerprint_of,
    is_in_the_way,
    replace_folder,
    versions,
)
from utilities.freezing import Freeze, freeze, trained_weights
from utilities.planning import plan
from utilities.preflight import as_records, check_data, preflight, tell
from utilities.prompts import QUESTION_ANSWER, ConfigPromptFormat, PromptFormat
from utilities.runs import HISTORY, RECORD, SAMPLES, Run, compare, git_state, write_model_card
from utilities.sources import ConfigSource, Source, read_rows
from utilities.tokenization import (
    PaddingCollator,
    Shorten,
    TokenizedExamples,
    features_fingerprint,
    tokenize_rows,
)
from utilities.tracking import Tracking, tracked
from utilities.trainer import HistoryFile, Samples, Trainer, TrainingError

__all__ = [
    "Run",
    "Settings",
    "Trainer",
    "TrainingConfig",
    "TrainingError",
    "compare",
    "plan",
    "run_training",
    "train",
]

Precision = Literal["auto", "fp32", "bf16", "fp16"]
Found = TypeVar("Found")
UNFINISHED = "unfinished.json"
SECONDS_OF_SILENCE = 5

logger = logging.getLogger(__name__)


def resolve_precision(precision: Precision = "auto") -> Literal["fp32", "bf16", "fp16"]:
    """Return what `auto` means here: bf16 where CPU or GPU computes in it, fp16 on older GPUs."""
    if precision != "auto":
        return precision
    device = models.device()
    if device == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return "bf16" if native else "fp16"
    has_bf16 = device == "cpu" and torch.cpu._is_avx512_bf16_supported()
    return "bf16" if has_bf16 else "fp32"


DEFAULT_ARGUMENTS = {
    "num_train_epochs": 3,
    "per_device_train_batch_size": 8,
    "per_device_eval_batch_size": 64,
    "learning_rate": 2e-4,
    "lr_scheduler_type": "linear",
    "train_sampling_strategy": "group_by_length",
    "logging_steps": 5,
    "logging_first_step": True,
    "save_strategy": "no",
    "save_total_limit": 2,
}

# The fields that `train` sets itself; `Settings` has a key of its own for each that matters.
_OWN_FIELDS = {
    "output_dir",
    "seed",
    "bf16",
    "fp16",
    "use_cpu",
    "dataloader_pin_memory",
    "remove_unused_columns",
    "restore_callback_states_from_checkpoint",
    "report_to",
    "run_name",
    "project",
}
_TYPES = get_type_hints(TrainingArguments)
ArgumentFields = create_model(
    "ArgumentFields",
    __base__=StrictModel,
    **{
        field.name: (_TYPES[field.name], None)
        for field in dataclasses.fields(TrainingArguments)
        if field.init and field.name not in _OWN_FIELDS
    },
)
"""Every field of the library's `TrainingArguments`, with its type, for checking a config."""


class EarlyStopping(StrictModel):
    """When a run ends before its last step.

    Attributes:
        patience: evaluations in a row without a better metric, 1 or more.
        threshold: what counts as better, in the metric's unit.
    """

    patience: int = Field(default=3, ge=1)
    threshold: float = Field(default=0.0, ge=0)


class Settings(StrictModel):
    """How to train; what `train` and `TrainingConfig` share.

    Attributes:
        method: `full` trains all weights, `freeze` leaves out those that `freeze` names, `lora`
            trains an adapter.
        freeze: see `freezing.Freeze`.
        lora: see `adapters.Lora`.
        seed: same seed, same data, same machine: same run.
        precision: of the products; see `resolve_precision`. Weights are float32 in any case.
        if_exists: what to do with a run folder that is there: `refuse`; `reuse` it when model,
            data and settings are the same, and train anew when they are not; or `overwrite` it.
            An old folder goes only once the new one is complete.
        max_tokens: tokens of one pass through the model, padding included; null for 1,024 on a CPU
            and 16,384 on a GPU. It sets memory and speed, and does not change what is learned.
        early_stopping: see `EarlyStopping`; needs validation data.
        samples: validation prompts to answer at each evaluation, 0 or more.
        prompt_loss: tell the loss of prompts at evaluations too.
        preflight: try and tell before the first step; see `utilities.preflight`.
        tracking: see `tracking.Tracking`; null for none.
        training_arguments: any field of the library's `TrainingArguments`.
    """

    method: Literal["full", "freeze", "lora"] = "full"
    freeze: Freeze | None = None
    lora: Lora | None = None
    seed: int = Field(default=42, ge=0)
    precision: Precision = "auto"
    if_exists: IfExists = "refuse"
    max_tokens: int | None = Field(default=None, ge=1)
    early_stopping: EarlyStopping | None = None
    samples: int = Field(default=3, ge=0)
    prompt_loss: bool = False
    preflight: bool = True
    tracking: Tracking | None = None
    training_arguments: ArgumentFields = ArgumentFields()

    @model_validator(mode="after")
    def _method_and_its_block(self) -> "Settings":
        blocks = {"freeze": self.freeze, "lora": self.lora}
        for name, block in blocks.items():
            if (self.method == name) != (block is not None):
                raise ValueError(f"`method: {name}` and the block `{name}` go together")
        return self

    @classmethod
    def of(cls, **options: Any) -> "Settings":
        """Sort keywords into settings and fields of `TrainingArguments`; a block says the method.

        Raises:
            TrainingError: a keyword or a value is wrong.
        """
        own = {name: options.pop(name) for name in list(options) if name in cls.model_fields}
        for name in options:
            if name not in ArgumentFields.model_fields:
                known = [*cls.model_fields, *ArgumentFields.model_fields]
                raise TrainingError(f"train has no setting {name!r}{nearest(name, known)}")
        for block in ("freeze", "lora"):
            if own.get(block) is not None:
                own.setdefault("method", block)
        try:
            return cls(**{"training_arguments": options, **own})
        except ValidationError as error:
            told = "; ".join(
                f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()
            )
            raise TrainingError(told) from None

    def arguments(self, has_validation: bool) -> dict[str, Any]:
        """Return the fields of `TrainingArguments` that are asked for, defaults filled in.

        Raises:
            TrainingError: they do not fit together.
        """
        given = self.training_arguments.model_dump(exclude_unset=True)
        given = {name: value for name, value in given.items() if value is not None}
        filled = _fit_together({**DEFAULT_ARGUMENTS, **given}, given, self, has_validation)
        # So that a default is the same as when it is given: 3 epochs are 3.0.
        return ArgumentFields(**filled).model_dump(exclude_unset=True)


def _fit_together(
    arguments: dict[str, Any], given: dict[str, Any], settings: Settings, has_validation: bool
) -> dict[str, Any]:
    """Fill in what follows from evaluation, best checkpoint and early stopping."""
    wants_best = arguments.get("load_best_model_at_end", settings.early_stopping is not None)
    metric = arguments.get("metric_for_best_model", "eval_loss" if wants_best else None)
    evaluates = arguments.get("eval_strategy", "epoch" if has_validation else "no")
    if not has_validation and (evaluates != "no" or metric or settings.early_stopping):
        raise TrainingError(
            "evaluation, a best checkpoint and early stopping need validation data; give "
            "`validation` (eval_data), or leave out eval_strategy, load_best_model_at_end, "
            "metric_for_best_model and early_stopping"
        )
    arguments["eval_strategy"] = evaluates
    if metric:
        known = ["eval_loss", "eval_loss_response", "eval_loss_end"]
        known += ["eval_loss_prompt"] if settings.prompt_loss else []
        known += ["eval_exact_match"] if settings.samples else []
        metric = metric if metric.startswith("eval_") else f"eval_{metric}"
        if metric not in known:
            raise TrainingError(
                f"metric_for_best_model: there is no metric {metric!r}{nearest(metric, known)} "
                f"There are {', '.join(known)}."
            )
        arguments["metric_for_best_model"] = metric
        arguments.setdefault("greater_is_better", metric == "eval_exact_match")
    if wants_best:
        arguments["load_best_model_at_end"] = True
        if "save_strategy" not in given:
            arguments["save_strategy"] = evaluates
            if evaluates == "steps":
                every = arguments.get("eval_steps") or arguments["logging_steps"]
                arguments.setdefault("save_steps", every)
        saves = arguments["save_strategy"]
        unlike = saves != evaluates and saves != "best"
        if not unlike and saves == "steps":
            every = arguments.get("eval_steps") or arguments["logging_steps"]
            unlike = bool(arguments.get("save_steps", 500) % every)
        if evaluates == "no" or unlike:
            raise TrainingError(
                "the best checkpoint is wanted, but evaluations and checkpoints do not meet "
                f"(eval_strategy {evaluates}, eval_steps {arguments.get('eval_steps')}, "
                f"save_strategy {saves}, save_steps {arguments.get('save_steps')}); leave the save "
                "settings out, or make save_steps a multiple of eval_steps"
            )
    if arguments["num_train_epochs"] <= 0 and arguments.get("max_steps", -1) <= 0:
        raise TrainingError("there is no step to train: set num_train_epochs or max_steps above 0")
    if arguments["train_sampling_strategy"] not in ("group_by_length", "random", "sequential"):
        raise TrainingError(
            "train_sampling_strategy must be group_by_length, random or sequential; passes of like "
            "length do what batch_rebalance is for"
        )
    return arguments


def make_training_arguments(
    output_dir: str | Path, seed: int = 42, precision: Precision = "auto", **arguments: Any
) -> TrainingArguments:
    """Return the library's `TrainingArguments` with this course's defaults and device choice.

    Args:
        output_dir: where checkpoints go, if any are asked for.
        seed: of the order of rows and of dropout.
        precision: of the products; weights are float32 in any case.
        arguments: any field of `TrainingArguments`; wins over the defaults.

    Raises:
        TrainingError: the library refuses a value.
    """
    precision = resolve_precision(precision)
    try:
        result = TrainingArguments(
            output_dir=str(output_dir),
            seed=seed,
            bf16=precision == "bf16",
            fp16=precision == "fp16",
            use_cpu=models.device() == "cpu",
            dataloader_pin_memory=models.device() == "cuda",
            remove_unused_columns=False,
            restore_callback_states_from_checkpoint=True,
            # A pass makes gradients of all weights; to look for others would cost each one time.
            **{"ddp_find_unused_parameters": False, **DEFAULT_ARGUMENTS, **arguments},
        )
    except (TypeError, ValueError) as error:
        raise TrainingError(f"training_arguments: {error}") from None
    # One process drives one GPU; more of them go through `accelerate launch`.
    result._n_gpu = min(1, result.n_gpu)
    # The library would take `accelerate launch`'s where neither bf16 nor fp16 is asked for.
    result.mixed_precision = "no" if precision == "fp32" else precision
    return result


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
    job = _Job(options, Path(output_dir), eval_data is not None)
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
        trainer = Trainer(
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
        _keep_freed_memory()
        if options.preflight and not checkpoint:
            findings += preflight(trainer, train_data)
            tell(findings)
        job.record["preflight"] = as_records(findings)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        job.record |= _outcome(trainer)
        # The Trainer leaves autocast wrapped around `forward`: the model would answer otherwise
        # than the saved one does.
        trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
        job.finish(trainer, prompt_format, options.lora, config)
    return Run.load(job.folder)


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
    processes = _processes(arguments.get("ddp_timeout", 1800)).num_processes
    if processes > 1:  # each takes a batch of its own
        deciding["processes"] = processes
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


def _outcome(trainer: Trainer) -> dict[str, Any]:
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


def _processes(patience: float = 1800) -> PartialState:
    """Return which process this is, of how many; they meet here the first time.

    Args:
        patience: seconds that one waits for another, from the first time on.
    """
    return PartialState(cpu=models.device() == "cpu", timeout=timedelta(seconds=patience))


def _first_finds(find: Callable[[], Found]) -> Found:
    """Return in all processes what the first one finds; the others neither look nor touch.

    Raises:
        TrainingError: the first one's, in all.
    """
    fault = found = None
    if _processes().is_main_process:
        try:
            found = find()
        except TrainingError as error:
            fault = str(error)
    fault, found = broadcast_object_list([fault, found])
    if fault:
        raise TrainingError(fault)
    return found


class _Job:
    """The place of a run: its folder, and the unfinished one that it grows in."""

    def __init__(self, settings: Settings, folder: Path, has_validation: bool):
        self.folder = folder
        self.partial = folder.with_name(folder.name + ".partial")
        self.if_exists = settings.if_exists
        self.arguments = settings.arguments(has_validation)
        self.record: dict[str, Any] = {}

    def finished(self) -> Run | None:
        """Return the run that is there already, if it is this one and may be reused."""
        return Run.load(self.folder) if _first_finds(self._is_finished) else None

    def _is_finished(self) -> bool:
        if is_in_the_way(self.folder, RECORD):
            raise TrainingError(
                f"{self.folder} is there and is no run folder, so it stays; "
                "choose another output_dir"
            )
        if self.folder.exists() and self.if_exists == "refuse":
            raise TrainingError(
                f"{self.folder} exists already; choose another output_dir, "
                "or set if_exists to `reuse` or `overwrite`"
            )
        if self.if_exists == "reuse" and (self.folder / RECORD).is_file():
            return Run.load(self.folder).record["fingerprint"] == self.record["fingerprint"]
        return False

    @contextlib.contextmanager
    def place(self) -> Iterator[Path | None]:
        """Make the unfinished folder, for this run alone; yield the checkpoint to go on from.

        Raises:
            TrainingError: another run is writing it, or it is left from other settings.
        """
        lock = filelock.FileLock(self.folder.with_name(f".{self.folder.name}.lock"))
        try:
            checkpoint = _first_finds(lambda: self._prepare(lock))
        except TrainingError:
            lock.release()
            raise
        try:
            yield checkpoint
        except BaseException:
            if lock.is_locked and not checkpoints.of_run(self.partial / "checkpoints"):
                shutil.rmtree(self.partial, ignore_errors=True)  # nothing to go on from
            raise
        finally:
            if lock.is_locked:  # by the first process; the others never touch it
                lock.release()
                Path(lock.lock_file).unlink(missing_ok=True)

    def _prepare(self, lock: filelock.FileLock) -> Path | None:
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(blocking=False)
        except filelock.Timeout:
            raise TrainingError(
                f"another run is writing {self.folder} right now; wait for it, or choose another "
                "output_dir"
            ) from None
        note = self.partial / UNFINISHED
        if is_in_the_way(self.partial, UNFINISHED):
            raise TrainingError(f"{self.partial} is there and is no unfinished run, so it stays")
        if note.is_file() and self.if_exists != "overwrite":
            left = json.loads(note.read_text(encoding="utf-8"))["fingerprint"]
            if left == self.record["fingerprint"]:
                checkpoint = checkpoints.newest_whole(self.partial / "checkpoints")
                for other in checkpoints.of_run(self.partial / "checkpoints"):
                    if checkpoint is None or checkpoints.fault_of(other):
                        shutil.rmtree(other)
                if checkpoint:
                    logger.warning("going on from %s of the run that was cut off", checkpoint.name)
                return checkpoint
            if self.if_exists == "refuse" and checkpoints.of_run(self.partial / "checkpoints"):
                raise TrainingError(
                    f"{self.partial} is left from a run with other settings or data; finish that "
                    "one with its own config, choose another output_dir, or set if_exists to "
                    "`overwrite`"
                )
        shutil.rmtree(self.partial, ignore_errors=True)
        self.partial.mkdir(parents=True)
        note.write_text(json.dumps({"fingerprint": self.record["fingerprint"]}), encoding="utf-8")
        return None

    def finish(
        self,
        trainer: Trainer,
        prompt_format: PromptFormat,
        lora: Lora | None,
        config: StrictModel | None,
    ) -> None:
        """Write the run folder, and move it to its place."""
        model = trainer.accelerator.unwrap_model(trainer.model)
        model.config.use_cache = True  # the Trainer turns it off, generation needs it
        model.eval()
        with models.without_progress_bars():
            trainer.save_model(str(self.partial))  # all processes, since weights may be spread
            if trainer.is_world_process_zero():
                if lora and lora.merge:
                    _merge(model, self.partial)
                self._write(prompt_format, config)
        trainer.accelerator.wait_for_everyone()

    def _write(self, prompt_format: PromptFormat, config: StrictModel | None) -> None:
        partial = self.partial
        for name in ("training_args.bin", UNFINISHED):
            (partial / name).unlink(missing_ok=True)
        if not any((partial / "checkpoints").glob("*")):
            shutil.rmtree(partial / "checkpoints", ignore_errors=True)
        prompt_format.save(partial)
        if config:
            values = config.model_dump(mode="json") | {"training_arguments": self.arguments}
            text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
            (partial / "config.yaml").write_text(text, encoding="utf-8")
        text = json.dumps(self.record, indent=2)
        (partial / RECORD).write_text(text + "\n", encoding="utf-8")
        run = Run.load(partial)
        plots.loss_curve(run.history).savefig(partial / "loss.png")
        write_model_card(dataclasses.replace(run, folder=partial), prompt_format)
        replace_folder(partial, self.folder)


def _merge(model: PreTrainedModel, folder: Path) -> None:
    """Put the adapter into a folder of its own, and the merged model in its place."""
    adapter = folder / "adapter"
    adapter.mkdir()
    for name in (adapters.CONFIG_FILE, adapters.WEIGHTS_FILE):
        (folder / name).rename(adapter / name)
    model.merge_and_unload().save_pretrained(folder)


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


class TrainingConfig(Settings):
    """What `python -m utilities.training` reads; its other keys are those of `Settings`.

    Attributes:
        base_model: `auto`, a hub id, or a folder.
        train: where the training rows are; see `sources.Source`.
        validation: where the validation rows are; null leaves them out.
        prepared: in place of both, a dataset that `utilities.dataprep` made, with its part
            `validation` where it has one. Its prompt format counts.
        prompt_format: how a row becomes text.
        max_length: tokens a row may have, prompt, response and end together.
        shorten: what a longer row loses; see `tokenization.Shorten`.
        output_dir: the run folder to make.
    """

    base_model: ModelName = "auto"
    train: ConfigSource | None = None
    validation: ConfigSource | None = None
    prepared: ConfigPath | None = None
    prompt_format: ConfigPromptFormat = QUESTION_ANSWER
    max_length: int = Field(default=512, ge=3)
    shorten: Shorten = "prompt_left"
    output_dir: ConfigPath

    @model_validator(mode="after")
    def _one_kind_of_data(self) -> "TrainingConfig":
        if (self.train is None) == (self.prepared is None) or (self.prepared and self.validation):
            raise ValueError("give either `train` (and perhaps `validation`), or `prepared`")
        return self


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


def _report(config: TrainingConfig) -> None:
    logging.getLogger("utilities").setLevel(logging.INFO)
    run = run_training(config)
    if not _processes().is_main_process:
        return
    losses = run.history["loss"].dropna()
    trained = run.record["weights"][-1]
    best = run.best()
    lines = [
        f"model:    {run.record['model']['name']}, because {run.record['model']['reason']}",
        *(f"{name + ':':<9} {counts}" for name, counts in run.record["data"].items()),
        f"weights:  {trained['trained']:,} of {trained['weights']:,} trained",
        f"loss:     {losses.iloc[0]:.3f} → {losses.iloc[-1]:.3f} in {run.record['seconds']} s",
        f"kept:     step {best['step']}, {best['metric']} {best['value']:.4f}",
        f"wrote:    {run.folder}",
    ]
    sys.stdout.write("\n".join(lines) + "\n")


def main(argv: list[str] | None = None) -> int:
    """Train from a config file on the command line."""

    def work() -> int:
        purpose = "Fine-tune a model from a YAML file."
        return command_line(TrainingConfig, _report, "utilities.training", purpose, argv)

    status = work() if os.environ.get("LOCAL_RANK", "0") == "0" else _in_the_background(work)
    if status == 0:
        PartialState().destroy_process_group()
    return status


def _in_the_background(work: Callable[[], int]) -> int:
    """Hold back what is said, since the first process of this machine says the same.

    When work fails, the first one most likely fails too, and the launcher then ends this process.
    It speaks if that does not happen.
    """
    said, status = io.StringIO(), 1
    try:
        with contextlib.redirect_stderr(said):
            status = work()
    finally:
        if status:
            time.sleep(SECONDS_OF_SILENCE)
            sys.stderr.write(said.getvalue())
    return status


if __name__ == "__main__":
    sys.exit(main())
