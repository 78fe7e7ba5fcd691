"""How fast is fine-tuning, and how much memory does it take? This package and its peers.

All train on the same rows, from the same weights.

    python benchmarks/training.py --data lamini_docs.jsonl --tokenizer EleutherAI/pythia-70m
    python benchmarks/training.py … --memory     peak memory of one example of 2,048 tokens
    python benchmarks/training.py … --overhead   what this package does besides training, in seconds

Needs `pip install -c constraints.txt -e ".[peers]"`. A model of the config's shape with random
weights is trained for one epoch on the first 200 rows, prompt format `question_answer`; rows with
an empty answer are left out. All programs train on the responses only, with AdamW (learning rate
2e-5, for LoRA 2e-4; linear, no warm-up), 8 rows a step, seed 42, and the library's default number
of threads.
Each runs in a process of its own, one after the other, the order rotated from round to round.

The clock runs from the beginning of training to the end of the last optimizer step, so loading and
tokenizing are left out. To warm up, the program first trains another model on 16 of the rows.
Tokens are those that reach the model, without padding; a program that leaves some out fails.
The loss is the mean over the response tokens of rows 200 to 263, in float32, by one function.

- `seed loop`: the one many courses teach: `Trainer`, batch 1, accumulation 4, Adafactor.
- `Trainer`: transformers' own: padded, padded and grouped by length, and without padding.
- `TRL`: `SFTTrainer` from prompt/completion columns: padded, without padding, and packed by
  best-fit into rows that hold 8 examples on average.
- `this package`: `utilities.training.run.train`, into a run folder.

bf16 (autocast) is measured where the machine has instructions for it; without them it takes hours.
`against peers` is the ratio to the fastest peer of the same round and method (all weights, or
LoRA), in whichever precision. Useful arithmetic is 6 operations per weight and token, 4 where the
weights are frozen; of the output head at response tokens only, of the input embeddings none. Its
share is of the rate of a 2048³ matrix product in the same precision. Memory is resident memory, or
on a GPU the memory that PyTorch allocated.
"""

import argparse
import functools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
import transformers
from datasets import Dataset
from torch.utils import benchmark
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from utilities import models
from utilities.config import bundled
from utilities.devices import device, resolve_precision
from utilities.features.tokenization import IGNORE_INDEX, TokenizedExamples, tokenize_examples
from utilities.prompts.built_in import QUESTION_ANSWER
from utilities.training.run import train
from utilities.training.settings import Settings

ROWS, VALIDATION_ROWS = 200, 64
MAX_LENGTH, PACKED_LENGTH = 2048, 768
SEED, WARM_UP_ROWS = 42, 16
CUDA = torch.cuda.is_available()


