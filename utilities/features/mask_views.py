"""View of the loss mask: which tokens of a row are only read, and which are learned."""

import html
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class MaskView:
    """View of a row's loss mask: gray is only read, blue and underlined is learned.

    A notebook shows it as HTML, each token above its id. In plain text, `str(view)`, learned tokens
    are in square brackets, and each example of a packed row starts a new line.

    Attributes:
        table: one row per token: `example` (index in a packed row, from 1), `position`, `id`,
            `text`, `label` and `supervised` (bool).
    """

    def __init__(self, table: pd.DataFrame):
        """Wrap a table with one row per token."""
        self.table = table

    def __str__(self) -> str:
        examples: dict[int, str] = {}
        for (example, learned), run in self._runs(["example", "supervised"]):
            text = "".join(run["text"])
            shown = f"[{text}]" if learned else text
            examples[example] = examples.get(example, "") + shown
        return "\n".join(examples.values())

    def _runs(self, columns: list[str]) -> Iterator[tuple[tuple, pd.DataFrame]]:
        """Yield runs of consecutive tokens with equal values in these columns."""
        values = self.table[columns]
        run_number = (values != values.shift()).any(axis=1).cumsum()
        for _, run in self.table.groupby(run_number, sort=False):
            yield tuple(run[columns].iloc[0]), run

    def _repr_html_(self) -> str:
        blocks = []
        packed = self.table["example"].nunique() > 1
        for (example,), run in self._runs(["example"]):
            is_padding = run["id"].nunique() == 1 and not run["supervised"].any()
            name = "padding" if is_padding else f"example {example}"
            head = f'<div style="{_CAPTION}">{name}</div>' if packed else ""
            blocks.append(head + "".join(map(_token_html, run.itertuples())))
        learned = self.table["supervised"].sum()
        note = f"underlined: learned ({learned} of {len(self.table)} tokens); below: the ids"
        return f'<div style="font-family:monospace">{"".join(blocks)}</div>{note}'


_CAPTION = "border-top:1px dashed #888;margin-top:6px;font-size:80%"


_TOKEN = "display:inline-block;margin:1px;padding:0 2px;text-align:center;vertical-align:top"


_LEARNED = "background:#b3d9f2;color:#000;border-bottom:3px solid #0072b2"


_READ = "background:#ececec;color:#555;border-bottom:3px solid #ececec"


def _token_html(token: Any) -> str:
    style = _LEARNED if token.supervised else _READ
    title = f"position {token.position}, id {token.id}, label {token.label}"
    text = html.escape(token.text).replace("\n", "⏎").replace(" ", "&nbsp;") or "&nbsp;"
    line_break = "<br>" if token.text.endswith("\n") else ""
    return (
        f'<span style="{_TOKEN};{style}" title="{title}">{text}'
        f'<br><span style="font-size:65%">{token.id}</span></span>{line_break}'
    )


def mask_view(features: Mapping[str, Any], tokenizer: "PreTrainedTokenizerBase") -> MaskView:
    """Show the loss mask of a row: what does the model see, and what does it learn?

    Args:
        features: a row with `input_ids` and `labels`, packed or not; the label −100 marks tokens
            that are not learned.
        tokenizer: the tokenizer of the ids.
    """
    ids, labels = features["input_ids"], features["labels"]
    positions = features.get("position_ids") or range(len(ids))
    table = pd.DataFrame({"position": positions, "id": ids})
    table["text"] = [tokenizer.decode([token]) for token in ids]
    table["label"] = labels
    table["supervised"] = table["label"] != -100
    table.insert(0, "example", (table["position"] == 0).cumsum())
    return MaskView(table)
