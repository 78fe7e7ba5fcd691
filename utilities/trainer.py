"""The library's Trainer with this package's loss, batches, evaluation and checkpoints."""

import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jsonlines
import torch
import transformers
from datasets import Dataset
from torch import nn
from transformers.trainer_utils import rotate_checkpoints

from utilities import adapters, checkpoints, models
from utilities.batching import RowChoice, RowsByChoice, StepBatches, into_passes, row_lengths
from utilities.config import LabError
from utilities.embeddings import UsedRows
from utilities.heads import has_plain_head
from utilities.inference import answer_ids
from utilities.losses import SupervisedLoss, supervised_loss
from utilities.metrics import is_exact_match
from utilities.shapes import ModelShape, PlanningError, step_flops
from utilities.tokenization import IGNORE_INDEX

KINDS = ("response", "end", "prompt")
"""What a supervised token is part of: the answer, its end-of-text, or the text before it."""

# What a pass through the model costs by itself, in tokens: reading the weights, adding gradients.
PASS_COST = {"cpu": 64, "mps": 512, "cuda": 2048}
MAX_TOKENS = {"cpu": 1024, "mps": 4096, "cuda": 16384}


class TrainingError(LabError):
    """Training that cannot start, or had to stop."""


class Trainer(transformers.Trainer):
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
        self._sums = _Sums()
        self._started = time.monotonic()
        self.add_callback(_Moments(self))

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
        was_training = self.model.training
        self.model.eval()
        rows = RowsByChoice(features)
        passes = into_passes(
            row_lengths(features),
            2 * self.max_tokens,  # no gradients are kept
            self.pass_cost,
            self.args.per_device_eval_batch_size,
        )
        sums, processes = _Sums(), self.args.world_size
        for start in range(0, len(passes), processes):
            mine = start + self.args.process_index
            counts = mine < len(passes)
            chosen = passes[mine if counts else 0]
            batch = self.data_collator([rows[RowChoice(index, counts)] for index in chosen])
            self._add_evaluation(sums, self._prepare_inputs(batch))
        self.model.train(was_training)
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

    def _add_evaluation(self, sums: "_Sums", inputs: dict[str, torch.Tensor]) -> None:
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
            with models.without_progress_bars():
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
        with models.without_progress_bars():
            saved = type(model).from_pretrained(
                checkpoint, dtype=torch.float32, local_files_only=True, use_safetensors=True
            )
        model.load_state_dict(saved.state_dict(), strict=self.used_rows is None)
        if self.used_rows:
            self.used_rows.reread()


class _Sums:
    """Sums of losses and numbers of tokens, by `KINDS`, until they are told."""

    def __init__(self):
        self.nats = torch.zeros(len(KINDS), dtype=torch.float64)
        self.counts = torch.zeros(len(KINDS), dtype=torch.float64)
        self.tokens = 0

    def add(self, found: SupervisedLoss, kinds: torch.Tensor) -> None:
        """Add losses, each of the kind given as an index of `KINDS`."""
        nats = found.nats.double() if found.nats.device.type != "mps" else found.nats.cpu().double()
        kinds = kinds.to(nats.device)
        self.nats = self.nats.to(nats.device).index_add(0, kinds, nats)
        self.counts = self.counts.to(nats.device).index_add(0, kinds, torch.ones_like(nats))

    def drain(self, accelerator: Any) -> "_Sums":
        """Return the sums over all processes, and begin anew."""
        device = "cpu" if accelerator.device.type == "mps" else accelerator.device
        tokens = torch.tensor([float(self.tokens)], dtype=torch.float64, device=device)
        sums = torch.cat([self.nats.to(device), self.counts.to(device), tokens])
        if accelerator.num_processes > 1:
            sums = accelerator.reduce(sums)
        sums = sums.cpu()
        drained = _Sums()
        drained.nats, drained.counts = sums[: len(KINDS)], sums[len(KINDS) : -1]
        drained.tokens = int(sums[-1])
        self.__init__()
        return drained

    def losses(self, name: str, total: bool = False) -> dict[str, float]:
        """Return the mean loss of each kind that there was, and of all that is learned."""
        means = {
            f"{name}_{kind}": nats / count
            for kind, nats, count in zip(
                KINDS, self.nats.tolist(), self.counts.tolist(), strict=True
            )
            if count
        }
        if total:
            means = {name: (self.nats[:2].sum() / self.counts[:2].sum()).item()} | means
        return means


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


