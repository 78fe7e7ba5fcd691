"""Prompt formats: the one place where a row becomes text.

A format turns a row into an example `{prompt, response}`. Training and generation use the same
object, which is saved beside the data and the model, so that a model is always asked the way it was
taught.
"""

import functools
import json
import re
import string
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, WrapValidator, field_validator

from utilities.config import LabError, StrictModel, nearest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FILE_NAME = "prompt_format.json"


class PromptError(LabError):
    """A prompt format that is unknown, broken, or does not fit the row."""


class PromptFormat(StrictModel):
    """What every prompt format can do.

    Attributes:
        name: how the format is called in configs and in the saved file.
        stop: strings that end a generated answer, for models that do not stop by themselves.
    """

    name: str
    stop: tuple[str, ...] = ()

    @property
    @abstractmethod
    def prompt_columns(self) -> list[str]:
        """The columns that the prompt needs."""

    @property
    @abstractmethod
    def columns(self) -> list[str]:
        """The columns that a training row needs."""

    @property
    def optional_columns(self) -> list[str]:
        """Columns that are used where a row has them, such as `contexts`."""
        return []

    def bind(self, tokenizer: "PreTrainedTokenizerBase") -> "PromptFormat":
        """Return the format as it is with this tokenizer; only `chat` depends on it."""
        return self

    def without_last_context(self, row: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the row with one context fewer, or None when it has none to give up."""
        return None

    @abstractmethod
    def fault(self, row: Mapping[str, Any]) -> str | None:
        """Say in what a row does not fit, or return None."""

    @abstractmethod
    def prompt(self, row: Mapping[str, Any]) -> str:
        """Return the text a model is given.

        Raises:
            PromptError: the row lacks a column.
        """

    @abstractmethod
    def example(self, row: Mapping[str, Any]) -> dict[str, str | list[str]]:
        """Return the training example `{"prompt": …, "response": …}` of a row.

        Both are text; of a conversation with several answers both are lists of as many texts.

        Raises:
            PromptError: the row lacks a column.
        """

    def asked(self, row: Mapping[str, Any]) -> str:
        """Return what a row asks, without the format's own words; a split compares rows by it."""
        names = [*self.prompt_columns, *self.optional_columns] or self.columns
        return "\n".join(str(row[name]) for name in names if row.get(name))

    def reference(self, row: Mapping[str, Any]) -> str:
        """Return the answer of a row, as a right answer to its prompt would read."""
        response = self.example(row)["response"]
        return str(response if isinstance(response, str) else response[-1]).strip()

    def save(self, folder: str | Path) -> Path:
        """Write the format as `prompt_format.json` into a folder; return the file."""
        path = Path(folder) / FILE_NAME
        path.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")
        return path

    @staticmethod
    def load(folder: str | Path) -> "PromptFormat":
        """Read the format that was saved in a folder.

        Raises:
            PromptError: the folder holds none, or the file is damaged.
        """
        path = Path(folder) / FILE_NAME
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            kind = ChatFormat if "chat_template" in values else TemplateFormat
            return kind.model_validate(values)
        except FileNotFoundError:
            raise PromptError(
                f"{folder} holds no {FILE_NAME}; name the prompt format it was trained with"
            ) from None
        except (ValueError, TypeError, ValidationError) as error:
            raise PromptError(f"{path} is damaged: {error}") from None


@functools.cache
def _columns(template: str) -> tuple[str, ...]:
    """Return the column names that a template fills in, in order, without repeats."""
    names = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
    return tuple(dict.fromkeys(names))


def _not_text(value: Any) -> str | None:
    """Return what a value is that is neither text nor a list of texts, else None."""
    items = value if isinstance(value, list | tuple) else [value]
    for item in items:
        if not isinstance(item, str):
            return f"{type(item).__name__}: {item!r:.80}"
        if not item.isascii() and not _is_whole(item):
            return f"half of a character (a lone surrogate) in {item!a:.80}"
    return None


def _is_whole(text: str) -> bool:
    """Say whether each character is one; JSON can hold half of an emoji, which is no text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class TemplateFormat(PromptFormat):
    """A template for the prompt and one for the response, with `{column}` for a row's values.

    Attributes:
        template: the prompt, up to the place where the response begins; empty when all of the text
            is to be learned. Or several, from the most columns to the fewest: a row takes the first
            whose columns it can fill.
        response: the response; what follows it is the end-of-text token, never more text.
        list_separator: stands between the items of a column that holds a list of texts.

    Example:
        >>> QUESTION_ANSWER.prompt({"question": "What is an epoch?"})
        '### Question:\\nWhat is an epoch?\\n\\n### Answer:\\n'
    """

    name: str = "custom"
    template: str | tuple[str, ...]
    response: str
    list_separator: str = "\n\n"

    @field_validator("template", "response")
    @classmethod
    def _fills_in_columns(
        cls, value: str | tuple[str, ...], info: ValidationInfo
    ) -> str | tuple[str, ...]:
        templates = (value,) if isinstance(value, str) else value
        if templates == ("",) and info.field_name == "template":
            return value
        for text in templates:
            try:
                columns = _columns(text)
            except ValueError as error:
                raise ValueError(f"{error}; write {{{{ and }}}} for braces in the text") from None
            if any(spec or change for _, _, spec, change in string.Formatter().parse(text)):
                raise ValueError("a column stands alone in its braces, without `:` or `!`")
            if not columns or not all(column.isidentifier() for column in columns):
                raise ValueError("expected at least one {column} to fill in, each a plain name")
            if lacking := set(_columns(templates[-1])) - set(columns):
                raise ValueError(f"a template lacks {sorted(lacking)}, which the last one has")
        if not templates:
            raise ValueError("expected a template, found an empty list")
        return value

    @functools.cached_property
    def templates(self) -> tuple[str, ...]:
        """The prompt templates, however many there are."""
        return (self.template,) if isinstance(self.template, str) else self.template

    @functools.cached_property
    def prompt_columns(self) -> list[str]:
        """The columns that the prompt needs."""
        return list(_columns(self.templates[-1]))

    @functools.cached_property
    def columns(self) -> list[str]:
        """The columns that a training row needs."""
        return list(dict.fromkeys(_columns(self.templates[-1]) + _columns(self.response)))

    @functools.cached_property
    def optional_columns(self) -> list[str]:
        """The columns of the fuller templates; a row may lack them, or hold nothing in them."""
        every = dict.fromkeys(name for text in self.templates for name in _columns(text))
        return [name for name in every if name not in self.columns]

    def fault(self, row: Mapping[str, Any]) -> str | None:
        """Say in what a row does not fit, or return None."""
        for column in self.columns:
            if column not in row:
                found = f"it has {', '.join(map(repr, row)) or 'no columns'}"
                return f"lacks the column {column!r}{nearest(column, row)} ({found})"
            if wrong := _not_text(row[column]):
                return f"{column!r} must be text, found {wrong}"
            if not self._text(row[column]).strip():
                return f"{column!r} is empty; write the text, or delete the row"
        for column in self.optional_columns:
            value = row.get(column)
            if value is not None and (wrong := _not_text(value)):
                return f"{column!r} must be text, a list of texts, or null, found {wrong}"
        return None

    def prompt(self, row: Mapping[str, Any]) -> str:
        """Return the text a model is given."""
        return self._fill(self._template_for(row), row)

    def example(self, row: Mapping[str, Any]) -> dict[str, str]:
        """Return the training example `{"prompt": str, "response": str}` of a row."""
        return {"prompt": self.prompt(row), "response": self._fill(self.response, row)}

    def without_last_context(self, row: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the row with one item fewer in its optional list, or None when it has none."""
        for column in self.optional_columns:
            value = row.get(column)
            items = [value] if isinstance(value, str) else value
            if items:
                return {**row, column: list(items)[:-1]}
        return None

    def _template_for(self, row: Mapping[str, Any]) -> str:
        for template in self.templates[:-1]:
            if all(self._text(row.get(name)).strip() for name in _columns(template)):
                return template
        return self.templates[-1]

    def _fill(self, template: str, row: Mapping[str, Any]) -> str:
        try:
            return template.format_map({name: self._text(row[name]) for name in _columns(template)})
        except KeyError as error:
            column = error.args[0]
            raise PromptError(
                f"the prompt format needs the column {column!r}{nearest(column, row)} "
                f"The row has: {', '.join(map(str, row))}"
            ) from None

    def _text(self, value: Any) -> str:
        if isinstance(value, str):
            return value
        return self.list_separator.join(value) if isinstance(value, Sequence) else ""


class ChatText(str):
    """Rendered chat: text that remembers which parts of it are the template's special tokens.

    It is a string like any other. `pieces` are its parts in order, each with whether it is one
    special token; the tokenizer takes the pieces apart, so that `<|im_end|>` typed by a user stays
    text while the template's own is the token.
    """

    pieces: tuple[tuple[str, bool], ...]

    def __new__(cls, pieces: Sequence[tuple[str, bool]]) -> "ChatText":
        """Join pieces, without the empty ones."""
        kept = tuple(piece for piece in pieces if piece[0])
        text = super().__new__(cls, "".join(part for part, _ in kept))
        text.pieces = kept
        return text

    def __getnewargs__(self) -> tuple:
        return (self.pieces,)


ROLES = ("system", "developer", "user", "assistant", "tool")


class ChatFormat(PromptFormat):
    """The chat template of a tokenizer; of a conversation only the assistant's turns are learned.

    A row needs `messages`, a list of `{"role": …, "content": …}`. Which text belongs to an answer
    is found by rendering the conversation up to it, with the template's own announcement of the
    answer, and comparing: no template needs to be marked up for it.

    Attributes:
        chat_template: the Jinja text; None until `bind`.
        eos_token: what ends an answer.
        special_tokens: the tokenizer's special tokens, which only the template may set.
        variables: what the template may refer to by name, such as `bos_token`.
    """

    name: Literal["chat"] = "chat"
    chat_template: str | None = None
    eos_token: str | None = None
    special_tokens: tuple[str, ...] = ()
    variables: dict[str, str] = Field(default_factory=dict)

    @property
    def prompt_columns(self) -> list[str]:
        """The columns that the prompt needs."""
        return ["messages"]

    @property
    def columns(self) -> list[str]:
        """The columns that a training row needs."""
        return ["messages"]

    def bind(self, tokenizer: "PreTrainedTokenizerBase") -> "ChatFormat":
        """Return the format with this tokenizer's template.

        Raises:
            PromptError: the tokenizer has no chat template, or no end-of-text token.
        """
        if self.chat_template:
            return self
        if not isinstance(tokenizer.chat_template, str) or not tokenizer.eos_token:
            raise PromptError(
                f"the tokenizer of {tokenizer.name_or_path or 'this model'} has no chat template "
                "or no end-of-text token; take another prompt format, such as user_assistant"
            )
        added = tokenizer.added_tokens_decoder.values()
        special = {token.content for token in added if token.special}
        named = {k: v for k, v in tokenizer.special_tokens_map.items() if isinstance(v, str)}
        return ChatFormat(
            chat_template=tokenizer.chat_template,
            eos_token=tokenizer.eos_token,
            special_tokens=tuple(sorted(special, key=lambda token: (-len(token), token))),
            variables=named,
        )

    def fault(self, row: Mapping[str, Any]) -> str | None:
        """Say in what a row does not fit, or return None."""
        if "messages" not in row:
            return (
                f"lacks the column 'messages'{nearest('messages', row)} (it has {', '.join(row)})"
            )
        messages = row["messages"]
        if not isinstance(messages, list) or not messages:
            return f"'messages' must be a list of messages, found {messages!r:.80}"
        for number, message in enumerate(messages, 1):
            told = f"message {number} of 'messages'"
            if not isinstance(message, Mapping) or not {"role", "content"} <= set(message):
                return f"{told} must have 'role' and 'content', found {message!r:.80}"
            if message["role"] not in ROLES:
                near = nearest(str(message["role"]), ROLES)
                return f"{told}: unknown role {message['role']!r}{near} Valid: {', '.join(ROLES)}"
            if message.get("tool_calls"):
                return f"{told} has 'tool_calls', which this format would lose"
            if not isinstance(message["content"], str) or _not_text(message["content"]):
                return f"{told}: 'content' must be text, found {_not_text(message['content'])}"
            if message["role"] == "assistant" and not message["content"].strip():
                return f"{told}: the assistant's 'content' is empty"
        roles = [message["role"] for message in messages if message["role"] != "system"]
        if "assistant" not in roles:
            return "'messages' holds no answer: no message has the role 'assistant'"
        if roles[0] == "assistant":
            return "'messages' begins with an answer: nothing was asked"
        return None

    def asked(self, row: Mapping[str, Any]) -> str:
        """Return what the user says in a conversation."""
        return "\n".join(m["content"] for m in row["messages"] if m["role"] == "user")

    def prompt(self, row: Mapping[str, Any]) -> ChatText:
        """Return the conversation up to its last answer, or all of it when it ends unanswered."""
        messages = self._messages(row)
        if messages[-1]["role"] == "assistant":
            messages = messages[:-1]
        texts = self._texts(messages)
        return ChatText([piece for text in texts for piece in text.pieces])

    def example(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return prompt and response of a conversation; lists, where it has several answers.

        An answer in the middle carries its own end; the last one gets it when it is tokenized.
        """
        messages = self._messages(row)
        last = max(i for i, message in enumerate(messages) if message["role"] == "assistant")
        texts = self._texts(messages[: last + 1])
        if texts[-1].pieces[-1:] == ((self.eos_token, True),):
            texts[-1] = ChatText(texts[-1].pieces[:-1])
        if len(texts) == 2:
            return {"prompt": texts[0], "response": texts[1]}
        return {"prompt": texts[::2], "response": texts[1::2]}

    def _messages(self, row: Mapping[str, Any]) -> list[Mapping[str, str]]:
        if not self.chat_template:
            raise PromptError("the chat format must be bound to a tokenizer before it is used")
        if not row.get("messages"):
            raise PromptError(f"a chat needs 'messages'. The row has: {', '.join(map(str, row))}")
        return row["messages"]

    def _texts(self, messages: list[Mapping[str, str]]) -> list[ChatText]:
        """Split a conversation into prompt, answer, prompt, answer …

        The last one is the last answer, or else the text that announces the next.
        """
        contents = "".join(message["content"] for message in messages)
        # Break up what only looks like a special token, so that all that are left are real.
        mark = next(c for c in map(chr, range(0xE000, 0xF900)) if c not in contents)
        special = re.compile("|".join(map(re.escape, self.special_tokens)) or "(?!)")
        shielded = [
            {**m, "content": special.sub(lambda t: t[0][0] + mark + t[0][1:], m["content"])}
            for m in messages
        ]
        texts, done = [], ""
        for count, message in enumerate(messages):
            if message["role"] == "assistant":
                asked = self._render(shielded[:count], True)
                answered = self._render(shielded[: count + 1], False)
                if not (answered.startswith(asked) and asked.startswith(done)):
                    raise PromptError(
                        "the chat template renders a conversation otherwise once it goes on, "
                        "so the answers cannot be told from the rest; take another prompt format"
                    )
                end = answered.find(self.eos_token, len(asked)) + len(self.eos_token)
                if end < len(self.eos_token):  # the template ends a turn in another way
                    end = len(answered.rstrip())
                texts += [asked[len(done) :], answered[len(asked) : end]]
                done = answered[:end]
        if messages[-1]["role"] != "assistant":
            texts.append(self._render(shielded, True)[len(done) :])
        capture = re.compile(f"({special.pattern})")
        return [
            ChatText([(part.replace(mark, ""), i % 2 == 1) for i, part in enumerate(parts)])
            for parts in (capture.split(text) for text in texts)
        ]

    def _render(self, messages: list[Mapping[str, str]], announce: bool) -> str:
        from jinja2 import TemplateError
        from transformers.utils.chat_template_utils import render_jinja_template

        try:
            (text,), _ = render_jinja_template(
                [messages],
                chat_template=self.chat_template,
                add_generation_prompt=announce,
                **self.variables,
            )
        except TemplateError as error:
            raise PromptError(f"the chat template refuses the messages: {error}") from None
        return text


QUESTION_ANSWER = TemplateFormat(
    name="question_answer",
    template="### Question:\n{question}\n\n### Answer:\n",
    response="{answer}",
    stop=("\n### Question:",),  # a new line: an answer may speak of the heading
)

PLAIN = TemplateFormat(
    name="plain",
    template="Question: {question} \nAnswer:",
    response=" {answer}",
    stop=("\nQuestion:",),
)

ALPACA = TemplateFormat(
    name="alpaca",
    template=(
        "Below is an instruction that describes a task, paired with an input that provides further "
        "context. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n",
        "Below is an instruction that describes a task. Write a response that appropriately "
        "completes the request.\n\n### Instruction:\n{instruction}\n\n### Response:\n",
    ),
    response="{output}",
    stop=("\n### Instruction:",),
)

USER_ASSISTANT = TemplateFormat(
    name="user_assistant",
    template=(
        "Context:\n{contexts}\n\nUser: {input}\nAssistant:",
        "User: {input}\nAssistant:",
    ),
    response=" {response}",
    stop=("\nUser:",),
)

TEXT = TemplateFormat(name="text", template="", response="{text}")

CHAT = ChatFormat()

FORMATS: dict[str, PromptFormat] = {
    prompt_format.name: prompt_format
    for prompt_format in (QUESTION_ANSWER, PLAIN, ALPACA, USER_ASSISTANT, TEXT, CHAT)
}


def get_format(name: str) -> PromptFormat:
    """Return the built-in format of that name.

    Raises:
        PromptError: there is none; the message lists those there are.
    """
    if name not in FORMATS:
        raise PromptError(
            f"unknown prompt format {name!r}{nearest(name, FORMATS)} "
            f"Valid: {', '.join(FORMATS)}, or a mapping with `template` and `response`"
        )
    return FORMATS[name]


def _by_name(value: Any, as_template: Callable[[Any], TemplateFormat]) -> PromptFormat:
    if isinstance(value, PromptFormat):
        return value
    if not isinstance(value, str):
        return as_template(value)
    try:
        return get_format(value)
    except PromptError as error:  # pydantic collects ValueErrors beside the other faults
        raise ValueError(str(error)) from None


ConfigPromptFormat = Annotated[TemplateFormat, WrapValidator(_by_name)]
"""A prompt format in a config: the name of a built-in one, or the fields of a template."""
