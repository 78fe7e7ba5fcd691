"""Batched generation with a model in this process; each answer is as it would be alone.

Prompts of similar length are answered together, under a budget of tokens. Each answer comes with
its log-probability and the reason why it ended. In float32 batching changes last digits at most;
that can change a sampled token, and hardly ever a greedy one.

    from utilities import models
    from utilities.inference import Generation, LocalModel, generate

    model, tokenizer = models.load("runs/course_assistant")
    generate(model, tokenizer, ["### Question:
What is an epoch?

### Answer:
"])
"""

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from utilities.errors import GenerationError
from utilities.features.tokenization import encode_texts
from utilities.inference.answers import Answer, Stopped, cut
from utilities.inference.decoding import Batch
from utilities.inference.generation import Generation, settings_for
from utilities.inference.likelihood import log_probabilities_of_ids
from utilities.inference.padding import batches, padded
from utilities.models.modes import evaluation_mode

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LocalModel:
    """A model in this process.

    Attributes:
        model: a causal language model.
        tokenizer: the model's own, with a padding token.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    def answers(
        self, prompts: Sequence[str], settings: Generation, skip: Sequence[int] = ()
    ) -> Iterator[tuple[int, Answer]]:
        """Yield the index of each prompt and its answer, as they get ready: long prompts first.

        A batch that fails, for lack of memory say, is tried again in halves; a prompt that fails
        alone gets an answer that holds the error.

        Raises:
            GenerationError: the settings leave no room for a prompt.
        """
        encoded = encode_texts(self.tokenizer, prompts, beginning=True)
        yield from self.answers_to_ids(encoded, settings, skip)

    def answers_to_ids(
        self, prompts: Sequence[Sequence[int]], settings: Generation, skip: Sequence[int] = ()
    ) -> Iterator[tuple[int, Answer]]:
        """Answer prompts that are tokenized already; otherwise as `answers`."""
        shortened = [self._shortened(ids, settings) for ids in prompts]
        done = set(skip)
        with evaluation_mode(self.model):
            lengths = [len(ids) + settings.max_new_tokens for ids in shortened]
            for indices in batches(lengths, settings.batch_tokens):
                # The batch stays complete: in a smaller one the last digits would change.
                if not done.issuperset(indices):
                    yield from self._batch(indices, shortened, settings)

    def _shortened(self, ids: Sequence[int], settings: Generation) -> Sequence[int]:
        context = getattr(self.model.config, "max_position_embeddings", None) or math.inf
        room = min(context - settings.max_new_tokens, settings.max_prompt_tokens or math.inf)
        if room < 1:
            raise GenerationError(
                f"max_new_tokens is {settings.max_new_tokens}, but the model's context holds "
                f"{context} tokens, prompt included; ask for fewer"
            )
        if len(ids) > room:
            ids = ids[-int(room) :] if settings.shorten == "left" else ids[: int(room)]
        return ids or [self.tokenizer.eos_token_id]  # there must be one token to continue from

    def _batch(
        self, indices: Sequence[int], prompts: Sequence[Sequence[int]], settings: Generation
    ) -> Iterator[tuple[int, Answer]]:
        """Answer the prompts of these indices together; when that fails, in two halves."""
        chosen, ready = [prompts[index] for index in indices], set()
        decode = self._beams if settings.num_beams > 1 else self._tokens
        try:
            for row, answer in decode(chosen, settings, indices):
                ready.add(indices[row])
                yield indices[row], answer
            return
        except RuntimeError as error:  # PyTorch's, out of memory among them
            message = f"{type(error).__name__}: {error}"
        # Outside the block above: there the exception would keep the batch in memory.
        left = [index for index in indices if index not in ready]
        if len(left) == 1:
            yield left[0], Answer("", "error", error=message)
            return
        logger.warning("a batch of %d failed, trying its halves: %s", len(left), message)
        for half in (left[: len(left) // 2], left[len(left) // 2 :]):
            yield from self._batch(half, prompts, settings)

    def _tokens(
        self, prompts: Sequence[Sequence[int]], settings: Generation, seeds: Sequence[int]
    ) -> Iterator[tuple[int, Answer]]:
        """Yield the row of each prompt and its answer, from this package's decoding loop."""
        batch = Batch(self.model, prompts, settings, self.tokenizer.pad_token_id, seeds)
        ends, stop = self._end_ids(), settings.stop or ()
        ids: list[list[int]] = [[] for _ in prompts]
        sums = [0.0] * len(prompts)
        while batch.indices:
            ended = set()
            for token in batch.step():
                answer, row = ids[token.index], token.index
                answer.append(token.id)
                sums[row] += token.log_probability
                if not math.isfinite(sums[row]):
                    message = "the model's scores are not finite; are its weights, in this dtype?"
                    ended.add(row)
                    yield row, Answer("", "error", len(answer), error=message)
                elif reason := self._reason(answer, ends, stop, settings):
                    ended.add(row)
                    yield row, self._answer(answer, reason, sums[row], stop)
            batch.drop(ended)

    def _beams(
        self, prompts: Sequence[Sequence[int]], settings: Generation, _: Sequence[int]
    ) -> Iterator[tuple[int, Answer]]:
        """Yield the row of each prompt and its answer, from the library's beam search.

        It decodes all answers of a batch to their end.
        """
        pad = self.tokenizer.pad_token_id
        rows, mask = padded(prompts, pad)
        extra: dict[str, Any] = {}
        if settings.stop:
            extra = {"stop_strings": list(settings.stop), "tokenizer": self.tokenizer}
        generate = cast(Callable[..., torch.Tensor], self.model.generate)
        output = generate(
            input_ids=rows.to(self.model.device),
            attention_mask=mask.to(self.model.device),
            do_sample=False,
            num_beams=settings.num_beams,
            max_new_tokens=settings.max_new_tokens,
            repetition_penalty=settings.repetition_penalty,
            no_repeat_ngram_size=settings.no_repeat_ngram_size,
            pad_token_id=pad,
            eos_token_id=sorted(self._end_ids()),
            **extra,
        )
        ends, stop = self._end_ids(), settings.stop or ()
        answers = []
        for ids in output[:, rows.shape[1] :].tolist():
            # What follows an answer's end is padding.
            lengths = range(1, len(ids) + 1)
            reasons = ((n, self._reason(ids[:n], ends, stop, settings)) for n in lengths)
            length, reason = next((n, reason) for n, reason in reasons if reason)
            answers.append((ids[:length], reason))
        pairs = list(zip(prompts, [ids for ids, _ in answers], strict=True))
        scores = log_probabilities_of_ids(self.model, pairs, pad, settings.batch_tokens)
        for row, ((ids, reason), score) in enumerate(zip(answers, scores, strict=True)):
            yield row, self._answer(ids, reason, score, stop)

    def _end_ids(self) -> set[int]:
        """Return every token that ends an answer; some models have several."""
        configured = getattr(self.model.generation_config, "eos_token_id", None)
        several = configured if isinstance(configured, list) else [configured]
        return {self.tokenizer.eos_token_id, *several} - {None}

    def _reason(
        self, ids: list[int], ends: set[int], stop: Sequence[str], settings: Generation
    ) -> Stopped | None:
        """Return what ends an answer at its last token, or None."""
        if ids[-1] in ends:
            return "end_of_text"
        if stop:
            # A token holds a byte at least, so a stop string lies within this many tokens.
            window = max(len(mark.encode()) for mark in stop) + 1
            tail = self._decode(ids[-window:])
            if any(mark in tail for mark in stop):
                return "stop_string"
        return "max_new_tokens" if len(ids) == settings.max_new_tokens else None

    def _answer(
        self, ids: list[int], reason: Stopped, log_probability: float, stop: Sequence[str]
    ) -> Answer:
        kept = ids[:-1] if reason == "end_of_text" else ids
        text = cut(self._decode(kept), stop)
        return Answer(text, reason, len(ids), log_probability, ids=kept)

    def _decode(self, ids: list[int]) -> str:
        # Of a list of lists the library returns a list of texts.
        return cast(str, self.tokenizer.decode(ids, skip_special_tokens=True))

    def stream(self, prompt: str, settings: Generation) -> Iterator[str]:
        """Yield the answer to one prompt piece by piece, as it is written.

        The pieces together are the text that `answers` gives. What may turn out to be the beginning
        of a stop string, white space at the end, or half a character, is held back.
        """
        (encoded,) = encode_texts(self.tokenizer, [prompt], beginning=True)
        ids = self._shortened(encoded, settings)
        if settings.num_beams > 1:
            raise GenerationError("beams are known at their end only; stream with num_beams 1")
        batch = Batch(self.model.eval(), [ids], settings, self.tokenizer.pad_token_id, [0])
        ends, stop = self._end_ids(), settings.stop or ()
        answer: list[int] = []
        shown, reason = 0, None
        while reason is None:
            answer.append(batch.step()[0].id)
            reason = self._reason(answer, ends, stop, settings)
            text = self._decode(answer)
            text = cut(text, stop) if reason else _settled(text, stop)
            if len(text) > shown:
                yield text[shown:]
                shown = len(text)


