"""Every config that ships is valid, names files that ship too, and has a schema for editors."""

import importlib
import json
from functools import cache

import pydantic
import pytest
import transformers
import yaml
from jsonschema import Draft202012Validator

from tests.conftest import ROOT
from utilities.audit.settings import AuditConfig
from utilities.benchmark.settings import BenchmarkConfig
from utilities.commands import schema_of
from utilities.config import load_config, models_of_field
from utilities.dataprep.settings import DataprepConfig
from utilities.errors import ConfigError
from utilities.evaluation.settings import EvaluationConfig
from utilities.prompts.base import PromptFormat
from utilities.prompts.built_in import FORMATS
from utilities.rows.readers import find_files
from utilities.rows.sources import Source
from utilities.training.settings import TrainingConfig

MODELS = {
    "audit": AuditConfig,
    "dataprep": DataprepConfig,
    "finetune": TrainingConfig,
    "evaluate": EvaluationConfig,
    "arc": BenchmarkConfig,
}
COMMANDS = {
    "audit": AuditConfig,
    "dataprep": DataprepConfig,
    "training": TrainingConfig,
    "evaluation": EvaluationConfig,
    "benchmark": BenchmarkConfig,
}
SCHEMAS = ROOT / "configs" / "schemas"
# Those for accelerate are tried out in test_distributed.py.
PATHS = sorted(
    path for path in (ROOT / "configs").rglob("*.yaml") if path.parent.name != "accelerate"
)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: str(path.relative_to(ROOT / "configs")))
def test_config_loads_and_its_data_exist(path):
    config = load_config(path, MODELS[path.stem])
    for key, value in config:
        if isinstance(value, Source) and value.method == "files":
            assert find_files(value.kwargs["path"]), key
    assert f"python -m utilities.{type(config).__module__.split('.')[1]}" in path.read_text()


def test_the_course_assistant_is_evaluated_where_it_is_written():
    folder = ROOT / "configs" / "course_assistant"
    training = load_config(folder / "finetune.yaml", TrainingConfig)
    evaluation = load_config(folder / "evaluate.yaml", EvaluationConfig)
    assert evaluation.model == str(training.output_dir)
    assert evaluation.train == training.train


def fields_of(model):
    """Yield the names of a config model's fields, and of those of the models in them."""
    for name in model.model_fields:
        yield name
        if name not in model.late_models:  # the library's, over a hundred
            for inner in models_of_field(model, name):
                if not issubclass(inner, PromptFormat):
                    yield from fields_of(inner)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("audit", list(AuditConfig.model_fields)),
        ("dataprep", list(fields_of(DataprepConfig))),
        ("finetune", [f for f in fields_of(TrainingConfig) if f not in Source.model_fields]),
        ("evaluate", [f for f in fields_of(EvaluationConfig) if f not in Source.model_fields]),
    ],
)
def test_the_forms_name_every_key_and_every_prompt_format(name, fields):
    text = (ROOT / "configs" / "starting_point" / f"{name}.yaml").read_text(encoding="utf-8")
    assert not [field for field in fields if f"{field}:" not in text]
    if name in ("audit", "dataprep"):  # the others refer to the form for dataprep
        assert all(prompt_format in text for prompt_format in FORMATS)
    assert "on_bad_rows" in fields or name != "dataprep"  # the source block's keys are among them


# ---- schemas ----


@cache
def validator(name):
    schema = schema_of(COMMANDS[name])
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def faults(name, values):
    return [error.message for error in validator(name).iter_errors(values)]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: str(path.relative_to(ROOT / "configs")))
def test_a_config_names_its_schema_and_fits_it(path):
    name = next(name for name, model in COMMANDS.items() if model is MODELS[path.stem])
    text = path.read_text(encoding="utf-8")
    assert text.startswith(f"# yaml-language-server: $schema=../schemas/{name}.json\n")
    assert (path.parent / f"../schemas/{name}.json").is_file()
    values = yaml.safe_load(text.replace("3e-4", "3.0e-4").replace("5e-4", "5.0e-4"))
    assert faults(name, values) == []
    for key in values:
        misspelt = {("x" + k if k == key else k): value for k, value in values.items()}
        assert any(f"'x{key}' was unexpected" in fault for fault in faults(name, misspelt))


