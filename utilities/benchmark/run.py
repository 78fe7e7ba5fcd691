"""A benchmark from its config."""

import json

import pandas as pd

from utilities import models
from utilities.benchmark.compare import Benchmark, compare_items
from utilities.benchmark.harness import run_benchmark
from utilities.benchmark.settings import BenchmarkConfig
from utilities.files import atomic_write


def run_config(config: BenchmarkConfig, progress: bool = True) -> list[Benchmark]:
    """Do all that a config says, and write its files at the end.

    Returns:
        The benchmark of the base model, where there is one, and that of the model.

    Raises:
        LabError: see `run_benchmark`.
    """
    wanted = [name for name in (config.base_model, config.model) if name]
    choices = [models.choose(name) for name in wanted]
    settings = config.model_dump(include={"tasks", "limit", "data_files", "batch_tokens", "dtype"})
    found = [
        run_benchmark(choice, **settings, seed=config.seed, progress=progress) for choice in choices
    ]
    config.output_dir.mkdir(parents=True, exist_ok=True)
    scores = pd.concat([each.scores for each in found], ignore_index=True)
    report = {"scores": scores.to_dict(orient="records"), "runs": [each.record for each in found]}
    samples = pd.concat([each.samples.assign(model=each.record["model"]["name"]) for each in found])
    with atomic_write(config.output_dir / "samples.jsonl") as file:
        samples.to_json(file, orient="records", lines=True, force_ascii=False)
    if len(found) == 2:
        table, flips = compare_items(*found)
        report["comparison"] = table.to_dict(orient="records")
        with atomic_write(config.output_dir / "flips.csv") as file:
            flips.to_csv(file, index=False)
    text = json.dumps(report, indent=2, ensure_ascii=False, default=str) + "\n"
    with atomic_write(config.output_dir / "scores.json") as file:
        file.write_text(text, encoding="utf-8")
    return found
