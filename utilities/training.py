"""Fine-tuning: from features to a run folder.

    python -m utilities.training configs/course_assistant/finetune.yaml [key=value …]

The loss is taken at supervised positions only, and so are the logits: the output head of a small
model is a large part of its arithmetic, and prompt positions have no use for it. Weights stay in
float32; autocast does the products in bfloat16 where the machine has it.

A run folder holds the weights, tokenizer, `prompt_format.json`, `run.json` (model origin, settings,
data counts and fingerprint, versions), `history.jsonl` and `loss.png`. It appears whole or not at
all; while training goes on it is called `NAME.partial`.
"""

import ctypes
import dataclasses
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any, Literal, get_type_hints

import jsonlines
import pandas as pd
import torch
import transformers
from datasets import Dataset
from pydantic import Field, create_model, model_validator
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments

from utilities import models, plots
from utilities.config import ConfigPath, LabError, ModelName, StrictModel, command_line
from utilities.dataprep import Prepared
from utilities.folders import (
    IfExists,
    fingerprint_of,
    is_in_the_way,
    replace_folder,
    versions,
)
from utilities.freezing import Freeze, freeze, trained_weights
from utilities.prompts import QUESTION_ANSWER, ConfigPromptFormat, PromptFormat
from utilities.sources import ConfigSource, Source, read_rows
from utilities.tokenization import (
    IGNORE_INDEX,
    PaddingCollator,
    Shorten,
    TokenizedExamples,
    tokenize_rows,
)

Precision = Literal["auto", "fp32", "bf16", "fp16"]


class TrainingError(LabError):
    """Training that cannot start, or had to stop."""


def supervised_loss(
    model: nn.Module, head: nn.Module, labels: torch.Tensor, **inputs: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the summed cross-entropy at supervised positions, and how many there are.

    The hidden states of all other positions are left out right before the output head. Everything
    else is the model's own forward pass, so wrappers (autocast, DDP, adapters) stay in effect.

    Args:
        model: a causal language model, wrapped or not.
        head: its output head, `model.get_output_embeddings()`.
        labels: int64, (rows, length); `IGNORE_INDEX` where nothing is learned. Position i is
            predicted from the positions before it.
        inputs: `input_ids` and `attention_mask`, int64, (rows, length).

    Returns:
        (sum of losses in nats, float32 scalar; number of supervised positions, int64 scalar).
    """
    targets = functional.pad(labels[:, 1:], (0, 1), value=IGNORE_INDEX)
    supervised = targets != IGNORE_INDEX
    hook = head.register_forward_pre_hook(
        lambda _, arguments: (arguments[0][supervised].unsqueeze(0),)
    )
    try:
        logits = model(**inputs, use_cache=False).logits
    finally:
        hook.remove()
    total = functional.cross_entropy(logits[0].float(), targets[supervised], reduction="sum")
    return total, supervised.sum()


class Trainer(transformers.Trainer):
    """The library's Trainer, with the loss of `supervised_loss`, averaged over tokens.

    Every supervised token of a step weighs the same, whatever the batch size and accumulation; so
    does every supervised token of an evaluation. A loss that is not finite stops the run.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.model_accepts_loss_kwargs = True  # have the Trainer count a step's tokens
        self.loss_is_scaled_for_ga = True  # … because the loss is divided by that count

    def _supervised_loss(self, model: nn.Module, inputs: dict) -> tuple[torch.Tensor, torch.Tensor]:
        head = self.accelerator.unwrap_model(model).get_output_embeddings()
        return supervised_loss(model, head, **inputs)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, dict]:
        """Return the batch's share of the step's mean loss per supervised token."""
        total, count = self._supervised_loss(model, inputs)
        # Processes average their gradients; the sum over all of them is wanted.
        loss = self.accelerator.num_processes * total / (num_items_in_batch or count)
        return (loss, {}) if return_outputs else loss

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Do one forward and backward pass; stop when the loss is not a number."""
        loss = super().training_step(*args, **kwargs)
        if not torch.isfinite(loss):
            raise TrainingError(
                f"the loss is {loss.item()} at step {self.state.global_step + 1}. "
                "Lower the learning rate, or set precision to fp32; nothing was saved."
            )
        return loss

    @torch.no_grad()
    def evaluate(
        self,
        eval_dataset: Dataset | None = None,
        ignore_keys: Any = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Return the mean loss per supervised token, in nats; the library's is a mean of means."""
        self.model.eval()
        sums = torch.zeros(2)
        for batch in self.get_eval_dataloader(eval_dataset):
            with self.accelerator.autocast():
                total, count = self._supervised_loss(self.model, self._prepare_inputs(batch))
            sums += torch.stack([total, count]).cpu()
        total, count = self.accelerator.reduce(sums.to(self.args.device)).tolist()
        metrics = {f"{metric_key_prefix}_loss": total / count}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics


