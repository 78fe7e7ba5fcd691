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
    """A rendered chat: a string with the positions of the template's special tokens.

    `pieces` are its parts in order, each with True if it is one special token. The tokenizer
    encodes the pieces one by one, so that `<|im_end|>` typed by a user remains text while the
    template's own becomes the token.
    """

    pieces: tuple[tuple[str, bool], ...]

    def __new__(cls, pieces: Sequence[tuple[str, bool]]) -> "ChatText":
        """Join the pieces that are not empty."""
        kept = tuple(piece for piece in pieces if piece[0])
        text = super().__new__(cls, "".join(part for part, _ in kept))
        text.pieces = kept
        return text

    def __getnewargs__(self) -> tuple[Any, ...]:
        return (self.pieces,)  # pickle calls __new__ with these


ROLES = ("system", "developer", "user", "assistant", "tool")


class ChatFormat(PromptFormat):
    """The chat template of a tokenizer; the loss is on the assistant's turns only.

    A row needs `messages`, a list of `{"role": …, "content": …}`. The text of an answer is what the
    rendered conversation has beyond the one that is rendered up to it, with the template's
    generation prompt. So a template needs no `generation` marks.
    """

    saved_key: ClassVar[str] = "chat_template"

    name: Literal["chat"] = "chat"
    chat_template: str | None = None
    """The Jinja source; None until `bind`."""
    eos_token: str | None = None
    """The end-of-text token, which ends an answer; None until `bind`."""
    special_tokens: tuple[str, ...] = ()
    """The tokenizer's special tokens, which only the template may set."""
    variables: dict[str, str] = Field(default_factory=dict)
    """Variables of the template, such as `bos_token`."""

    @property
    def prompt_columns(self) -> list[str]:
        """The columns that the prompt needs."""
        return ["messages"]

    @property
    def columns(self) -> list[str]:
        """The columns that a training row needs."""
        return ["messages"]

    def bind(self, tokenizer: "PreTrainedTokenizerBase") -> "ChatFormat":
        """Return the format with this tokenizer's chat template.

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
            # Longest first, so that a pattern of alternatives prefers them.
            special_tokens=tuple(sorted(special, key=lambda token: (-len(token), token))),
            variables=named,
        )

    def fault(self, row: Mapping[str, Any]) -> str | None:
        """Return why a row does not fit the format, or None if it fits."""
        if "messages" not in row:
            return (
                f"lacks the column 'messages'{nearest('messages', row)} (it has {', '.join(row)})"
            )
        messages = row["messages"]
        if not isinstance(messages, list) or not messages:
            return f"'messages' must be a list of messages, found {messages!r:.80}"
        for number, message in enumerate(messages, 1):
            if fault := _message_fault(message):
                return f"message {number} of 'messages'{fault}"
        roles = [message["role"] for message in messages if message["role"] != "system"]
        if "assistant" not in roles:
            return "'messages' holds no answer: no message has the role 'assistant'"
        if roles[0] == "assistant":
            return "'messages' begins with an answer: nothing was asked"
        return None

    def request(self, row: Mapping[str, Any]) -> str:
        """Return the user's turns of a conversation, to compare rows by."""
        return "\n".join(m["content"] for m in row["messages"] if m["role"] == "user")

    def prompt(self, row: Mapping[str, Any]) -> ChatText:
        """Return the conversation up to its last answer, or all of it if it ends unanswered."""
        messages = self._messages(row)
        if messages[-1]["role"] == "assistant":
            messages = messages[:-1]
        texts = self._texts(messages)
        return ChatText([piece for text in texts for piece in text.pieces])

    def example(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return prompt and response of a conversation; lists, if it has several answers.

        An answer in the middle includes its end-of-text token; tokenization adds that of the last.
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
        """Split a rendered conversation into prompt, answer, prompt, answer …

        The last text is the last answer, or the prompt of the next one with the generation prompt.
        """
        contents = "".join(message["content"] for message in messages)
        # Text of a message that only looks like a special token gets a mark after its first
        # character: a private-use character that the messages do not contain. Then every special
        # token in the rendered text is the template's own; the marks are removed from the pieces.
        mark = next(c for c in map(chr, range(0xE000, 0xF900)) if c not in contents)
        special = re.compile("|".join(map(re.escape, self.special_tokens)) or "(?!)")
        marked: list[Mapping[str, str]] = [
            {**m, "content": special.sub(lambda t: t[0][0] + mark + t[0][1:], m["content"])}
            for m in messages
        ]
        texts, done = [], ""
        for count, message in enumerate(messages):
            if message["role"] == "assistant":
                before = self._render(marked[:count], True)
                after = self._render(marked[: count + 1], False)
                if not (after.startswith(before) and before.startswith(done)):
                    raise PromptError(
                        "the chat template changes earlier messages when a conversation goes on, "
                        "so its answers cannot be located; take another prompt format"
                    )
                end = self._end_of_answer(after, len(before))
                texts += [before[len(done) :], after[len(before) : end]]
                done = after[:end]
        if messages[-1]["role"] != "assistant":
            texts.append(self._render(marked, True)[len(done) :])
        # Splitting by a group keeps the separators: every second part is a special token.
        capture = re.compile(f"({special.pattern})")
        return [
            ChatText([(part.replace(mark, ""), i % 2 == 1) for i, part in enumerate(parts)])
            for parts in (capture.split(text) for text in texts)
        ]

    def _end_of_answer(self, text: str, start: int) -> int:
        """Return where the answer that starts at `start` ends, its end-of-text token included."""
        if not self.eos_token or (position := text.find(self.eos_token, start)) < 0:
            return len(text.rstrip())  # the template ends a turn in another way
        return position + len(self.eos_token)

    def _render(self, messages: Sequence[Mapping[str, str]], announce: bool) -> str:
        from jinja2 import TemplateError

        try:
            template = cast(str, self.chat_template)  # `_messages` has checked it
            return render_chat_template(template, messages, announce, self.variables)
        except TemplateError as error:
            raise PromptError(f"the chat template refuses the messages: {error}") from None


def _message_fault(message: Any) -> str | None:
    """Return why a message is not valid, as the end of a sentence that begins with its number."""
    if not isinstance(message, Mapping) or not {"role", "content"} <= set(message):
        return f" must have 'role' and 'content', found {message!r:.80}"
    role, content = message["role"], message["content"]
    if role not in ROLES:
        return f": unknown role {role!r}{nearest(str(role), ROLES)} Valid: {', '.join(ROLES)}"
    if message.get("tool_calls"):
        return " has 'tool_calls', which this format would lose"
    if not isinstance(content, str) or not_text(content):
        return f": 'content' must be text, found {not_text(content)}"
    if role == "assistant" and not content.strip():
        return ": the assistant's 'content' is empty"
    return None
