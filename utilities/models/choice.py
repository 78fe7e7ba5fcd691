"""Model selection: which model runs, and where its files are.

    python -m utilities.models where     show which model would be used, and why
    python -m utilities.models fetch     fetch the offline model
    python -m utilities.models list      list the models on this machine
    python -m utilities.models export RUN FOLDER
                                         write a run's model, an adapter merged, for other tools

`COURSE_MODEL` names the model: a hub id, a folder, or `auto` (the default). `auto` is
`EleutherAI/pythia-70m` if the hub or its cache has it, else the offline model. One probe of at most
3 seconds decides, once per process. The choice and its reason are always printed, and recorded with
every run. Weights come from safetensors files only; code from a hub is never run.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from utilities.errors import ModelError
from utilities.files import cache_folder
from utilities.hub import probe
from utilities.models import adapters, offline

DEFAULT_MODEL = "EleutherAI/pythia-70m"


@dataclass(frozen=True)
class ModelChoice:
    """A chosen model, its origin, and the reason for the choice.

    Attributes:
        name: what the model is. A stand-in carries its own name, never the original's.
        source: `hub`, `hub cache`, `offline model` or `folder`.
        reason: a clause that completes "because …".
        folder: of the files; None until a hub model has been downloaded.
    """

    name: str
    source: Literal["hub", "hub cache", "offline model", "folder"]
    reason: str
    folder: Path | None = None

    def __str__(self) -> str:
        return f"{self.name} from the {self.source}, because {self.reason}"

    def record(self) -> dict[str, str]:
        """Return name, source and reason for a run's record; of a folder also its path."""
        record = {"name": self.name, "source": self.source, "reason": self.reason}
        if self.source == "folder" and self.folder:
            record["folder"] = str(self.folder.resolve())
        return record


def choose(name: str = "auto", weights: bool = True) -> ModelChoice:
    """Choose a model, without downloading it.

    Args:
        name: a hub id, a folder, or `auto`: the model that `COURSE_MODEL` names, or, if that is not
            set or is `auto` too, the default model or the offline one.
        weights: whether a folder must hold weights; config and tokenizer are enough otherwise.

    Raises:
        ModelError: the named model does not exist or is not reachable, or `auto` finds neither the
            hub nor the offline model.
    """
    reason = f"{name} was asked for"
    if name == "auto":
        name = os.environ.get("COURSE_MODEL") or "auto"
        reason = f"COURSE_MODEL is {name}"
    if name == "auto":
        return _choose_automatically()
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _from_folder(folder, reason, weights)
    if name.startswith((".", "~", "/")) or name.count("/") > 1:
        raise ModelError(f"there is no model folder {name}")
    if cached := _in_hub_cache(name):
        return ModelChoice(name, "hub cache", reason, cached)
    state = probe(name)
    if state != "there":
        raise ModelError(
            f"cannot get the model {name!r}: {state}. Check the name and the network "
            "(gated models need HF_TOKEN), or set COURSE_MODEL=auto"
        )
    return ModelChoice(name, "hub", reason)


def _choose_automatically() -> ModelChoice:
    if cached := _in_hub_cache(DEFAULT_MODEL):
        return ModelChoice(DEFAULT_MODEL, "hub cache", "it is in the hub's cache", cached)
    state = probe(DEFAULT_MODEL)
    if state == "there":
        return ModelChoice(DEFAULT_MODEL, "hub", "the hub can be reached")
    if not offline.is_fetched():
        raise ModelError(
            f"no {DEFAULT_MODEL} ({state}) and no offline model yet; run `{offline.FETCH_COMMAND}`"
        )
    reason = f"{DEFAULT_MODEL} is out of reach ({state})"
    return ModelChoice(offline.NAME, "offline model", reason, offline.offline_folder())


def _from_folder(folder: Path, reason: str, weights: bool) -> ModelChoice:
    if problem := what_is_missing(folder, weights):
        raise ModelError(f"{folder} is not a model folder: {problem}")
    if folder.resolve() == offline.offline_folder().resolve():
        return ModelChoice(offline.NAME, "offline model", reason, folder)
    record = folder / "run.json"
    if record.is_file():
        base = json.loads(record.read_text(encoding="utf-8"))["model"]["name"]
        return ModelChoice(f"{folder.name} (tuned from {base})", "folder", reason, folder)
    return ModelChoice(folder.name, "folder", reason, folder)


def what_is_missing(folder: Path, weights: bool = True) -> str | None:
    """Return a clause that names the first file a model folder lacks; None if it is complete."""
    index = folder / "model.safetensors.index.json"
    if adapters.is_adapter(folder):
        required = [adapters.WEIGHTS_FILE, "tokenizer_config.json", "run.json"]
    else:
        required = ["config.json", "tokenizer_config.json"]
        if weights and index.is_file():
            shards = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
            required += sorted(set(shards))
        elif weights:
            required.append("model.safetensors")
    for name in required:
        if not (folder / name).is_file():
            return f"it lacks {name}"
    return None


def _in_hub_cache(name: str) -> Path | None:
    """Return the snapshot of a hub model in the local cache; None if it is not complete."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    except HFValidationError:
        raise ModelError(f"{name!r} is neither a folder nor a hub id such as org/name") from None
    return None if what_is_missing(folder) else folder


def base_of(run: Path) -> ModelChoice:
    """Return the base model that an adapter was trained on.

    Raises:
        ModelError: it is no longer available.
    """
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))["model"]
    reason = f"the adapter in {run.name} was trained on it"
    if record["source"] == "offline model":
        if not offline.is_fetched():
            raise ModelError(f"{reason}, but it is missing; run `{offline.FETCH_COMMAND}`")
        return ModelChoice(record["name"], "offline model", reason, offline.offline_folder())
    choice = choose(record.get("folder", record["name"]))
    return ModelChoice(choice.name, choice.source, reason, choice.folder)


def local_models() -> list[Path]:
    """Return the folders of complete models in the hub's cache and the course's own."""
    from huggingface_hub import constants

    snapshots = Path(constants.HF_HUB_CACHE).glob("models--*/snapshots/*")
    own = (cache_folder() / "models").glob("[!.]*")
    return [folder for folder in [*own, *snapshots] if not what_is_missing(folder)]
