"""An unfinished run: checks of its folder, the lock on it, resuming, and the move at the end."""

import contextlib
import dataclasses
import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock
import yaml

from utilities import plots
from utilities.config import StrictModel
from utilities.errors import TrainingError
from utilities.files import ResultKind, is_in_the_way, partial_path, replace_folder
from utilities.models import adapters
from utilities.models.adapters import Lora
from utilities.models.loading import without_progress_bars
from utilities.prompts.base import PromptFormat
from utilities.training import checkpoints
from utilities.training.distributed import on_rank_0
from utilities.training.model_card import write_model_card
from utilities.training.run_folder import RUN_RECORD, Run
from utilities.training.settings import Settings
from utilities.training.trainer import SupervisedTrainer

logger = logging.getLogger(__name__)


UNFINISHED = "unfinished.json"


RUN_FOLDER = ResultKind("run folder", RUN_RECORD, "output_dir", TrainingError)


class UnfinishedRun:
    """A run's folder, and the unfinished folder beside it, which becomes it when all is written."""

    def __init__(self, settings: Settings, folder: Path, has_validation: bool):
        self.folder = folder
        self.partial = partial_path(folder)
        self.if_exists = settings.if_exists
        self.arguments = settings.arguments(has_validation)
        self.record: dict[str, Any] = {}
        self._lock = filelock.FileLock(folder.with_name(f".{folder.name}.lock"))

    def check_place(self) -> None:
        """Refuse a run that could not be written, without a look at model and data.

        Raises:
            TrainingError: a folder is in the way, or another run is writing it.
        """
        on_rank_0(self._check_place)

    def _check_place(self) -> None:
        RUN_FOLDER.check_writable(self.folder, self.if_exists)
        self._check_partial()
        if Path(self._lock.lock_file).exists():  # perhaps left from a run that was killed
            self._acquire_lock()
            self._lock.release()

    def finished(self) -> Run | None:
        """Return the finished run of this folder if it is the same and may be reused.

        Raises:
            TrainingError: the folder is in the way.
        """
        return on_rank_0(self._finished)

    def _finished(self) -> Run | None:
        RUN_FOLDER.check_writable(self.folder, self.if_exists)
        fingerprint = self.record["fingerprint"]
        return RUN_FOLDER.reusable(self.folder, self.if_exists, fingerprint, Run.load)

    @contextlib.contextmanager
    def reserved(self) -> Iterator[Path | None]:
        """Context manager: lock and make the unfinished folder; yield the checkpoint to resume.

        Raises:
            TrainingError: another run is writing it, or it is left from other settings.
        """
        try:
            checkpoint = on_rank_0(self._prepare)
        except TrainingError:
            self._lock.release()
            raise
        try:
            yield checkpoint
        except BaseException:
            if self._lock.is_locked and not checkpoints.of_run(self.partial / "checkpoints"):
                shutil.rmtree(self.partial, ignore_errors=True)  # nothing to resume from
            raise
        finally:
            if self._lock.is_locked:  # by rank 0; the others never touch it
                self._lock.release()
                Path(self._lock.lock_file).unlink(missing_ok=True)

    def _check_partial(self) -> None:
        if is_in_the_way(self.partial, UNFINISHED):
            raise TrainingError(
                f"{self.partial} exists and is not an unfinished run; it is left untouched. "
                "Choose another output_dir"
            )

    def _acquire_lock(self) -> None:
        try:
            self._lock.acquire(blocking=False)
        except filelock.Timeout:
            raise TrainingError(
                f"another run is writing {self.folder} right now; wait for it, or choose another "
                "output_dir"
            ) from None

    def _prepare(self) -> Path | None:
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        self._acquire_lock()
        self._check_partial()
        note = self.partial / UNFINISHED
        if note.is_file() and self.if_exists != "overwrite":
            fingerprint = json.loads(note.read_text(encoding="utf-8"))["fingerprint"]
            if fingerprint == self.record["fingerprint"]:
                return self._resume()
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

    def _resume(self) -> Path | None:
        """Return the newest complete checkpoint, and delete those that are not complete."""
        checkpoint = checkpoints.newest_complete(self.partial / "checkpoints")
        for other in checkpoints.of_run(self.partial / "checkpoints"):
            if checkpoint is None or checkpoints.fault_of(other):
                shutil.rmtree(other)
        if checkpoint:
            logger.warning("resuming from %s of an unfinished run", checkpoint.name)
        return checkpoint

    def finish(
        self,
        trainer: SupervisedTrainer,
        prompt_format: PromptFormat,
        lora: Lora | None,
        config: StrictModel | None,
    ) -> None:
        """Write the run folder: atomically, by a rename of the unfinished one."""
        model = trainer.bare_model
        model.config.use_cache = True  # the Trainer turns it off, generation needs it
        model.eval()
        trainer.save_model(str(self.partial))  # in all processes, since weights may be sharded
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
        (partial / RUN_RECORD).write_text(text + "\n", encoding="utf-8")
        run = Run.load(partial)
        plots.loss_curve(run.history).savefig(partial / "loss.png")
        write_model_card(dataclasses.replace(run, folder=partial), prompt_format)
        replace_folder(partial, self.folder)


def _merge(model: Any, folder: Path) -> None:
    """Move the adapter into a folder of its own, and write the merged model where it was.

    Args:
        model: peft's, with the adapter.
        folder: where the adapter has been saved.
    """
    adapter = folder / "adapter"
    adapter.mkdir()
    for name in (adapters.CONFIG_FILE, adapters.WEIGHTS_FILE):
        (folder / name).rename(adapter / name)
    with without_progress_bars():
        model.merge_and_unload().save_pretrained(folder)
