"""The sizes of language models, and what follows from them: weights, and operations of a step.

Both come within a percent or two of what is counted in the models themselves.

Operations of a training step. A multiplication and an addition are two. Each weight of a layer's
matrices takes 2 operations per token forward, 2 backward for the gradient of its input, and 2 more
for its own gradient if it is trained: 6 when everything is trained (Kaplan et al. 2020, "Scaling
Laws for Neural Language Models", section 2.1), 4 when it is frozen. The output head takes the same,
at supervised positions only, as in `utilities.training.loss`. Attention scores and their use take
2 · 2 · heads · head_dim · row_length / 2 per token and layer forward, half of the square because a
token attends only to those before it, and twice that backward (Narayanan et al. 2021, "Efficient
Large-Scale Language Model Training on GPU Clusters Using Megatron-LM", appendix; they count the
whole square). An adapter weight takes 6. Activation checkpointing repeats the layers' forward pass
up to the last matrix. Norms, activation functions and the optimizer are left out: a percent or two.
"""

import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal, get_args

from utilities.errors import PlanningError, nearest

if TYPE_CHECKING:
    from torch import nn


logger = logging.getLogger(__name__)


Method = Literal["full", "freeze", "lora"]


# Architectures by the config's `model_type`. What is in none of these sets is like Llama: a gated
# feed-forward block, separate matrices for query, key and value, and rotary positions.
_UNGATED = {"gpt_neox", "gpt2", "gpt_neo", "gptj", "opt", "bloom", "falcon", "phi", "starcoder2"}


_FUSED = {"gpt_neox", "gpt2", "bloom", "falcon"}


_LEARNED_POSITIONS = {"gpt2", "gpt_neo", "opt"}


def check_name(kind: str, value: Any, valid: Iterable[str], otherwise: str = "") -> None:
    """Raise a `PlanningError` unless the value is one of the valid names."""
    valid = list(valid)
    if value not in valid:
        raise PlanningError(
            f"there is no {kind} {value!r}{nearest(str(value), valid)} "
            f"Known are {', '.join(valid)}. {otherwise}".rstrip()
        )


def check_positive(**numbers: Any) -> None:
    """Raise a `PlanningError` unless all are finite numbers above 0."""
    for name, value in numbers.items():
        if not isinstance(value, Real) or not 0 < float(value) < math.inf:
            raise PlanningError(f"{name} is {value!r}; give a number above 0")


@dataclass(frozen=True)
class ModelShape:
    """Hyperparameters of a decoder-only language model, from which weights and costs follow.

    Attributes:
        name: the model's name, for messages.
        hidden: width of the residual stream.
        layers: number of transformer layers.
        heads: query heads per layer.
        key_value_heads: key and value heads per layer, fewer with grouped-query attention.
        head_dim: width of a head.
        feed_forward: inner width of the feed-forward block.
        vocabulary: rows of the embedding, padding rows included.
        context: maximum number of tokens of an input.
        gated: three feed-forward matrices, RMSNorm and no biases, as in Llama. Otherwise two
            matrices, LayerNorm and biases, as in GPT-2.
        tied: the output head shares the weights of the embedding.
        fused: query, key and value are one matrix.
        learned_positions: positions have an embedding matrix of their own.
    """

    name: str
    hidden: int
    layers: int
    heads: int
    key_value_heads: int
    head_dim: int
    feed_forward: int
    vocabulary: int
    context: int
    gated: bool = True
    tied: bool = True
    fused: bool = False
    learned_positions: bool = False

    def __post_init__(self) -> None:
        sizes = {k: v for k, v in vars(self).items() if k != "name" and not isinstance(v, bool)}
        check_positive(**sizes)

    @classmethod
    def of(cls, model: Any) -> "ModelShape":
        """Return the shape of a model.

        Args:
            model: a name in `SHAPES` (its organisation and `-Instruct` may be left out), a
                transformers config, or a model. A `ModelShape` is returned as it is.

        Raises:
            PlanningError: the name is unknown, a size is missing, or the model is not a plain
                decoder but, for example, a mixture of experts.

        Example:
            >>> f"{ModelShape.of('pythia-70m').weights:,}"
            '70,426,624'
        """
        if isinstance(model, cls):
            return model
        if isinstance(model, str):
            names = {_short(name): name for name in SHAPES}
            check_name("model shape", _short(model), names, "Or give a config or a ModelShape.")
            return SHAPES[names[_short(model)]]
        config = getattr(model, "config", model)
        config = config.get_text_config() if hasattr(config, "get_text_config") else config
        shape = _shape_of_config(config)
        if hasattr(model, "named_parameters") and not hasattr(config, "quantization_config"):
            _compare_weights(shape, model)
        return shape

    @property
    def matrices(self) -> dict[str, tuple[int, int]]:
        """(inputs, outputs) of each matrix of one layer."""
        queries, keys = self.heads * self.head_dim, self.key_value_heads * self.head_dim
        outputs = {"query": queries, "key": keys, "value": keys}
        if self.fused:
            outputs = {"query_key_value": queries + 2 * keys}
        if self.gated:
            outputs["gate"] = self.feed_forward
        outputs["up"] = self.feed_forward
        from_hidden = {name: (self.hidden, width) for name, width in outputs.items()}
        to_hidden = {
            "output": (queries, self.hidden),
            "down": (self.feed_forward, self.hidden),
        }
        return from_hidden | to_hidden

    @property
    def head_weights(self) -> int:
        """Weights of the output head, counted also when tied to the embedding."""
        return self.vocabulary * self.hidden

    @property
    def layer_weights(self) -> int:
        """Weights of the matrices of all layers."""
        return self.layers * sum(n * m for n, m in self.matrices.values())

    @property
    def small_weights(self) -> int:
        """Weights of all norms and biases, without the few that Qwen adds to Llama (0.01 %)."""
        if self.gated:
            return (2 * self.layers + 1) * self.hidden
        biases = self.layers * sum(m for _, m in self.matrices.values())
        return biases + 2 * (2 * self.layers + 1) * self.hidden

    @property
    def weights(self) -> int:
        """All weights of the model; shared ones count once."""
        embedding_rows = self.vocabulary if self.tied else 2 * self.vocabulary
        if self.learned_positions:
            embedding_rows += self.context
        return embedding_rows * self.hidden + self.layer_weights + self.small_weights


