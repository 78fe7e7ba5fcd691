"""How fast are question/answer rows prepared for training? Three programs, the same rows.

    python benchmarks/data_preparation.py --data lamini_docs.jsonl --tokenizer EleutherAI/pythia-70m
    python benchmarks/data_preparation.py     rows of the course, tokenizer of the model at hand

Needs `pip install -c constraints.txt -e ".[peers]"`. Each program runs in a process of its own, one
after the other, `--rounds` times, and the best time of each counts; reading the file is part of it,
start-up and imports are not.

- `one row at a time`: the loop that many courses teach, `map(batch_size=1)`, tokenizing each text
  twice to find its length; no masks.
- `TRL`: what `SFTTrainer` does with prompt/completion columns before training, packed by its
  best-fit, with one and with two processes.
- `this package`: `utilities.dataprep`: masks, packing, and a dataset on the disk.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PACKED_LENGTH = 2048


def repeated(data: Path, rows: int, folder: Path) -> Path:
    """Repeat the rows of a file until there are enough, without those that lack an answer."""
    lines = [line for line in data.read_text(encoding="utf-8").splitlines() if line.strip()]
    good = [line for line in lines if json.loads(line)["answer"].strip()]
    path = folder / "rows.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for number in range(rows):
            file.write(good[number % len(good)] + "\n")
    return path


def one_row_at_a_time(path: Path, tokenizer_name: str, folder: Path) -> dict:
    """Tokenize row by row."""
    import datasets
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_name)
    tokenizer.pad_token = tokenizer.eos_token

    def tokenize(batch: dict) -> dict:
        text = batch["question"][0] + batch["answer"][0]
        length = min(tokenizer(text, return_tensors="np", padding=True)["input_ids"].shape[1], 2048)
        tokenizer.truncation_side = "left"
        return tokenizer(text, return_tensors="np", truncation=True, max_length=length)

    start = time.perf_counter()
    loaded = datasets.load_dataset("json", data_files=str(path), split="train", cache_dir=folder)
    # Such courses then add the labels as another column: far slower, and not measured.
    done = loaded.map(tokenize, batched=True, batch_size=1, drop_last_batch=True)
    return {"seconds": time.perf_counter() - start, "rows": len(done)}


def trl(path: Path, tokenizer_name: str, folder: Path, processes: int) -> dict:
    """Let TRL prepare prompt/completion rows, packed."""
    import datasets
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_name)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = AutoConfig.for_model("gpt_neox", vocab_size=len(tokenizer), **sizes)
    model = AutoModelForCausalLM.from_config(config)
    arguments = SFTConfig(
        output_dir=str(folder),
        max_length=PACKED_LENGTH,
        packing=True,
        packing_strategy="bfd",
        dataset_num_proc=processes if processes > 1 else None,
        bf16=False,
        use_cpu=True,
        report_to="none",
    )
    start = time.perf_counter()
    loaded = datasets.load_dataset("json", data_files=str(path), split="train", cache_dir=folder)
    loaded = loaded.select_columns(["question", "answer"])
    loaded = loaded.rename_columns({"question": "prompt", "answer": "completion"})
    trainer = SFTTrainer(model, arguments, train_dataset=loaded, processing_class=tokenizer)
    seconds = time.perf_counter() - start
    packed = trainer.train_dataset
    sample = packed.select(range(min(len(packed), 2000)))
    filled = sum(map(len, sample["input_ids"])) / (PACKED_LENGTH * len(sample))
    return {"seconds": seconds, "packed_rows": len(packed), "filled": filled}


def this_package(path: Path, tokenizer_name: str, folder: Path, processes: int) -> dict:
    """Prepare the same with `utilities.dataprep`, down to a dataset on the disk."""
    from utilities.dataprep.preparation import prepare
    from utilities.dataprep.settings import DataprepConfig
    from utilities.prompts.template import TemplateFormat

    values = {
        "source": str(path),
        "base_model": tokenizer_name,
        "prompt_format": TemplateFormat(template="{question}", response="{answer}"),
        "max_length": PACKED_LENGTH,
        "packing": "best_fit",
        "num_proc": processes,
        "writer": {"kwargs": {"dataset_path": str(folder / "out")}},
    }
    start = time.perf_counter()
    prepared = prepare(DataprepConfig(**values))
    seconds = time.perf_counter() - start
    counts = prepared.record["counts"]["parts"]["train"]
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {
        "seconds": seconds,
        "packed_rows": counts["packed_rows"],
        "filled": counts["tokens"] / counts["positions"],
        "peak_gb": memory,
    }


PROGRAMS = {
    "one row at a time": one_row_at_a_time,
    "TRL, 1 process": lambda *a: trl(*a, processes=1),
    "TRL, 2 processes": lambda *a: trl(*a, processes=2),
    "this package, 1 process": lambda *a: this_package(*a, processes=1),
    "this package, 2 processes": lambda *a: this_package(*a, processes=2),
}


def packing_only(rows: int) -> dict[str, float]:
    """Pack the same lengths with TRL's best-fit and with this package; return the seconds."""
    import datasets
    import numpy as np
    from trl.data_utils import pack_dataset

    from utilities.features.packing import pack

    lengths = np.random.default_rng(0).lognormal(4.4, 0.5, rows).astype(int).clip(8, PACKED_LENGTH)
    values = {
        "input_ids": [list(range(n)) for n in lengths.tolist()],
        "labels": [list(range(n)) for n in lengths.tolist()],
    }
    features = datasets.Dataset.from_dict({**values, "full_text": [""] * rows})
    seconds = {}
    start = time.perf_counter()
    ours = pack(features, PACKED_LENGTH, 0)
    seconds["this package"] = time.perf_counter() - start
    start = time.perf_counter()
    plain = features.remove_columns("full_text").with_format("arrow")
    theirs = pack_dataset(plain, PACKED_LENGTH, "bfd", {"load_from_cache_file": False})
    seconds["TRL"] = time.perf_counter() - start
    print(f"packed rows: {len(ours)} (this package), {len(theirs)} (TRL)")
    return seconds


