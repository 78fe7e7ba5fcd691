"""The interface of models that answer prompts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from utilities.inference.generation import Generation

Stopped = Literal["end_of_text", "stop_string", "max_new_tokens", "error"]


@dataclass(frozen=True)
class Answer:
    """The answer to one prompt.

    Attributes:
        text: the answer, cut before a stop string, white space at both ends removed.
        stopped: what ended it.
        tokens: number of generated tokens, end-of-text included.
        log_probability: of all of them together, in nats; None where it is not known.
        error: why there is no answer; None when there is one.
        ids: the tokens, without end-of-text; empty where they are not known.
    """

    text: str
    stopped: Stopped
    tokens: int = 0
    log_probability: float | None = None
    error: str | None = None
    ids: list[int] = field(default_factory=list, repr=False)


class Answerer(Protocol):
    """The interface of a `LocalModel` and an `Endpoint`."""

    def answers(
        self, prompts: Sequence[str], settings: Generation, skip: Sequence[int] = ()
    ) -> Iterator[tuple[int, Answer]]:
        """Yield the index of each prompt and its answer, as they get ready.

        Args:
            prompts: texts as a prompt format makes them.
            settings: of generation.
            skip: indices of prompts that need no answer.
        """


def cut(text: str, stop: Sequence[str]) -> str:
    """Return text up to the first stop string, without white space at its ends."""
    ends = [text.index(mark) for mark in stop if mark in text]
    return text[: min(ends, default=None)].strip()
