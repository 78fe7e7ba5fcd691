"""How to train: settings, checked and made to fit together before any work."""

import dataclasses
from pathlib import Path
from typing import Any, Literal, get_type_hints

from pydantic import Field, ValidationError, create_model, model_validator
from transformers import TrainingArguments

from utilities.config import ConfigPath, ModelName, StrictModel
from utilities.devices import PrecisionChoice, device, resolve_precision
from utilities.errors import TrainingError, nearest
from utilities.features.tokenization import (
    Shorten,
)
from utilities.files import IfExists
from utilities.models.adapters import Lora
from utilities.models.freezing import Freeze
from utilities.prompts.built_in import QUESTION_ANSWER, ConfigPromptFormat
from utilities.rows.sources import ConfigSource
from utilities.tracking import Tracking

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
    """When a run ends before its last step."""

    patience: int = Field(default=3, ge=1)
    """Evaluations in a row without a better metric, 1 or more."""
    threshold: float = Field(default=0.0, ge=0)
    """What counts as better, in the metric's unit."""


class Settings(StrictModel):
    """How to train; what `train` and `TrainingConfig` share."""

    method: Literal["full", "freeze", "lora"] = "full"
    """`full` trains all weights, `freeze` leaves out those that `freeze` names, `lora` trains an
    adapter.
    """
    freeze: Freeze | None = None
    """See `freezing.Freeze`."""
    lora: Lora | None = None
    """See `adapters.Lora`."""
    seed: int = Field(default=42, ge=0)
    """Same seed, same data, same machine: same run."""
    precision: PrecisionChoice = "auto"
    """Of the products; see `resolve_precision`. Weights are float32 in any case."""
    if_exists: IfExists = "refuse"
    """What to do with a run folder that is there: `refuse`; `reuse` it when model, data and
    settings are the same, and train anew when they are not; or `overwrite` it. An old folder goes
    only once the new one is complete.
    """
    max_tokens: int | None = Field(default=None, ge=1)
    """Tokens of one pass through the model, padding included; null for 1,024 on a CPU and 16,384 on
    a GPU. It sets memory and speed, and does not change what is learned.
    """
    early_stopping: EarlyStopping | None = None
    """See `EarlyStopping`; needs validation data."""
    samples: int = Field(default=3, ge=0)
    """Validation prompts to answer at each evaluation, 0 or more."""
    prompt_loss: bool = False
    """Tell the loss of prompts at evaluations too."""
    preflight: bool = True
    """Try and tell before the first step; see `preflight_checks`."""
    tracking: Tracking | None = None
    """See `tracking.Tracking`; null for none."""
    training_arguments: ArgumentFields = ArgumentFields()
    """Any field of the library's `TrainingArguments`."""

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
    output_dir: str | Path, seed: int = 42, precision: PrecisionChoice = "auto", **arguments: Any
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
            use_cpu=device() == "cpu",
            dataloader_pin_memory=device() == "cuda",
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


class TrainingConfig(Settings):
    """What `python -m utilities.training` reads; its other keys are those of `Settings`."""

    base_model: ModelName = "auto"
    """`auto`, a hub id, or a folder."""
    train: ConfigSource | None = None
    """Where the training rows are; see `sources.Source`."""
    validation: ConfigSource | None = None
    """Where the validation rows are; null leaves them out."""
    prepared: ConfigPath | None = None
    """In place of both, a dataset that `utilities.dataprep` made, with its part `validation` where
    it has one. Its prompt format counts.
    """
    prompt_format: ConfigPromptFormat = QUESTION_ANSWER
    """How a row becomes text."""
    max_length: int = Field(default=512, ge=3)
    """Tokens a row may have, prompt, response and end together."""
    shorten: Shorten = "prompt_left"
    """What a longer row loses; see `tokenization.Shorten`."""
    output_dir: ConfigPath
    """The run folder to make."""

    @model_validator(mode="after")
    def _one_kind_of_data(self) -> "TrainingConfig":
        if (self.train is None) == (self.prepared is None) or (self.prepared and self.validation):
            raise ValueError("give either `train` (and perhaps `validation`), or `prepared`")
        return self
