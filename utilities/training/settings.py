"""Training settings, checked and completed before any work.

Importing this module loads neither torch nor transformers, so that `--help` and a page of a
finished run are quick; what needs them imports them when it is called.
"""

import dataclasses
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_type_hints

from pydantic import Field, ValidationError, create_model, field_validator, model_validator

from utilities.config import ConfigPath, ModelName, StrictModel, faults_in_words
from utilities.devices import PrecisionChoice, device, resolve_precision
from utilities.errors import TrainingError, nearest
from utilities.features.shortening import Shorten
from utilities.files import IfExists
from utilities.models.adapters import Lora
from utilities.models.freezing import Freeze
from utilities.prompts.built_in import QUESTION_ANSWER, ConfigPromptFormat
from utilities.rows.sources import ConfigSource
from utilities.tracking import Tracking
from utilities.upstream import use_one_gpu

if TYPE_CHECKING:
    from transformers import TrainingArguments

# Of the types that the library's fields have, so that a default is the same as when it is given.
DEFAULT_ARGUMENTS = {
    "num_train_epochs": 3.0,
    "per_device_train_batch_size": 8,
    "per_device_eval_batch_size": 64,
    "learning_rate": 2e-4,
    "lr_scheduler_type": "linear",
    "train_sampling_strategy": "group_by_length",
    "logging_steps": 5.0,
    "logging_first_step": True,
    "save_strategy": "no",
    "save_total_limit": 2,
}


# The fields that `make_training_arguments` sets; `Settings` has a key of its own for each that
# matters.
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


@functools.cache
def argument_fields() -> type[StrictModel]:
    """Return a config model of the library's `TrainingArguments`: its fields and their types.

    It is made at the first call, because the library loads torch.
    """
    from transformers import TrainingArguments

    types = get_type_hints(TrainingArguments)
    fields: dict[str, Any] = {
        field.name: (types[field.name], None)
        for field in dataclasses.fields(TrainingArguments)
        if field.init and field.name not in _OWN_FIELDS
    }
    return create_model("ArgumentFields", __base__=StrictModel, **fields)


class EarlyStopping(StrictModel):
    """When a run ends before its last step."""

    patience: int = Field(default=3, ge=1)
    """Evaluations in a row without a better metric, 1 or more."""
    threshold: float = Field(default=0.0, ge=0)
    """Least improvement that counts as better, in the metric's unit."""


