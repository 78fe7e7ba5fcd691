"""The settings of generation."""

from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from utilities.config import StrictModel, faults_in_words
from utilities.errors import GenerationError


class Generation(StrictModel):
    """Settings of decoding: length, sampling, penalties, beams and batches."""

    max_new_tokens: int = Field(default=60, ge=1)
    """Tokens an answer may have, 1 or more; the prompt does not count."""
    temperature: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """0 always takes the likeliest token (greedy); above 0, tokens are sampled, and higher values
    give more variety.
    """
    top_k: int | None = Field(default=None, ge=1)
    """Sample among that many likeliest tokens only."""
    top_p: float | None = Field(default=None, gt=0, le=1)
    """Nucleus sampling: among the likeliest tokens that together have this probability, 0 to 1."""
    repetition_penalty: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """1 is none; above 1, tokens of the prompt and answer become less likely."""
    no_repeat_ngram_size: int = Field(default=0, ge=0)
    """No n-gram of this many tokens occurs twice, prompt included; 0 allows all."""
    num_beams: int = Field(default=1, ge=1)
    """Beams of beam search; 1 is greedy. Only with temperature 0."""
    seed: int = Field(default=42, ge=0)
    """Of sampling. A prompt's random numbers depend on it and on the prompt's index, not on the
    batch.
    """
    stop: tuple[str, ...] | None = None
    """Strings that end an answer, which is cut before them; null takes the prompt format's."""
    max_prompt_tokens: int | None = Field(default=None, ge=1)
    """Longer prompts are truncated; null allows what the context leaves."""
    shorten: Literal["left", "right"] = "left"
    """The side on which a long prompt is truncated. A format that ends in a cue such as `###
    Answer:` needs its right side.
    """
    batch_tokens: int = Field(default=16384, ge=1)
    """Tokens of prompts and answers in a batch. More is faster up to a point, and needs more
    memory.
    """

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if not self.temperature and (self.top_k or self.top_p):
            raise ValueError("top_k and top_p need a temperature above 0: nothing is drawn at 0")
        if self.temperature and self.num_beams > 1:
            raise ValueError("num_beams above 1 needs temperature 0")
        if "" in (self.stop or ()):
            raise ValueError("an empty stop string would end every answer at once")
        return self


def settings_for(numbers: dict[str, Any]) -> Generation:
    """Return settings from keyword arguments.

    Raises:
        GenerationError: a name is unknown, or a value out of range.
    """
    try:
        return Generation(**numbers)
    except ValidationError as error:
        raise GenerationError("; ".join(faults_in_words(error, Generation))) from None