class _Clock(transformers.TrainerCallback):
    """Counts seconds, optimizer steps, the tokens that enter the model, and memory in bytes."""

    def __init__(self, pad_token_id: int):
        self.pad_token_id, self.tokens = pad_token_id, 0
        self.before = torch.cuda.memory_allocated() if CUDA else psutil.Process().memory_info().rss

    def on_train_begin(self, args, state, control, model=None, **kwargs) -> None:
        model.get_input_embeddings().register_forward_pre_hook(self._count)
        self.start = time.perf_counter()

    def _count(self, _: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
        self.tokens = self.tokens + (inputs[0] != self.pad_token_id).sum()

    def on_step_end(self, args, state, control, **kwargs) -> None:
        if CUDA and state.global_step == state.max_steps:
            torch.cuda.synchronize()
        self.seconds, self.steps = time.perf_counter() - self.start, state.global_step

    def on_train_end(self, args, state, control, **kwargs) -> None:
        resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        self.peak = torch.cuda.max_memory_allocated() if CUDA else resident


@dataclass(frozen=True)
class Job:
    """The input of every program; `examples` and `data` are the same rows."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    choice: models.ModelChoice
    examples: list[dict[str, str]]
    data: TokenizedExamples
    folder: Path
    batch: int
    precision: str
    clock: _Clock

    def arguments(self, lora: bool) -> dict[str, Any]:
        """Return the training arguments of all programs."""
        rate = {"learning_rate": 2e-4 if lora else 2e-5, "lr_scheduler_type": "linear"}
        size = {"per_device_train_batch_size": self.batch, "num_train_epochs": 1}
        return {**rate, **size, "disable_tqdm": True}

    def peer_arguments(self, lora: bool) -> dict[str, Any]:
        """Return the same, with the settings that are defaults of `utilities.training`."""
        here = {"output_dir": str(self.folder), "use_cpu": not CUDA, "seed": SEED}
        silent = dict.fromkeys(("save_strategy", "logging_strategy"), "no") | {"report_to": "none"}
        return {**self.arguments(lora), **here, **silent, "bf16": self.precision == "bf16"}


def peft_config() -> Any:
    """Return the peers' adapters, on all linear layers of the blocks."""
    from peft import LoraConfig

    return LoraConfig(r=8, lora_alpha=16, lora_dropout=0.0, target_modules="all-linear")


def trainer(job: Job, lora: bool = False, flat: bool = False, **settings: Any) -> PreTrainedModel:
    """Train with transformers' Trainer."""
    from peft import get_peft_model

    arguments = transformers.TrainingArguments(**{**job.peer_arguments(lora), **settings})
    transformers.set_seed(SEED)
    model = get_peft_model(job.model, peft_config()) if lora else job.model
    padded, flattened = transformers.DataCollatorForSeq2Seq, transformers.DataCollatorWithFlattening
    collator = flattened() if flat else padded(job.tokenizer)
    features = job.data.features.select_columns(["input_ids", "labels"])
    transformers.Trainer(model, arguments, collator, features, callbacks=[job.clock]).train()
    return model


def trl(job: Job, lora: bool = False, **settings: Any) -> PreTrainedModel:
    """Train with TRL's SFTTrainer, which tokenizes and masks the rows itself."""
    from trl import SFTConfig, SFTTrainer

    own = {"max_length": MAX_LENGTH, "completion_only_loss": True, "gradient_checkpointing": False}
    rows = [{"prompt": row["prompt"], "completion": row["response"]} for row in job.examples]
    peer = SFTTrainer(
        job.model,
        SFTConfig(**{**job.peer_arguments(lora), **own, **settings}),
        train_dataset=Dataset.from_list(rows),
        processing_class=job.tokenizer,
        callbacks=[job.clock],
        peft_config=peft_config() if lora else None,
    )
    peer.train()
    return peer.model


def this_package(job: Job, lora: bool = False) -> PreTrainedModel:
    """Train with `utilities.training`, and load the saved model."""
    from utilities.models.adapters import Lora

    method = {"lora": Lora(r=8, alpha=16, dropout=0.0, merge=True)} if lora else {}
    run = train(
        job.model,
        job.tokenizer,
        job.data,
        job.folder / "run",
        Settings.of(**job.arguments(lora), **method, precision=job.precision, seed=SEED),
        prompt_format=QUESTION_ANSWER,
        choice=job.choice,
        callbacks=[job.clock],
    )
    return models.load(str(run.folder))[0]


GROUPED = {"train_sampling_strategy": "group_by_length"}
FLAT = {"padding_free": True, "max_length": None}
PACKED = {"packing": True, "max_length": PACKED_LENGTH, "per_device_train_batch_size": 1}
ONE_BY_ONE = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4}
KINDS: dict[str, Callable[[Job], PreTrainedModel]] = {
    "seed loop": functools.partial(trainer, optim="adafactor", **ONE_BY_ONE),
    "Trainer, padded": trainer,
    "Trainer, length-grouped": functools.partial(trainer, **GROUPED),
    "Trainer, padding-free": functools.partial(trainer, flat=True),
    "TRL, padded": trl,
    "TRL, padding-free": functools.partial(trl, **FLAT),
    "TRL, packed": functools.partial(trl, **PACKED),
    "this package, full": this_package,
    "Trainer LoRA, length-grouped": functools.partial(trainer, lora=True, **GROUPED),
    "Trainer LoRA, padding-free": functools.partial(trainer, lora=True, flat=True),
    "TRL LoRA, padding-free": functools.partial(trl, lora=True, **FLAT),
    "TRL LoRA, packed": functools.partial(trl, lora=True, **PACKED),
    "this package, LoRA": functools.partial(this_package, lora=True),
}
PROGRAMS = [f"{kind}, fp32" for kind in KINDS] + [f"{kind}, bf16" for kind in [*KINDS][1:]]
IN_MEMORY = [f"{kind}, fp32" for kind in ("Trainer, padded", "TRL, padded", "this package, full")]


def new_model(folder: Path | str) -> PreTrainedModel:
    """Return a model of a config's shape, with random weights in float32."""
    transformers.set_seed(0)
    config = transformers.AutoConfig.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return model.to(device())


