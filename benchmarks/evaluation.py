"""How fast are generation and scoring? This package and its peers, the same model and prompts.

    python benchmarks/evaluation.py --data lamini_docs.jsonl --tokenizer EleutherAI/pythia-70m
    python benchmarks/evaluation.py … --stopping     answers that end at different lengths
    python benchmarks/evaluation.py --scoring        10,000 predictions

A model of the config's shape with random weights, float32, answers 128 questions greedily with 60
tokens each. Each program runs in a process of its own, one after the other, the order rotated from
round to round, and first answers 8 of the questions to warm up; loading is left out.

- `seed loop`: the one many courses teach: one question at a time, `model.generate`.
- `pipeline`: transformers' `text-generation`, at several batch sizes.
- `this package`: `utilities.inference`, which also returns the log-probability of each answer.

The answers of every program are compared, token for token, with the seed loop's of the round.

`--stopping` gives end-of-text a fixed probability at every token, so that answers end at different
lengths, 25 tokens on average, and samples (temperature 1) up to 120 tokens. `all wait` keeps
answers that have ended in the batch until its last one ends, as libraries do; nothing else differs.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers

from utilities import models
from utilities.config import bundled
from utilities.inference import local_model
from utilities.inference.decoding import Batch
from utilities.inference.generation import Generation
from utilities.prompts.built_in import QUESTION_ANSWER
from utilities.scores.metrics import RANGES
from utilities.scores.prediction_tables import prediction_table, score

QUESTIONS, WARM_UP, NEW_TOKENS, LONG, MEAN = 128, 8, 60, 120, 25
ROWS = 10_000


class _Waiting(Batch):
    """A batch that keeps all answers until the last one has ended."""

    ended: set[int] = frozenset()

    def step(self):
        return [token for token in super().step() if token.index not in self.ended]

    def drop(self, ended: set[int]) -> None:
        self.ended = self.ended | ended
        if len(self.ended) == len(self.indices):
            super().drop(self.ended)


def one_by_one(model, tokenizer, prompts: list[str]) -> list[list[int]]:
    """Answer one question at a time."""
    answers = []
    for prompt in prompts:
        ids = tokenizer(prompt, return_tensors="pt")
        output = model.generate(
            **ids, max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=tokenizer.pad_token_id
        )
        answers.append(output[0, ids["input_ids"].shape[1] :].tolist())
    return answers


def pipeline(batch_size: int) -> Callable[..., list[list[int]]]:
    """Return a program that generates with transformers' pipeline."""

    def answer(model, tokenizer, prompts: list[str]) -> list[list[int]]:
        tokenizer.padding_side = "left"
        write = transformers.pipeline("text-generation", model=model, tokenizer=tokenizer)
        settings = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "return_tensors": True}
        outputs = write(prompts, batch_size=batch_size, **settings)
        # The prompt and its padding come before the answer.
        return [output[0]["generated_token_ids"][-NEW_TOKENS:] for output in outputs]

    return answer


def ours(model, tokenizer, prompts: list[str]) -> list[list[int]]:
    """Answer with this package."""
    settings = Generation(max_new_tokens=NEW_TOKENS)
    answers = dict(local_model.LocalModel(model, tokenizer).answers(prompts, settings))
    return [answers[index].ids for index in range(len(prompts))]


def stopping(batch: type[Batch]) -> Callable[..., list[list[int]]]:
    """Return a program whose answers end at different lengths."""

    def answer(model, tokenizer, prompts: list[str]) -> list[list[int]]:
        head = model.get_output_embeddings()
        bias = torch.zeros(head.out_features)
        bias[tokenizer.eos_token_id] = math.log(head.out_features / (MEAN - 1))
        head.bias = torch.nn.Parameter(bias)
        local_model.Batch = batch  # each program has a process of its own
        settings = Generation(max_new_tokens=LONG, temperature=1.0)
        answers = dict(local_model.LocalModel(model, tokenizer).answers(prompts, settings))
        return [answers[index].ids for index in range(len(prompts))]

    return answer


PROGRAMS: dict[str, Callable[..., list[list[int]]]] = {
    "seed loop": one_by_one,
    **{f"pipeline, batches of {size}": pipeline(size) for size in (16, 32, 64, 128)},
    "this package": ours,
}
STOPPING = {
    "this package, all wait": stopping(_Waiting),
    "this package, ended ones leave": stopping(Batch),
}


