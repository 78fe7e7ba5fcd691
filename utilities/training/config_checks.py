"""Checks of the settings alone: what cannot work is refused before data and weights are loaded."""

from pathlib import Path
from typing import cast

import torch
import transformers
from transformers import SchedulerType, TrainingArguments
from transformers.training_args import OptimizerNames

from utilities.errors import TrainingError
from utilities.tracking import check_tracker
from utilities.training.distributed import processes
from utilities.training.settings import Settings, make_training_arguments
from utilities.training.unfinished_run import UnfinishedRun

TRIAL_STEPS = 100  # of a run whose number of steps depends on the data


def check_settings(
    settings: Settings, output_dir: str | Path, has_validation: bool
) -> UnfinishedRun:
    """Check that a run could be written, and that its settings fit together.

    Args:
        settings: as for `train`.
        output_dir: the run folder to make.
        has_validation: whether there are validation data to evaluate on.

    Returns:
        The run, not begun yet.

    Raises:
        TrainingError: the run folder is in the way, or being written by another run; settings do
            not fit together; the library refuses a value; the optimizer's package is missing.
        TrackingError: the tracker's package is missing.
    """
    run = UnfinishedRun(settings, Path(output_dir), has_validation)
    processes(run.arguments.get("ddp_timeout", 1800))  # the first call sets how long they wait
    run.check_place()
    if settings.tracking:
        check_tracker(settings.tracking)
    arguments = make_training_arguments(run.partial / "checkpoints", settings, has_validation)
    _check_optimizer(arguments)
    trial_scheduler(arguments, max(arguments.max_steps, TRIAL_STEPS))
    return run


def _check_optimizer(arguments: TrainingArguments) -> None:
    """Have the library import the optimizer's class and read its options."""
    try:
        transformers.Trainer.get_optimizer_cls_and_kwargs(arguments)
    except (ImportError, NotImplementedError, TypeError, ValueError) as error:
        # GaLore, APOLLO and LOMO also need a model, which is not there yet; they ask for it last.
        if "need to pass a" not in str(error):
            name = OptimizerNames(arguments.optim).value
            raise TrainingError(f"optim {name}: {error}") from None


def trial_scheduler(
    arguments: TrainingArguments, steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """Return the learning rate scheduler of a run, for an optimizer of one weight.

    Args:
        arguments: with the scheduler's name and options.
        steps: steps of the run.

    Raises:
        TrainingError: it lacks an option, or refuses one.
    """
    weight = torch.zeros(1, requires_grad=True)
    try:
        return transformers.get_scheduler(
            arguments.lr_scheduler_type,
            torch.optim.SGD([weight], lr=arguments.learning_rate),
            num_warmup_steps=arguments.get_warmup_steps(steps),
            num_training_steps=steps,
            scheduler_specific_kwargs=cast(dict | None, arguments.lr_scheduler_kwargs),
        )
    except (TypeError, ValueError) as error:
        name = SchedulerType(arguments.lr_scheduler_type).value
        raise TrainingError(f"lr_scheduler_type {name}: {error}") from None