def read(data: str) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Return the training and the validation examples."""
    lines = Path(data).read_text(encoding="utf-8").splitlines()
    training: list[dict[str, str]] = []
    validation: list[dict[str, str]] = []
    for number, row in enumerate(map(json.loads, lines[: ROWS + VALIDATION_ROWS])):
        # The original course's file has these headings inside its questions.
        bare = row["question"].removeprefix("### Question:\n").removesuffix("\n\n### Answer:")
        if row["answer"].strip():
            part = training if number < ROWS else validation
            part.append(QUESTION_ANSWER.example({**row, "question": bare}))
    return training, validation


@torch.no_grad()
def mean_loss(model: PreTrainedModel, data: TokenizedExamples) -> float:
    """Return the mean loss per response token in nats, row by row, without padding."""
    total = count = 0
    for row in data.features:
        ids, labels = (torch.tensor(row[n], device=model.device) for n in ("input_ids", "labels"))
        logits = model(input_ids=ids[None]).logits[0, :-1]
        total += torch.nn.functional.cross_entropy(logits, labels[1:], reduction="sum").item()
        count += (labels[1:] != IGNORE_INDEX).sum().item()
    return total / count


def run_program(name: str, options: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Run one program in this process and return its figures."""
    kind, precision = name.rsplit(", ", 1)
    choice = models.choose(options.tokenizer, weights=False)
    tokenizer, source = models.load_tokenizer(choice), models.download(choice)

    def run(examples: list[dict[str, str]], batch: int, folder: Path) -> tuple[Job, Any]:
        data, model = tokenize_examples(examples, tokenizer, MAX_LENGTH), new_model(source)
        clock = _Clock(tokenizer.pad_token_id)
        job = Job(model, tokenizer, choice, examples, data, folder, batch, precision, clock)
        trained = KINDS[kind](job)
        if int(clock.tokens) != data.counts["tokens"]:
            raise RuntimeError(f"{name}: {int(clock.tokens)} tokens of {data.counts['tokens']}")
        return job, trained

    if options.memory:
        half = {"prompt": " the" * 1024, "response": " the" * 1023}
        job, _ = run([half] * 3, 1, folder)
        above = (job.clock.peak - job.clock.before) / 2**30
        return {"peak_gb": job.clock.peak / 2**30, "above_start_gb": above}
    examples, validation = read(options.data)
    run(examples[:WARM_UP_ROWS], 8, folder / "warm-up")
    job, trained = run(examples, 8, folder)
    # A fresh model has neither autocast nor adapters.
    fresh = new_model(source).eval()
    merged = trained.merge_and_unload() if hasattr(trained, "merge_and_unload") else trained
    fresh.load_state_dict(merged.state_dict())
    head = fresh.get_output_embeddings().weight
    tables = {head, fresh.get_input_embeddings().weight}  # one, if they are tied
    body = fresh.num_parameters() - sum(table.numel() for table in tables)
    counts, clock = job.data.counts, job.clock
    products = body * counts["tokens"] + head.numel() * counts["supervised_tokens"]
    return {
        "peak_gb": clock.peak / 2**30,
        "tokens": counts["tokens"],
        "supervised_tokens": counts["supervised_tokens"],
        "steps": clock.steps,
        "seconds": clock.seconds,
        "tokens_per_second": counts["tokens"] / clock.seconds,
        "useful_gflops": (4 if "LoRA" in kind else 6) * products / clock.seconds / 1e9,
        "loss": mean_loss(fresh, tokenize_examples(validation, tokenizer, MAX_LENGTH)),
    }


def measure_overhead(options: argparse.Namespace, folder: Path) -> None:
    """Train for some minutes, and print the share of pre-flight, run folder and figures."""
    choice = models.choose(options.tokenizer, weights=False)
    tokenizer, source = models.load_tokenizer(choice), models.download(choice)
    examples, _ = read(options.data)
    data, model = tokenize_examples(examples, tokenizer, MAX_LENGTH), new_model(source)
    clock = _Clock(tokenizer.pad_token_id)
    about = {"prompt_format": QUESTION_ANSWER, "choice": choice, "callbacks": [clock]}
    begin = time.perf_counter()
    train(model, tokenizer, data, folder, Settings.of(num_train_epochs=5), **about)
    whole = time.perf_counter() - begin
    part = (whole - clock.seconds) / whole
    write_line(
        f"whole: {whole:.1f} s; {clock.steps} steps: {clock.seconds:.1f} s; the rest: {part:.1%}"
    )


