"""Ways of shortening a row; apart from `tokenization`, so that settings load without torch."""

from typing import Literal

Shorten = Literal["prompt_left", "prompt_right", "contexts_first", "response_right", "drop"]
"""What a row that is too long loses.

`prompt_left` and `prompt_right` cut that side of the prompt. `contexts_first` leaves out whole
contexts, the last one first, and then cuts as `prompt_left`. `drop` leaves out the row. None of
them touches the response. `prompt_right` takes the line that announces the answer too. Of a
conversation, all before the last answer counts as prompt, and is cut at the left in either case.
`response_right` cuts the response's end, and then no end-of-text token follows: the model must not
learn to stop there. Long plain text (format `text`) has no prompt, so only that one shortens it.
"""
