"""The prompt formats that come with the package, and prompt formats in a config."""

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import Field, WrapValidator

from utilities.errors import PromptError, nearest
from utilities.prompts.base import PromptFormat
from utilities.prompts.chat import ChatFormat
from utilities.prompts.template import TemplateFormat

QUESTION_ANSWER = TemplateFormat(
    name="question_answer",
    template="### Question:\n{question}\n\n### Answer:\n",
    response="{answer}",
    stop=("\n### Question:",),  # with the line break: an answer may mention the heading
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
        PromptError: the name is unknown; the message lists the valid ones.
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
    return get_format(value)


_FormatName = Annotated[str, Field(json_schema_extra={"enum": list(FORMATS)})]


ConfigPromptFormat = Annotated[
    TemplateFormat, WrapValidator(_by_name, json_schema_input_type=_FormatName | TemplateFormat)
]
"""A prompt format in a config: the name of a built-in one, or the fields of a template."""
