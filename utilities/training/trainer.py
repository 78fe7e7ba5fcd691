"""The library's Trainer with this package's loss, batches, evaluation and checkpoints."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from datasets import Dataset
from torch import nn
from transformers.trainer_utils import rotate_checkpoints

from utilities.errors import PlanningError, TrainingError
from utilities.features.tokenization import IGNORE_INDEX, row_lengths
from utilities.models import adapters
from utilities.models.loading import without_progress_bars
from utilities.models.modes import evaluation_mode
from utilities.models.output_head import has_plain_head
from utilities.planning.model_sizes import ModelShape, step_flops
from utilities.training import checkpoints
from utilities.training.batches import (
    RowChoice,
    RowsByChoice,
    StepBatches,
    into_passes,
)
from utilities.training.callbacks import ExactResuming, Samples
from utilities.training.loss import SupervisedLoss, supervised_loss
from utilities.training.loss_sums import KINDS, LossSums
from utilities.training.used_embedding_rows import UsedRows

# What a pass through the model costs by itself, in tokens: reading the weights, adding gradients.
PASS_COST = {"cpu": 64, "mps": 512, "cuda": 2048}


MAX_TOKENS = {"cpu": 1024, "mps": 4096, "cuda": 16384}


class SupervisedTrainer(transformers.Trainer):
    """The library's Trainer, with the loss of `supervised_loss`, averaged over tokens.

    Every supervised token of a step weighs the same, whatever the batch size, accumulation and
    number of processes; so does every supervised token of an evaluation. A step's rows go through
    the model in passes of like length. A loss that is not finite stops the run. A checkpoint counts
    only when it is whole, and is loaded as `from_pretrained` does it.
    """

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
            prompt_loss: tell the loss of prompts at evaluations too; they are not learned.
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
        self.used_rows = None
        self.is_adapter = hasattr(self.model, "peft_config")
        self._sums = LossSums()
        self._started = time.monotonic()
        self.add_callback(ExactResuming(self))

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
        """Return this process's batches; see `batching.StepBatches`."""
        args = self.args
        self.batches = StepBatches(
            row_lengths(self.train_dataset),
            self._train_batch_size,
            args.gradient_accumulation_steps,
            args.seed if args.data_seed is None else args.data_seed,
            args.train_sampling_strategy,
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

    @contextlib.contextmanager
    def activations_within_budget(self, inputs: dict[str, torch.Tensor]) -> Iterator[None]:
        """Have a row that is longer than a pass may be computed twice, in place of kept."""
        model = self.accelerator.unwrap_model(self.model)
        too_long = inputs["input_ids"].numel() > self.max_tokens
        is_set = self.args.activation_checkpointing or not model.supports_gradient_checkpointing
        if not too_long or is_set or self.is_fsdp_enabled:
            yield
            return
        model.activation_checkpointing_enable({"use_reentrant": False})
        try:
            yield
        finally:
            model.activation_checkpointing_disable()

    # ---- loss ----

    def _supervised_loss(
        self, model: nn.Module, inputs: dict[str, torch.Tensor], scale: float = 1.0
    ) -> SupervisedLoss:
        head = self.accelerator.unwrap_model(model).get_output_embeddings()
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
        # Processes average their gradients; the sum over all of them is wanted, if the count is
        # that of all.
        together = self.accelerator.num_processes if self.args.average_tokens_across_devices else 1
        found = self._supervised_loss(model, inputs, together / max(int(count), 1))
        self._sums.add(found, self._ends(found.targets))
        return (found.loss, {}) if return_outputs else found.loss

    def _ends(self, targets: torch.Tensor) -> torch.Tensor:
        """Return 1 where the target is end-of-text, else 0: an index of `KINDS`."""
        ends = self.model.config.eos_token_id
        ends = ends if isinstance(ends, list) else [ends]
        if self.processing_class is not None:
            ends = [self.processing_class.eos_token_id]
        known = torch.tensor([e for e in ends if e is not None], device=targets.device)
        return torch.isin(targets, known).long()

    def training_step(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """Do forward and backward passes of a batch; stop when the loss is not a number."""
        if num_items_in_batch is None:
            num_items_in_batch = (inputs["labels"][:, 1:] != IGNORE_INDEX).sum()
        self._sums.tokens += _real_tokens(inputs)
        total = torch.zeros((), device=self.args.device)
        passes = self._passes(inputs)
        for number, part in enumerate(passes, 1):
            is_last = number == len(passes)
            waiting = contextlib.nullcontext() if is_last else self.accelerator.no_sync(model)
            with waiting, self.activations_within_budget(part):
                total += super().training_step(model, part, num_items_in_batch)
        if not torch.isfinite(total):
            raise TrainingError(
                f"the loss is {total.item()} at step {self.state.global_step + 1}. "
                "Lower the learning rate, or set precision to fp32; weights are not saved."
            )
        return total

    def floating_point_ops(self, inputs: dict[str, torch.Tensor]) -> float:
        """Return the operations of a batch, forward and backward, real tokens only.

        They are 0 for kinds of models that `shapes.ModelShape` does not know.
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
        """Return what frozen matrices save, less what an adapter costs."""
        model = self.accelerator.unwrap_model(self.model)
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
        """Add to a training loss its parts, the tokens so far, and the seconds so far."""
        if "loss" in logs:
            sums = self._sums.drain(self.accelerator)
            self.state.num_input_tokens_seen += sums.tokens
            logs |= sums.losses("loss")
            logs["tokens"] = self.state.num_input_tokens_seen
            logs["seconds"] = round(time.monotonic() - self._started, 1)
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
                mine = start + self.args.process_index
                counts = mine < len(passes)
                chosen = passes[mine if counts else 0]
                batch = self.data_collator([rows[RowChoice(index, counts)] for index in chosen])
                self._add_evaluation(sums, self._prepare_inputs(batch))
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

    def _add_evaluation(self, sums: "LossSums", inputs: dict[str, torch.Tensor]) -> None:
        labels = inputs["labels"]
        with self.accelerator.autocast():
            found = self._supervised_loss(self.model, inputs)
            sums.add(found, self._ends(found.targets))
            if self.prompt_loss:
                asked = (labels == IGNORE_INDEX) & inputs["attention_mask"].bool()
                prompts = inputs["input_ids"].where(asked, IGNORE_INDEX)
                found = self._supervised_loss(self.model, {**inputs, "labels": prompts})
                sums.add(found, torch.full_like(found.targets, KINDS.index("prompt")))

    # ---- checkpoints ----

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write a checkpoint and seal it; only then do older ones go."""
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            with without_progress_bars():
                super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            folder = Path(self.args.output_dir)
            checkpoints.seal(folder / f"checkpoint-{self.state.global_step}")
            rotate_checkpoints(
                output_dir=str(folder),
                save_total_limit=limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
            )

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            self._load_weights(Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        if self.is_fsdp_enabled:
            super()._load_best_model()
        else:
            self._load_weights(Path(self.state.best_model_checkpoint))

    def _load_weights(self, checkpoint: Path) -> None:
        """Load weights in place, under the names they have in memory.

        The library's own loading reads the file as it is. But GPT-NeoX's output head has another
        name there, and would be left out without a word.
        """
        model = self.accelerator.unwrap_model(self.model)
        if self.is_adapter:
            adapters.load_weights(model, checkpoint)
            return
        with without_progress_bars():
            saved = type(model).from_pretrained(
                checkpoint, dtype=torch.float32, local_files_only=True, use_safetensors=True
            )
        model.load_state_dict(saved.state_dict(), strict=self.used_rows is None)
        if self.used_rows:
            self.used_rows.reread()


def _shape_of(model: nn.Module) -> ModelShape | None:
    try:
        return ModelShape.of(model)
    except PlanningError:
        return None


def _real_tokens(inputs: dict[str, torch.Tensor]) -> int:
    """Return the tokens without padding, and without rows that only keep processes in step."""
    learned = (inputs["labels"] != IGNORE_INDEX).any(dim=1)
    mask = inputs.get("attention_mask")
    return int(inputs["input_ids"][learned].numel() if mask is None else mask[learned].sum())
