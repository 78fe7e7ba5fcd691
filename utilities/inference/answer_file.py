"""A file of answers, appended to as they are generated, so that evaluation can be resumed."""

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
    """Return the answers to all prompts, and save them in a file on the way.

    The first line of the file is a header: model, settings and prompts. If the header differs, the
    file is replaced. If it is the same, only the answers that are missing or failed are generated;
    the result is the same as without interruption.

    Args:
        path: of the file, JSON Lines.
        answerer: a local model or an endpoint.
        prompts: texts as a prompt format makes them.
        settings: of generation.
        origin: identifies the model; anything that JSON can hold.
        save_every: answers between two writes, 1 or more.
        progress: show a progress bar.

    Returns:
        One answer per prompt, in order.
    """
    digest = xxhash.xxh3_128_hexdigest("\0".join(prompts).encode("utf-8", "surrogatepass"))
    header = {"model": origin, "settings": settings.model_dump(mode="json"), "prompts": digest}
    answers = _read(path, header)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not answers:
        path.write_text(_line(header), encoding="utf-8")
    done = [index for index, answer in answers.items() if not answer.error]
    unsaved: list[str] = []
    with (
        path.open("a", encoding="utf-8") as file,
        tqdm(total=len(prompts), desc="generating", unit="answer", disable=not progress) as bar,
    ):
        bar.update(len(done))

        def save() -> None:
            file.write("".join(unsaved))
            file.flush()
            os.fsync(file.fileno())
            unsaved.clear()

        try:
            for index, answer in answerer.answers(prompts, settings, done):
                if index in answers and not answers[index].error:
                    continue  # generated again along with its batch
                bar.update(1)
                answers[index] = answer
                unsaved.append(_line({"row": index, **vars(answer)}))
                if len(unsaved) >= save_every:
                    save()
        finally:
            save()
    return [answers[index] for index in range(len(prompts))]


def _line(values: dict[str, Any]) -> str:
    return json.dumps(values, ensure_ascii=False) + "\n"


def _read(path: Path, header: dict[str, Any]) -> dict[int, Answer]:
    """Return a file's answers by index if it has this header; cut off an incomplete last line."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return {}
    complete = content[: content.rfind(b"\n") + 1]
    lines = [json.loads(line) for line in complete.splitlines()]
    if not lines or lines[0] != header:
        return {}
    if len(complete) < len(content):
        os.truncate(path, len(complete))
    return {line.pop("row"): Answer(**line) for line in lines[1:]}
