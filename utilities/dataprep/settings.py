"""The config of the data preparation."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from utilities.config import ModelName, StrictModel, from_file
from utilities.errors import nearest
from utilities.features.tokenization import Shorten
from utilities.files import IfExists
from utilities.prompts.built_in import QUESTION_ANSWER, ConfigPromptFormat
from utilities.rows.sources import ConfigSource
from utilities.rows.splitting import check_sizes


class Split(StrictModel):
    """How rows are divided into parts; see `splitting.split_rows`."""

    sizes: dict[Annotated[str, Field(pattern=r"^\w+$")], float] = Field(min_length=1)
    """For each part beside `train`, a share of the rows (below 1) or a number of them."""
    group_by: tuple[str, ...] = ()
    """Columns; rows with equal values in them stay in one part. By default the questions are
    compared, so that no question is in two parts.
    """
    near_duplicates: float | None = Field(default=0.8, gt=0, le=1)
    """Rows whose questions share this much of their words (Jaccard similarity) stay in one part
    too; null turns that off. It needs the questions in memory.
    """
    stratify_by: str | None = None
    """A column; each part gets its share of every value."""
    seed: int = Field(default=42, ge=0)
    """Of the random split."""

    @field_validator("sizes")
    @classmethod
    def _can_be_met(cls, sizes: dict[str, float]) -> dict[str, float]:
        check_sizes(sizes)
        return sizes


# For each method, the keys of `kwargs` that it needs, and those that it takes.
WRITERS: dict[str, tuple[set[str], set[str]]] = {
    "save_to_disk": ({"dataset_path"}, set()),
    "parquet": ({"dataset_path"}, set()),
    "push_to_hub": ({"dataset_path", "repo_id"}, {"private", "revision", "commit_message"}),
}


class Writer(StrictModel):
    """How and where the dataset is written."""

    method: Literal["save_to_disk", "parquet", "push_to_hub"] = "save_to_disk"
    """`save_to_disk` (for `datasets.load_from_disk`), `parquet` (for any other tool), or
    `push_to_hub`, which writes to the disk first.
    """
    kwargs: dict[str, Any]
    """`dataset_path`, the folder to write. For the hub also `repo_id`, and `private`, `revision` or
    `commit_message`; the access token comes from the variable HF_TOKEN.
    """

    @field_validator("kwargs")
    @classmethod
    def _fit_the_method(cls, kwargs: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        if "method" not in info.data:
            return kwargs
        needed, optional = WRITERS[info.data["method"]]
        for key in kwargs:
            if key not in needed | optional:
                raise ValueError(f"unknown key {key!r}{nearest(key, needed | optional)}")
        if missing := needed - set(kwargs):
            raise ValueError(f"{info.data['method']} needs {' and '.join(sorted(missing))}")
        path = kwargs["dataset_path"]
        if not isinstance(path, str) or not path or "://" in path:
            raise ValueError(f"dataset_path must be a folder on this machine, found {path!r}")
        return {**kwargs, "dataset_path": str(from_file(Path(path), info))}


class DataprepConfig(StrictModel):
    """The config of `python -m utilities.dataprep`."""

    source: ConfigSource
    """The rows; see `sources.Source`."""
    base_model: ModelName = "auto"
    """The model whose tokenizer is used; train the same model."""
    prompt_format: ConfigPromptFormat = QUESTION_ANSWER
    """How a row becomes prompt and response."""
    max_length: int = Field(default=512, ge=3)
    """Tokens of a row at most: prompt, response and end-of-text together."""
    shorten: Shorten = "prompt_left"
    """How a longer row is truncated; see `tokenization.Shorten`."""
    packing: Literal["none", "best_fit", "pad"] = "none"
    """`none` (each row is one example, padded during training), `best_fit` (several examples in
    each row of `packed_length` tokens), or `pad` (each example padded to `packed_length`).
    """
    packed_length: int | None = Field(default=None, ge=3)
    """Tokens of a packed or padded row; null: `max_length`."""
    split: Split | None = None
    """How rows are divided into parts; null: all are `train`."""
    writer: Writer
    """How and where the dataset is written."""
    rows_per_shard: int = Field(default=10_000, ge=1)
    """Rows of the source that are tokenized at a time."""
    num_proc: int = Field(default=1, ge=1)
    """Processes. One already uses all cores for tokenizing; more help where reading and formatting
    take longer than that.
    """
    if_exists: IfExists = "refuse"
    """What to do when the dataset exists: `refuse`; `reuse` it if its fingerprint is the same, and
    else replace it; or `overwrite` it.
    """

    @field_validator("packed_length")
    @classmethod
    def _holds_a_row(cls, length: int | None, info: ValidationInfo) -> int | None:
        if length is not None and length < info.data.get("max_length", 0):
            raise ValueError(f"shorter than max_length ({info.data['max_length']})")
        return length
