"""LoRA adapters: a frozen model with small trained matrices in its linear layers, through peft.

A layer's weight W is frozen; the product B·A, of rank `r`, is added to it, scaled by `alpha / r`
(Hu et al. 2021, arXiv:2106.09685). Merging adds the scaled B·A to W, and leaves a plain model.
"""

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from pydantic import Field

from utilities.config import StrictModel
from utilities.errors import AdapterError, nearest

if TYPE_CHECKING:
    from transformers import PreTrainedModel


CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"


class Lora(StrictModel):
    """Settings of a LoRA adapter."""

    r: int = Field(default=8, ge=1)
    """Rank of the added matrices. The number of trained weights grows with it."""
    alpha: float = Field(default=16.0, gt=0)
    """Scale of the adapter: its product is added `alpha / r` times."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the adapter's inputs that are set to zero in training."""
    targets: tuple[str, ...] = ()
    """Names of the linear layers to adapt, such as `query_key_value`; empty for all linear layers
    except the output head.
    """
    merge: bool = False
    """Whether to write the merged model into the run folder instead of the adapter alone."""
    base_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Data type of the frozen weights; 16 bits halve their memory. The adapter is always float32.
    """


def attach(model: "PreTrainedModel", lora: Lora) -> "PreTrainedModel":
    """Add a new adapter to a model, and freeze all other weights in place.

    B starts as zero, so the model's outputs do not change yet. A is drawn from torch's global
    random generator.

    Returns:
        The model, wrapped by peft.

    Raises:
        AdapterError: the model has no such layer.
    """
    from peft import LoraConfig, get_peft_model

    names = {name.split(".")[-1] for name, _ in model.named_modules()} - {""}
    for target in lora.targets:
        if target.split(".")[-1] not in names:
            raise AdapterError(
                f"targets: the model has no layer {target!r}{nearest(target, names)}"
            )
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # declared int, used as a factor
        lora_dropout=lora.dropout,
        target_modules=list(lora.targets) or "all-linear",
        task_type="CAUSAL_LM",
    )
    try:
        with _without_peft_warning():
            # A PeftModel forwards what it does not define itself to the model that it wraps.
            return cast("PreTrainedModel", get_peft_model(model, config))
    except ValueError as error:
        raise AdapterError(f"targets {list(lora.targets)}: {error}") from None


@contextlib.contextmanager
def _without_peft_warning() -> Iterator[None]:
    """Context manager: hide that peft 0.21 uses a name which transformers 5.23 has deprecated."""
    with warnings.catch_warnings():
        message = "`is_gradient_checkpointing` is deprecated"
        warnings.filterwarnings("ignore", message, FutureWarning)
        yield


def is_adapter(folder: Path) -> bool:
    """Return whether a folder contains an adapter without its base model."""
    return (folder / CONFIG_FILE).is_file() and not (folder / "config.json").is_file()


def merged(base: "PreTrainedModel", folder: Path) -> "PreTrainedModel":
    """Merge the adapter of a folder into the weights of its base model; return the model.

    Raises:
        AdapterError: the adapter is damaged, or does not fit the model.
    """
    from peft import PeftModel

    try:
        with _without_peft_warning():
            return PeftModel.from_pretrained(base, str(folder)).merge_and_unload()
    except Exception as error:  # peft, safetensors and torch each raise their own kinds
        raise AdapterError(f"the adapter in {folder} cannot be loaded: {error}") from error


def load_weights(model: "PreTrainedModel", folder: Path) -> None:
    """Load the adapter weights of a folder into a model with an adapter of the same shape."""
    from peft import load_peft_weights, set_peft_model_state_dict

    set_peft_model_state_dict(model, load_peft_weights(str(folder), device="cpu"))
