"""Complete checkpoints: sealed with sizes and hashes when written, checked before they are used."""

import json
import logging
import re
from pathlib import Path

import xxhash

from utilities.files import atomic_write

logger = logging.getLogger(__name__)


SEAL = "whole.json"


def seal(checkpoint: Path) -> None:
    """Write size and hash of each file into the checkpoint; one without them is not complete."""
    files = {
        str(file.relative_to(checkpoint)): _digest(file)
        for file in sorted(checkpoint.rglob("*"))
        if file.is_file() and file.name != SEAL
    }
    with atomic_write(checkpoint / SEAL) as note:
        note.write_text(json.dumps(files), encoding="utf-8")


def fault_of(checkpoint: Path) -> str | None:
    """Return what is wrong with a checkpoint, as a clause; None when it is complete."""
    try:
        files = json.loads((checkpoint / SEAL).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return "it was not finished"
    except (OSError, ValueError) as error:
        return f"its list of files cannot be read: {error}"
    for name, digest in files.items():
        try:
            if _digest(checkpoint / name) != digest:
                return f"{name} is damaged"
        except OSError:
            return f"{name} is missing"
    return None


def of_run(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder, the newest first."""
    numbered = [
        (int(match[1]), path)
        for path in folder.glob("checkpoint-*")
        if (match := re.fullmatch(r"checkpoint-(\d+)", path.name)) and path.is_dir()
    ]
    return [path for _, path in sorted(numbered, reverse=True)]


def newest_complete(folder: Path) -> Path | None:
    """Return the newest complete checkpoint; log what is wrong with those that are newer."""
    for checkpoint in of_run(folder):
        fault = fault_of(checkpoint)
        if not fault:
            return checkpoint
        logger.warning("%s is not used: %s", checkpoint.name, fault)
    return None


def _digest(file: Path) -> list[int | str]:
    """Return the size in bytes and the xxh3 hash, which takes no longer than reading."""
    digest = xxhash.xxh3_64()
    with file.open("rb") as content:
        while piece := content.read(2**24):
            digest.update(piece)
    return [file.stat().st_size, digest.hexdigest()]
