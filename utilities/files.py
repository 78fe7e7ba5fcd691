"""Results on disk: atomic writes, what to do when a result exists, fingerprints, versions, cache.

A file or a folder of results is first written beside its place, under the name `NAME.partial`, and
renamed at the end. So a reader sees the old one or the new one, never half of one, and what a
killed process leaves behind is known by its name.
"""

import contextlib
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import platformdirs

from utilities.errors import LabError

IfExists = Literal["refuse", "reuse", "overwrite"]


class Recorded(Protocol):
    """A result that was read from its folder."""

    @property
    def record(self) -> dict[str, Any]:
        """How it was made, its `fingerprint` among others."""


Result = TypeVar("Result", bound=Recorded)


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Atomic write of a file: all of it appears at the end of the `with` block, or nothing.

    The folder must exist. When the block raises, an older file is left untouched.

    Args:
        path: of the file, new or to be replaced.

    Yields:
        The path to write to, in the same folder. What a killed process left there is overwritten.

    Example:
        `with atomic_write(path) as file: file.write_text(text, encoding="utf-8")`
    """
    partial = partial_path(path)
    try:
        yield partial
        # The bytes must reach the disk before the name does: after a power cut, some file systems
        # would otherwise show an empty file under the new name.
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Atomic write of a folder: all of it appears at the end of the `with` block, or nothing.

    When the block raises, an older folder is left untouched.

    Args:
        folder: new, or to be replaced. Its parent is made when it is missing.

    Yields:
        An empty folder to write into, `NAME.partial` beside it. What a killed process left there
        is removed first.
    """
    partial = partial_path(folder)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        replace_folder(partial, folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def partial_path(path: Path) -> Path:
    """Return where a file or folder is while it is written: `NAME.partial` beside it."""
    return path.with_name(f"{path.name}.partial")


def replace_folder(new: Path, folder: Path) -> None:
    """Rename a finished folder to its final path, in place of an older one.

    A folder cannot be renamed onto another, so the older one is moved aside before, and removed
    only after the new one is in its place: there is a complete one on the disk at any time.
    """
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    if folder.exists():
        folder.rename(aside / "old")
    new.rename(folder)
    shutil.rmtree(aside, ignore_errors=True)


@dataclass(frozen=True)
class ResultKind:
    """A kind of result that is a folder: run folders, for example, or prepared datasets.

    Attributes:
        name: what it is called in messages.
        record: the JSON file that only a finished one has; its `fingerprint` says what of.
        key: the key of the config that says where it goes.
        error: raised when a folder may not be written.
    """

    name: str
    record: str
    key: str
    error: type[LabError]

    def check_writable(self, folder: Path, if_exists: IfExists) -> None:
        """Raise the kind's error when a result may not be written to a folder.

        That is so when something else is there, whatever `if_exists` says, or when a result is
        there and `if_exists` is `refuse`.
        """
        if is_in_the_way(folder, self.record):
            raise self.error(
                f"{folder} exists and is not a {self.name}; it is left untouched. "
                f"Choose another {self.key}"
            )
        if folder.exists() and if_exists == "refuse":
            raise self.error(
                f"{folder} exists already; choose another {self.key}, "
                "or set if_exists to `reuse` or `overwrite`"
            )

    def reusable(
        self,
        folder: Path,
        if_exists: IfExists,
        fingerprint: str,
        load: Callable[[Path], Result],
    ) -> Result | None:
        """Return the result in a folder if it may be reused, else None: it is to be made.

        Args:
            folder: where the result goes.
            if_exists: only with `reuse` an older result is looked at.
            fingerprint: of the result that is wanted; one of something else is not reused.
            load: reads the folder.

        Raises:
            LabError: `load` does.
        """
        if if_exists != "reuse" or not (folder / self.record).is_file():
            return None
        result = load(folder)
        return result if result.record["fingerprint"] == fingerprint else None


def is_in_the_way(folder: Path, record: str) -> bool:
    """Return whether a path is taken by something that is not a result: it lacks the `record`.

    An empty folder is not in the way.
    """
    if folder.is_dir():
        return not (folder / record).is_file() and any(folder.iterdir())
    return folder.exists()


def fingerprint_of(data: Any) -> str:
    """Return a fingerprint of JSON data: 16 hexadecimal digits of a SHA-256 hash."""
    text = json.dumps(data, sort_keys=True, default=list)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide a result, by name."""
    packages = ["finetuning-lab", "torch", "transformers", "datasets", "accelerate"]
    return {"python": sys.version.split()[0], **{name: version(name) for name in packages}}


def cache_folder() -> Path:
    """Return the folder for models: `FINETUNING_LAB_CACHE`, or the user's cache folder."""
    chosen = os.environ.get("FINETUNING_LAB_CACHE")
    return Path(chosen).expanduser() if chosen else platformdirs.user_cache_path("finetuning-lab")
