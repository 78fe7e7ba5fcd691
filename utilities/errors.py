"""Every error that the package raises on purpose, and the help that its messages give.

A `LabError` is a fault in what the user gave, told in one message; command lines print it and end
with status 2. It is a `ValueError`, so that pydantic collects it beside the other faults of a
config. Whatever else is raised is a fault of this package.
"""

import difflib
from collections.abc import Iterable


class LabError(ValueError):
    """A fault in the user's input, told in one message that says how to mend it."""


class ConfigError(LabError):
    """A config file or an override that cannot be used."""


class PromptError(LabError):
    """A prompt format that is unknown, broken, or does not fit the row."""


class DataError(LabError):
    """Data that cannot be used as it is; the message names file, row and remedy."""


class NothingToLearn(DataError):
    """No row was left; `counts` says what became of them."""

    def __init__(self, max_length: int, counts: dict[str, int]):
        super().__init__(f"no row has anything to learn at max_length {max_length}: {counts}")
        self.counts = counts


class ModelError(LabError):
    """A model that is not available or cannot be loaded; the message says what to do."""


class FetchError(LabError):
    """The offline model cannot be fetched; the message says why and what to do."""


class AdapterError(LabError):
    """An adapter that cannot be made or loaded."""


class FreezingError(LabError):
    """A choice of weights that cannot be made."""


class PlanningError(LabError):
    """A plan that cannot be made from what was given."""


class TrackingError(LabError):
    """A tracker that cannot be used."""


class TrainingError(LabError):
    """Training that cannot start, or had to stop; a run folder that cannot be read."""


class GenerationError(LabError):
    """A request for text that the model cannot fulfil."""


class EndpointError(LabError):
    """An endpoint that cannot be asked."""


class AnalysisError(LabError):
    """A table that cannot be analysed."""


class EvaluationError(LabError):
    """An evaluation that cannot be done as asked."""


class JudgingError(LabError):
    """Ratings or comparisons that cannot be made, read or used."""


class BenchmarkError(LabError):
    """A benchmark that cannot be run as asked."""


class RunnerError(LabError):
    """A request to `BasicModelRunner` or the labs' functions that cannot be fulfilled."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return the end of a sentence: `", did you mean X?"` for the closest valid name, or `"."`."""
    close = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.6)
    return f", did you mean {close[0]!r}?" if close else "."
