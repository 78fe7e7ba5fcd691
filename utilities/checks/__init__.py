"""Checks of the course's exercises: what is wrong with an answer, without the answer.

One module a notebook, one function an exercise. A learner calls it with what she wrote:

    from utilities.checks import data_preparation as checks

    checks.mask_prompt(mask_prompt)

and reads one line: not started, not yet (with the property that failed, on a case of the check's
own), or passed. A check raises nothing on a wrong answer, so a notebook with open exercises runs to
its end.

To write one, decorate a function that takes the answer and stops at the first `expect` that does
not hold:

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
from typing import Any, Literal

MARKS = {"passed": "✓ Passed", "not started": "○ Not started", "not yet": "✗ Not yet"}


@dataclass(frozen=True)
class Result:
    """What a check found.

    Attributes:
        state: `passed`, `not started` or `not yet`.
        message: what the exercise asked for, or the first property that failed.
    """

    state: Literal["passed", "not started", "not yet"]
    message: str

    @property
    def passed(self) -> bool:
        """Is the answer right, as far as the check can see?"""
        return self.state == "passed"

    def __repr__(self) -> str:
        return f"{MARKS[self.state]}: {self.message}"


class Fault(Exception):
    """A property that an answer lacks, in one sentence."""


class NotStarted(Exception):
    """The answer is still the stub."""


def expect(holds: object, fault: str) -> None:
    """Go on when `holds` is true; else end the check with this fault."""
    if not holds:
        raise Fault(fault)


def given(answer: Any) -> Any:
    """Return an answer that is a value, or end the check when it is still `...`."""
    if answer is None or answer is ...:
        raise NotStarted
    if isinstance(answer, (list, tuple, set)) and any(part is ... for part in answer):
        raise NotStarted
    if isinstance(answer, Mapping) and any(part is ... for part in answer.values()):
        raise NotStarted
    return answer


def attempt(answer: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """Return what the learner's function makes of a case; it works on copies.

    Ends the check when the function is still a stub, or raises an error, which is then told with
    the arguments that led to it.
    """
    if not callable(given(answer)):
        raise Fault(f"the check needs the function itself, and got {_short(answer)}")
    try:
        value = answer(*deepcopy(arguments), **deepcopy(named))
    except Exception as error:  # whatever a learner's code may raise
        shown = [*map(_short, arguments), *(f"{k}={_short(v)}" for k, v in named.items())]
        told = f"{type(error).__name__}: {error}"
        raise Fault(f"called with ({', '.join(shown)}), your function raises {told}") from error
    return given(value)


def same_numbers(found: Any, wanted: Sequence[float], tolerance: float = 1e-6) -> bool:
    """Are these the wanted numbers, in order, up to a tolerance? Takes lists, arrays, tensors."""
    try:
        values = [float(value) for value in found]
    except (TypeError, ValueError):
        return False
    return len(values) == len(wanted) and all(
        abs(value - right) <= tolerance for value, right in zip(values, wanted, strict=True)
    )


def exercise(check: Callable[..., None]) -> Callable[..., Result]:
    """Make a check of a function that ends early at the first fault.

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
            # An answer of an unforeseen kind, such as a word where a number belongs.
            return Result("not yet", f"the answer has the wrong form ({error})")
        return Result("passed", success)

    checked.is_exercise = True
    return checked


def _short(value: Any, limit: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
