"""Command line: `python -m utilities.training`."""

import logging
import os
import sys
from collections.abc import Callable

from utilities.config import command_line
from utilities.training.settings import TrainingConfig


def _report(config: TrainingConfig) -> None:
    """Train, and print what came of it."""
    # Torch is loaded here and in `_main_of_rank`, not at the top, so that `--help` is quick.
    from utilities.training.distributed import processes
    from utilities.training.run import run_training

    logging.getLogger("utilities").setLevel(logging.INFO)
    run = run_training(config)
    if not processes().is_main_process:
        return
    losses = run.history["loss"].dropna()
    trained = run.record["weights"][-1]
    best = run.best()
    lines = [
        f"model:    {run.record['model']['name']}, because {run.record['model']['reason']}",
        *(f"{name + ':':<9} {counts}" for name, counts in run.record["data"].items()),
        f"weights:  {trained['trained']:,} of {trained['weights']:,} trained",
        f"loss:     {losses.iloc[0]:.3f} → {losses.iloc[-1]:.3f} in {run.record['seconds']} s",
        f"kept:     step {best['step']}, {best['metric']} {best['value']:.4f}",
        f"wrote:    {run.folder}",
    ]
    sys.stdout.write("\n".join(lines) + "\n")


def main(argv: list[str] | None = None) -> int:
    """Train from a config file on the command line; return the exit status."""

    def work() -> int:
        purpose = "Fine-tune a model from a YAML file."
        return command_line(TrainingConfig, _report, "utilities.training", purpose, argv)

    if "LOCAL_RANK" not in os.environ:
        return work()
    return _main_of_rank(work)


def _main_of_rank(work: Callable[[], int]) -> int:
    """Do the work in one of several processes, which a launcher has started."""
    from utilities.training.distributed import processes, with_buffered_stderr

    status = work() if os.environ["LOCAL_RANK"] == "0" else with_buffered_stderr(work)
    if status == 0:
        processes().destroy_process_group()
    return status


if __name__ == "__main__":
    sys.exit(main())
