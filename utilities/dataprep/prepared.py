"""A prepared dataset: loading it from its folder, and a summary in words."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
from transformers import PreTrainedTokenizerBase

from utilities.errors import DataError, nearest
from utilities.features import mask_views
from utilities.features.tokenization import TokenizedExamples, tokenizer_fingerprint

PREPARED_RECORD = "dataprep.json"


@dataclass(frozen=True)
class Prepared:
    """A prepared dataset on disk.

    Attributes:
        folder: its folder.
        record: model, settings, counts and fingerprint, as in `dataprep.json`.
    """

    folder: Path
    record: dict[str, Any]

    @classmethod
    def open(cls, folder: str | Path) -> "Prepared":
        """Open a folder that `prepare` wrote.

        Raises:
            DataError: the folder is not a prepared dataset, or its record is damaged.
        """
        try:
            record = json.loads((Path(folder) / PREPARED_RECORD).read_text(encoding="utf-8"))
            complete = {"fingerprint", "counts", "tokenizer", "format", "model"} <= set(record)
        except (OSError, ValueError, TypeError) as error:
            raise DataError(f"{folder} is not a prepared dataset: {error}") from None
        if not complete:
            raise DataError(f"{folder} is not a prepared dataset: its {PREPARED_RECORD} is damaged")
        return cls(Path(folder), record)

    @property
    def parts(self) -> list[str]:
        """The names of its parts: `train`, and those that were split off."""
        return list(self.record["counts"]["parts"])

    def examples(self, part: str = "train") -> TokenizedExamples:
        """Load the features and counts of a part, ready for `training.train`.

        Args:
            part: one of `parts`.

        Returns:
            Memory-mapped features, and the counts of `TokenizedExamples`.

        Raises:
            DataError: there is no such part, or a file is missing or damaged.
        """
        if part not in self.parts:
            raise DataError(f"{self.folder} has no part {part!r}{nearest(part, self.parts)}")
        try:
            if self.record["format"] == "parquet":
                files = sorted(map(str, self.folder.glob(f"{part}-*.parquet")))
                features = datasets.Dataset.from_parquet(files, split=part)
            else:
                loaded = datasets.load_from_disk(str(self.folder))
                features = loaded[part] if isinstance(loaded, dict) else loaded
        except (OSError, ValueError) as error:
            raise DataError(f"{self.folder} is damaged; prepare it anew: {error}") from None
        return TokenizedExamples(features, self.record["counts"]["parts"][part])

    def check_tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Raise a DataError when the data was made with another tokenizer than this one."""
        if self.record["tokenizer"] != tokenizer_fingerprint(tokenizer):
            made_for = self.record["model"]["name"]
            raise DataError(
                f"{self.folder} was prepared with the tokenizer of {made_for}; its ids mean "
                "something else to this model. Prepare the data with the same base_model"
            )


def summary(prepared: Prepared, tokenizer: PreTrainedTokenizerBase, examples: int = 3) -> str:
    """Return a summary for people: rows of each stage, and the first examples of `train`.

    Args:
        prepared: the dataset.
        tokenizer: decodes the examples.
        examples: how many to show, with the supervised tokens in square brackets.
    """
    record, counts = prepared.record, prepared.record["counts"]
    lines = [
        f"model:    {record['model']['name']}, because {record['model']['reason']}",
        f"read:     {counts['read']:,} rows, {counts['bad']:,} of them bad, "
        f"{counts['rows']:,} used",
    ]
    for part, of_part in counts["parts"].items():
        counted = [f"{name.replace('_', ' ')} {n:,}" for name, n in of_part.items() if n]
        lines.append(f"{part + ':':<9} {', '.join(counted)}")
        if "positions" in of_part:
            lines.append(
                f"{'':<9} {of_part['tokens'] / of_part['positions']:.1%} of positions used"
            )
    features = prepared.examples().features
    for number in range(min(examples, len(features))):
        lines += [f"--- row {number + 1}", str(mask_views.mask_view(features[number], tokenizer))]
    return "\n".join([*lines, f"wrote:    {prepared.folder}"])