class _Moments(transformers.TrainerCallback):
    """Does at the right moments what exact resuming needs."""

    def __init__(self, trainer: Trainer):
        self.trainer, self.steps, self.waiting = trainer, 1, False

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        before = max((row.get("seconds", 0) for row in state.log_history), default=0)
        self.trainer._started = time.monotonic() - before

    def on_epoch_begin(self, args, state, control, **kwargs) -> None:
        batches = self.trainer.batches
        self.steps = -(-len(batches) // batches.accumulation)
        batches.epoch = state.global_step // self.steps

    def on_step_end(self, args, state, control, **kwargs) -> None:
        if self.trainer.used_rows:
            self.trainer.used_rows.follow()
        # A checkpoint of an epoch's last step waits for the epoch's end: else what is done there
        # would be left out when resuming from it.
        if control.should_save and state.global_step % self.steps == 0:
            control.should_save, self.waiting = False, True
        self._log_what_is_kept(control)

    def on_epoch_end(self, args, state, control, **kwargs) -> None:
        control.should_save |= self.waiting
        self.waiting = False
        self._log_what_is_kept(control)

    def _log_what_is_kept(self, control: transformers.TrainerControl) -> None:
        # A mean over steps before and after a checkpoint could not be made again when resuming.
        if control.should_save or control.should_evaluate or self.waiting:
            control.should_log = True


class HistoryFile(transformers.TrainerCallback):
    """Appends every logged figure to a JSON Lines file as it comes."""

    def __init__(self, path: Path):
        """Take the file's place."""
        self.path = path

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        """Begin with what the checkpoint knows, when training goes on from one."""
        if state.is_world_process_zero:
            self.path.write_text("", encoding="utf-8")
            for row in state.log_history:
                self._write(row)

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        """Write a line."""
        if state.is_world_process_zero and logs and "train_runtime" not in logs:
            self._write({"step": state.global_step, **logs})

    def _write(self, row: dict[str, float]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": row["step"], **row}) + "\n")


class Samples(transformers.TrainerCallback):
    """Answers the first few validation prompts at each evaluation, into a JSON Lines file."""

    def __init__(
        self, path: Path, rows: Sequence[dict[str, Any]], tokenizer: Any, max_new_tokens: int = 40
    ):
        """Take validation features; of a row with several examples or turns, its last one."""
        self.path, self.tokenizer, self.max_new_tokens = path, tokenizer, max_new_tokens
        self.prompts, self.references = zip(*map(_last_answer, rows), strict=True)

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        """Keep what was written up to the checkpoint that training goes on from."""
        if state.is_world_process_zero:
            kept = []
            if self.path.is_file() and state.global_step:
                with jsonlines.open(self.path) as lines:
                    kept = list(lines.iter(skip_invalid=True))
            with jsonlines.open(self.path, "w") as lines:
                lines.write_all(row for row in kept if row["step"] <= state.global_step)

    def answer(self, trainer: Trainer) -> dict[str, float]:
        """Write the answers of now; return the share that is exactly right as `exact_match`."""
        if trainer.is_fsdp_enabled:  # the weights are spread over the processes
            return {}
        model = trainer.accelerator.unwrap_model(trainer.model)
        ids = answer_ids(model, self.tokenizer, self.prompts, self.max_new_tokens)
        texts = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
        references = self.tokenizer.batch_decode(self.references, skip_special_tokens=True)
        if trainer.is_world_process_zero() and trainer.is_in_train:
            rows = zip(self.prompts, references, texts, strict=True)
            with jsonlines.open(self.path, "a") as lines:
                for prompt, reference, text in rows:
                    lines.write(
                        {
                            "step": trainer.state.global_step,
                            "prompt": self.tokenizer.decode(prompt),
                            "reference": reference.strip(),
                            "prediction": text.strip(),
                        }
                    )
        right = [is_exact_match(*pair) for pair in zip(texts, references, strict=True)]
        return {"exact_match": sum(right) / len(right)}


def _last_answer(row: dict[str, Any]) -> tuple[list[int], list[int]]:
    """Return the prompt and the response of a row's last example, as ids."""
    ids, labels = row["input_ids"], row["labels"]
    end = max((i + 1 for i, label in enumerate(labels) if label != IGNORE_INDEX), default=0)
    start = end
    while start and labels[start - 1] != IGNORE_INDEX:
        start -= 1
    positions = row.get("position_ids") or list(range(len(ids)))
    first = max((i for i in range(start + 1) if i < len(ids) and positions[i] == 0), default=0)
    return ids[first:start], ids[start:end]
