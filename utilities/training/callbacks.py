"""Callbacks of the Trainer: exact resuming, the history file, samples."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonlines
import transformers

from utilities.features.tokenization import IGNORE_INDEX
from utilities.inference.local_model import answer_ids
from utilities.scores.metrics import is_exact_match


class ExactResuming(transformers.TrainerCallback):
    """Callback for exact resuming.

    Sets the sampler's epoch, delays an epoch's last checkpoint until the epoch has ended, and logs
    at checkpoints.
    """

    def __init__(self, trainer: Any):
        """Take the trainer, whose clock, batches and used embedding rows are kept in step."""
        self.trainer, self.steps, self.waiting = trainer, 1, False

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        """Start the clock where the checkpoint's stopped."""
        before = max((row.get("seconds", 0) for row in state.log_history), default=0)
        self.trainer._started = time.monotonic() - before

    def on_epoch_begin(self, args, state, control, **kwargs) -> None:
        """Tell the sampler which epoch it is."""
        batches = self.trainer.batches
        self.steps = -(-len(batches) // batches.accumulation)
        batches.epoch = state.global_step // self.steps

    def on_step_end(self, args, state, control, **kwargs) -> None:
        """Write used embedding rows back, and hold a checkpoint of an epoch's last step back."""
        if self.trainer.used_rows:
            self.trainer.used_rows.follow()
        # A checkpoint of an epoch's last step waits for the epoch's end: else what is done there
        # would be left out when resuming from it.
        if control.should_save and state.global_step % self.steps == 0:
            control.should_save, self.waiting = False, True
        self._log_what_is_kept(control)

    def on_epoch_end(self, args, state, control, **kwargs) -> None:
        """Let the checkpoint that waited be written."""
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
        self.prompts, self.references = zip(*map(last_answer, rows), strict=True)

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        """Keep what was written up to the checkpoint that training goes on from."""
        if state.is_world_process_zero:
            kept = []
            if self.path.is_file() and state.global_step:
                with jsonlines.open(self.path) as lines:
                    kept = list(lines.iter(skip_invalid=True))
            with jsonlines.open(self.path, "w") as lines:
                lines.write_all(row for row in kept if row["step"] <= state.global_step)

    def answer(self, trainer: Any) -> dict[str, float]:
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


def last_answer(row: dict[str, Any]) -> tuple[list[int], list[int]]:
    """Return the prompt and the response of a row's last example, as ids."""
    ids, labels = row["input_ids"], row["labels"]
    end = max((i + 1 for i, label in enumerate(labels) if label != IGNORE_INDEX), default=0)
    start = end
    while start and labels[start - 1] != IGNORE_INDEX:
        start -= 1
    positions = row.get("position_ids") or list(range(len(ids)))
    first = max((i for i in range(start + 1) if i < len(ids) and positions[i] == 0), default=0)
    return ids[first:start], ids[start:end]
