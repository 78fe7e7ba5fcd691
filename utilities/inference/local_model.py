"""Answers to prompts: many at once, each as it would be alone, with what it takes to judge them.

Prompts of like length are answered together, under a budget of tokens. Each answer comes with its
log-probability and the reason why it ended. In float32 the batches change last digits at most;
a drawn token can turn on one, a greedy one hardly ever.

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
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

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
        """Yield the place of each prompt and its answer, as they get ready: long prompts first.

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
        """Do the work of `answers` for prompts that are tokenized already."""
        shortened = [self._shortened(ids, settings) for ids in prompts]
        done = set(skip)
        with evaluation_mode(self.model):
            for places in batches(
                [len(ids) + settings.max_new_tokens for ids in shortened], settings.batch_tokens
            ):
                # A batch as a whole, or its other answers would change in their last digits.
                if not done.issuperset(places):
                    yield from self._batch(places, shortened, settings)

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
        self, places: Sequence[int], prompts: Sequence[Sequence[int]], settings: Generation
    ) -> Iterator[tuple[int, Answer]]:
        chosen, ready = [prompts[place] for place in places], set()
        write = self._beams if settings.num_beams > 1 else self._tokens
        try:
            for row, answer in write(chosen, settings, places):
                ready.add(places[row])
                yield places[row], answer
            return
        except RuntimeError as error:  # PyTorch's, out of memory among them
            told = f"{type(error).__name__}: {error}"
        # Out of the block above, or the error would keep the batch in memory.
        left = [place for place in places if place not in ready]
        if len(left) == 1:
            yield left[0], Answer("", "error", error=told)
            return
        logger.warning("a batch of %d failed, trying its halves: %s", len(left), told)
        for half in (left[: len(left) // 2], left[len(left) // 2 :]):
            yield from self._batch(half, prompts, settings)

    def _tokens(
        self, prompts: Sequence[Sequence[int]], settings: Generation, seeds: Sequence[int]
    ) -> Iterator[tuple[int, Answer]]:
        batch = Batch(self.model, prompts, settings, self.tokenizer.pad_token_id, seeds)
        ends, stop = self._end_ids(), settings.stop or ()
        ids: list[list[int]] = [[] for _ in prompts]
        sums = [0.0] * len(prompts)
        while batch.places:
            ended = set()
            for token in batch.step():
                answer, place = ids[token.place], token.place
                answer.append(token.id)
                sums[place] += token.log_probability
                if not math.isfinite(sums[place]):
                    told = "the model's scores are not finite; are its weights, in this dtype?"
                    ended.add(place)
                    yield place, Answer("", "error", len(answer), error=told)
                elif reason := self._reason(answer, ends, stop, settings):
                    ended.add(place)
                    yield place, self._answer(answer, reason, sums[place], stop)
            batch.drop(ended)

    def _beams(
        self, prompts: Sequence[Sequence[int]], settings: Generation, _: Sequence[int]
    ) -> Iterator[tuple[int, Answer]]:
        """Leave it to the library, which writes all answers of a batch to their end."""
        pad = self.tokenizer.pad_token_id
        rows, mask = padded(prompts, pad)
        extra = {}
        if settings.stop:
            extra = {"stop_strings": list(settings.stop), "tokenizer": self.tokenizer}
        output = self.model.generate(
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
            steps = range(1, len(ids) + 1)
            reasons = ((n, self._reason(ids[:n], ends, stop, settings)) for n in steps)
            length, reason = next((n, why) for n, why in reasons if why)
            answers.append((ids[:length], reason))
        pairs = list(zip(prompts, [ids for ids, _ in answers], strict=True))
        scores = log_probabilities_of_ids(self.model, pairs, pad, settings.batch_tokens)
        for row, ((ids, reason), score) in enumerate(zip(answers, scores, strict=True)):
            yield row, self._answer(ids, reason, score, stop)

    def _end_ids(self) -> set[int]:
        configured = getattr(self.model.generation_config, "eos_token_id", None)
        several = configured if isinstance(configured, list) else [configured]
        return {self.tokenizer.eos_token_id, *several} - {None}

    def _reason(
        self, ids: list[int], ends: set[int], stop: Sequence[str], settings: Generation
    ) -> Stopped | None:
        """Say what ends an answer at its last token, if anything does."""
        if ids[-1] in ends:
            return "end_of_text"
        if stop:
            # A token holds a byte at least, so the end of the text is enough to look at.
            window = max(len(mark.encode()) for mark in stop) + 1
            tail = self.tokenizer.decode(ids[-window:], skip_special_tokens=True)
            if any(mark in tail for mark in stop):
                return "stop_string"
        return "max_new_tokens" if len(ids) == settings.max_new_tokens else None

    def _answer(
        self, ids: list[int], reason: Stopped, log_probability: float, stop: Sequence[str]
    ) -> Answer:
        kept = ids[:-1] if reason == "end_of_text" else ids
        text = cut(self.tokenizer.decode(kept, skip_special_tokens=True), stop)
        return Answer(text, reason, len(ids), log_probability, ids=kept)

    def stream(self, prompt: str, settings: Generation) -> Iterator[str]:
        """Yield the answer to one prompt piece by piece, as it is written.

        The pieces together are the text that `answers` gives. What may turn out to be the beginning
        of a stop string, white space at the end, or half a character, is held back.
        """
        (ids,) = encode_texts(self.tokenizer, [prompt], beginning=True)
        ids = self._shortened(ids, settings)
        if settings.num_beams > 1:
            raise GenerationError("beams are known at their end only; stream with num_beams 1")
        batch = Batch(self.model.eval(), [ids], settings, self.tokenizer.pad_token_id, [0])
        ends, stop, answer, told = self._end_ids(), settings.stop or (), [], 0
        reason = None
        while reason is None:
            answer.append(batch.step()[0].id)
            reason = self._reason(answer, ends, stop, settings)
            text = self.tokenizer.decode(answer, skip_special_tokens=True)
            text = cut(text, stop) if reason else _certain(text, stop)
            if len(text) > told:
                yield text[told:]
                told = len(text)


def _certain(text: str, stop: Sequence[str]) -> str:
    """Return what of a growing text can be shown already."""
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
    wanted = settings_for({"max_new_tokens": max_new_tokens, "stop": tuple(stop), **settings})
    found = LocalModel(model, tokenizer).answers(prompts, wanted)
    found = tqdm(found, "generating", len(prompts), unit="answer", disable=not progress)
    answers = dict(found)
    if failed := [answer.error for answer in answers.values() if answer.error]:
        raise GenerationError(f"{len(failed)} of {len(prompts)} prompts failed: {failed[0]}")
    return [answers[place].text for place in range(len(prompts))]


def answer_ids(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int = 60,
) -> list[list[int]]:
    """Return greedy answers to tokenized prompts as ids, without end-of-text; see `generate`."""
    settings = settings_for({"max_new_tokens": max_new_tokens})
    answers = dict(LocalModel(model, tokenizer).answers_to_ids(prompts, settings))
    return [answers[place].ids for place in range(len(prompts))]


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
    return tokenizer.decode(answer, skip_special_tokens=True).strip()
