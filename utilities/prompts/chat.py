"""The chat template of a tokenizer as a prompt format."""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from pydantic import Field

from utilities.errors import PromptError, nearest
from utilities.prompts.base import PromptFormat, not_text
from utilities.upstream import render_chat_template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


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
    """

    saved_key: ClassVar[str] = "chat_template"

    name: Literal["chat"] = "chat"
    chat_template: str | None = None
    """The Jinja text; None until `bind`."""
    eos_token: str | None = None
    """What ends an answer."""
    special_tokens: tuple[str, ...] = ()
    """The tokenizer's special tokens, which only the template may set."""
    variables: dict[str, str] = Field(default_factory=dict)
    """What the template may refer to by name, such as `bos_token`."""

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
            if not isinstance(message["content"], str) or not_text(message["content"]):
                return f"{told}: 'content' must be text, found {not_text(message['content'])}"
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

    def _render(self, messages: Sequence[Mapping[str, str]], announce: bool) -> str:
        from jinja2 import TemplateError

        try:
            template = cast(str, self.chat_template)  # `_messages` has checked it
            return render_chat_template(template, messages, announce, self.variables)
        except TemplateError as error:
            raise PromptError(f"the chat template refuses the messages: {error}") from None
