"""The config of `python -m utilities.dataprep`."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, ValidationInfo, field_validator

from utilities.config import ModelName, StrictModel, from_file, keys_by_method
from utilities.errors import nearest
from utilities.features.shortening import Shorten
from utilities.files import IfExists
from utilities.prompts.built_in import QUESTION_ANSWER, ConfigPromptFormat
from utilities.rows.sources import ConfigSource
from utilities.rows.splitting import check_sizes


class Split(StrictModel):
    """How rows are split; see `rows.splitting.split_rows`."""

    sizes: dict[Annotated[str, Field(pattern=r"^\w+$")], float] = Field(min_length=1)
    """For each part beside `train`, a share of the rows (below 1) or a number of rows."""
    group_by: tuple[str, ...] = ()
    """Columns; rows with equal values in them stay in one part. By default the questions are
    compared, so that a question is never in two parts.
    """
    near_duplicates: float | None = Field(default=0.8, gt=0, le=1)
    """Rows whose questions share this much of their words (Jaccard similarity) stay in one part
    too; null turns this off. It needs the questions in memory.
    """
    stratify_by: str | None = None
    """A column; each part gets its share of every value in it. Null for none."""
    seed: int = Field(default=42, ge=0)
    """Seed of the split."""

    @field_validator("sizes")
    @classmethod
    def _check_sizes(cls, sizes: dict[str, float]) -> dict[str, float]:
        check_sizes(sizes)
        return sizes


# For each method, the keys of `kwargs` that it needs, and those that it takes.
WRITERS: dict[str, tuple[set[str], set[str]]] = {
    "save_to_disk": ({"dataset_path"}, set()),
    "parquet": ({"dataset_path"}, set()),
    "push_to_hub": ({"dataset_path", "repo_id"}, {"private", "revision", "commit_message"}),
}


class Writer(StrictModel):
    """Where the dataset is written."""

    model_config = ConfigDict(json_schema_extra=keys_by_method("save_to_disk", WRITERS))

    method: Literal["save_to_disk", "parquet", "push_to_hub"] = "save_to_disk"
    """`save_to_disk` (for `datasets.load_from_disk`, and the fastest), `parquet` (for other tools),
    or `push_to_hub`, which writes to the disk first.
    """
    kwargs: dict[str, Any]
    """`dataset_path`, the folder to create. For the hub also `repo_id`, and `private`, `revision`
    or `commit_message`; the access token comes from the variable HF_TOKEN.
    """

    @field_validator("kwargs")
    @classmethod
    def _check_keys_of_method(cls, kwargs: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
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
    """Where the rows are."""
    base_model: ModelName = "auto"
    """The model whose tokenizer makes the token ids; train the same model."""
    prompt_format: ConfigPromptFormat = QUESTION_ANSWER
    """How a row becomes prompt and response."""
    max_length: int = Field(default=512, ge=3)
    """Largest number of tokens of a row: prompt, response and end together."""
    shorten: Shorten = "prompt_left"
    """What a longer row loses; see `features.shortening.Shorten`."""
    packing: Literal["none", "best_fit", "pad"] = "none"
    """`none` (a row is an example, and training pads), `best_fit` (several examples share a row of
    `packed_length` tokens), or `pad` (rows are padded to it).
    """
    packed_length: int | None = Field(default=None, ge=3)
    """Tokens of a packed or padded row; null for `max_length`."""
    split: Split | None = None
    """How to split the rows; null keeps them in one part."""
    writer: Writer
    """The folder or repository to write, and in which form."""
    rows_per_shard: int = Field(default=10_000, ge=1)
    """Rows of the source that are processed at a time; memory grows with it."""
    num_proc: int = Field(default=1, ge=1)
    """Number of processes. One uses every core for tokenizing already; more help where reading and
    formatting take longer than that.
    """
    if_exists: IfExists = "refuse"
    """What to do if the dataset exists: `refuse`; `reuse` it if its fingerprint is the same, and
    make it again if it is not; or `overwrite` it.
    """

    @field_validator("packed_length")
    @classmethod
    def _check_packed_length(cls, length: int | None, info: ValidationInfo) -> int | None:
        if length is not None and length < info.data.get("max_length", 0):
            raise ValueError(f"shorter than max_length ({info.data['max_length']})")
        return length