def _shape_of_config(config: Any) -> ModelShape:
    """Read the sizes of a transformers config, whatever its attributes are called."""
    kind = getattr(config, "model_type", type(config).__name__)

    def size(*names: str, default: int | None = None) -> int:
        values = (getattr(config, name, None) for name in names)
        value = next((value for value in values if value is not None), default)
        if value is None:
            raise PlanningError(
                f"cannot read the sizes of {kind!r}: it has no {names[0]}. "
                "Give a name, a transformers config, a model, or a ModelShape"
            )
        return value

    experts = size("num_local_experts", "num_experts", "n_routed_experts", default=0)
    if experts > 1 or getattr(config, "is_encoder_decoder", False):
        raise PlanningError(f"{kind!r} is not a plain decoder; give a ModelShape with its sizes")
    hidden = size("hidden_size", "n_embd", "d_model")
    heads = size("num_attention_heads", "n_head")
    inner = ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size")
    return ModelShape(
        name=getattr(config, "name_or_path", "") or kind,
        hidden=hidden,
        layers=size("num_hidden_layers", "n_layer"),
        heads=heads,
        key_value_heads=size("num_key_value_heads", "num_kv_heads", default=heads),
        head_dim=size("head_dim", default=hidden // heads),
        feed_forward=size(*inner, default=4 * hidden),
        vocabulary=size("vocab_size"),
        context=size("max_position_embeddings", "n_positions", "seq_length", default=2048),
        gated=kind not in _UNGATED,
        tied=bool(getattr(config, "tie_word_embeddings", False)),
        fused=kind in _FUSED,
        learned_positions=kind in _LEARNED_POSITIONS,
    )


def _compare_weights(shape: ModelShape, model: "nn.Module") -> None:
    """Warn when a model's real number of weights is over 5 % away from that of its shape."""
    weights = [w for name, w in model.named_parameters() if "lora_" not in name]
    counted = sum(weight.numel() for weight in weights)  # 0 while ZeRO shards them
    if counted and abs(shape.weights - counted) > 0.05 * counted:
        logger.warning(
            "%s has %s weights, a plain decoder of its sizes %s; plans for it will be off",
            shape.name,
            f"{counted:,}",
            f"{shape.weights:,}",
        )


def _short(name: str) -> str:
    return name.split("/")[-1].lower().removesuffix("-instruct").removesuffix("-deduped")


_KNOWN_MODELS = """\
name                       type     tied hidden layers heads kv_heads ffn_width vocabulary context
EleutherAI/pythia-70m      gpt_neox no      512      6     8        8      2048      50304    2048
EleutherAI/pythia-160m     gpt_neox no      768     12    12       12      3072      50304    2048
EleutherAI/pythia-410m     gpt_neox no     1024     24    16       16      4096      50304    2048
EleutherAI/pythia-1b       gpt_neox no     2048     16     8        8      8192      50304    2048
EleutherAI/pythia-1.4b     gpt_neox no     2048     24    16       16      8192      50304    2048
EleutherAI/pythia-2.8b     gpt_neox no     2560     32    32       32     10240      50304    2048
EleutherAI/pythia-6.9b     gpt_neox no     4096     32    32       32     16384      50432    2048
EleutherAI/pythia-12b      gpt_neox no     5120     36    40       40     20480      50688    2048
HuggingFaceTB/SmolLM2-135M llama    yes     576     30     9        3      1536      49152    8192
HuggingFaceTB/SmolLM2-360M llama    yes     960     32    15        5      2560      49152    8192
HuggingFaceTB/SmolLM2-1.7B llama    yes    2048     24    32       32      8192      49152    8192
Qwen/Qwen2.5-0.5B          qwen2    yes     896     24    14        2      4864     151936   32768
Qwen/Qwen2.5-1.5B          qwen2    yes    1536     28    12        2      8960     151936  131072
Qwen/Qwen2.5-7B            qwen2    no     3584     28    28        4     18944     152064  131072
meta-llama/Llama-3.2-1B    llama    yes    2048     16    32        8      8192     128256  131072
meta-llama/Llama-3.2-3B    llama    yes    3072     28    24        8      8192     128256  131072
meta-llama/Llama-3.1-8B    llama    no     4096     32    32        8     14336     128256  131072
meta-llama/Llama-3.1-70B   llama    no     8192     80    64        8     28672     128256  131072
"""


def _known_shapes() -> dict[str, ModelShape]:
    """Read the table of known models; in all of them the heads share the width evenly."""
    shapes = {}
    for line in _KNOWN_MODELS.splitlines()[1:]:
        name, kind, tied, *numbers = line.split()
        hidden, layers, heads, kv_heads, feed_forward, vocabulary, context = map(int, numbers)
        shapes[name] = ModelShape(
            name=name,
            hidden=hidden,
            layers=layers,
            heads=heads,
            key_value_heads=kv_heads,
            head_dim=hidden // heads,
            feed_forward=feed_forward,
            vocabulary=vocabulary,
            context=context,
            gated=kind not in _UNGATED,
            tied=tied == "yes",
            fused=kind in _FUSED,
        )
    return shapes


SHAPES = _known_shapes()
"""Well-known models, by their published configs."""


def step_flops(
    shape: ModelShape,
    tokens: float,
    supervised_tokens: float,
    row_length: float,
    method: Method = "full",
    *,
    trained_layers: int | None = None,
    rank: int = 8,
    activation_checkpointing: bool = False,
) -> float:
    """Return the floating point operations of one training step; the module says how they count.

    Args:
        shape: the model's sizes.
        tokens: tokens of the step, without padding; 0 or more.
        supervised_tokens: tokens with a label, at most `tokens`.
        row_length: tokens per row. Where rows differ, Σ length² / Σ length.
        method: `full` trains all weights, `freeze` only those in the last `trained_layers` layers,
            `lora` only adapters in all layers.
        trained_layers: number of layers that `freeze` trains, 1 or more.
        rank: rank of the adapters, which all matrices have.
        activation_checkpointing: activations are recomputed in the backward pass.

    Raises:
        PlanningError: a number is out of range, or a name is unknown.

    Example:
        >>> f"{step_flops(ModelShape.of('pythia-70m'), 512, 128, 64):.3g}"
        '7.84e+10'
    """
    depth, _, adapters = trained_part(shape, method, trained_layers, rank)
    check_positive(row_length=row_length)
    if not 0 <= supervised_tokens <= tokens < math.inf:
        raise PlanningError(
            f"{supervised_tokens} supervised tokens of {tokens}; both must be 0 or more, "
            "and the supervised ones at most as many"
        )
    layers = 2 * shape.layer_weights * tokens
    head = 2 * shape.head_weights * supervised_tokens
    scores = 2 * shape.layers * shape.heads * shape.head_dim * row_length * tokens
    forward = layers + scores + head
    backward = depth * (layers + 2 * scores) + head
    if method != "lora":
        backward += depth * layers
    if method == "full":
        backward += head
    elif method == "lora":  # the embedding needs no gradient, so the first layer's input neither
        attention_width = (shape.heads + 2 * shape.key_value_heads) * shape.head_dim
        backward -= 2 * shape.hidden * attention_width * tokens
    last_matrix = 2 * shape.layers * math.prod(shape.matrices["down"]) * tokens
    recomputed = depth * (layers + scores - last_matrix) if activation_checkpointing else 0
    adapter_passes = 4 if activation_checkpointing else 3
    return float(forward + backward + recomputed + 2 * adapters * tokens * adapter_passes)


def trained_part(
    shape: ModelShape, method: Method, trained_layers: int | None, rank: int
) -> tuple[float, int, int]:
    """Return the share of layers that the backward pass reaches, and the trained weights.

    Returns:
        (share of layers, the model's own weights that are trained, adapter weights).

    Raises:
        PlanningError: as `step_flops`.
    """
    check_name("method", method, get_args(Method))
    check_positive(rank=rank)
    valid = range(1, shape.layers + 1) if method == "freeze" else [None]
    if trained_layers not in valid:
        raise PlanningError(
            f"trained_layers is {trained_layers} with method {method!r}; "
            f"`freeze` needs 1 to {shape.layers}, the other methods take none"
        )
    if method == "full":
        return 1.0, shape.weights, 0
    if trained_layers is None:  # LoRA
        return 1.0, 0, shape.layers * rank * sum(n + m for n, m in shape.matrices.values())
    depth = trained_layers / shape.layers
    return depth, round(depth * (shape.layer_weights + shape.small_weights)), 0


def memory_footprint(model: "nn.Module") -> int:
    """Return the bytes of a model's weights and buffers; shared ones count once.

    Example:
        `print(f"{memory_footprint(model) / 1e9:.2f} GB")`
    """
    tensors = [*model.parameters(), *model.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
