"""Folders of results: what they were made of, and how they appear whole or not at all."""

import hashlib
import json
import os
import shutil
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import platformdirs

IfExists = Literal["refuse", "reuse", "overwrite"]


def fingerprint_of(data: Any) -> str:
    """Return a short hash of anything that JSON can write."""
    text = json.dumps(data, sort_keys=True, default=list)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide a result."""
    packages = ["finetuning-lab", "torch", "transformers", "datasets", "accelerate"]
    return {"python": sys.version.split()[0], **{name: version(name) for name in packages}}


def is_in_the_way(folder: Path, record: str) -> bool:
    """Say whether something is there that is not a result: it lacks the `record`."""
    if folder.is_dir():
        return not (folder / record).is_file() and any(folder.iterdir())
    return folder.exists()


def replace_folder(new: Path, place: Path) -> None:
    """Move a folder to its place; an old one there goes last, so one is always whole."""
    old = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent)) / "old"
    if place.exists():
        place.rename(old)
    new.rename(place)
    shutil.rmtree(old.parent, ignore_errors=True)


def cache_folder() -> Path:
    """Return the folder for models: `FINETUNING_LAB_CACHE`, or the user's cache folder."""
    chosen = os.environ.get("FINETUNING_LAB_CACHE")
    return Path(chosen).expanduser() if chosen else platformdirs.user_cache_path("finetuning-lab")
