"""How fast are multiple-choice items scored? This package and lm-evaluation-harness, one model.

    python benchmarks/multiple_choice.py --tokenizer EleutherAI/pythia-70m

A model of the config's shape with random weights, float32, scores the bundled science questions
(336 items, 1,344 requests). Each program runs in a process of its own, one after the other, the
order rotated from round to round. Scoring is the time in which the log-probabilities are computed;
start-up is the rest of the process: imports, loading the model, making requests, writing.

- `harness`: its command line, `lm_eval`, at several batch sizes.
- `this package`: `python -m utilities.benchmark`.

The picks of the programs are compared item by item.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import transformers

from utilities import models
from utilities.benchmark.tasks import BUNDLED, TASKS, over_file
from utilities.config import bundled

PROGRAMS = ["harness, batches of 8", "harness, batches of 32", "harness, batches of 64"]
PROGRAMS += ["this package"]

# Runs a module and prints the seconds that the harness's model class spent on log-probabilities.
TIMED = """
import runpy, sys, time
from lm_eval.models.huggingface import HFLM
inner = HFLM.loglikelihood
def timed(self, *arguments, **options):
    start = time.perf_counter()
    result = inner(self, *arguments, **options)
    sys.__stdout__.write(f"\\nscoring: {time.perf_counter() - start}\\n")
    return result
HFLM.loglikelihood = timed
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def start(name: str, model: Path, folder: Path) -> dict:
    """Run a program; return its seconds and its picks by item."""
    if name == "this package":
        config = folder / "arc.yaml"
        config.write_text(f"model: {model}\noutput_dir: ours\n")
        command = ["utilities.benchmark", str(config)]
    else:
        batch, tasks = name.split()[-1], folder / "tasks"
        tasks.mkdir(exist_ok=True)
        spec = over_file(TASKS / f"{BUNDLED}.yaml", bundled("data/science_questions/test.jsonl"))
        (tasks / "science_questions.yaml").write_text(json.dumps(spec))
        command = ["lm_eval", "run", "--model", "hf", "--device", "cpu", "--tasks", BUNDLED]
        command += ["--model_args", f"pretrained={model},dtype=float32", "--batch_size", batch]
        command += ["--include_path", str(tasks), "--log_samples", "--output_path"]
        command += [str(folder / "theirs")]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", TIMED, *command], capture_output=True, text=True, env=environment
    )
    whole = time.perf_counter() - begin
    if done.returncode:
        sys.exit(f"{name} failed:\n{done.stderr[-4000:]}")
    scoring = next(line for line in done.stdout.splitlines() if line.startswith("scoring: "))
    seconds = {"whole": whole, "scoring": float(scoring.split()[1])}
    sys.stdout.write(f"{name}: {seconds}\n")
    sys.stdout.flush()
    return seconds | {"picked": picks(name, folder)}


def picks(name: str, folder: Path) -> dict[int, int]:
    """Return the index of the picked choice, by item."""
    if name == "this package":
        lines = (folder / "ours" / "samples.jsonl").read_text(encoding="utf-8").splitlines()
        return {row["item"]: row["picked"] for row in map(json.loads, lines)}
    file = max((folder / "theirs").rglob("samples_*.jsonl"), key=lambda path: path.stat().st_mtime)
    rows = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    log_probabilities = {
        row["doc_id"]: [float(response[0]) for response in row["filtered_resps"]] for row in rows
    }
    return {item: values.index(max(values)) for item, values in log_probabilities.items()}


def main() -> None:
    """Run the programs one after the other and write a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokenizer", default="auto", help="hub id or folder with config")
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name_of_folder:
        folder = Path(name_of_folder)
        model = folder / "model"
        choice = models.choose(options.tokenizer, weights=False)
        transformers.set_seed(0)
        config = transformers.AutoConfig.from_pretrained(models.download(choice))
        network = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        network.save_pretrained(model)
        models.load_tokenizer(choice).save_pretrained(model)
        rounds = []
        for number in range(options.rounds):
            shift = number % len(PROGRAMS)
            order = PROGRAMS[shift:] + PROGRAMS[:shift]
            rounds.append({name: start(name, model, folder) for name in order})
    sys.stdout.write("| program | items/s | start-up, s | against harness 32 | same pick |\n")
    sys.stdout.write("| --- | --- | --- | --- | --- |\n")
    first = "harness, batches of 32"
    for name in PROGRAMS:
        scoring = statistics.median(results[name]["scoring"] for results in rounds)
        rest = [results[name]["whole"] - results[name]["scoring"] for results in rounds]
        ratios = [results[first]["scoring"] / results[name]["scoring"] for results in rounds]
        picked, theirs = rounds[0][name]["picked"], rounds[0][first]["picked"]
        same = sum(picked[item] == theirs[item] for item in theirs)
        cells = [f"{len(theirs) / scoring:.1f}", f"{statistics.median(rest):.1f}"]
        cells += [f"{statistics.median(ratios):.2f} ×", f"{same} of {len(theirs)}"]
        sys.stdout.write(f"| {name} | {' | '.join(cells)} |\n")


if __name__ == "__main__":
    main()