def read(data: str) -> list[str]:
    """Return the prompts."""
    lines = Path(data).read_text(encoding="utf-8").splitlines()[:QUESTIONS]
    questions = [json.loads(line)["question"] for line in lines]
    # The original course's file has these headings inside its questions.
    bare = [q.removeprefix("### Question:\n").removesuffix("\n\n### Answer:") for q in questions]
    return [QUESTION_ANSWER.prompt({"question": question}) for question in bare]


def run_program(name: str, options: argparse.Namespace) -> dict:
    """Run one program in this process; return its seconds and answers."""
    choice = models.choose(options.tokenizer, weights=False)
    tokenizer = models.load_tokenizer(choice)
    transformers.set_seed(0)
    config = transformers.AutoConfig.from_pretrained(models.download(choice))
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    program, prompts = {**PROGRAMS, **STOPPING}[name], read(options.data)
    program(model, tokenizer, prompts[:WARM_UP])
    start = time.perf_counter()
    answers = program(model, tokenizer, prompts)
    seconds, end = time.perf_counter() - start, tokenizer.eos_token_id
    answers = [ids[: ids.index(end)] if end in ids else ids for ids in answers]
    return {"seconds": seconds, "answers": answers}


def start(name: str, options: argparse.Namespace) -> dict:
    """Run a program in a fresh process."""
    command = [sys.executable, __file__, "--program", name]
    command += ["--data", options.data, "--tokenizer", options.tokenizer]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        sys.exit(f"{name} failed:\n{done.stderr[-4000:]}")
    result = json.loads(done.stdout.splitlines()[-1])
    write_line(f"{name}: {result['seconds']:.2f} s")
    return result


def write_line(*cells: str) -> None:
    """Write a line, or a row of a table."""
    sys.stdout.write((f"| {' | '.join(cells)} |" if len(cells) > 1 else cells[0]) + "\n")
    sys.stdout.flush()


def write_table(rounds: list[dict[str, dict]], first: str) -> None:
    """Write the medians over the rounds; ratios are taken within a round."""
    write_line("program", "seconds", "new tokens/s", f"against {first}", "same answers")
    write_line(*["---"] * 5)
    for name in rounds[0]:
        seconds = statistics.median(results[name]["seconds"] for results in rounds)
        tokens = sum(map(len, rounds[0][name]["answers"]))
        ratios = [results[first]["seconds"] / results[name]["seconds"] for results in rounds]
        pairs = zip(rounds[0][name]["answers"], rounds[0][first]["answers"], strict=True)
        same = sum(a == b for a, b in pairs)
        cells = [f"{seconds:.2f}", f"{tokens / seconds:,.0f}", f"{statistics.median(ratios):.2f} ×"]
        write_line(name, *cells, f"{same} of {len(rounds[0][name]['answers'])}")


def measure_scoring() -> None:
    """Score many predictions: the references of other rows of the course."""
    lines = bundled("data/course_assistant/train.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    rows = [rows[index % len(rows)] for index in range(ROWS)]
    # Some right, most of another row, in a fixed order.
    answers = [rows[(index * 7 + index % 3) % ROWS]["answer"] for index in range(ROWS)]
    begin = time.perf_counter()
    table = prediction_table(rows, answers, QUESTION_ANSWER, "shuffled", "back to fine-tuning")
    between = time.perf_counter()
    scores = score(table)
    end = time.perf_counter()
    write_line(
        f"{ROWS:,} rows, {len([n for n in RANGES if n in table])} metrics: {end - begin:.1f} s"
    )
    write_line(f"by row and error class: {between - begin:.1f} s; summaries: {end - between:.1f} s")
    write_line(scores.round(3).to_string(index=False))


def main() -> None:
    """Run the programs one after the other and write a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data",
        default=str(bundled("data/course_assistant/train.jsonl")),
        help="JSON Lines with `question`; the course's own by default",
    )
    parser.add_argument("--tokenizer", default="auto", help="hub id or folder with config")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", action="append", choices=list(PROGRAMS), metavar="PROGRAM")
    parser.add_argument("--stopping", action="store_true")
    parser.add_argument("--scoring", action="store_true")
    parser.add_argument("--program", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.program:
        write_line(json.dumps(run_program(options.program, options)))
        return
    if options.scoring:
        measure_scoring()
        return
    names = list(STOPPING) if options.stopping else options.only or list(PROGRAMS)
    rounds = []
    for number in range(options.rounds):
        shift = number % len(names)
        results = {name: start(name, options) for name in names[shift:] + names[:shift]}
        rounds.append({name: results[name] for name in names})
    write_table(rounds, names[0])


if __name__ == "__main__":
    main()
