"""A benchmark as a config describes it."""

import json

import pandas as pd

from utilities import models
from utilities.benchmark.compare import compare_items
from utilities.benchmark.harness import run_benchmark
from utilities.benchmark.result import Benchmark
from utilities.benchmark.settings import BenchmarkConfig
from utilities.files import atomic_write


def run_config(config: BenchmarkConfig, progress: bool = True) -> list[Benchmark]:
    """Run the benchmarks of a config; write its files at the end.

    Returns:
        The benchmark of the base model, where there is one, and that of the model.

    Raises:
        LabError: see `run_benchmark`.
    """
    names = [name for name in (config.base_model, config.model) if name]
    choices = [models.choose(name) for name in names]
    settings = config.model_dump(include={"tasks", "limit", "data_files", "batch_tokens", "dtype"})
    results = [
        run_benchmark(choice, **settings, seed=config.seed, progress=progress) for choice in choices
    ]
    config.output_dir.mkdir(parents=True, exist_ok=True)
    scores = pd.concat([result.scores for result in results], ignore_index=True)
    report = {
        "scores": scores.to_dict(orient="records"),
        "runs": [result.record for result in results],
    }
    samples = pd.concat(
        [result.samples.assign(model=result.record["model"]["name"]) for result in results]
    )
    with atomic_write(config.output_dir / "samples.jsonl") as file:
        samples.to_json(file, orient="records", lines=True, force_ascii=False)
    if len(results) == 2:
        table, flips = compare_items(*results)
        report["comparison"] = table.to_dict(orient="records")
        with atomic_write(config.output_dir / "flips.csv") as file:
            flips.to_csv(file, index=False)
    text = json.dumps(report, indent=2, ensure_ascii=False, default=str) + "\n"
    with atomic_write(config.output_dir / "scores.json") as file:
        file.write_text(text, encoding="utf-8")
    return results
