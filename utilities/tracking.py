"""Trackers of runs, by choice; none unless asked for.

TensorBoard and Trackio write to this machine. Weights & Biases goes online only with a key in the
environment (`WANDB_API_KEY`, or a login made before); otherwise it writes offline files, which
`wandb sync` can send later. Keys are never read from a config.
"""

import contextlib
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from utilities.config import StrictModel
from utilities.errors import TrackingError


class Tracking(StrictModel):
    """Settings of an experiment tracker."""

    tracker: Literal["tensorboard", "wandb", "trackio"]
    """The tracker; only TensorBoard and Trackio keep everything on this machine."""
    project: str = "finetuning-lab"
    """Name of the project at the tracker."""
    group: str | None = None
    """Name of a group of runs (Weights & Biases); null for none."""
    job_type: str | None = None
    """The kind of run, such as `train` (Weights & Biases); null for none."""
    name: str | None = None
    """Name of the run; null for the name of the run folder."""


def check_tracker(tracking: Tracking) -> None:
    """Raise a TrackingError when the tracker's package is not installed."""
    tracker = tracking.tracker
    if importlib.util.find_spec(tracker) is None:
        raise TrackingError(
            f"the tracker {tracker} is not installed; run `pip install {tracker}`, "
            "or leave `tracking` out"
        )


@contextlib.contextmanager
def tracked(tracking: Tracking | None, folder: Path, name: str) -> Iterator[dict[str, Any]]:
    """Yield the fields of `TrainingArguments` that a tracker needs; its files go into the folder.

    Variables of the environment that are set already win, and all are as before afterwards.

    Raises:
        TrackingError: the tracker's package is not installed.
    """
    if tracking is None:
        yield {"report_to": "none"}
        return
    check_tracker(tracking)
    tracker = tracking.tracker
    wanted = {
        "TENSORBOARD_LOGGING_DIR": str(folder / "tensorboard"),
        "TRACKIO_DIR": str(folder / "trackio"),
        "WANDB_DIR": str(folder),
        "WANDB_PROJECT": tracking.project,
        "WANDB_RUN_GROUP": tracking.group,
        "WANDB_JOB_TYPE": tracking.job_type,
        "WANDB_MODE": None if _has_wandb_key() else "offline",
        "WANDB_SILENT": "true",
    }
    set_here = {k: v for k, v in wanted.items() if v and k not in os.environ}
    os.environ |= set_here
    try:
        yield {
            "report_to": tracker,
            "run_name": tracking.name or name,
            "project": tracking.project,
        }
    finally:
        if tracker == "wandb":
            import wandb

            wandb.finish()
        for variable in set_here:
            os.environ.pop(variable, None)


def log_figures(tracking: Tracking, folder: Path, figures: dict[str, float]) -> None:
    """Send figures of a finished piece of work to a tracker, once.

    Args:
        tracking: which tracker.
        folder: what the figures are about; local trackers write into it.
        figures: by name.

    Raises:
        TrackingError: the tracker's package is not installed.
    """
    with tracked(tracking, folder, folder.name) as fields:
        if tracking.tracker == "tensorboard":
            from torch.utils.tensorboard import SummaryWriter

            with SummaryWriter(folder / "tensorboard") as writer:
                for name, value in figures.items():
                    writer.add_scalar(name, value, 0)
            return
        library = importlib.import_module(tracking.tracker)
        library.init(project=fields["project"], name=fields["run_name"])
        library.log(figures)
        library.finish()


def _has_wandb_key() -> bool:
    files = [Path("~/.netrc").expanduser(), Path("~/_netrc").expanduser()]
    logins = [file.read_text() for file in files if file.is_file()]
    return "WANDB_API_KEY" in os.environ or any("wandb" in text for text in logins)
