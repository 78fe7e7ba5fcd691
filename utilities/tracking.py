"""Trackers of runs, by choice; none unless asked for.

TensorBoard and Trackio write to this machine. Weights & Biases goes online only with a key in the
environment (`WANDB_API_KEY`, or a login made before); otherwise it writes offline files, which
`wandb sync` can send later. Keys are never read from a config.

Weights & Biases and Trackio read their folder from the environment once a process. A notebook does
many runs in one process, so each run gets its folder from here, and the environment only tells
what the user wants otherwise.
"""

import contextlib
import functools
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
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


@dataclass(frozen=True)
class Tracker:
    """A tracker that is ready for one run, which begins with training or with the first figure.

    Attributes:
        arguments: fields of `TrainingArguments` that its callback reads.
        callbacks: for the Trainer.
        log: sends figures of a finished piece of work, for those who have no Trainer.
    """

    arguments: dict[str, Any] = field(default_factory=lambda: {"report_to": "none"})
    callbacks: list[Any] = field(default_factory=list)
    log: Callable[[dict[str, float]], None] = lambda figures: None


@contextlib.contextmanager
def tracked(tracking: Tracking | None, folder: Path, name: str) -> Iterator[Tracker]:
    """Yield a tracker whose files go into the folder; at the end its run is finished.

    Variables of the environment that are set already win. They and the tracker's own state are as
    before afterwards, also after an error. A run of Weights & Biases that is open already is taken
    over, as the library does it: figures go there, and it stays open. (Trackio has one run at a
    time, so one that is open there is finished.)

    Args:
        tracking: which tracker; null for none.
        folder: of the run.
        name: of the run, where `tracking` has none.

    Raises:
        TrackingError: the tracker's package is not installed, or does not open the run.
    """
    if tracking is None:
        yield Tracker()
        return
    tracker = tracking.tracker
    check_tracker(tracking)
    if os.environ.get("RANK", "0") != "0":  # of several processes, the first one reports
        yield Tracker()
        return
    with _refusals(tracker):
        importlib.import_module(tracker)
    kinds = {"tensorboard": _tensorboard, "wandb": _wandb, "trackio": _trackio}
    with kinds[tracker](tracking, folder.absolute(), tracking.name or name) as opened:
        yield opened


def log_figures(tracking: Tracking, folder: Path, figures: dict[str, float]) -> None:
    """Send figures of a finished piece of work to a tracker, once.

    Args:
        tracking: which tracker.
        folder: what the figures are about; local trackers write into it.
        figures: by name.

    Raises:
        TrackingError: see `tracked`.
    """
    with tracked(tracking, folder, folder.name) as tracker:
        tracker.log(figures)


@contextlib.contextmanager
def _tensorboard(tracking: Tracking, folder: Path, name: str) -> Iterator[Tracker]:
    from torch.utils.tensorboard import SummaryWriter
    from transformers.integrations import TensorBoardCallback

    place = os.environ.get("TENSORBOARD_LOGGING_DIR") or str(folder / "tensorboard")
    callback = TensorBoardCallback()
    callback.logging_dir = os.path.expanduser(place)

    def log(figures: dict[str, float]) -> None:
        with SummaryWriter(callback.logging_dir) as writer:
            for figure, value in figures.items():
                writer.add_scalar(figure, value, 0)

    try:
        yield Tracker(_arguments(tracking, name), [callback], log)
    finally:
        # The library closes it at the end of training only: not after an error, and an evaluation
        # after training opens it anew.
        if callback.tb_writer is not None:
            callback.tb_writer.close()


@contextlib.contextmanager
def _wandb(tracking: Tracking, folder: Path, name: str) -> Iterator[Tracker]:
    import wandb
    from transformers.integrations import WandbCallback

    # What the environment says, wandb checks itself.
    mode: Any = os.environ.get("WANDB_MODE") or ("online" if _has_wandb_key() else "offline")
    silent: Any = os.environ.get("WANDB_SILENT", "true")
    of_user = wandb.run

    def start() -> None:
        if wandb.run is None:
            with _refusals("wandb"):
                wandb.init(  # its arguments win over the environment, so each one looks there
                    dir=os.environ.get("WANDB_DIR", str(folder)),
                    project=os.environ.get("WANDB_PROJECT", tracking.project),
                    group=os.environ.get("WANDB_RUN_GROUP", tracking.group),
                    job_type=os.environ.get("WANDB_JOB_TYPE", tracking.job_type),
                    name=os.environ.get("WANDB_NAME", name),
                    mode=mode,
                    settings=wandb.Settings(silent=silent),
                )

    def log(figures: dict[str, float]) -> None:
        start()
        wandb.log(figures)

    class Callback(WandbCallback):
        def setup(self, args: Any, state: Any, model: Any, **kwargs: Any) -> None:
            if state.is_world_process_zero:
                start()
            super().setup(args, state, model, **kwargs)  # takes over the run that is open

    def finish(exit_code: int) -> None:
        if wandb.run is not None and wandb.run is not of_user:
            wandb.finish(exit_code)

    with _wandb_mode(mode):
        try:
            yield Tracker(_arguments(tracking, name), [Callback()], log)
        except BaseException:
            with contextlib.suppress(Exception):  # what went wrong before is what counts
                finish(exit_code=1)
            raise
        finish(exit_code=0)


