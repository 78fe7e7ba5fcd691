"""Several processes that do one run: what they find out together, and who speaks."""

import contextlib
import io
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from utilities.devices import device
from utilities.errors import TrainingError

SECONDS_OF_SILENCE = 5


Found = TypeVar("Found")


def processes(patience: float = 1800) -> PartialState:
    """Return which process this is, of how many; they meet here the first time.

    Args:
        patience: seconds that one waits for another, from the first time on.
    """
    return PartialState(cpu=device() == "cpu", timeout=timedelta(seconds=patience))


def first_finds(find: Callable[[], Found]) -> Found:
    """Return in all processes what the first one finds; the others neither look nor touch.

    Raises:
        TrainingError: the first one's, in all.
    """
    fault = found = None
    if processes().is_main_process:
        try:
            found = find()
        except TrainingError as error:
            fault = str(error)
    fault, found = broadcast_object_list([fault, found])
    if fault:
        raise TrainingError(fault)
    return found


def in_the_background(work: Callable[[], int]) -> int:
    """Hold back what is said, since the first process of this machine says the same.

    When work fails, the first one most likely fails too, and the launcher then ends this process.
    It speaks if that does not happen.
    """
    said, status = io.StringIO(), 1
    try:
        with contextlib.redirect_stderr(said):
            status = work()
    finally:
        if status:
            time.sleep(SECONDS_OF_SILENCE)
            sys.stderr.write(said.getvalue())
    return status
