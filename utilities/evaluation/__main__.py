"""Command line: `python -m utilities.evaluation`."""

import sys
from typing import Any

from utilities.commands import Command, command_line
from utilities.evaluation.settings import EvaluationConfig


def _work(config: EvaluationConfig) -> None:
    from utilities.evaluation.run import run_evaluation
    from utilities.scores.metrics import SHARES

    evaluation = run_evaluation(config)
    scores = evaluation.scores[evaluation.scores["metric"].isin(SHARES)]
    scores = scores.dropna(axis="columns", how="all").round(3).fillna("")
    lines = [scores.to_string(index=False)]
    if failed := sum(evaluation.record["failed"].values()):
        lines.append(f"{failed} answers failed; see the column `error`")
    lines.append(f"wrote: {config.output_dir / 'report.html'}, predictions and scores beside it")
    sys.stdout.write("\n".join(lines) + "\n")


def _config_for(source: dict[str, Any], name: str) -> dict[str, Any]:
    return {"model": "auto", "test": source, "output_dir": f"runs/{name}_evaluation"}


COMMAND = Command(
    name="evaluation",
    purpose="Evaluate a model: answers, metrics with intervals, a report.",
    model=EvaluationConfig,
    work=_work,
    form="configs/starting_point/evaluate.yaml",
    config_for=_config_for,
)


def main(argv: list[str] | None = None) -> int:
    """Evaluate from a config file."""
    return command_line(COMMAND, argv)


if __name__ == "__main__":
    sys.exit(main())
