"""Command line: `python -m utilities.evaluation`."""

import sys

from utilities.config import command_line
from utilities.evaluation.run import run_evaluation
from utilities.evaluation.settings import EvaluationConfig
from utilities.scores.metrics import SHARES


def _report(config: EvaluationConfig) -> None:
    evaluation = run_evaluation(config)
    chosen = evaluation.scores[evaluation.scores["metric"].isin(SHARES)]
    chosen = chosen.dropna(axis="columns", how="all").round(3).fillna("")
    failed = sum(evaluation.record["failed"].values())
    lines = [chosen.to_string(index=False)]
    lines += [f"{failed} answers failed; see the column `error`"] if failed else []
    lines.append(f"wrote: {config.output_dir / 'report.html'}, predictions and scores beside it")
    sys.stdout.write("\n".join(lines) + "\n")


def main(argv: list[str] | None = None) -> int:
    """Evaluate from a config file on the command line."""
    return command_line(
        EvaluationConfig,
        _report,
        "utilities.evaluation",
        "Evaluate a model from a YAML file.",
        argv,
    )


if __name__ == "__main__":
    sys.exit(main())