def product_rate(precision: str) -> float:
    """Return GFLOP/s of a 2048³ matrix product, the best of 2 seconds."""
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    matrix = torch.randn(2048, 2048, device=device()).to(dtype)
    names, threads = {"matrix": matrix}, torch.get_num_threads()
    timer = benchmark.Timer("matrix @ matrix", globals=names, num_threads=threads)
    return 2 * 2048**3 / min(timer.blocked_autorange(min_run_time=2).times) / 1e9


def start(name: str, options: argparse.Namespace) -> dict[str, float]:
    """Run a program in a fresh process; return its figures."""
    command = [sys.executable, __file__, "--program", name]
    if options.memory:
        command.append("--memory")
    command += ["--data", options.data, "--tokenizer", options.tokenizer]
    one_gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    settings = {"CUDA_VISIBLE_DEVICES": one_gpu, "HF_HUB_OFFLINE": "1"}  # so no telemetry either
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **settings})
    if done.returncode:
        sys.exit(f"{name} failed:\n{done.stderr[-4000:]}")
    write_line(f"{name}: {done.stdout.splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def write_line(*cells: str) -> None:
    """Write a line, or a row of a table."""
    sys.stdout.write((f"| {' | '.join(cells)} |" if len(cells) > 1 else cells[0]) + "\n")
    sys.stdout.flush()


def against_peers(name: str, results: dict[str, dict]) -> float:
    """Return the ratio of a program's speed to that of the fastest peer with the same method."""
    peers = [n for n in results if "this package" not in n and ("LoRA" in n) == ("LoRA" in name)]
    best = max((results[n]["tokens_per_second"] for n in peers), default=float("nan"))
    return results[name]["tokens_per_second"] / best


def write_table(rounds: list[dict[str, dict]], rates: dict[str, float], memory: bool) -> None:
    """Write the medians over the rounds."""
    heads = ["tokens/s", "against peers", "loss", "steps", "useful GFLOP/s", "share"]
    heads = ["program", "peak GB", *(["above the start of training, GB"] if memory else heads)]
    write_line(*heads)
    write_line(*["---"] * len(heads))
    for name in sorted(rounds[0], key=PROGRAMS.index):
        of = {n: statistics.median(r[name][n] for r in rounds) for n in rounds[0][name]}
        if memory:
            cells = [f"{of['above_start_gb']:.2f}"]
        else:
            ratio = statistics.median(against_peers(name, results) for results in rounds)
            share = of["useful_gflops"] / rates[name[-4:]]
            cells = [f"{of['tokens_per_second']:,.0f}", f"{ratio:.2f} ×", f"{of['loss']:.3f}"]
            cells += [f"{of['steps']:.0f}", f"{of['useful_gflops']:,.1f}", f"{share:.0%}"]
        write_line(name, f"{of['peak_gb']:.2f}", *cells)


def main() -> None:
    """Run the programs one after the other and write a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data",
        default=str(bundled("data/course_assistant/train.jsonl")),
        help="JSON Lines with `question` and `answer`; the course's own by default",
    )
    parser.add_argument(
        "--tokenizer",
        default="auto",
        help="hub id or folder with tokenizer and config; the course's model by default",
    )
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", action="append", choices=PROGRAMS, metavar="PROGRAM")
    parser.add_argument("--memory", action="store_true", help="3 steps on 2,048 tokens")
    parser.add_argument("--overhead", action="store_true", help="5 epochs of this package alone")
    parser.add_argument("--json", type=Path, help="write all figures into this file")
    parser.add_argument("--program", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.program:
        with tempfile.TemporaryDirectory() as folder:
            write_line(json.dumps(run_program(options.program, options, Path(folder))))
        return
    if options.overhead:
        with tempfile.TemporaryDirectory() as folder:
            measure_overhead(options, Path(folder) / "run")
        return
    rates = {p: product_rate(p) for p in ("fp32", "bf16") if p in ("fp32", resolve_precision())}
    write_line(
        "2048³ product: " + ", ".join(f"{rate:,.0f} GFLOP/s {p}" for p, rate in rates.items())
    )
    names = options.only or (IN_MEMORY if options.memory else PROGRAMS)
    if skipped := [name for name in names if name[-4:] not in rates]:
        write_line(f"left out, since this machine has no bf16 instructions: {'; '.join(skipped)}")
    names = [name for name in names if name not in skipped]
    rounds = []
    for number in range(options.rounds):
        shift = number % len(names)
        rounds.append({name: start(name, options) for name in names[shift:] + names[:shift]})
        if options.json:
            figures = {"product_gflops": rates, "rounds": rounds}
            options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    write_table(rounds, rates, options.memory)


if __name__ == "__main__":
    main()