@contextlib.contextmanager
def _wandb_mode(mode: Any) -> Iterator[None]:
    """Set the mode of all that wandb does in this process; all is as before afterwards.

    It is not enough that a run is offline: what wandb reports about itself goes by this mode.
    """
    import wandb

    environment, before = set(os.environ), None
    try:
        with _refusals("wandb"):
            # wandb keeps the environment of its first use. That is to be the user's, without the
            # mode set below, or all that the user does with wandb later would stay offline too.
            before = wandb.setup().settings.mode
            wandb.setup(wandb.Settings(mode=mode))
        if mode == "offline":
            os.environ["WANDB_MODE"] = mode  # for processes that a callback starts
        yield
    finally:
        if before:
            wandb.setup(wandb.Settings(mode=before))
        for variable in set(os.environ) - environment:  # wandb sets one of its own as well
            if variable.startswith("WANDB_"):
                del os.environ[variable]


@contextlib.contextmanager
def _trackio(tracking: Tracking, folder: Path, name: str) -> Iterator[Tracker]:
    import trackio
    from transformers.integrations import TrackioCallback

    def finish() -> None:
        with contextlib.suppress(RuntimeError):  # there is no run
            trackio.finish()

    def log(figures: dict[str, float]) -> None:
        trackio.init(tracking.project, name)
        trackio.log(figures)

    finish()  # `trackio.init` would do it, but what is still to be written would go to this run
    with _trackio_patched(Path(os.environ.get("TRACKIO_DIR") or folder / "trackio")):
        try:
            yield Tracker(_arguments(tracking, name), [TrackioCallback()], log)
        finally:
            # The callback does it at the end of training only: not after an error, and an
            # evaluation after training opens the run anew.
            finish()


@contextlib.contextmanager
def _trackio_patched(folder: Path) -> Iterator[None]:
    """Have Trackio write into a folder; all is as before afterwards.

    The one place that reaches into Trackio. Up to 0.43.0 it reads `TRACKIO_DIR` when it is
    imported, its modules copy the value from each other, and no function takes a folder; so the
    copies are changed.

    In a notebook `trackio.init` would also start a web server, on Colab with a public address. It
    would go on after the run and then look into another folder. There is an argument against it,
    but the Trainer's callback does not give it.
    """
    import trackio
    import trackio.context_vars
    import trackio.utils

    before, init = trackio.utils.TRACKIO_DIR, trackio.init
    project = trackio.context_vars.current_project.get()

    @functools.wraps(init)
    def init_without_page(*arguments: Any, **options: Any) -> Any:
        with _refusals("trackio"):
            return init(*arguments, **{"embed": False, **options})

    try:
        _move_trackio(before, folder)
        trackio.init = init_without_page
        yield
    finally:
        trackio.init = init
        _move_trackio(folder, before)
        trackio.context_vars.current_run.set(None)  # older versions keep one that is finished
        trackio.context_vars.current_project.set(project)


def _move_trackio(old: Path, new: Path) -> None:
    # Modules are looked up each time: one may have been imported, and have copied, meanwhile.
    for module in [sys.modules[key] for key in sys.modules if key.partition(".")[0] == "trackio"]:
        for constant in ("TRACKIO_DIR", "MEDIA_DIR", "ARTIFACTS_DIR"):
            value = getattr(module, constant, None)
            if isinstance(value, Path) and value.is_relative_to(old):
                setattr(module, constant, new / value.relative_to(old))


@contextlib.contextmanager
def _refusals(tracker: str) -> Iterator[None]:
    """Turn what a tracker raises when it opens a run into an error of this package."""
    try:
        yield
    except Exception as error:
        raise TrackingError(f"the tracker {tracker} does not open the run: {error}") from error


def _arguments(tracking: Tracking, name: str) -> dict[str, Any]:
    # The callback is made here, so that the Trainer is not to make another one.
    return {"report_to": "none", "run_name": name, "project": tracking.project}


def _has_wandb_key() -> bool:
    files = [Path("~/.netrc").expanduser(), Path("~/_netrc").expanduser()]
    logins = [file.read_text() for file in files if file.is_file()]
    return "WANDB_API_KEY" in os.environ or any("wandb" in text for text in logins)
