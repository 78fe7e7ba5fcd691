"""Answers written to a file as they are made, so that a killed evaluation goes on where it was."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import xxhash
from tqdm.auto import tqdm

from utilities.inference.answers import Answer, Answerer
from utilities.inference.generation import Generation


def collect(
    path: Path,
    answerer: Answerer,
    prompts: Sequence[str],
    settings: Generation,
    origin: dict[str, Any],
    save_every: int = 16,
    progress: bool = False,
) -> list[Answer]:
    """Return the answers to all prompts, keeping them in a file.

    The file's first line says what they are answers to: model, settings and prompts. A file of
    something else is written anew. One of the same is read, and only what it lacks, or what failed,
    is asked for; what comes out is the same as without interruption.

    Args:
        path: of the file, JSON Lines.
        answerer: whoever answers.
        prompts: texts as a prompt format makes them.
        settings: how answers are written.
        origin: says which model it is; anything that JSON can hold.
        save_every: answers between two writings.
        progress: show a progress bar.

    Returns:
        One answer per prompt, in order.
    """
    texts = xxhash.xxh3_128_hexdigest("\0".join(prompts).encode("utf-8", "surrogatepass"))
    head = {"model": origin, "settings": settings.model_dump(mode="json"), "prompts": texts}
    known = _read(path, head)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not known:
        path.write_text(_line(head), encoding="utf-8")
    done = [place for place, answer in known.items() if not answer.error]
    fresh: list[str] = []
    with (
        path.open("a", encoding="utf-8") as file,
        tqdm(total=len(prompts), desc="generating", unit="answer", disable=not progress) as bar,
    ):
        bar.update(len(done))

        def save() -> None:
            file.write("".join(fresh))
            file.flush()
            os.fsync(file.fileno())
            fresh.clear()

        try:
            for place, answer in answerer.answers(prompts, settings, done):
                if place in known and not known[place].error:
                    continue  # asked again along with its batch
                bar.update(1)
                known[place] = answer
                fresh.append(_line({"row": place, **vars(answer)}))
                if len(fresh) >= save_every:
                    save()
        finally:
            save()
    return [known[place] for place in range(len(prompts))]


def _line(values: dict[str, Any]) -> str:
    return json.dumps(values, ensure_ascii=False) + "\n"


def _read(path: Path, head: dict[str, Any]) -> dict[int, Answer]:
    """Return the answers of a file that begins with this head, and cut off a torn last line."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return {}
    whole = content[: content.rfind(b"\n") + 1]
    lines = [json.loads(line) for line in whole.splitlines()]
    if not lines or lines[0] != head:
        return {}
    if len(whole) < len(content):
        os.truncate(path, len(whole))
    return {line.pop("row"): Answer(**line) for line in lines[1:]}
