"""Chat with a model in its prompt format, in a notebook or in a terminal."""

import sys
import warnings
from html import escape
from typing import TYPE_CHECKING, Any

from utilities.errors import LabError
from utilities.prompts.chat import ChatFormat
from utilities.runner.loaded_model import LoadedModel

if TYPE_CHECKING:
    from ipywidgets import VBox


class Conversation:
    """A conversation with a model.

    Attributes:
        rule: one sentence on how much of the conversation the model gets.
    """

    def __init__(self, model: LoadedModel, max_new_tokens: int = 100):
        """Start an empty conversation."""
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
        """Return the model's answer; with the chat format both are added to the conversation."""
        prompt_format = self.model.prompt_format
        if not isinstance(prompt_format, ChatFormat):
            return self.model.ask([text], self.max_new_tokens)[0]
        messages = [*self._messages, {"role": "user", "content": text}]
        prompt = prompt_format.prompt({"messages": messages})
        (answer,) = self.model.answer([prompt], self.max_new_tokens)
        self._messages = [*messages, {"role": "assistant", "content": answer}]
        return answer


def chat_box(conversation: Conversation) -> "VBox":
    """Return a widget for a notebook: a text box, a button, and the conversation."""
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
        text.on_submit(ask)  # the Enter key, for which ipywidgets 8 has no other event
    return ipywidgets.VBox([said, ipywidgets.HBox([text, send])])


def chat_in_terminal(conversation: Conversation) -> None:
    """Answer line by line, until end of input, Ctrl-C, or `quit`."""
    sys.stdout.write(f"{conversation.rule} End with `quit`.\n")
    mark = "> " if sys.stdin.isatty() else ""
    try:
        while (text := input(mark).strip()) != "quit":
            if text:
                sys.stdout.write(f"{conversation.say(text)}\n\n")
                sys.stdout.flush()
    except (EOFError, KeyboardInterrupt):
        sys.stdout.write("\n")
