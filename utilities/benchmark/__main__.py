"""Command line: `python -m utilities.benchmark`."""

import sys

import pandas as pd

from utilities.benchmark.compare import compare_items
from utilities.benchmark.run import run_config
from utilities.benchmark.settings import BenchmarkConfig
from utilities.config import command_line


def _report(config: BenchmarkConfig) -> None:
    found = run_config(config)
    columns = ["model", "task", "n", "of", "acc", "acc_low", "acc_high", "acc_norm", "chance"]
    table = pd.concat([each.scores for each in found], ignore_index=True)[columns]
    lines = [table.round(3).to_string(index=False)]
    if len(found) == 2:
        lines.append(compare_items(*found)[0].round(3).to_string(index=False))
    lines.append(f"wrote: {config.output_dir / 'scores.json'} and samples.jsonl")
    sys.stdout.write("\n".join(lines) + "\n")


def main(argv: list[str] | None = None) -> int:
    """Run benchmarks from a config file on the command line."""
    description = "Run multiple-choice benchmarks from a YAML file."
    return command_line(BenchmarkConfig, _report, "utilities.benchmark", description, argv)


if __name__ == "__main__":
    sys.exit(main())