class _HistoryFile(transformers.TrainerCallback):
    """Appends every logged figure to a JSON Lines file as it comes."""

    def __init__(self, path: Path):
        self.path = path
        path.touch()

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        if state.is_world_process_zero and logs and "train_runtime" not in logs:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": state.global_step, **logs}) + "\n")


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished fine-tuning run.

    Attributes:
        folder: the run folder; `models.load(str(folder))` loads its model.
        record: what `run.json` says.
        history: one row a logged step: `step`, `epoch`, `loss`, `learning_rate`, `grad_norm`, and
            `eval_loss` where there was an evaluation. Losses are in nats per supervised token.
    """

    folder: Path
    record: dict[str, Any]
    history: pd.DataFrame

    @classmethod
    def load(cls, folder: str | Path) -> "Run":
        """Read a run folder.

        Raises:
            TrainingError: it is not one.
        """
        folder = Path(folder)
        try:
            record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
            with jsonlines.open(folder / "history.jsonl") as lines:
                history = pd.DataFrame(list(lines) or {"step": [], "loss": []})
        except (OSError, ValueError, jsonlines.Error) as error:
            raise TrainingError(f"{folder} is no finished run: {error}") from None
        return cls(folder, record, history.groupby("step", as_index=False).first())


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
    "per_device_eval_batch_size": 16,
    "learning_rate": 2e-4,
    "lr_scheduler_type": "linear",
    "train_sampling_strategy": "group_by_length",
    "logging_steps": 5,
    "logging_first_step": True,
    "save_strategy": "no",
    "report_to": "none",
}


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
            **{**DEFAULT_ARGUMENTS, **arguments},
        )
    except (TypeError, ValueError) as error:
        raise TrainingError(f"training_arguments: {error}") from None
    # One process drives one GPU; more of them go through `accelerate launch`.
    result._n_gpu = min(1, result.n_gpu)
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
    seed: int = 42,
    precision: Precision = "auto",
    if_exists: IfExists = "refuse",
    frozen: Freeze | None = None,
    **arguments: Any,
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
        seed: same seed, same data, same machine: same run.
        precision: see `resolve_precision`.
        if_exists: what to do with a run folder that is there: `refuse`; `reuse` it when model,
            data and settings are the same, and train anew when they are not; or `overwrite` it.
            An old folder goes only once the new one is complete.
        frozen: which weights stay as they are; None trains all.
        arguments: any other field of the library's `TrainingArguments`.

    Raises:
        TrainingError: the folder exists, the weights are not float32, the loss is not finite, or
            the library refuses a setting.
        FreezingError: see `freezing.freeze`.
    """
    output_dir = Path(output_dir)
    if eval_data:
        arguments.setdefault("eval_strategy", "epoch")
    settings = {
        "seed": seed,
        "precision": resolve_precision(precision),
        "training_arguments": {**DEFAULT_ARGUMENTS, **arguments},
    }
    if frozen:
        settings["frozen"] = frozen.model_dump()
    record = {
        "model": choice.record(),
        "settings": settings,
        "prompt_format": prompt_format.model_dump(mode="json"),
        "data": {
            name: {**data.counts, "fingerprint": fingerprint_of(_ids_and_labels(data))}
            for name, data in {"train": train_data, "validation": eval_data}.items()
            if data
        },
    }
    # Not of the reason for the choice, which may be worded anew each time.
    record["fingerprint"] = fingerprint_of({**record, "model": choice.name})
    if is_in_the_way(output_dir, "run.json"):
        raise TrainingError(
            f"{output_dir} is there and is no run folder, so it stays; choose another output_dir"
        )
    if output_dir.exists() and if_exists == "refuse":
        raise TrainingError(
            f"{output_dir} exists already; choose another output_dir, "
            "or set if_exists to `reuse` or `overwrite`"
        )
    if if_exists == "reuse" and (output_dir / "run.json").is_file():
        run = Run.load(output_dir)
        if run.record["fingerprint"] == record["fingerprint"]:
            return run
    if any(weight.dtype != torch.float32 for weight in model.parameters()):
        raise TrainingError("the weights are not float32; load the model with dtype float32")
    if frozen:
        freeze(model, frozen)
    record["weights"] = trained_weights(model).to_dict(orient="records")

    partial = output_dir.with_name(output_dir.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    trainer = Trainer(
        model=model,
        args=make_training_arguments(partial / "checkpoints", seed, precision, **arguments),
        train_dataset=train_data.features,
        eval_dataset=eval_data.features if eval_data else None,
        data_collator=PaddingCollator(tokenizer.pad_token_id),
        callbacks=[_HistoryFile(partial / "history.jsonl")],
    )
    _keep_freed_memory()
    start = time.monotonic()
    trainer.train()
    record |= {"seconds": round(time.monotonic() - start, 1), "versions": versions()}
    # The Trainer leaves autocast wrapped around `forward`: the model would answer otherwise than
    # the saved one does.
    trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    if trainer.is_world_process_zero():
        model.config.use_cache = True  # the Trainer turns it off, generation needs it
        if not any((partial / "checkpoints").glob("*")):
            shutil.rmtree(partial / "checkpoints", ignore_errors=True)
        with models.without_progress_bars():
            model.eval().save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        prompt_format.save(partial)
        (partial / "run.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        plots.loss_curve(Run.load(partial).history).savefig(partial / "loss.png")
        replace_folder(partial, output_dir)
    trainer.accelerator.wait_for_everyone()
    return Run.load(output_dir)


def _keep_freed_memory() -> None:
    """Have glibc keep freed memory for the next step, instead of giving it back to the system.

    Each step frees and allocates all gradients; getting those pages anew was measured to take a
    fifth of a step on two cores. Other C libraries and systems are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        mallopt(-3, 2**30)  # M_MMAP_THRESHOLD: blocks below 1 GB come from the heap
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: the heap is not cut back


def _ids_and_labels(data: TokenizedExamples) -> list[list[list[int]]]:
    """Return all that training sees of the data, for a fingerprint."""
    columns = [c for c in ("input_ids", "labels", "position_ids") if c in data.features.features]
    return [list(data.features[column]) for column in columns]


# The fields that `train` sets itself; the config has a key of its own for each that matters.
_OWN_FIELDS = {
    "output_dir",
    "seed",
    "bf16",
    "fp16",
    "use_cpu",
    "dataloader_pin_memory",
    "remove_unused_columns",
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


class TrainingConfig(StrictModel):
    """What `python -m utilities.training` reads; see `train` for keys not told here.

    Attributes:
        base_model: `auto`, a hub id, or a folder.
        train: where the training rows are; see `sources.Source`.
        validation: where the validation rows are; null leaves them out.
        prepared: in place of both, a dataset that `utilities.dataprep` made, with its part
            `validation` where it has one. Its prompt format counts.
        prompt_format: how a row becomes text.
        max_length: tokens a row may have, prompt, response and end together.
        shorten: what a longer row loses; see `tokenization.Shorten`.
        method: `full` trains all weights, `freeze` leaves out those that `freeze` names.
        freeze: see `freezing.Freeze`.
        training_arguments: any field of the library's `TrainingArguments`.
    """

    base_model: ModelName = "auto"
    train: ConfigSource | None = None
    validation: ConfigSource | None = None
    prepared: ConfigPath | None = None
    prompt_format: ConfigPromptFormat = QUESTION_ANSWER
    max_length: int = Field(default=512, ge=3)
    shorten: Shorten = "prompt_left"
    output_dir: ConfigPath
    if_exists: IfExists = "refuse"
    seed: int = Field(default=42, ge=0)
    precision: Precision = "auto"
    method: Literal["full", "freeze"] = "full"
    freeze: Freeze | None = None
    training_arguments: ArgumentFields = ArgumentFields()

    @model_validator(mode="after")
    def _one_kind_of_data(self) -> "TrainingConfig":
        if (self.train is None) == (self.prepared is None) or (self.prepared and self.validation):
            raise ValueError("give either `train` (and perhaps `validation`), or `prepared`")
        return self

    @model_validator(mode="after")
    def _method_and_its_block(self) -> "TrainingConfig":
        if (self.method == "freeze") != (self.freeze is not None):
            raise ValueError("`method: freeze` and the block `freeze` go together")
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
    model, tokenizer = models.load(choice)
    return train(
        model,
        tokenizer,
        train_data,
        config.output_dir,
        prompt_format=prompt_format,
        choice=choice,
        eval_data=eval_data,
        seed=config.seed,
        precision=config.precision,
        if_exists=config.if_exists,
        frozen=config.freeze,
        **config.training_arguments.model_dump(exclude_unset=True),
    )


def _report(config: TrainingConfig) -> None:
    run = run_training(config)
    losses = run.history["loss"].dropna()
    trained = run.record["weights"][-1]
    lines = [
        f"model:    {run.record['model']['name']}, because {run.record['model']['reason']}",
        *(f"{name + ':':<9} {counts}" for name, counts in run.record["data"].items()),
        f"weights:  {trained['trained']:,} of {trained['weights']:,} trained",
        f"loss:     {losses.iloc[0]:.3f} → {losses.iloc[-1]:.3f} in {run.record['seconds']} s",
        f"wrote:    {run.folder}",
    ]
    sys.stdout.write("\n".join(lines) + "\n")


def main(argv: list[str] | None = None) -> int:
    """Train from a config file on the command line."""
    purpose = "Fine-tune a model from a YAML file."
    return command_line(TrainingConfig, _report, "utilities.training", purpose, argv)


if __name__ == "__main__":
    sys.exit(main())
