"""Several processes in one run: rank 0 decides for all, and only it writes to stderr."""

import contextlib
import io
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar, cast

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from utilities.devices import device
from utilities.errors import TrainingError

SECONDS_BEFORE_SPEAKING = 5


Result = TypeVar("Result")


def processes(timeout: float = 1800) -> PartialState:
    """Return this process's rank and the number of processes; the first call joins the group.

    Args:
        timeout: seconds that one process waits for another; the first call sets it.
    """
    return PartialState(cpu=device() == "cpu", timeout=timedelta(seconds=timeout))


def on_rank_0(work: Callable[[], Result]) -> Result:
    """Run work on rank 0 and broadcast its result or its error.

    Raises:
        TrainingError: the one that rank 0 raised, in all processes.
    """
    message, result = None, None
    if processes().is_main_process:
        try:
            result = work()
        except TrainingError as error:
            message = str(error)
    message, result = broadcast_object_list([message, result])
    if message:
        raise TrainingError(message)
    return cast(Result, result)


def with_buffered_stderr(work: Callable[[], int]) -> int:
    """Run work with stderr buffered, for ranks above 0: rank 0 writes the same messages.

    When work fails, rank 0 most likely fails too, and the launcher then ends this process. If that
    does not happen within a few seconds, the buffer is written after all.
    """
    buffer, status = io.StringIO(), 1
    try:
        with contextlib.redirect_stderr(buffer):
            status = work()
    finally:
        if status:
            time.sleep(SECONDS_BEFORE_SPEAKING)
            sys.stderr.write(buffer.getvalue())
    return status
