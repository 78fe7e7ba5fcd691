"""A loaded model, asked in the prompt format that is saved with it."""

import sys
from collections.abc import Sequence
from pathlib import Path

from utilities import errors, models
from utilities.audit.text_checks import template_frames
from utilities.errors import RunnerError, nearest
from utilities.inference.local_model import generate
from utilities.prompts.base import FILE_NAME, PromptFormat
from utilities.runner.lab_functions import as_row, inside
from utilities.training.run_folder import RUN_RECORD

RUNS = "runs"


def find_run(name: str, output_dir: str | Path = RUNS) -> Path | None:
    """Return the folder of a run, given as an id or as a folder, or None."""
    folders = (Path(name).expanduser(), Path(output_dir) / name)
    return next((folder for folder in folders if (folder / RUN_RECORD).is_file()), None)


def choose_run(name: str, output_dir: str | Path = RUNS) -> models.ModelChoice:
    """Return the model of a name: that of a run, or what `models.choose` takes.

    Raises:
        RunnerError: there is none, but there are runs.
        ModelError: there is none.
    """
    try:
        return models.choose(str(find_run(name, output_dir) or name))
    except errors.ModelError as error:
        runs = sorted(path.parent.name for path in Path(output_dir).glob(f"*/{RUN_RECORD}"))
        if "/" in name or not runs:
            raise
        known = f"{output_dir} has no such run{nearest(name, runs)} It has: {', '.join(runs)}"
        raise RunnerError(f"{error}; {known}") from None


def saved_format(choice: models.ModelChoice) -> PromptFormat | None:
    """Return the prompt format saved with a model, unless it asks nothing (as `text` does)."""
    folder = models.download(choice)
    saved = PromptFormat.load(folder) if (folder / FILE_NAME).is_file() else None
    return saved if saved and saved.prompt_columns else None


class LoadedModel:
    """A model with its tokenizer, and the prompt format it is asked in.

    Attributes:
        choice: where it comes from.
        prompt_format: None where the model continues what it is given.
    """

    def __init__(self, choice: models.ModelChoice, prompt_format: PromptFormat | None = None):
        """Load a model, and tell which; without a format it gets the one saved with it."""
        sys.stdout.write(f"model: {choice}\n")
        self.choice = choice
        self.prompt_format = prompt_format or saved_format(choice)
        self._model, self._tokenizer = models.load(choice)

    def ask(self, texts: Sequence[str], max_new_tokens: int, stop: Sequence[str] = ()) -> list[str]:
        """Answer questions, each by itself; a text that is in a template already stays in it.

        Args:
            texts: questions; for a model without a format, texts to continue.
            max_new_tokens: tokens an answer may have, 1 or more.
            stop: strings that end an answer, beside those of the format.
        """
        prompt_format, prompts = self.prompt_format, texts
        if prompt_format is not None:
            frames = template_frames(prompt_format)
            rows = [as_row(prompt_format, inside(text, frames)) for text in texts]
            prompts = [prompt_format.prompt(row) for row in rows]
        return self.answer(prompts, max_new_tokens, stop)

    def answer(
        self, prompts: Sequence[str], max_new_tokens: int, stop: Sequence[str] = ()
    ) -> list[str]:
        """Answer prompts as they are; see `ask`."""
        stop = [*stop, *(self.prompt_format.stop if self.prompt_format else ())]
        return generate(
            self._model,
            self._tokenizer,
            prompts,
            max_new_tokens,
            stop=stop,
            progress=len(prompts) > 1,
        )
