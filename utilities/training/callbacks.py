"""Callbacks of the Trainer: exact resuming, sealed checkpoints, the history file, samples."""

import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonlines
import transformers
from transformers import TrainerControl, TrainerState, TrainingArguments as Arguments
from transformers.trainer_utils import rotate_checkpoints

from utilities.features.tokenization import IGNORE_INDEX
from utilities.inference.local_model import answer_ids
from utilities.scores.metrics import is_exact_match
from utilities.training import checkpoints


class ExactResuming(transformers.TrainerCallback):
    """Callback for exact resuming.

    Sets the sampler's epoch, delays an epoch's last checkpoint until the epoch has ended, and logs
    at checkpoints.
    """

    def __init__(self, trainer: Any):
        """Take the trainer, whose clock, sampler and used embedding rows it acts on."""
        self.trainer, self.steps, self.is_delayed = trainer, 1, False

    def on_train_begin(
        self, args: Arguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock at the checkpoint's time."""
        before = max((row.get("seconds", 0) for row in state.log_history), default=0)
        self.trainer.started = time.monotonic() - before

    def on_epoch_begin(
        self, args: Arguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Set the sampler's epoch."""
        batches = self.trainer.batches
        self.steps = -(-len(batches) // batches.accumulation)
        batches.epoch = state.global_step // self.steps

    def on_step_end(
        self, args: Arguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write used embedding rows back, and delay a checkpoint of an epoch's last step."""
        if self.trainer.used_rows:
            self.trainer.used_rows.follow()
        # A checkpoint of an epoch's last step waits for the epoch's end: otherwise what is done
        # there, such as an evaluation, would be left out when resuming from it.
        if control.should_save and state.global_step % self.steps == 0:
            control.should_save, self.is_delayed = False, True
        self._log_at_checkpoints(control)

    def on_epoch_end(
        self, args: Arguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Save the delayed checkpoint."""
        control.should_save |= self.is_delayed
        self.is_delayed = False
        self._log_at_checkpoints(control)

    def _log_at_checkpoints(self, control: TrainerControl) -> None:
        # A mean loss over steps before and after a checkpoint could not be computed on resuming.
        if control.should_save or control.should_evaluate or self.is_delayed:
            control.should_log = True


class SealedCheckpoints(transformers.TrainerCallback):
    """Callback: seals each checkpoint when it is written, and only then deletes older ones."""

    def __init__(self, trainer: Any, limit: int | None):
        """Take the trainer, and how many checkpoints to keep; None keeps all."""
        self.trainer, self.limit = trainer, limit

    def on_save(
        self, args: Arguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Seal the checkpoint, and delete the oldest ones above the limit, but never the best."""
        self.trainer.accelerator.wait_for_everyone()
        if args.should_save:
            folder = Path(str(args.output_dir))
            checkpoints.seal(folder / f"checkpoint-{state.global_step}")
            rotate_checkpoints(
                output_dir=str(folder),
                save_total_limit=self.limit,
                best_model_checkpoint=state.best_model_checkpoint,
            )

    def on_train_end(
        self, args: Arguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """With a limit of 1 keep the best checkpoint alone, no longer the newest for resuming."""
        if args.should_save and self.limit == 1 and state.best_model_checkpoint:
            best = Path(state.best_model_checkpoint)
            for checkpoint in checkpoints.of_run(Path(str(args.output_dir))):
                if checkpoint.name != best.name:
                    shutil.rmtree(checkpoint, ignore_errors=True)


class HistoryFile(transformers.TrainerCallback):
    """Callback: appends all logged figures to a JSON Lines file as they come."""

    def __init__(self, path: Path):
        """Take the path of the file."""
        self.path = path

    def on_train_begin(
        self, args: Arguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the file anew, with the checkpoint's history when resuming."""
        if state.is_world_process_zero:
            self.path.write_text("", encoding="utf-8")
            for row in state.log_history:
                self._write(row)

    def on_log(
        self,
        args: Arguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Write a line."""
        if state.is_world_process_zero and logs and "train_runtime" not in logs:
            self._write({"step": state.global_step, **logs})

    def _write(self, row: dict[str, float]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": row["step"], **row}) + "\n")  # the step comes first


class Samples(transformers.TrainerCallback):
    """Callback: answers the first few validation prompts at each evaluation.

    The answers go into a JSON Lines file.
    """

    def __init__(
        self, path: Path, rows: Sequence[dict[str, Any]], tokenizer: Any, max_new_tokens: int = 40
    ):
        """Take validation features; of a row with several examples or turns, its last one."""
        self.path, self.tokenizer, self.max_new_tokens = path, tokenizer, max_new_tokens
        self.prompts, self.references = zip(*map(last_answer, rows), strict=True)

    def on_train_begin(
        self, args: Arguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Keep the answers up to the checkpoint when resuming; otherwise start the file anew."""
        if state.is_world_process_zero:
            kept = []
            if self.path.is_file() and state.global_step:
                with jsonlines.open(self.path) as lines:
                    # A line that was cut off when the run was killed is left out.
                    kept = list(lines.iter(type=dict, skip_invalid=True))
            with jsonlines.open(self.path, "w") as lines:
                lines.write_all(row for row in kept if row["step"] <= state.global_step)

    def answer(self, trainer: Any) -> dict[str, float]:
        """Write the current answers; return the share that is exactly right as `exact_match`."""
        if trainer.is_fsdp_enabled:  # the weights are sharded over the processes
            return {}
        model = trainer.bare_model
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
    """Return the prompt and the response of a row's last example, as token ids."""
    ids, labels = row["input_ids"], row["labels"]
    learned = [i for i, label in enumerate(labels) if label != IGNORE_INDEX]
    # The response is the last run of learned tokens.
    start = end = learned[-1] + 1 if learned else 0
    while start and labels[start - 1] != IGNORE_INDEX:
        start -= 1
    # The example begins at the last position 0 before it; packed rows hold several.
    positions = row.get("position_ids") or range(len(ids))
    begins = [i for i in range(min(start + 1, len(ids))) if positions[i] == 0]
    first = begins[-1] if begins else 0
    return ids[first:start], ids[start:end]