class Settings(StrictModel):
    """Training settings: those of `train`, and the base of `TrainingConfig`."""

    late_models = {"training_arguments": argument_fields}  # noqa: RUF012

    method: Literal["full", "freeze", "lora"] = "full"
    """`full` trains all weights, `freeze` all but those that the block `freeze` names, `lora` an
    adapter.
    """
    freeze: Freeze | None = None
    """Which weights to freeze."""
    lora: Lora | None = None
    """How to make the adapter."""
    seed: int = Field(default=42, ge=0)
    """Seed of row order, dropout and adapter; same seed, data and machine give the same run."""
    precision: PrecisionChoice = "auto"
    """Precision of matrix products; `auto` is 16 bits where the machine computes in them. Trained
    weights are always float32.
    """
    if_exists: IfExists = "refuse"
    """What to do if the run folder exists: `refuse`; `reuse` it if model, data and settings are the
    same, and train again if they are not; or `overwrite` it. An old folder is deleted only once the
    new one is complete.
    """
    max_tokens: int | None = Field(default=None, ge=1)
    """Tokens of one pass through the model, padding included; null for 1,024 on a CPU and 16,384 on
    a GPU. It sets memory and speed, and does not change what is learned.
    """
    early_stopping: EarlyStopping | None = None
    """When to stop early; needs validation data."""
    samples: int = Field(default=3, ge=0)
    """Validation prompts to answer at each evaluation, 0 or more."""
    prompt_loss: bool = False
    """Log the loss on prompts at evaluations too."""
    preflight: bool = True
    """Time two passes and report memory, disk and time before the first step."""
    tracking: Tracking | None = None
    """The tracker that gets the metrics; null for none."""
    training_arguments: dict[str, Any] = Field(default_factory=dict)
    """Any field of transformers.TrainingArguments, such as `learning_rate`."""

    @field_validator("training_arguments")
    @classmethod
    def _check_training_arguments(cls, given: dict[str, Any]) -> dict[str, Any]:
        if not given:  # nothing to load the library for
            return {}
        # Pydantic adds the faults of a ValidationError to those of the settings.
        return argument_fields().model_validate(given).model_dump(exclude_unset=True)

    @model_validator(mode="after")
    def _check_method_block(self) -> "Settings":
        blocks = {"freeze": self.freeze, "lora": self.lora}
        for name, block in blocks.items():
            if (self.method == name) != (block is not None):
                raise ValueError(f"`method: {name}` and the block `{name}` go together")
        return self

    @classmethod
    def of(cls, **options: Any) -> "Settings":
        """Return settings made from keywords: settings and fields of `TrainingArguments` alike.

        The block `lora` or `freeze` implies the method.

        Raises:
            TrainingError: a keyword or a value is wrong.

        Example:
            `Settings.of(num_train_epochs=2, lora=Lora(r=8), learning_rate=1e-3)`
        """
        own = {name: options.pop(name) for name in list(options) if name in cls.model_fields}
        fields = argument_fields().model_fields
        for name in options:
            if name not in fields:
                known = [*cls.model_fields, *fields]
                raise TrainingError(f"train has no setting {name!r}{nearest(name, known)}")
        for block in ("freeze", "lora"):
            if own.get(block) is not None:
                own.setdefault("method", block)
        own["training_arguments"] = own.get("training_arguments", {}) | options
        try:
            return cls(**own)
        except ValidationError as error:
            raise TrainingError("; ".join(faults_in_words(error, cls))) from None

    def arguments(self, has_validation: bool) -> dict[str, Any]:
        """Return the fields of `TrainingArguments` that are set, defaults filled in.

        Args:
            has_validation: whether there are validation data to evaluate on.

        Raises:
            TrainingError: they do not fit together.
        """
        given = {name: v for name, v in self.training_arguments.items() if v is not None}
        arguments = {**DEFAULT_ARGUMENTS, **given}
        keeps_best = arguments.get("load_best_model_at_end", self.early_stopping is not None)
        _fill_in_evaluation(arguments, self, has_validation, keeps_best)
        if keeps_best:
            _fill_in_checkpoints(arguments, saves_are_given="save_strategy" in given)
        _check_steps_and_order(arguments)
        # In the library's order, whatever the order of the config.
        return {
            name: arguments[name] for name in argument_fields().model_fields if name in arguments
        }


DEFAULT_SETTINGS = Settings()


def _fill_in_evaluation(
    arguments: dict[str, Any], settings: Settings, has_validation: bool, keeps_best: bool
) -> None:
    """Fill in when to evaluate, and by which metric the best checkpoint is chosen."""
    metric = arguments.get("metric_for_best_model", "eval_loss" if keeps_best else None)
    evaluates = arguments.get("eval_strategy", "epoch" if has_validation else "no")
    if not has_validation and (evaluates != "no" or metric or settings.early_stopping):
        raise TrainingError(
            "evaluation, a best checkpoint and early stopping need validation data; give "
            "`validation` (eval_data), or leave out eval_strategy, load_best_model_at_end, "
            "metric_for_best_model and early_stopping"
        )
    arguments["eval_strategy"] = evaluates
    if not metric:
        return
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


