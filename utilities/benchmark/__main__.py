"""Command line: `python -m utilities.benchmark`."""

import sys
from typing import Any

from utilities.benchmark.settings import BenchmarkConfig
from utilities.commands import Command, command_line


def _work(config: BenchmarkConfig) -> None:
    import pandas as pd

    from utilities.benchmark.compare import compare_items
    from utilities.benchmark.run import run_config

    benchmarks = run_config(config)
    columns = ["model", "task", "n", "of", "acc", "acc_low", "acc_high", "acc_norm", "chance"]
    table = pd.concat([benchmark.scores for benchmark in benchmarks], ignore_index=True)[columns]
    lines = [table.round(3).to_string(index=False)]
    if len(benchmarks) == 2:
        base, tuned = benchmarks
        lines.append(compare_items(base, tuned)[0].round(3).to_string(index=False))
    lines.append(f"wrote: {config.output_dir / 'scores.json'} and samples.jsonl")
    sys.stdout.write("\n".join(lines) + "\n")


def _config_for(source: dict[str, Any], name: str) -> dict[str, Any]:
    (path,) = source["kwargs"].values()
    return {
        "model": "auto",
        "tasks": ["arc_easy"],
        "data_files": {"arc_easy": path},
        "output_dir": f"runs/{name}_benchmark",
    }


COMMAND = Command(
    name="benchmark",
    purpose="Run multiple-choice benchmarks on a model.",
    model=BenchmarkConfig,
    work=_work,
    form="configs/course_assistant/arc.yaml",
    config_for=_config_for,
)


def main(argv: list[str] | None = None) -> int:
    """Run benchmarks from a config file."""
    return command_line(COMMAND, argv)


if __name__ == "__main__":
    sys.exit(main())
