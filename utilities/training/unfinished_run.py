"""The place of a run: its folder, and the unfinished one beside it that it grows in."""

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
from transformers import PreTrainedModel

from utilities import plots
from utilities.config import StrictModel
from utilities.errors import TrainingError
from utilities.files import ResultKind, is_in_the_way, partial_path, replace_folder
from utilities.models import adapters
from utilities.models.adapters import Lora
from utilities.models.loading import without_progress_bars
from utilities.prompts.base import PromptFormat
from utilities.training import checkpoints
from utilities.training.distributed import first_finds
from utilities.training.model_card import write_model_card
from utilities.training.run_folder import RUN_RECORD, Run
from utilities.training.settings import Settings
from utilities.training.trainer import SupervisedTrainer

logger = logging.getLogger(__name__)


UNFINISHED = "unfinished.json"


RUN_FOLDER = ResultKind("run folder", RUN_RECORD, "output_dir", TrainingError)


class UnfinishedRun:
    """The place of a run: its folder, and the unfinished one that it grows in."""

    def __init__(self, settings: Settings, folder: Path, has_validation: bool):
        self.folder = folder
        self.partial = partial_path(folder)
        self.if_exists = settings.if_exists
        self.arguments = settings.arguments(has_validation)
        self.record: dict[str, Any] = {}

    def finished(self) -> Run | None:
        """Return the run that is there already, if it is this one and may be reused."""
        return first_finds(self._finished)

    def _finished(self) -> Run | None:
        RUN_FOLDER.check_writable(self.folder, self.if_exists)
        fingerprint = self.record["fingerprint"]
        return RUN_FOLDER.reusable(self.folder, self.if_exists, fingerprint, Run.load)

    @contextlib.contextmanager
    def place(self) -> Iterator[Path | None]:
        """Make the unfinished folder, for this run alone; yield the checkpoint to go on from.

        Raises:
            TrainingError: another run is writing it, or it is left from other settings.
        """
        lock = filelock.FileLock(self.folder.with_name(f".{self.folder.name}.lock"))
        try:
            checkpoint = first_finds(lambda: self._prepare(lock))
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
        trainer: SupervisedTrainer,
        prompt_format: PromptFormat,
        lora: Lora | None,
        config: StrictModel | None,
    ) -> None:
        """Write the run folder, and move it to its place."""
        model = trainer.accelerator.unwrap_model(trainer.model)
        model.config.use_cache = True  # the Trainer turns it off, generation needs it
        model.eval()
        with without_progress_bars():
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
        (partial / RUN_RECORD).write_text(text + "\n", encoding="utf-8")
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
