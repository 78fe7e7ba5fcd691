"""Command line: `python -m utilities.training`."""

import logging
import os
import sys
from pathlib import Path
from typing import Any

from utilities.commands import Command, command_line
from utilities.training.settings import TrainingConfig


def _work(config: TrainingConfig) -> None:
    """Train, and print the result."""
    # Torch is loaded here and in `main`, not at the top, so that `--help` is quick.
    from utilities.training.distributed import processes
    from utilities.training.run import run_training

    logging.getLogger("utilities").setLevel(logging.INFO)
    run = run_training(config)
    if processes().is_main_process:
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


def _config_for(source: dict[str, Any], name: str) -> dict[str, Any]:
    (path,) = source["kwargs"].values()
    is_prepared = (Path(path) / "dataprep.json").is_file()
    data = {"prepared": path} if is_prepared else {"train": source}
    return {**data, "output_dir": f"runs/{name}"}


COMMAND = Command(
    name="training",
    purpose="Fine-tune a model: all weights, some of them, or a LoRA adapter.",
    model=TrainingConfig,
    work=_work,
    form="configs/starting_point/finetune.yaml",
    config_for=_config_for,
)


def main(argv: list[str] | None = None) -> int:
    """Train from a config file on the command line; return the exit status."""
    if "LOCAL_RANK" not in os.environ:
        return command_line(COMMAND, argv)
    # One of several processes, which a launcher has started.
    from utilities.training.distributed import processes, with_buffered_stderr

    if os.environ["LOCAL_RANK"] == "0":
        status = command_line(COMMAND, argv)
    else:
        status = with_buffered_stderr(lambda: command_line(COMMAND, argv))
    if status == 0:
        processes().destroy_process_group()
    return status


if __name__ == "__main__":
    sys.exit(main())