def _fill_in_checkpoints(arguments: dict[str, Any], saves_are_given: bool) -> None:
    """Fill in when to save, so that each evaluation that may be the best has a checkpoint."""
    arguments["load_best_model_at_end"] = True
    evaluates = arguments["eval_strategy"]
    evaluation_steps = arguments.get("eval_steps") or arguments["logging_steps"]
    if not saves_are_given:
        arguments["save_strategy"] = evaluates
        if evaluates == "steps":
            arguments.setdefault("save_steps", evaluation_steps)
    saves = arguments["save_strategy"]
    if saves == "best":  # saves after any evaluation
        meets = True
    elif saves == evaluates == "steps":
        meets = arguments.get("save_steps", 500) % evaluation_steps == 0
    else:
        meets = saves == evaluates
    if evaluates == "no" or not meets:
        raise TrainingError(
            "the best checkpoint is to be kept, but evaluations and checkpoints do not meet "
            f"(eval_strategy {evaluates}, eval_steps {arguments.get('eval_steps')}, "
            f"save_strategy {saves}, save_steps {arguments.get('save_steps')}); leave the save "
            "settings out, or make save_steps a multiple of eval_steps"
        )


def _check_steps_and_order(arguments: dict[str, Any]) -> None:
    if arguments["num_train_epochs"] <= 0 and arguments.get("max_steps", -1) <= 0:
        raise TrainingError("there is no step to train: set num_train_epochs or max_steps above 0")
    if arguments["train_sampling_strategy"] not in ("group_by_length", "random", "sequential"):
        raise TrainingError(
            "train_sampling_strategy must be group_by_length, random or sequential; the first "
            "already does what batch_rebalance is for, with passes of rows of similar length"
        )


def make_training_arguments(
    output_dir: str | Path,
    settings: Settings = DEFAULT_SETTINGS,
    has_validation: bool = False,
    **tracker_fields: Any,
) -> "TrainingArguments":
    """Return the library's `TrainingArguments`, with the settings and the device filled in.

    Args:
        output_dir: where checkpoints go, if there are any.
        settings: as for `train`.
        has_validation: whether there are validation data to evaluate on.
        tracker_fields: the fields that a tracker needs; see `tracking.tracked`.

    Raises:
        TrainingError: the settings do not fit together, or the library refuses a value.

    Example:
        `make_training_arguments("runs/mine", Settings.of(max_steps=100, learning_rate=1e-3))`
    """
    from transformers import TrainingArguments

    precision = resolve_precision(settings.precision)
    # A pass makes gradients of all trained weights; searching for others would cost time in each.
    arguments = {"ddp_find_unused_parameters": False, **settings.arguments(has_validation)}
    try:
        result = TrainingArguments(
            output_dir=str(output_dir),
            seed=settings.seed,
            bf16=precision == "bf16",
            fp16=precision == "fp16",
            use_cpu=device() == "cpu",
            dataloader_pin_memory=device() == "cuda",
            remove_unused_columns=False,
            restore_callback_states_from_checkpoint=True,
            **arguments,
            **tracker_fields,
        )
    except (TypeError, ValueError) as error:
        raise TrainingError(f"training_arguments: {error}") from None
    use_one_gpu(result)  # more of them go through `accelerate launch`
    # The library would take `accelerate launch`'s where neither bf16 nor fp16 is set.
    result.mixed_precision = "no" if precision == "fp32" else precision
    return result


class TrainingConfig(Settings):
    """Config of `python -m utilities.training`: the settings, and the model, data and folder."""

    base_model: ModelName = "auto"
    """Model to fine-tune: `auto`, a hub id, or a folder."""
    train: ConfigSource | None = None
    """Training rows."""
    validation: ConfigSource | None = None
    """Validation rows; null for none."""
    prepared: ConfigPath | None = None
    """In place of `train` and `validation`, a dataset made by `utilities.dataprep`; its part
    `validation` is used if it has one, and so is its prompt format.
    """
    prompt_format: ConfigPromptFormat = QUESTION_ANSWER
    """How a row becomes text."""
    max_length: int = Field(default=512, ge=3)
    """Most tokens of a row, prompt, response and end-of-text together."""
    shorten: Shorten = "prompt_left"
    """What a longer row loses; see `features.shortening.Shorten`."""
    output_dir: ConfigPath
    """Run folder to write."""

    @model_validator(mode="after")
    def _check_data(self) -> "TrainingConfig":
        if (self.train is None) == (self.prepared is None) or (self.prepared and self.validation):
            raise ValueError("give either `train` (and perhaps `validation`), or `prepared`")
        return self
