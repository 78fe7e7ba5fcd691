"""Talking to a model: as it was taught, in a notebook or in a terminal."""

import importlib.util
import sys
import warnings
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from utilities import models
from utilities.config import LabError, nearest
from utilities.inference import generate
from utilities.labs import RunnerError, as_row, inside
from utilities.prompts import FILE_NAME, ChatFormat, PromptFormat
from utilities.runs import RECORD, Run
from utilities.texts import template_frames

if TYPE_CHECKING:
    from ipywidgets import VBox

    from utilities.runner import BasicModelRunner

RUNS = "runs"
EXAMPLES = ("What is fine-tuning?", "How do I start?", "What do you think of Mars?")


def find_run(name: str, output_dir: str | Path = RUNS) -> Path | None:
    """Return the folder of a run, given as an id or as a folder, or None."""
    folders = (Path(name).expanduser(), Path(output_dir) / name)
    return next((folder for folder in folders if (folder / RECORD).is_file()), None)


def choose(name: str, output_dir: str | Path = RUNS) -> models.ModelChoice:
    """Return the model of a name: that of a run, or what `models.choose` takes.

    Raises:
        RunnerError: there is none, but there are runs.
        ModelError: there is none.
    """
    try:
        return models.choose(str(find_run(name, output_dir) or name))
    except models.ModelError as error:
        runs = sorted(path.parent.name for path in Path(output_dir).glob(f"*/{RECORD}"))
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


class Conversation:
    """What is said to a model, and what it answers.

    Attributes:
        rule: one sentence on what the model is given of a conversation.
    """

    def __init__(self, model: LoadedModel, max_new_tokens: int = 100):
        """Begin, with nothing said."""
        self.model, self.max_new_tokens = model, max_new_tokens
        self._messages: list[dict[str, str]] = []
        if model.prompt_format is None:
            self.rule = "No prompt format is saved with this model: it continues what you write."
        elif isinstance(model.prompt_format, ChatFormat):
            self.rule = "The model sees the whole conversation each time."
        else:
            self.rule = (
                "Each message is answered on its own, whatever was said before: the model was "
                f"trained that way (format {model.prompt_format.name})."
            )

    def say(self, text: str) -> str:
        """Return the model's answer; a chat remembers both."""
        prompt_format = self.model.prompt_format
        if not isinstance(prompt_format, ChatFormat):
            return self.model.ask([text], self.max_new_tokens)[0]
        messages = [*self._messages, {"role": "user", "content": text}]
        prompt = prompt_format.prompt({"messages": messages})
        (answer,) = self.model.answer([prompt], self.max_new_tokens)
        self._messages = [*messages, {"role": "assistant", "content": answer}]
        return answer


def chat(
    run: "BasicModelRunner | Run | str | Path",
    max_new_tokens: int = 100,
    examples: Sequence[str] = EXAMPLES,
) -> "VBox | pd.DataFrame":
    """Open a chat in a notebook; where nobody can type, answer examples instead.

    Args:
        run: a runner, a run, or whatever `BasicModelRunner` takes as a name.
        max_new_tokens: tokens an answer may have.
        examples: what is asked where no chat can be shown.

    Returns:
        The chat, for the notebook to show: a text box, a button, and what was said. Without
        ipywidgets, or where no frontend listens: a table with `you` and `model`.

    Raises:
        LabError: see `BasicModelRunner`.
    """
    if isinstance(run, Run | str | Path):
        model = LoadedModel(choose(str(run.folder if isinstance(run, Run) else run)))
    else:
        model = run.loaded
    has_widgets = importlib.util.find_spec("ipywidgets") is not None
    if has_widgets and somebody_can_type():
        return _chat_box(Conversation(model, max_new_tokens))
    missing = "nobody can type here" if has_widgets else "ipywidgets is not installed"
    is_hub = model.choice.source.startswith("hub")
    sys.stdout.write(
        f"No chat, because {missing}; here are answers to examples. In a terminal: "
        f"python -m utilities.runner chat {model.choice.name if is_hub else model.choice.folder}\n"
    )
    answers = [Conversation(model, max_new_tokens).say(text) for text in examples]
    return pd.DataFrame({"you": list(examples), "model": answers})


def somebody_can_type() -> bool:
    """Say whether the notebook is run by somebody, not by a program, which takes no input."""
    ipython = sys.modules.get("IPython")
    kernel = getattr(ipython and ipython.get_ipython(), "kernel", None)
    request = kernel.get_parent("shell") if kernel else {}
    return bool(request.get("content", {}).get("allow_stdin"))


def _chat_box(conversation: Conversation) -> "VBox":
    import ipywidgets

    wide = ipywidgets.Layout(width="100%")
    said = ipywidgets.HTML(f"<p><i>{escape(conversation.rule)}</i></p>")
    text = ipywidgets.Text(placeholder="Write to the model", layout=wide)
    send = ipywidgets.Button(description="Send", button_style="primary")

    def show(who: str, words: str) -> None:
        words = escape(words).replace("\n", "<br>")
        said.value += f'<p style="line-height:1.4"><b>{who}</b><br>{words}</p>'

    def ask(_: Any) -> None:
        words = text.value.strip()
        if words:
            text.value = ""
            show("you", words)
            try:
                show("model", conversation.say(words))
            except LabError as error:
                show("error", str(error))

    send.on_click(ask)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        text.on_submit(ask)  # the Enter key, for which ipywidgets 8 has nothing else
    return ipywidgets.VBox([said, ipywidgets.HBox([text, send])])


def chat_in_terminal(conversation: Conversation) -> None:
    """Answer line by line, until the input ends, Ctrl-C, or `quit`."""
    sys.stdout.write(f"{conversation.rule} End with `quit`.\n")
    mark = "> " if sys.stdin.isatty() else ""
    try:
        while (text := input(mark).strip()) != "quit":
            if text:
                sys.stdout.write(f"{conversation.say(text)}\n\n")
                sys.stdout.flush()
    except (EOFError, KeyboardInterrupt):
        sys.stdout.write("\n")
