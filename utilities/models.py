"""Which model runs, where its weights come from, and loading them.

    python -m utilities.models where     what would be taken, and why
    python -m utilities.models fetch     get the offline model
    python -m utilities.models list      the models that are on this machine
    python -m utilities.models export RUN FOLDER
                                         write a run's model, an adapter merged, for other tools

`COURSE_MODEL` names the model: a hub id, a folder, or `auto` (the default). `auto` is
`EleutherAI/pythia-70m` where the hub or its cache has it, else the offline model. One probe of at
most 3 seconds decides, once a process. The choice and its reason are always told, and recorded
with every run. Weights come from safetensors files only; code from a hub is never run.
"""

import argparse
import contextlib
import functools
import json
import os
import queue
import shutil
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from utilities import adapters, offline_model
from utilities.config import LabError, report_errors

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DEFAULT_MODEL = "EleutherAI/pythia-70m"
PROBE_SECONDS = 3.0
# All that a model needs, and nothing that could run code.
HUB_FILES = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja"]


class ModelError(LabError):
    """A model that cannot be had or loaded; the message says what to do."""


@dataclass(frozen=True)
class ModelChoice:
    """A model, where it comes from, and why it was chosen.

    Attributes:
        name: what the model is. A stand-in carries its own name, never the original's.
        source: `hub`, `hub cache`, `offline model` or `folder`.
        reason: one clause for people.
        folder: where the files are; None until a hub model has been downloaded.
    """

    name: str
    source: Literal["hub", "hub cache", "offline model", "folder"]
    reason: str
    folder: Path | None = None

    def __str__(self) -> str:
        return f"{self.name} from the {self.source}, because {self.reason}"

    def record(self) -> dict[str, str]:
        """Return name, source and reason, as they go into a run folder, and a folder's place."""
        is_folder = self.source == "folder" and self.folder
        place = {"folder": str(self.folder.resolve())} if is_folder else {}
        return {"name": self.name, "source": self.source, "reason": self.reason, **place}


def choose(name: str = "auto", weights: bool = True) -> ModelChoice:
    """Decide which model to take, without downloading it.

    Args:
        name: a hub id, a folder, or `auto`: what `COURSE_MODEL` names, and when that is not set or
            is `auto` too, the default model or the offline one.
        weights: a folder must hold them; without, config and tokenizer are enough.

    Raises:
        ModelError: the named model does not exist or cannot be reached, or `auto` finds neither a
            hub nor the offline model.
    """
    asked = f"{name} was asked for"
    if name == "auto":
        name = os.environ.get("COURSE_MODEL") or "auto"
        asked = f"COURSE_MODEL is {name}"
    if name == "auto":
        return _choose_automatically()
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _from_folder(folder, asked, weights)
    if name.startswith((".", "~", "/")) or name.count("/") > 1:
        raise ModelError(f"there is no model folder {name}")
    if cached := _in_hub_cache(name):
        return ModelChoice(name, "hub cache", asked, cached)
    state = probe(name)
    if state != "there":
        raise ModelError(
            f"cannot get the model {name!r}: {state}. Check the name and the network "
            "(gated models need HF_TOKEN), or set COURSE_MODEL=auto"
        )
    return ModelChoice(name, "hub", asked)


def _choose_automatically() -> ModelChoice:
    if cached := _in_hub_cache(DEFAULT_MODEL):
        return ModelChoice(DEFAULT_MODEL, "hub cache", "it is in the hub's cache", cached)
    state = probe(DEFAULT_MODEL)
    if state == "there":
        return ModelChoice(DEFAULT_MODEL, "hub", "the hub can be reached")
    if not offline_model.is_fetched():
        raise ModelError(
            f"no {DEFAULT_MODEL} ({state}) and no offline model yet; "
            f"run `{offline_model.FETCH_COMMAND}`"
        )
    reason = f"{DEFAULT_MODEL} is out of reach ({state})"
    return ModelChoice(offline_model.NAME, "offline model", reason, offline_model.offline_folder())


def _from_folder(folder: Path, reason: str, weights: bool) -> ModelChoice:
    if problem := _what_is_missing(folder, weights):
        raise ModelError(f"{folder} is no model folder: {problem}")
    if folder.resolve() == offline_model.offline_folder().resolve():
        return ModelChoice(offline_model.NAME, "offline model", reason, folder)
    record = folder / "run.json"
    if record.is_file():
        base = json.loads(record.read_text(encoding="utf-8"))["model"]["name"]
        return ModelChoice(f"{folder.name} (tuned from {base})", "folder", reason, folder)
    return ModelChoice(folder.name, "folder", reason, folder)


