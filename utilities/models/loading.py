"""Loading, downloading and exporting models and tokenizers."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from utilities.devices import device
from utilities.errors import ModelError
from utilities.files import atomic_folder
from utilities.models import adapters
from utilities.models.choice import ModelChoice, base_of, choose, what_is_missing

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


# What a model needs, and nothing that could run code.
HUB_FILES = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja"]


def download(choice: ModelChoice) -> Path:
    """Return the folder of the chosen model; download it from the hub if necessary.

    Raises:
        ModelError: the download was interrupted, or the model has no safetensors weights. Files
            that are complete are kept, and a second try continues from there.
    """
    if choice.folder:
        return choice.folder
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(choice.name, allow_patterns=HUB_FILES))
    except Exception as error:  # the hub client raises many kinds, one remedy fits all
        raise ModelError(
            f"the download of {choice.name} broke off: {error}\n"
            "Run it again to continue, or set HF_HUB_OFFLINE=1 to use the offline model."
        ) from error
    if problem := what_is_missing(folder):
        raise ModelError(
            f"{choice.name} cannot be used: {problem} (only safetensors weights are read)"
        )
    return folder


def load_tokenizer(choice: ModelChoice | str = "auto") -> "PreTrainedTokenizerBase":
    """Load a model's tokenizer, and set its padding token if it has none.

    Pythia's vocabulary has a padding token that its tokenizer does not declare; other models
    without one pad with end-of-text. The loss does not depend on it: padding is masked by length.

    Args:
        choice: what `choose` returned, or the name to give to `choose`.

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


def load(
    choice: ModelChoice | str = "auto", dtype: str = "float32"
) -> tuple["PreTrainedModel", "PreTrainedTokenizerBase"]:
    """Load a causal language model and its tokenizer, ready for inference on the best device.

    An adapter is merged into its base model.

    Args:
        choice: what `choose` returned, or the name to give to `choose`.
        dtype: data type of the weights: `float32`, `bfloat16` or `float16`. Files are often in
            half precision, in which a plain optimizer soon gives NaN on a CPU; train in float32,
            with autocast for speed.

    Returns:
        (the model in evaluation mode, the tokenizer).

    Raises:
        ModelError: the model is not available, is damaged, or is not a causal language model.
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
        # Recognized by name, for safetensors' own exception is not part of its public interface.
        if type(error).__name__ != "SafetensorError":
            raise
        raise ModelError(f"the weights in {folder} are damaged: {error}") from error
    # mypy takes the device for `self`: transformers wraps the method without its types.
    model.to(device())  # type: ignore[arg-type]
    return model.eval(), tokenizer


def export(run: Path, folder: Path) -> Path:
    """Write a model for other tools: weights, config, tokenizer.

    Args:
        run: a run folder, or any model folder; an adapter is merged.
        folder: the folder to create, for float32 safetensors and the prompt format.

    Returns:
        The folder.

    Raises:
        ModelError: the folder exists, or the model cannot be loaded.
    """
    if folder.exists():
        raise ModelError(f"{folder} exists already; choose another folder to export to")
    model, tokenizer = load(str(run.resolve()))
    with atomic_folder(folder) as partial:
        with without_progress_bars():
            model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        if (run / "prompt_format.json").is_file():
            shutil.copy(run / "prompt_format.json", partial)
    return folder


@contextlib.contextmanager
def without_progress_bars() -> Iterator[None]:
    """Context manager: transformers shows no progress bars for loading and saving.

    They take half a second or so, and a bar for each would bury the output of a command.
    """
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars
    from transformers.utils import logging

    was_on, hub_was_off = logging.is_progress_bar_enabled(), are_progress_bars_disabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_on:
            logging.enable_progress_bar()  # those of the hub's downloads with them
            if hub_was_off:
                disable_progress_bars()