@pytest.mark.parametrize("name", COMMANDS)
def test_the_committed_schemas_are_what_the_commands_print(name, capsys):
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    for library in (pydantic, transformers):
        if f"\n{library.__name__}=={library.__version__}\n" not in pins:
            pytest.skip(
                f"another {library.__name__} than in constraints.txt words schemas otherwise"
            )
    assert importlib.import_module(f"utilities.{name}.__main__").main(["--schema"]) == 0
    kept = (SCHEMAS / f"{name}.json").read_text(encoding="utf-8")
    assert capsys.readouterr().out == kept, "run `make schemas`"
    assert sorted(path.stem for path in SCHEMAS.iterdir()) == sorted(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_key_of_a_schema_is_described(name):
    schema = schema_of(COMMANDS[name], late=False)
    for block in (schema, *schema.get("$defs", {}).values()):
        assert block["description"] and not block["additionalProperties"]
        for key, value in block["properties"].items():
            assert value.get("description", "").endswith("."), key
            assert "\n" not in value["description"]


SMALLEST = {
    "audit": {"source": "rows.jsonl", "output_dir": "out"},
    "dataprep": {"source": "rows.jsonl", "writer": {"kwargs": {"dataset_path": "out"}}},
    "training": {"train": "rows.jsonl", "output_dir": "out"},
    "evaluation": {"model": "auto", "test": "rows.jsonl", "output_dir": "out"},
    "benchmark": {"model": "auto", "output_dir": "out"},
}
BLOCK = {"method": "files", "kwargs": {"path": ["a.csv", "b.csv"]}, "only": {"kind": ["a", 1]}}
PUSH = {"dataset_path": "x", "repo_id": "a/b", "private": True}
TEMPLATE = {"template": "Q: {question}\nA:", "response": " {answer}", "stop": ["\nQ:"]}


@pytest.mark.parametrize(
    ("name", "values", "right"),
    [
        ("audit", {"source": BLOCK, "test": "a.csv", "benchmark": None}, True),
        ("audit", {"source": 3}, False),
        ("audit", {"source": {**BLOCK, "colums": {}}}, False),
        ("audit", {"source": {**BLOCK, "limit": 0}}, False),
        ("audit", {"source": {"kwargs": {"path": "a.json", "split": "train"}}}, True),
        ("audit", {"source": {"kwargs": {"path": "a.json", "spilt": "train"}}}, False),
        ("audit", {"source": {"kwargs": {"dataset_path": "a"}}}, False),
        ("audit", {"source": {"method": "load_from_disk", "kwargs": {"dataset_path": "a"}}}, True),
        ("audit", {"source": {"method": "load_dataset", "kwargs": {"path": "a", "b": 1}}}, True),
        ("audit", {"prompt_format": "alpaca"}, True),
        ("audit", {"prompt_format": TEMPLATE}, True),
        ("audit", {"prompt_format": "alpacca"}, False),
        ("audit", {"prompt_format": {**TEMPLATE, "stopp": []}}, False),
        ("audit", {"limits": [32, 64], "base_model": None}, True),
        ("audit", {"limits": [2]}, False),
        ("dataprep", {"split": {"sizes": {"test": 0.1}}, "packed_length": None}, True),
        ("dataprep", {"split": {"sizes": {}}}, False),
        ("dataprep", {"writer": {"kwargs": {"dataset_path": "x"}, "methd": "parquet"}}, False),
        ("dataprep", {"writer": {"kwargs": {"dataset_path": "x", "repo_id": "a/b"}}}, False),
        ("dataprep", {"writer": {"method": "push_to_hub", "kwargs": PUSH}}, True),
        ("training", {"lora": {"r": 4}, "method": "lora", "tracking": None}, True),
        ("training", {"lora": {"rank": 4}, "method": "lora"}, False),
        ("training", {"early_stopping": {"patience": 0}}, False),
        ("training", {"training_arguments": {"max_steps": 3, "optim": "sgd"}}, True),
        ("training", {"training_arguments": {"max_steps": "many"}}, False),
        ("training", {"training_arguments": {"max_step": 3}}, False),
        ("training", {"training_arguments": {"output_dir": "x"}}, False),
        ("evaluation", {"beside": {"a": "auto", "b": {"base_url": "u", "model": "m"}}}, True),
        ("evaluation", {"beside": {"b": {"base_url": "u", "model": "m", "retry": 1}}}, False),
        ("evaluation", {"generation": {"top_p": 0.5, "temperature": 1}}, True),
        ("evaluation", {"generation": {"top_p": 1.5, "temperature": 1}}, False),
        ("evaluation", {"similarity": ["states"], "group_by": ["topic"]}, True),
        ("evaluation", {"similarity": ["state"]}, False),
        ("benchmark", {"data_files": {"arc_easy": "a.jsonl"}, "dtype": "float16"}, True),
        ("benchmark", {"dtype": "float8"}, False),
    ],
)
def test_schema_and_config_model_agree(name, values, right, tmp_path):
    values = SMALLEST[name] | values
    assert (faults(name, values) == []) == right
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(values))
    if right:
        load_config(path, COMMANDS[name])
    else:
        with pytest.raises(ConfigError):
            load_config(path, COMMANDS[name])


def test_the_schema_of_training_lists_the_fields_of_training_arguments():
    committed = json.loads((SCHEMAS / "training.json").read_text(encoding="utf-8"))
    fields = committed["properties"]["training_arguments"]["properties"]
    assert fields["learning_rate"] == {"type": "number"}
    assert fields["max_steps"] == {"type": "integer"}
    assert len(fields) > 80 and "seed" not in fields
