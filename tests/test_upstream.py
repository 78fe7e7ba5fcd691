"""The private names of other libraries: what they do here, and whether they are still needed.

Each strict xfail asserts the public or mended behavior that the package would rather use. It fails
as long as upstream lacks it; on the day it passes it turns red, and the workaround it names can go.
"""

import ast
import importlib.metadata
import sys
import tomllib
import warnings

import datasets
import jinja2
import numpy as np
import pyarrow as pa
import pytest
import torch
import transformers
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from transformers.cache_utils import DynamicLayer

from tests.conftest import ROOT, tiny_model
from utilities import upstream
from utilities.inference.generation import Generation
from utilities.inference.likelihood import choice_log_probabilities
from utilities.inference.local_model import LocalModel
from utilities.models import adapters

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
MESSAGES = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
TEMPLATE = "{% for m in messages %}{{ bos_token }}{{ m.role }}: {{ m.content }}\n{% endfor %}"


def requirement(name: str) -> Requirement:
    """Return a requirement of the package or one of its extras."""
    every = map(Requirement, [*PROJECT["dependencies"], *EXTRAS["benchmark"]])
    return next(found for found in every if found.name == name)


# ---- the key/value cache ----


def renamed(model):
    """Return a model whose `forward` takes the cache by the name it has not in this release."""
    own = upstream.cache_argument(model)
    forward = type(model).forward

    if own == "cache":

        class Renamed(type(model)):
            def forward(self, input_ids=None, past_key_values=None, **options):
                return forward(self, input_ids, cache=past_key_values, **options)
    else:

        class Renamed(type(model)):
            def forward(self, input_ids=None, cache=None, **options):
                return forward(self, input_ids, past_key_values=cache, **options)

    other = Renamed(model.config).eval()
    other.load_state_dict(model.state_dict())
    return other


@pytest.mark.filterwarnings("error")
def test_the_cache_is_handed_over_by_either_name(model, tokenizer):
    other = renamed(model)
    names = {upstream.cache_argument(model), upstream.cache_argument(other)}
    assert names == {"cache", "past_key_values"}
    settings = Generation(max_new_tokens=8)
    prompts = ["What is an epoch?", "Why?"]
    questions = [([5, 6, 7], [[8, 9, 10], [11, 12]]), ([5], [[6]])]
    results = [
        (
            dict(LocalModel(one, tokenizer).answers(prompts, settings)),
            choice_log_probabilities(one, questions, tokenizer.pad_token_id),
        )
        for one in (model, other)
    ]
    assert results[0] == results[1]
    assert all(answer.error is None for answer in results[0][0].values())


