"""Prompt formats: the one place where a row becomes text.

The modules are light, so the package imports all of them: `PromptFormat.load` knows every
subclass.
"""

from utilities.prompts.base import FILE_NAME, PromptFormat
from utilities.prompts.built_in import (
    ALPACA,
    CHAT,
    FORMATS,
    PLAIN,
    QUESTION_ANSWER,
    TEXT,
    USER_ASSISTANT,
    ConfigPromptFormat,
    get_format,
)
from utilities.prompts.chat import ChatFormat, ChatText
from utilities.prompts.template import TemplateFormat

__all__ = [
    "ALPACA",
    "CHAT",
    "FILE_NAME",
    "FORMATS",
    "PLAIN",
    "QUESTION_ANSWER",
    "TEXT",
    "USER_ASSISTANT",
    "ChatFormat",
    "ChatText",
    "ConfigPromptFormat",
    "PromptFormat",
    "TemplateFormat",
    "get_format",
]