def _what_is_missing(folder: Path, weights: bool = True) -> str | None:
    """Name the first file a model folder lacks; None when it is complete."""
    if adapters.is_adapter(folder):
        needed = [adapters.WEIGHTS_FILE, "tokenizer_config.json", "run.json"]
        return next((f"it lacks {name}" for name in needed if not (folder / name).is_file()), None)
    needed = ["config.json", "tokenizer_config.json"]
    index = folder / "model.safetensors.index.json"
    if weights and index.is_file():
        shards = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        needed += sorted(set(shards))
    elif weights:
        needed.append("model.safetensors")
    return next((f"it lacks {name}" for name in needed if not (folder / name).is_file()), None)


def _in_hub_cache(name: str) -> Path | None:
    """Return the snapshot of a hub model in the local cache, if it is complete."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    except HFValidationError:
        raise ModelError(f"{name!r} is neither a folder nor a hub id such as org/name") from None
    return None if _what_is_missing(folder) else folder


@functools.cache
def probe(name: str, kind: Literal["model", "dataset"] = "model") -> str:
    """Ask the hub once whether it has a model or dataset; wait `PROBE_SECONDS` at most.

    Returns:
        `"there"`, or a clause that says what came instead.
    """
    from huggingface_hub import HfApi, is_offline_mode
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    if is_offline_mode():
        return "offline mode is set"

    def ask() -> str:
        try:
            HfApi().repo_info(name, repo_type=kind, timeout=PROBE_SECONDS)
        except GatedRepoError:
            return "the hub wants a login for it"
        except RepositoryNotFoundError:
            return "the hub does not have it"
        except HfHubHTTPError as error:
            return f"the hub answered {error.response.status_code}"
        except Exception as error:  # whatever the HTTP client raises, the hub is not usable
            return f"the hub cannot be reached: {type(error).__name__}"
        return "there"

    # A thread, because the client's time limit covers neither name look-up nor a slow drip.
    answers: queue.Queue[str] = queue.Queue()
    threading.Thread(target=lambda: answers.put(ask()), daemon=True).start()
    try:
        return answers.get(timeout=PROBE_SECONDS)
    except queue.Empty:
        return f"the hub gave no answer within {PROBE_SECONDS:.0f} seconds"


def download(choice: ModelChoice) -> Path:
    """Return the folder of the chosen model, downloading it from the hub when needed.

    Raises:
        ModelError: the download broke off, or the model has no safetensors weights. What was
            downloaded whole is kept; a second try goes on from there.
    """
    if choice.folder:
        return choice.folder
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(choice.name, allow_patterns=HUB_FILES))
    except Exception as error:  # the hub client raises many kinds, one remedy fits all
        raise ModelError(
            f"the download of {choice.name} broke off: {error}\n"
            "Run it again to go on, or set HF_HUB_OFFLINE=1 to take the offline model."
        ) from error
    if problem := _what_is_missing(folder):
        raise ModelError(
            f"{choice.name} cannot be used: {problem} (only safetensors weights are read)"
        )
    return folder


def load_tokenizer(choice: ModelChoice | str = "auto") -> "PreTrainedTokenizerBase":
    """Load a model's tokenizer, with a padding token.

    Pythia has a padding token of its own that its tokenizer does not name; other models without
    one pad with end-of-text. Neither matters to the loss, because padding is masked by length.

    Args:
        choice: what `choose` returned, or a name for it to choose by.

    Raises:
        ModelError: see `choose` and `download`.
    """
    from transformers import AutoTokenizer

    choice = choice if isinstance(choice, ModelChoice) else choose(choice)
    tokenizer = AutoTokenizer.from_pretrained(download(choice), local_files_only=True)
    if tokenizer.pad_token is None:
        has_own = "<|padding|>" in tokenizer.get_vocab()
        tokenizer.pad_token = "<|padding|>" if has_own else tokenizer.eos_token
    return tokenizer


def base_of(run: Path) -> ModelChoice:
    """Return the model that an adapter was trained on.

    Raises:
        ModelError: it cannot be had any more.
    """
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))["model"]
    reason = f"the adapter in {run.name} was trained on it"
    if record["source"] == "offline model":
        if not offline_model.is_fetched():
            raise ModelError(f"{reason}, but it is gone; run `{offline_model.FETCH_COMMAND}`")
        return ModelChoice(record["name"], "offline model", reason, offline_model.offline_folder())
    choice = choose(record.get("folder", record["name"]))
    return ModelChoice(choice.name, choice.source, reason, choice.folder)


def load(
    choice: ModelChoice | str = "auto", dtype: str = "float32"
) -> tuple["PreTrainedModel", "PreTrainedTokenizerBase"]:
    """Load a causal language model and its tokenizer, ready for inference on the best device.

    An adapter is merged into the model it was trained on.

    Args:
        choice: what `choose` returned, or a name for it to choose by.
        dtype: of the weights. Files are often in half precision, which plain optimizers turn into
            NaN on a CPU; float32 is right for training, with autocast for speed.

    Raises:
        ModelError: the model cannot be had, is damaged, or is not a causal language model.
        AdapterError: the adapter is damaged, or does not fit its model.
    """
    import torch
    from transformers import AutoModelForCausalLM

    choice = choice if isinstance(choice, ModelChoice) else choose(choice)
    folder = download(choice)
    tokenizer = load_tokenizer(choice)
    if adapters.is_adapter(folder):
        base, _ = load(base_of(folder), dtype)
        return adapters.merged(base, folder).eval(), tokenizer
    try:
        with without_progress_bars():
            model = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=getattr(torch, dtype),
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
            )
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"{choice.name} cannot be loaded from {folder}: {error}") from error
    except Exception as error:
        if type(error).__name__ != "SafetensorError":
            raise
        raise ModelError(f"the weights in {folder} are damaged: {error}") from error
    return model.to(device()).eval(), tokenizer


def export(run: Path, folder: Path) -> Path:
    """Write a model that needs nothing of this package: weights, config, tokenizer.

    Args:
        run: a run folder, or any model folder; an adapter is merged.
        folder: gets float32 safetensors and the prompt format; must not exist yet.

    Returns:
        The folder.

    Raises:
        ModelError: the folder exists, or the model cannot be loaded.
    """
    if folder.exists():
        raise ModelError(f"{folder} exists already; choose another folder to export to")
    model, tokenizer = load(str(run.resolve()))
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    with without_progress_bars():
        model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    if (run / "prompt_format.json").is_file():
        shutil.copy(run / "prompt_format.json", partial)
    partial.rename(folder)
    return folder


@contextlib.contextmanager
def without_progress_bars() -> Iterator[None]:
    """Keep transformers from drawing bars for loading and saving, which take half a second."""
    from transformers.utils import logging

    was_on = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_on:
            logging.enable_progress_bar()


def device() -> str:
    """Return `cuda`, `mps` or `cpu`: the best that is here."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def local_models() -> list[Path]:
    """Return the folders of complete models in the hub's cache and the course's own."""
    from huggingface_hub import constants

    snapshots = Path(constants.HF_HUB_CACHE).glob("models--*/snapshots/*")
    own = (offline_model.cache_folder() / "models").glob("[!.]*")
    return [folder for folder in [*own, *snapshots] if not _what_is_missing(folder)]


def main(argv: list[str] | None = None) -> int:
    """Answer `where`, `fetch` and `list` on the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m utilities.models",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=["where", "fetch", "list", "export"])
    parser.add_argument("folders", nargs="*", metavar="FOLDER", help="RUN and FOLDER, of export")
    arguments = parser.parse_args(argv)
    command, folders = arguments.command, arguments.folders
    if len(folders) != (2 if command == "export" else 0):
        parser.error("export takes two folders, RUN and FOLDER; the others take none")

    def work() -> None:
        if command == "where":
            choice = choose()
            lines = [str(choice), str(choice.folder or "(will be downloaded when it is loaded)")]
        elif command == "fetch":
            ready = offline_model.is_fetched()
            folder = offline_model.fetch()
            verb = "was there already" if ready else "is ready"
            lines = [f"{offline_model.NAME} {verb}: {folder}"]
        elif command == "export":
            lines = [f"wrote: {export(*map(Path, folders))}"]
        else:
            lines = [str(folder) for folder in local_models()] or ["no model on this machine yet"]
        sys.stdout.write("\n".join(lines) + "\n")

    return report_errors(work)


if __name__ == "__main__":
    sys.exit(main())
