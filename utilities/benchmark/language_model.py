"""A model behind lm-evaluation-harness's public interface, which is loaded with this module."""

import math
from collections.abc import Sequence
from typing import TextIO

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from utilities.benchmark.choices import encode_choices
from utilities.errors import BenchmarkError
from utilities.inference import likelihood


class SharedQuestions(LM):
    """A model that reads a question once for all its choices; the harness's own reads it for each.

    Args:
        model: a causal language model, in evaluation mode.
        tokenizer: the model's own.
        batch_tokens: tokens in a batch.
        bar: where a progress bar goes; None shows none.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        batch_tokens: int,
        bar: TextIO | None,
    ):
        super().__init__()
        self.model, self.tokenizer = model, tokenizer
        self.batch_tokens, self.bar = batch_tokens, bar

    def loglikelihood(self, requests: Sequence[Instance]) -> list[tuple[float, bool]]:
        """Return the log-probability of each continuation of its context, and whether it is greedy.

        Raises:
            BenchmarkError: an item does not fit the model's context.
        """
        groups: dict[str, list[int]] = {}
        for index, request in enumerate(requests):
            groups.setdefault(request.args[0], []).append(index)
        questions = [
            encode_choices(self.tokenizer, question, [requests[i].args[1] for i in indices])
            for question, indices in groups.items()
        ]
        self._check_lengths(list(groups), questions)
        pad = self.tokenizer.pad_token_id
        with tqdm(
            total=len(questions),
            desc="scoring",
            unit="item",
            disable=self.bar is None,
            file=self.bar,
        ) as shown:
            scores = likelihood.choice_log_probabilities(
                self.model,
                questions,
                self.tokenizer.eos_token_id if pad is None else pad,
                self.batch_tokens,
                shown.update,
            )
        results: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        for indices, choices in zip(groups.values(), scores, strict=True):
            for index, result in zip(indices, choices, strict=True):
                results[index] = result
        return results

    def _check_lengths(
        self, texts: Sequence[str], questions: Sequence[tuple[list[int], list[list[int]]]]
    ) -> None:
        config = self.model.config.get_text_config()
        context = getattr(config, "max_position_embeddings", None) or math.inf
        for text, (question, choices) in zip(texts, questions, strict=True):
            tokens = len(question) + max(map(len, choices))
            if tokens - 1 > context:  # the last token is predicted, not read
                raise BenchmarkError(
                    f"an item has {tokens} tokens, but the model's context "
                    f"holds {context}: {text[:80]!r}"
                )

    def loglikelihood_rolling(self, requests: Sequence[Instance]) -> list[float]:
        """Refuse: multiple-choice tasks do not ask for it."""
        raise BenchmarkError("only multiple-choice tasks can be run")

    def generate_until(self, requests: Sequence[Instance]) -> list[str]:
        """Refuse: multiple-choice tasks do not ask for it."""
        raise BenchmarkError("only multiple-choice tasks can be run")