def main() -> None:
    """Run the programs one after the other and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="JSON Lines with `question` and `answer`")
    parser.add_argument("--tokenizer", help="a hub id or a folder")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", nargs="*", default=list(PROGRAMS), choices=list(PROGRAMS))
    parser.add_argument("--program", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.program:
        with tempfile.TemporaryDirectory() as folder:
            result = PROGRAMS[options.program](options.data, options.tokenizer, Path(folder))
        print("RESULT", json.dumps(result))
        return
    from utilities import models
    from utilities.config import bundled

    data = options.data or bundled("data/course_assistant/train.jsonl")
    tokenizer = options.tokenizer or str(models.download(models.choose()))
    best: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = repeated(data, options.rows, Path(folder))
        for _ in range(options.rounds):
            for name in options.only:
                command = [sys.executable, __file__, "--program", name, "--data", path]
                command += ["--tokenizer", tokenizer]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                line = next(x for x in done.stdout.splitlines() if x.startswith("RESULT "))
                result = json.loads(line.removeprefix("RESULT "))
                print(
                    f"{name}: {options.rows / result['seconds']:,.0f} rows/s {result}", flush=True
                )
                if name not in best or result["seconds"] < best[name]["seconds"]:
                    best[name] = result
    slowest = next(iter(best.values()))["seconds"]
    print(
        "\n| program | rows/s | against the first | packed rows | filled |\n|---|---|---|---|---|"
    )
    for name, result in best.items():
        speed = options.rows / result["seconds"]
        filled = f"{result['filled']:.1%}" if "filled" in result else "–"
        print(
            f"| {name} | {speed:,.0f} | {slowest / result['seconds']:.1f} × "
            f"| {result.get('packed_rows', '–')} | {filled} |"
        )
    if any(name.startswith("TRL") for name in options.only):
        seconds = packing_only(options.rows)
        print("packing alone:", {name: f"{value:.2f} s" for name, value in seconds.items()})


if __name__ == "__main__":
    main()
