"""Client of an OpenAI-compatible API, with the interface of a local model.

So a large model elsewhere, or a server on this machine, can be compared with a small one in every
table.
"""

import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from utilities.config import StrictModel
from utilities.errors import EndpointError
from utilities.inference.answers import Answer, Stopped, cut
from utilities.inference.generation import Generation

if TYPE_CHECKING:
    import openai


# Servers have further names of their own, for other ends.
_STOPPED: dict[str, Stopped] = {"stop": "end_of_text", "length": "max_new_tokens"}

# (text, why it ended, log-probabilities of its tokens, number of its tokens)
_Completion = tuple[str | None, str, Sequence[float | None], int]


class Endpoint(StrictModel):
    """A model behind an OpenAI-compatible API."""

    base_url: str
    """The base URL of the API, such as `http://127.0.0.1:8000/v1`."""
    model: str
    """The model's name on the server."""
    api: Literal["chat", "completions"] = "chat"
    """`chat` sends the prompt as a user's message, `completions` as the text to continue."""
    key_from: str | None = None
    """The environment variable that holds the API key; null where none is needed."""
    timeout: float = Field(default=60.0, gt=0)
    """Seconds to wait for one answer, above 0."""
    retries: int = Field(default=3, ge=0)
    """Retries after a time-out, a lost connection, or an overloaded server, with exponential
    backoff.
    """
    concurrency: int = Field(default=4, ge=1)
    """Concurrent requests, 1 or more."""
    log_probabilities: bool = False
    """Request log-probabilities; not every server supports that."""

    def record(self) -> dict[str, str]:
        """Return name, source and reason, as `models.ModelChoice.record` does."""
        return {"name": self.model, "source": self.base_url, "reason": "it was asked for"}

    def answers(
        self, prompts: Sequence[str], settings: Generation, skip: Sequence[int] = ()
    ) -> Iterator[tuple[int, Answer]]:
        """Yield the index of each prompt and its answer, in order.

        A request that fails after all retries, or whose response is malformed, gives an answer that
        holds the error.

        Raises:
            EndpointError: a setting is not part of the API, or the key is missing.
        """
        client, options = self._client(), self._options(settings)
        done = set(skip)
        indices = [index for index in range(len(prompts)) if index not in done]
        with client, ThreadPoolExecutor(self.concurrency) as pool:
            try:
                answers = pool.map(lambda i: self._request(client, prompts[i], options), indices)
                yield from zip(indices, answers, strict=True)
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

    def _options(self, settings: Generation) -> dict[str, Any]:
        """Return the API's parameters for these settings."""
        defaults = Generation()
        for name in ("top_k", "repetition_penalty", "no_repeat_ngram_size", "num_beams"):
            if getattr(settings, name) != getattr(defaults, name):
                raise EndpointError(f"{name} is not part of the API of {self.base_url}")
        if settings.max_prompt_tokens:
            raise EndpointError(
                f"max_prompt_tokens: the tokenizer of {self.model} is not available here"
            )
        options: dict[str, Any] = {
            "model": self.model,
            "max_tokens": settings.max_new_tokens,
            "temperature": settings.temperature,
            "seed": settings.seed,
        }
        if len(settings.stop or ()) > 4:
            raise EndpointError(f"{self.base_url} takes four stop strings at most")
        optional = {"top_p": settings.top_p, "stop": list(settings.stop or ())}
        return options | {name: value for name, value in optional.items() if value}

    def _request(self, client: "openai.OpenAI", prompt: str, options: dict[str, Any]) -> Answer:
        """Send one request; return the answer, or one that holds the error."""
        import openai

        complete = self._chat if self.api == "chat" else self._completion
        try:
            text, finish_reason, log_probabilities, tokens = complete(client, prompt, options)
            if finish_reason == "content_filter" or text is None:
                message = f"{self.base_url} gave no text: it ended with {finish_reason!r}"
                return Answer("", "error", error=message)
            text = cut(text, options.get("stop", ()))
            # Some servers give null for some tokens.
            known = [value for value in log_probabilities if value is not None]
            all_known = known and len(known) == len(log_probabilities)
            total = math.fsum(known) if all_known else None
        except openai.OpenAIError as error:
            return Answer("", "error", error=f"{self.base_url}: {_in_one_line(error)}")
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            message = f"{self.base_url} sent a malformed response: {_in_one_line(error)}"
            return Answer("", "error", error=message)
        return Answer(text, _STOPPED.get(finish_reason, "end_of_text"), tokens, total)

    def _chat(self, client: "openai.OpenAI", prompt: str, options: dict[str, Any]) -> _Completion:
        if self.log_probabilities:
            options = {**options, "logprobs": True}
        messages: list[Any] = [{"role": "user", "content": prompt}]
        response = client.chat.completions.create(messages=messages, **options)
        choice = response.choices[0]
        scores = choice.logprobs.content if choice.logprobs else None
        log_probabilities = [score.logprob for score in scores or ()]
        tokens = response.usage.completion_tokens if response.usage else len(log_probabilities)
        return choice.message.content, choice.finish_reason, log_probabilities, tokens

    def _completion(
        self, client: "openai.OpenAI", prompt: str, options: dict[str, Any]
    ) -> _Completion:
        if self.log_probabilities:
            options = {**options, "logprobs": 0}  # of the chosen tokens only
        response = client.completions.create(prompt=prompt, **options)
        choice = response.choices[0]
        scores = choice.logprobs.token_logprobs if choice.logprobs else None
        log_probabilities = list(scores or ())
        tokens = response.usage.completion_tokens if response.usage else len(log_probabilities)
        return choice.text, choice.finish_reason, log_probabilities, tokens


def _in_one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
