"""A loaded model with the prompt format that is saved with it."""

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
    """Return the folder of a run, given by its id or its folder; None if there is none."""
    folders = (Path(name).expanduser(), Path(output_dir) / name)
    return next((folder for folder in folders if (folder / RUN_RECORD).is_file()), None)


def choose_run(name: str, output_dir: str | Path = RUNS) -> models.ModelChoice:
    """Choose a model by name: the id or folder of a run, or a name that `models.choose` takes.

    Raises:
        RunnerError: there is no such model, but there are runs.
        ModelError: there is no such model.
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
    """Return the prompt format saved with a model; None for one without prompt, such as `text`."""
    folder = models.download(choice)
    saved = PromptFormat.load(folder) if (folder / FILE_NAME).is_file() else None
    return saved if saved and saved.prompt_columns else None


class LoadedModel:
    """A model with its tokenizer and prompt format.

    Attributes:
        choice: which model it is, and where its weights come from.
        prompt_format: makes the prompts; None if the model continues plain text.
    """

    def __init__(self, choice: models.ModelChoice, prompt_format: PromptFormat | None = None):
        """Load a model, and print which; the format is by default the one saved with it."""
        sys.stdout.write(f"model: {choice}\n")
        self.choice = choice
        self.prompt_format = prompt_format or saved_format(choice)
        self._model, self._tokenizer = models.load(choice)

    def ask(self, texts: Sequence[str], max_new_tokens: int, stop: Sequence[str] = ()) -> list[str]:
        """Answer questions, each by itself; a text that is a prompt already is not wrapped again.

        Args:
            texts: questions; for a model without a format, texts to continue.
            max_new_tokens: maximum number of tokens of an answer, 1 or more.
            stop: strings that end an answer, in addition to those of the format.
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
        """Generate the answers to prompts; see `ask`."""
        stop = [*stop, *(self.prompt_format.stop if self.prompt_format else ())]
        return generate(
            self._model,
            self._tokenizer,
            prompts,
            max_new_tokens,
            stop=stop,
            progress=len(prompts) > 1,
        )
