"""Exceptions: every error that the package raises on purpose.

A `LabError` reports a fault in the user's input. Command lines print its message and end with
status 2. It is a `ValueError`, so that pydantic collects it with the other faults of a config. Any
other exception is a bug in this package.
"""

import difflib
from collections.abc import Iterable


class LabError(ValueError):
    """Base class: a fault in the user's input; the message says how to correct it."""


class ConfigError(LabError):
    """A config file, override or environment variable that is not valid."""


class PromptError(LabError):
    """A prompt format that is unknown, broken, or does not fit the row."""


class DataError(LabError):
    """Data that cannot be used; the message names file, row and remedy."""


class NothingToLearn(DataError):
    """No row has anything to learn; `counts` says what happened to the rows."""

    def __init__(self, max_length: int, counts: dict[str, int]):
        super().__init__(f"no row has anything to learn at max_length {max_length}: {counts}")
        self.counts = counts


class ModelError(LabError):
    """A model that is not available or cannot be loaded."""


class FetchError(LabError):
    """The offline model cannot be fetched."""


class AdapterError(LabError):
    """An adapter that cannot be created or loaded."""


class FreezingError(LabError):
    """A choice of weights to freeze that is not possible."""


class PlanningError(LabError):
    """A plan that cannot be computed from its input."""


class TrackingError(LabError):
    """A tracker that cannot be used."""


class TrainingError(LabError):
    """Training that cannot start, or had to stop; a run folder that cannot be read."""


class GenerationError(LabError):
    """A request for text that the model cannot serve."""


class EndpointError(LabError):
    """An endpoint that cannot be used."""


class AnalysisError(LabError):
    """A table that cannot be analysed."""


class EvaluationError(LabError):
    """An evaluation that cannot be run as configured."""


class JudgingError(LabError):
    """Ratings or comparisons that cannot be obtained, read or used."""


class BenchmarkError(LabError):
    """A benchmark that cannot be run as configured."""


class RunnerError(LabError):
    """A request to `BasicModelRunner` or to the labs' functions that cannot be served."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return the end of a sentence: `", did you mean X?"` for the closest valid name, or `"."`."""
    close = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.6)
    return f", did you mean {close[0]!r}?" if close else "."
