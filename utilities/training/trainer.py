"""The library's Trainer with this package's loss, batches, evaluation and checkpoints."""

import contextlib
import copy
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from datasets import Dataset
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from utilities.errors import PlanningError, TrainingError
from utilities.features.tokenization import IGNORE_INDEX, row_lengths
from utilities.models import adapters
from utilities.models.loading import without_progress_bars
from utilities.models.modes import evaluation_mode
from utilities.models.output_head import has_plain_head
from utilities.planning.model_sizes import ModelShape, step_flops
from utilities.training.batches import (
    Order,
    RowChoice,
    RowsByChoice,
    StepBatches,
    into_passes,
)
from utilities.training.callbacks import ExactResuming, Samples, SealedCheckpoints
from utilities.training.loss import SupervisedLoss, supervised_loss
from utilities.training.loss_sums import KINDS, LossSums
from utilities.training.used_embedding_rows import UsedRows

# Overhead of a pass through the model, in tokens: reading the weights, adding gradients.
PASS_COST = {"cpu": 64, "mps": 512, "cuda": 2048}


# Tokens of a pass, unless `max_tokens` says otherwise.
MAX_TOKENS = {"cpu": 1024, "mps": 4096, "cuda": 16384}


class SupervisedTrainer(transformers.Trainer):
    """The library's Trainer, with the loss of `supervised_loss`, averaged over tokens.

    Every supervised token of a step weighs the same, whatever the batch size, accumulation and
    number of processes; so does every supervised token of an evaluation. A step's rows go through
    the model in passes of similar length. A loss that is not finite stops the run. A checkpoint
    counts only when it is complete, and is loaded as `from_pretrained` does it.
    """

    # Narrower than the library's, which trains other things than causal language models too.
    model: PreTrainedModel
    processing_class: PreTrainedTokenizerBase | None
    train_dataset: Dataset | None
    eval_dataset: Dataset | None

    def __init__(
        self,
        *args: Any,
        max_tokens: int | None = None,
        prompt_loss: bool = False,
        **kwargs: Any,
    ):
        """Take what the library's Trainer takes.

        Args:
            args: the library's.
            max_tokens: tokens of one pass, padding included; None for `MAX_TOKENS` of the device.
            prompt_loss: log the loss on prompts at evaluations too; they are not learned.
            kwargs: the library's.
        """
        super().__init__(*args, **kwargs)
        self.model_accepts_loss_kwargs = True  # have the Trainer count a step's tokens
        self.loss_is_scaled_for_ga = True  # … because the loss is divided by that count
        device = self.args.device.type
        self.max_tokens = max_tokens or MAX_TOKENS.get(device, MAX_TOKENS["cpu"])
        self.pass_cost = PASS_COST.get(device, PASS_COST["cpu"])
        self.prompt_loss = prompt_loss
        self.fused = has_plain_head(self.model)
        self.shape = _shape_of(self.model)
        self.used_rows: UsedRows | None = None
        self.is_adapter = hasattr(self.model, "peft_config")
        self.started = time.monotonic()
        self._sums = LossSums()
        self.add_callback(ExactResuming(self))
        # The library would delete older checkpoints before the new one is sealed. So it gets no
        # limit, in a copy of the arguments, and `SealedCheckpoints` deletes them.
        self.save_total_limit = self.args.save_total_limit
        self.args = copy.copy(self.args)
        self.args.save_total_limit = None
        self.add_callback(SealedCheckpoints(self, self.save_total_limit))

    @property
    def bare_model(self) -> PreTrainedModel:
        """The model without the wrappers of DDP, FSDP and compilation."""
        return self.accelerator.unwrap_model(self.model)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train; of untied input embeddings only the rows that the data use."""
        if not (self.is_fsdp_enabled or self.is_deepspeed_enabled or self.is_adapter):
            self.used_rows = UsedRows.attach(self.model, self.args, self.train_dataset)
        try:
            return super().train(*args, **kwargs)
        finally:
            if self.used_rows:
                self.used_rows.detach()
                self.used_rows = None

    # ---- batches ----

    def get_train_dataloader(self) -> torch.utils.data.DataLoader:
        """Return this process's batches; see `batches.StepBatches`."""
        args = self.args
        self.batches = StepBatches(
            row_lengths(self.train_dataset),
            self._train_batch_size,
            args.gradient_accumulation_steps,
            args.seed if args.data_seed is None else args.data_seed,
            cast(Order, args.train_sampling_strategy),
            args.process_index,
            args.world_size,
            args.dataloader_drop_last,
        )
        return torch.utils.data.DataLoader(
            RowsByChoice(self.train_dataset),
            batch_sampler=self.batches,
            collate_fn=self.data_collator,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
        )

    def _passes(self, inputs: dict[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        """Cut a batch into passes, each only as wide as its longest row."""
        if self.is_fsdp_enabled:  # all processes have to make the same passes
            return [inputs]
        rows, width = inputs["input_ids"].shape
        mask = inputs.get("attention_mask")
        lengths = [width] * rows if mask is None else mask.sum(dim=1).tolist()
        passes = into_passes(lengths, self.max_tokens, self.pass_cost)
        return [
            {name: value[chosen, : lengths[chosen[0]]] for name, value in inputs.items()}
            for chosen in passes
        ]

    def checkpoints_activations(self, tokens: int) -> bool:
        """Return whether a pass of that many tokens, padding included, recomputes activations."""
        too_long = tokens > self.max_tokens and not self.is_fsdp_enabled
        supported = self.bare_model.supports_gradient_checkpointing
        return self.args.activation_checkpointing or (too_long and supported)

    @contextlib.contextmanager
    def activations_within_budget(self, inputs: dict[str, torch.Tensor]) -> Iterator[None]:
        """Turn on activation checkpointing for a row longer than one pass."""
        model = self.bare_model
        is_on = self.args.activation_checkpointing  # for all passes
        if is_on or not self.checkpoints_activations(inputs["input_ids"].numel()):
            yield
            return
        model.activation_checkpointing_enable({"use_reentrant": False})
        try:
            yield
        finally:
            model.activation_checkpointing_disable()

    def on_device(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return a batch on the device of the model."""
        return self._prepare_inputs(batch)

    # ---- loss ----

    def loss_of(
        self, model: nn.Module, inputs: dict[str, torch.Tensor], scale: float = 1.0
    ) -> SupervisedLoss:
        """Return the loss of a pass, times `scale`; see `loss.supervised_loss`."""
        head = self.bare_model.get_output_embeddings()
        return supervised_loss(model, head, scale=scale, fused=self.fused, **inputs)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, dict]:
        """Return the batch's share of the step's mean loss per supervised token."""
        count = num_items_in_batch
        if count is None:
            count = (inputs["labels"][:, 1:] != IGNORE_INDEX).sum()
        # DDP averages the gradients of all processes. If the count is that of all of them, their
        # sum is needed, so the loss is multiplied by the number of processes.
        processes = self.accelerator.num_processes if self.args.average_tokens_across_devices else 1
        result = self.loss_of(model, inputs, processes / max(int(count), 1))
        self._sums.add(result, self._kinds(result.targets))
        return (result.loss, {}) if return_outputs else result.loss

    def _kinds(self, targets: torch.Tensor) -> torch.Tensor:
        """Return the index into `KINDS` of each target: end-of-text, or else response."""
        if self.processing_class is not None:
            end = self.processing_class.eos_token_id
        else:
            end = cast(int | list[int] | None, self.model.config.eos_token_id)
        ids = end if isinstance(end, list) else [end]
        ends = torch.tensor([i for i in ids if i is not None], device=targets.device)
        is_end = torch.isin(targets, ends)
        return torch.where(is_end, KINDS.index("end"), KINDS.index("response"))

    def training_step(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """Do forward and backward passes of a batch; return its loss.

        Raises:
            TrainingError: the loss is not finite.
        """
        if num_items_in_batch is None:
            num_items_in_batch = (inputs["labels"][:, 1:] != IGNORE_INDEX).sum()
        self._sums.tokens += _real_tokens(inputs)
        total = torch.zeros((), device=self.args.device)
        passes = self._passes(inputs)
        for number, part in enumerate(passes, 1):
            is_last = number == len(passes)
            # Gradients are averaged over processes once a batch, with its last pass.
            no_sync = contextlib.nullcontext() if is_last else self.accelerator.no_sync(model)
            with no_sync, self.activations_within_budget(part):
                total += super().training_step(model, part, num_items_in_batch)
        if not torch.isfinite(total):
            raise TrainingError(
                f"the loss is {total.item()} at step {self.state.global_step + 1}. "
                "Lower the learning rate, or set precision to fp32; weights are not saved."
            )
        return total

    def floating_point_ops(  # type: ignore[override]  # float: a mean row length is in it
        self, inputs: dict[str, torch.Tensor]
    ) -> float:
        """Return the floating point operations of a batch, forward and backward, without padding.

        It is 0 for kinds of models that `model_sizes.ModelShape` does not know.
        """
        tokens = _real_tokens(inputs)
        if self.shape is None or not tokens:
            return 0.0
        supervised = int((inputs["labels"][:, 1:] != IGNORE_INDEX).sum())
        row_length = tokens / len(inputs["input_ids"])
        return step_flops(self.shape, tokens, supervised, row_length) - self._saved_flops(
            tokens, supervised
        )

    def _saved_flops(self, tokens: int, supervised: int) -> float:
        """Return the operations saved by frozen matrices, less those of an adapter."""
        model = self.bare_model
        head = model.get_output_embeddings()
        saved = 0 if head.weight.requires_grad else 2 * head.weight.numel() * supervised
        tables = {id(head.weight), id(model.get_input_embeddings().weight)}
        for name, weight in model.named_parameters():
            if weight.ndim == 2 and id(weight) not in tables:
                if "lora_" in name:
                    saved -= 6 * weight.numel() * tokens
                elif not weight.requires_grad:
                    saved += 2 * weight.numel() * tokens
        return float(saved)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log; with a training loss also its parts, and tokens and seconds since the start."""
        if "loss" in logs:
            sums = self._sums.drain(self.accelerator)
            self.state.num_input_tokens_seen += sums.tokens
            logs |= sums.losses("loss")
            logs["tokens"] = self.state.num_input_tokens_seen
            logs["seconds"] = round(time.monotonic() - self.started, 1)
        super().log(logs, start_time)

    # ---- evaluation ----

    @torch.no_grad()
    def evaluate(
        self,
        eval_dataset: Dataset | None = None,
        ignore_keys: Any = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Return the mean loss per supervised token, in nats, of all tokens and of each kind.

        The library's is a mean of means. Each row counts once, whatever the number of processes.

        Raises:
            TrainingError: there are no evaluation data.
        """
        features = self.eval_dataset if eval_dataset is None else eval_dataset
        if not features:
            raise TrainingError("there is nothing to evaluate on; give eval_data (`validation`)")
        rows = RowsByChoice(features)
        passes = into_passes(
            row_lengths(features),
            2 * self.max_tokens,  # no gradients are kept
            self.pass_cost,
            self.args.per_device_eval_batch_size,
        )
        sums, processes = LossSums(), self.args.world_size
        with evaluation_mode(self.model):
            for start in range(0, len(passes), processes):
                # With none left, a process repeats the first pass without counting it: wrapped
                # models wait for each other in each pass.
                own = start + self.args.process_index
                is_left = own < len(passes)
                chosen = passes[own if is_left else 0]
                batch = self.data_collator([rows[RowChoice(row, is_left)] for row in chosen])
                self._add_evaluation(sums, self.on_device(batch))
        metrics = sums.drain(self.accelerator).losses(f"{metric_key_prefix}_loss", total=True)
        metrics |= {
            f"{metric_key_prefix}_{name}": value
            for callback in self.callback_handler.callbacks
            if isinstance(callback, Samples)
            for name, value in callback.answer(self).items()
        }
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def _add_evaluation(self, sums: LossSums, inputs: dict[str, torch.Tensor]) -> None:
        labels = inputs["labels"]
        with self.accelerator.autocast():
            result = self.loss_of(self.model, inputs)
            sums.add(result, self._kinds(result.targets))
            if self.prompt_loss:
                is_prompt = (labels == IGNORE_INDEX) & inputs["attention_mask"].bool()
                prompts = inputs["input_ids"].where(is_prompt, IGNORE_INDEX)
                result = self.loss_of(self.model, {**inputs, "labels": prompts})
                sums.add(result, torch.full_like(result.targets, KINDS.index("prompt")))

    # ---- checkpoints ----

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save weights and tokenizer as the library does, without its progress bars."""
        with without_progress_bars():
            super().save_model(output_dir, _internal_call)

    # Two private methods of transformers 5.23 are overridden, for want of a public way to load a
    # checkpoint: theirs read the file as it is. GPT-NeoX's output head is called `embed_out` in the
    # file and `lm_head` in memory, and keeps its untrained weights, with no more than a warning.

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            self._load_weights(Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        if self.is_fsdp_enabled:
            super()._load_best_model()
        else:
            self._load_weights(Path(str(self.state.best_model_checkpoint)))

    def _load_weights(self, checkpoint: Path) -> None:
        """Load weights in place, by `from_pretrained`, which translates their names."""
        model = self.bare_model
        if self.is_adapter:
            adapters.load_weights(model, checkpoint)
            return
        with without_progress_bars():
            saved = type(model).from_pretrained(
                checkpoint, dtype=torch.float32, local_files_only=True, use_safetensors=True
            )
        # With used rows attached the model has one parameter more than the file.
        model.load_state_dict(saved.state_dict(), strict=self.used_rows is None)
        if self.used_rows:
            self.used_rows.reread()


def _shape_of(model: nn.Module) -> ModelShape | None:
    try:
        return ModelShape.of(model)
    except PlanningError:
        return None


def _real_tokens(inputs: dict[str, torch.Tensor]) -> int:
    """Count the tokens, without padding and without rows that only keep processes in step."""
    learned = (inputs["labels"] != IGNORE_INDEX).any(dim=1)
    mask = inputs.get("attention_mask")
    return int(inputs["input_ids"][learned].numel() if mask is None else mask[learned].sum())
