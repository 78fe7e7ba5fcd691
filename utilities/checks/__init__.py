"""Checks of the course's exercises: they name the fault of an answer, without giving the answer.

One module per notebook, one function per exercise. A learner calls it with her answer:

    from utilities.checks import data_preparation as checks

    checks.mask_prompt(mask_prompt)

and reads one line: not started, not yet (with the property that failed, on a test case of the
check), or passed. A check raises no error on a wrong answer, so a notebook with open exercises runs
to its end.

To write one, decorate a function that takes the answer and stops at the first `expect` that is
false:

    @exercise
    def mask_prompt(answer):
        \"""The prompt is masked, the answer and its end are learned.\"""
        labels = attempt(answer, [5, 6], [7], 0)
        expect(labels[-1] == 0, "the end-of-text is not learned when the answer is one token long")
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast

MARKS = {"passed": "✓ Passed", "not started": "○ Not started", "not yet": "✗ Not yet"}


@dataclass(frozen=True)
class Result:
    """The result of a check.

    Attributes:
        state: `passed`, `not started` or `not yet`.
        message: the property of a right answer, or the first one that failed.
    """

    state: Literal["passed", "not started", "not yet"]
    message: str

    @property
    def passed(self) -> bool:
        """Whether the answer meets all properties that the check tests."""
        return self.state == "passed"

    def __repr__(self) -> str:
        return f"{MARKS[self.state]}: {self.message}"


class Fault(Exception):
    """A property that an answer lacks, in one sentence."""


class NotStarted(Exception):
    """The answer is still the stub."""


def expect(holds: object, fault: str) -> None:
    """End the check with this fault unless `holds` is true."""
    if not holds:
        raise Fault(fault)


def given(answer: Any) -> Any:
    """Return an answer that is a value, or end the check if it is still `...`."""
    if answer is None or answer is ...:
        raise NotStarted
    if isinstance(answer, (list, tuple, set)) and any(part is ... for part in answer):
        raise NotStarted
    if isinstance(answer, Mapping) and any(part is ... for part in answer.values()):
        raise NotStarted
    return answer


def attempt(answer: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """Call the learner's function with copies of the arguments, and return its result.

    Ends the check if the function is still a stub, or raises an error; the fault then names the
    error and the arguments.
    """
    if not callable(given(answer)):
        raise Fault(f"the check needs the function itself, and got {_short(answer)}")
    try:
        value = answer(*deepcopy(arguments), **deepcopy(named))
    except Exception as error:  # whatever a learner's code may raise
        shown = [*map(_short, arguments), *(f"{k}={_short(v)}" for k, v in named.items())]
        message = f"{type(error).__name__}: {error}"
        raise Fault(f"called with ({', '.join(shown)}), your function raises {message}") from error
    return given(value)


def same_numbers(result: Any, expected: Sequence[float], tolerance: float = 1e-6) -> bool:
    """Whether two sequences of numbers are equal up to a tolerance; `result` may be a tensor."""
    try:
        values = [float(value) for value in result]
    except (TypeError, ValueError):
        return False
    return len(values) == len(expected) and all(
        abs(value - target) <= tolerance for value, target in zip(values, expected, strict=True)
    )


class Check(Protocol):
    """The check of an exercise, a function of the answer."""

    is_exercise: bool
    """Marks the checks among a module's names."""

    def __call__(self, *answers: Any) -> Result:
        """Check an answer."""


def exercise(check: Callable[..., None]) -> Check:
    """Decorator: turn a function that raises the first fault into one that returns a `Result`.

    The first line of its docstring says what a right answer has; it is the message of success.
    """
    success = (check.__doc__ or "").strip().splitlines()[0]

    @functools.wraps(check)
    def checked(*answers: Any) -> Result:
        try:
            check(*answers)
        except NotStarted:
            return Result("not started", "write your answer in place of `...`, and run the cell")
        except Fault as fault:
            return Result("not yet", str(fault))
        except (TypeError, ValueError, AttributeError, KeyError, IndexError) as error:
            # An answer of an unexpected type, such as a word instead of a number.
            return Result("not yet", f"the answer has the wrong form ({error})")
        return Result("passed", success)

    marked = cast(Check, checked)
    marked.is_exercise = True
    return marked


def _short(value: Any, limit: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
