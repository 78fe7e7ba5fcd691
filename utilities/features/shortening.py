"""Ways of shortening a row; apart from `tokenization`, so that settings load without torch."""

from typing import Literal

Shorten = Literal["prompt_left", "prompt_right", "contexts_first", "response_right", "drop"]
"""How a row that is too long is truncated.

`prompt_left` and `prompt_right` cut that side of the prompt. `contexts_first` removes whole
contexts, the last one first, and then cuts as `prompt_left`. `drop` removes the row. None of them
touches the response. `prompt_right` also cuts the line that announces the answer. Of a
conversation, all before the last answer counts as prompt, and is cut at the left in either case.
`response_right` cuts the response's end, and then adds no end-of-text token: the model must not
learn to stop there. Plain text (format `text`) has no prompt, so only this one shortens it.
"""
