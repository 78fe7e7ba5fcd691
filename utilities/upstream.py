"""The private names of other libraries that this package needs, and why: the one place to look at
after an upgrade.

Each name has a strict xfail test in `tests/test_upstream.py` that asserts the public way which is
missing today. It turns red on the day the library offers it, and then the function here goes. The
Trainer's private methods are overridden in `training/trainer.py`; their reasons are tested there
too.
"""

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import datasets
    import transformers


def cache_argument(model: Any) -> Literal["cache", "past_key_values"]:
    """Return the name under which a model's `forward` takes its key/value cache.

    transformers 5.24 renamed `past_key_values` to `cache`: the old name warns from then on and goes
    in 5.40, the new one does not exist before. No thread found.

    Args:
        model: a causal language model, or a PEFT model around one.
    """
    # An adapter's own `forward` takes anything and hands it on.
    base: Any = model.get_base_model() if hasattr(model, "get_base_model") else model
    return "cache" if "cache" in inspect.signature(base.forward).parameters else "past_key_values"


def render_chat_template(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    add_generation_prompt: bool,
    variables: Mapping[str, str],
) -> str:
    """Render a chat template without a tokenizer.

    transformers 5.23: `apply_chat_template` is public, but a method of tokenizers, and a saved
    prompt format has none. The function under it, which sets up the sandbox and the filters that
    templates rely on, is in no public module. For the aim behind it, keeping text apart from the
    template's special tokens, see huggingface/transformers#29279.

    Args:
        template: Jinja text.
        messages: with `role` and `content`.
        add_generation_prompt: end with the template's announcement of an answer.
        variables: what the template may refer to by name, such as `bos_token`.

    Raises:
        jinja2.TemplateError: the template is broken, or refuses the messages.
    """
    from transformers.utils.chat_template_utils import render_jinja_template

    render: Callable[..., Any] = render_jinja_template  # its annotations say that it returns a text
    (text,), _ = render(
        [messages],
        chat_template=template,
        add_generation_prompt=add_generation_prompt,
        **variables,
    )
    return text


def dataset_fingerprint(data: "datasets.Dataset") -> str:
    """Return the hash by which `datasets` knows what it loaded; of a hub dataset, of its commit.

    datasets 5.2: a dataset takes a `fingerprint`, but tells it only by a private name. No thread
    found.
    """
    return data._fingerprint  # noqa: SLF001


def use_one_gpu(arguments: "transformers.TrainingArguments") -> None:
    """Keep the Trainer from spreading one process over all GPUs with `DataParallel`.

    transformers 5.23: the number of GPUs is a property that counts what is visible; no argument
    sets it, and `CUDA_VISIBLE_DEVICES` would have to be set before torch starts. See
    huggingface/transformers#17115, which was closed without one.
    """
    arguments._n_gpu = min(1, arguments.n_gpu)  # noqa: SLF001


@contextlib.contextmanager
def compiled_templates() -> Iterator[None]:
    """Have lm-evaluation-harness compile each prompt template once, not once an item.

    lm-eval 0.4.13: `lm_eval.utils.apply_template` compiles its template at every call, which takes
    most of the time of building requests; there is no hook. See
    EleutherAI/lm-evaluation-harness#1286.
    """
    from lm_eval.utils import env

    # An attribute of the instance hides the class's method; deleting it brings that back.
    env.from_string = functools.cache(env.from_string)
    try:
        yield
    finally:
        del env.from_string