def test_the_cache_of_a_model_with_an_adapter(model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries about each other
        tuned = adapters.attach(renamed(model), adapters.Lora(r=2))
    assert upstream.cache_argument(tuned) != upstream.cache_argument(model)


@pytest.mark.xfail(strict=True)
def test_all_supported_releases_call_the_cache_alike():
    """Then `cache_argument` can go."""
    assert not requirement("transformers").specifier.contains("5.23.0")


@pytest.mark.xfail(strict=True)
def test_the_library_s_cache_grows_without_copying():
    """Then `inference.key_value_cache` can go; see huggingface/transformers#30536, closed."""
    layer, token = DynamicLayer(), torch.zeros(1, 1, 1, 4)
    before = layer.update(token, token)[0].data_ptr()
    assert layer.update(token, token)[0].data_ptr() == before


# ---- chat templates ----


def test_a_chat_template_is_rendered_as_by_its_tokenizer(tokenizer):
    for announce in (False, True):
        expected = tokenizer.apply_chat_template(
            MESSAGES, chat_template=TEMPLATE, add_generation_prompt=announce, tokenize=False
        )
        variables = {"bos_token": tokenizer.bos_token}
        assert upstream.render_chat_template(TEMPLATE, MESSAGES, announce, variables) == expected
    with pytest.raises(jinja2.TemplateError):
        upstream.render_chat_template("{{ raise_exception('no') }}", MESSAGES, False, {})


@pytest.mark.xfail(strict=True, raises=ImportError)
def test_chat_templates_can_be_rendered_without_a_tokenizer():
    from transformers import render_jinja_template  # noqa: F401


# ---- datasets ----


def test_a_dataset_s_fingerprint():
    table = pa.table({"a": [1, 2]})
    assert upstream.dataset_fingerprint(datasets.Dataset(table, fingerprint="abc")) == "abc"
    one, same, other = (datasets.Dataset.from_dict({"a": [n]}) for n in (1, 1, 2))
    assert upstream.dataset_fingerprint(one) == upstream.dataset_fingerprint(same)
    assert upstream.dataset_fingerprint(one) != upstream.dataset_fingerprint(other)


@pytest.mark.xfail(strict=True, raises=AttributeError)
def test_a_dataset_tells_its_fingerprint():
    assert datasets.Dataset.from_dict({"a": [1]}).fingerprint


# ---- the Trainer ----


def trainer(model, folder, **arguments):
    """Return the library's own Trainer on eight rows, with a checkpoint every step."""
    ids = np.random.default_rng(0).integers(2, 400, (8, 12)).tolist()
    rows = datasets.Dataset.from_dict({"input_ids": ids, "labels": ids})
    settings = transformers.TrainingArguments(
        folder,
        per_device_train_batch_size=4,
        max_steps=2,
        save_strategy="steps",
        save_steps=1,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        **arguments,
    )
    return transformers.Trainer(model, settings, train_dataset=rows, eval_dataset=rows)


def head_of(checkpoint):
    """Return the output head that `from_pretrained` loads."""
    loaded = transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    return loaded.get_output_embeddings().weight


@pytest.mark.parametrize(
    "family",
    [
        "llama",  # its head has one name; this shows that the tests could pass
        pytest.param("gpt_neox", marks=pytest.mark.xfail(strict=True)),
    ],
)
def test_the_library_resumes_with_the_saved_head(family, tmp_path):
    """Then `SupervisedTrainer._load_from_checkpoint` can go.

    GPT-NeoX's output head is `embed_out` in the file and `lm_head` in memory. The Trainer loads the
    file as it is, and leaves out the head without an error. See huggingface/transformers#49022.
    """
    trainer(tiny_model(family), tmp_path).train()
    checkpoint = tmp_path / "checkpoint-2"
    other = tiny_model(family, seed=1)
    trainer(other, tmp_path).train(resume_from_checkpoint=str(checkpoint))  # no step is left
    assert torch.equal(other.get_output_embeddings().weight, head_of(checkpoint))


@pytest.mark.parametrize(
    "family", ["llama", pytest.param("gpt_neox", marks=pytest.mark.xfail(strict=True))]
)
def test_the_library_loads_the_best_head(family, tmp_path):
    """Then `SupervisedTrainer._load_best_model` can go; the reason is that of resuming."""
    model = tiny_model(family)
    chosen = {"load_best_model_at_end": True, "metric_for_best_model": "loss"}
    # The loss falls, so the greatest is that of the first checkpoint, not of the last.
    chosen |= {"greater_is_better": True, "eval_strategy": "steps", "eval_steps": 1}
    trained = trainer(model, tmp_path, learning_rate=0.01, **chosen)
    trained.train()
    best = tmp_path / "checkpoint-1"
    assert trained.state.best_model_checkpoint == str(best)
    assert torch.equal(model.get_output_embeddings().weight, head_of(best))


@pytest.mark.xfail(strict=True)
def test_older_checkpoints_are_there_while_a_new_one_is_finished(tmp_path):
    """Then `SupervisedTrainer._save_checkpoint` can be an `on_save` callback.

    The Trainer deletes older checkpoints before it calls `on_save`, where the new one is sealed: a
    run that is killed between the two would have none to resume from. No thread found.
    """
    seen = []

    class Look(transformers.TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            seen.append(len(list(tmp_path.glob("checkpoint-*"))))

    saving = trainer(tiny_model("llama"), tmp_path, save_total_limit=1)
    saving.add_callback(Look())
    saving.train()
    assert seen == [1, 2]


@pytest.mark.xfail(strict=True, raises=ImportError)
def test_old_checkpoints_can_be_deleted_by_a_public_function():
    from transformers import rotate_checkpoints  # noqa: F401


def test_one_process_uses_one_gpu_at_most(tmp_path):
    arguments = transformers.TrainingArguments(tmp_path, use_cpu=True)
    for visible, used in ((0, 0), (1, 1), (4, 1)):
        arguments.device  # noqa: B018 - a property that counts the GPUs when it is first used
        arguments._n_gpu = visible
        upstream.use_one_gpu(arguments)
        assert arguments.n_gpu == used


@pytest.mark.xfail(strict=True, raises=TypeError)
def test_the_number_of_gpus_is_an_argument(tmp_path):
    transformers.TrainingArguments(tmp_path, n_gpu=1)


@pytest.mark.xfail(strict=True)
def test_the_batch_size_that_the_trainer_uses_is_public(tmp_path):
    """Then `SupervisedTrainer` need not read `_train_batch_size`."""
    assert hasattr(trainer(tiny_model("llama"), tmp_path), "train_batch_size")


# ---- lm-evaluation-harness ----


@pytest.fixture
def compilations(monkeypatch):
    """The templates that the harness compiles."""
    from lm_eval.utils import env

    compiled, compile_template = [], env.compile

    def counting(source, *args, **kwargs):
        compiled.append(source)
        return compile_template(source, *args, **kwargs)

    monkeypatch.setattr(env, "compile", counting)
    return compiled


def test_templates_are_compiled_once(compilations):
    from lm_eval.utils import apply_template, env

    with upstream.compiled_templates():
        for n in range(3):
            assert apply_template("{{ n }}", {"n": n}) == str(n)
            assert apply_template("{{ n }}!", {"n": n}) == f"{n}!"
    assert compilations == ["{{ n }}", "{{ n }}!"]
    assert "from_string" not in vars(env)


@pytest.mark.xfail(strict=True)
def test_the_harness_compiles_a_template_once(compilations):
    """Then `compiled_templates` can go."""
    from lm_eval.utils import apply_template

    for n in range(3):
        apply_template("{{ n }}?", {"n": n})
    assert compilations == ["{{ n }}?"]


# ---- the package as a whole ----


def test_private_names_are_in_one_module_only():
    files = sorted((ROOT / "utilities").rglob("*.py"))
    assert len(files) > 70
    silenced = {file.name for file in files if "SLF001" in file.read_text(encoding="utf-8")}
    assert silenced == {"upstream.py"}


def imported() -> set[str]:
    """Return the packages that `utilities` imports anywhere, also inside functions."""
    names = set()
    for file in (ROOT / "utilities").rglob("*.py*"):
        if file.suffix not in (".py", ".pyi"):
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module)
    top = {name.split(".")[0] for name in names}
    return top - sys.stdlib_module_names - {"utilities"}


def test_every_import_is_declared():
    users = ("lab", "benchmark", "s3", "trackers")
    lines = [*PROJECT["dependencies"], *(line for extra in users for line in EXTRAS[extra])]
    declared = {canonicalize_name(Requirement(line).name) for line in lines}
    distributions = importlib.metadata.packages_distributions()
    found = {
        name: {canonicalize_name(d) for d in distributions.get(name, [name])} for name in imported()
    }
    assert {"torch", "yaml", "lm_eval"} <= set(found)
    assert not {name for name, owners in found.items() if not owners & declared}


@pytest.mark.parametrize("name", ["transformers", "lm-eval"])
def test_libraries_that_rename_things_have_an_upper_bound(name):
    assert "<" in {specifier.operator for specifier in requirement(name).specifier}
