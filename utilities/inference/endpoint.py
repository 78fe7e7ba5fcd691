"""Models behind an OpenAI-compatible address, through the interface of local ones.

A large model elsewhere, or a server on this machine, stands beside a small one in every table.
"""

import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from utilities.config import StrictModel
from utilities.errors import EndpointError
from utilities.inference.answers import Answer, cut
from utilities.inference.generation import Generation

if TYPE_CHECKING:
    import openai


_STOPPED = {"stop": "end_of_text", "length": "max_new_tokens"}


class Endpoint(StrictModel):
    """A model that is asked over HTTP."""

    base_url: str
    """The address of the interface, such as `http://127.0.0.1:8000/v1`."""
    model: str
    """The name that the server knows it by."""
    api: Literal["chat", "completions"] = "chat"
    """`chat` sends the prompt as a user's message, `completions` as the text to go on from."""
    key_from: str | None = None
    """The environment variable that holds the key; null where none is needed."""
    timeout: float = Field(default=60.0, gt=0)
    """Seconds to wait for one answer."""
    retries: int = Field(default=3, ge=0)
    """Further tries after a time-out, a lost connection, or a server that is overloaded; with
    growing pauses.
    """
    concurrency: int = Field(default=4, ge=1)
    """Requests under way at once."""
    log_probabilities: bool = False
    """Ask for them; not every server knows what that is."""

    def record(self) -> dict[str, str]:
        """Return name, source and reason, as `models.ModelChoice.record` does."""
        return {"name": self.model, "source": self.base_url, "reason": "it was asked for"}

    def answers(
        self, prompts: Sequence[str], settings: Generation, skip: Sequence[int] = ()
    ) -> Iterator[tuple[int, Answer]]:
        """Yield the place of each prompt and its answer, in order.

        A request that fails after all retries, or whose answer makes no sense, gives an answer that
        holds the error.

        Raises:
            EndpointError: a setting is not part of the interface, or the key is missing.
        """
        client, options = self._client(), self._options(settings)
        done = set(skip)
        places = [place for place in range(len(prompts)) if place not in done]
        with client, ThreadPoolExecutor(self.concurrency) as pool:
            try:
                found = pool.map(lambda place: self._ask(client, prompts[place], options), places)
                yield from zip(places, found, strict=True)
            finally:
                pool.shutdown(cancel_futures=True)

    def _client(self) -> "openai.OpenAI":
        import openai  # takes a second

        key = os.environ.get(self.key_from) if self.key_from else "none"
        if not key:
            raise EndpointError(f"{self.base_url} needs a key; set {self.key_from}")
        return openai.OpenAI(
            base_url=self.base_url, api_key=key, timeout=self.timeout, max_retries=self.retries
        )

    def _options(self, settings: Generation) -> dict:
        standard = Generation()
        for name in ("top_k", "repetition_penalty", "no_repeat_ngram_size", "num_beams"):
            if getattr(settings, name) != getattr(standard, name):
                raise EndpointError(f"{name} is not part of the interface of {self.base_url}")
        if settings.max_prompt_tokens:
            raise EndpointError(f"max_prompt_tokens: the tokens of {self.model} are not known here")
        options = {"max_tokens": settings.max_new_tokens, "temperature": settings.temperature}
        options |= {"seed": settings.seed, "model": self.model}
        if len(settings.stop or ()) > 4:
            raise EndpointError(f"{self.base_url} takes four stop strings at most")
        optional = {"top_p": settings.top_p, "stop": list(settings.stop or ())}
        return options | {name: value for name, value in optional.items() if value}

    def _ask(self, client: "openai.OpenAI", prompt: str, options: dict) -> Answer:
        import openai

        try:
            if self.api == "chat":
                messages = [{"role": "user", "content": prompt}]
                extra = {"logprobs": True} if self.log_probabilities else {}
                reply = client.chat.completions.create(messages=messages, **extra, **options)
                choice = reply.choices[0]
                text, scores = choice.message.content, choice.logprobs and choice.logprobs.content
                chances = [each.logprob for each in scores or ()]
            else:
                extra = {"logprobs": 0} if self.log_probabilities else {}
                reply = client.completions.create(prompt=prompt, **extra, **options)
                choice = reply.choices[0]
                text, scores = choice.text, choice.logprobs
                chances = list(scores.token_logprobs or ()) if scores else []
            if choice.finish_reason == "content_filter" or text is None:
                told = f"{self.base_url} gave no text: it ended with {choice.finish_reason!r}"
                return Answer("", "error", error=told)
            # Servers have names of their own for an end.
            stopped = _STOPPED.get(choice.finish_reason, "end_of_text")
            text = cut(text, options.get("stop", ()))
            known = bool(chances) and all(chance is not None for chance in chances)
            sum_of_all = math.fsum(chances) if known else None
            usage = reply.usage.completion_tokens if reply.usage else len(chances)
        except openai.OpenAIError as error:
            return Answer("", "error", error=f"{self.base_url}: {_in_one_line(error)}")
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            told = f"{self.base_url} answered what is no completion: {_in_one_line(error)}"
            return Answer("", "error", error=told)
        return Answer(text, stopped, usage, sum_of_all)


def _in_one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
