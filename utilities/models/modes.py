"""Evaluation mode and training mode, for a while."""

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def evaluation_mode(model: "nn.Module") -> AbstractContextManager[None]:
    """Return a context manager: evaluation mode (no dropout) inside, the earlier mode after it."""
    return _mode(model, training=False)


def training_mode(model: "nn.Module") -> AbstractContextManager[None]:
    """Return a context manager: training mode inside, the earlier mode after it."""
    return _mode(model, training=True)


@contextlib.contextmanager
def _mode(model: "nn.Module", training: bool) -> Iterator[None]:
    was_training = model.training
    model.train(training)
    try:
        yield
    finally:
        model.train(was_training)