def _settled(text: str, stop: Sequence[str]) -> str:
    """Return the part of a growing text that no later token can change."""
    # Half a character decodes to the replacement character.
    text = text.lstrip().rstrip("\N{REPLACEMENT CHARACTER}")
    beginnings = {mark[:n] for mark in stop for n in range(1, len(mark))}
    held = max((len(part) for part in beginnings if text.endswith(part)), default=0)
    return text[: len(text) - held].rstrip()


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Iterable[str],
    max_new_tokens: int = 60,
    stop: Sequence[str] = (),
    progress: bool = False,
    **settings: Any,
) -> list[str]:
    """Answer prompts; the short form of `LocalModel.answers`.

    Args:
        model: a causal language model.
        tokenizer: the model's own, with a padding token.
        prompts: texts as a prompt format makes them.
        max_new_tokens: tokens an answer may have, 1 or more; the prompt does not count.
        stop: strings that end an answer, such as `PromptFormat.stop`; the answer is cut before
            the first of them. A tuned model stops by itself, a base model needs this.
        progress: show a progress bar.
        settings: further fields of `Generation`.

    Returns:
        One answer per prompt, in the order given, stripped of white space at both ends.

    Raises:
        GenerationError: a setting is wrong, or a prompt failed.

    Example:
        `generate(model, tokenizer, [QUESTION_ANSWER.prompt({"question": "What is an epoch?"})])`
    """
    prompts = list(prompts)
    generation = settings_for({"max_new_tokens": max_new_tokens, "stop": tuple(stop), **settings})
    pairs = LocalModel(model, tokenizer).answers(prompts, generation)
    answers = dict(tqdm(pairs, "generating", len(prompts), unit="answer", disable=not progress))
    if failed := [answer.error for answer in answers.values() if answer.error]:
        raise GenerationError(f"{len(failed)} of {len(prompts)} prompts failed: {failed[0]}")
    return [answers[index].text for index in range(len(prompts))]


def answer_ids(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int = 60,
) -> list[list[int]]:
    """Return greedy answers to tokenized prompts as ids, without end-of-text; see `generate`."""
    settings = settings_for({"max_new_tokens": max_new_tokens})
    answers = dict(LocalModel(model, tokenizer).answers_to_ids(prompts, settings))
    return [answers[index].ids for index in range(len(prompts))]


def inference(
    text: str,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    max_input_tokens: int = 1000,
    max_output_tokens: int = 100,
) -> str:
    """Answer a prompt greedily.

    Args:
        text: the prompt as it is, such as `question` of `tokenize_and_split_data`.
        model: a causal language model.
        tokenizer: the model's own.
        max_input_tokens: a longer prompt loses tokens from the left.
        max_output_tokens: tokens the answer may have; the prompt does not count.

    Returns:
        The answer without the prompt, stripped of white space at both ends.
    """
    (ids,) = encode_texts(tokenizer, [text], beginning=True)
    (answer,) = answer_ids(model, tokenizer, [ids[-max_input_tokens:]], max_output_tokens)
    return cast(str, tokenizer.decode(answer, skip_special_tokens=True)).strip()
