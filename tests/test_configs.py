"""Every config that ships is valid, and names files that ship too."""

from typing import get_args

import pytest

from tests.conftest import ROOT
from utilities.audit.settings import AuditConfig
from utilities.benchmark.settings import BenchmarkConfig
from utilities.config import load_config
from utilities.dataprep.settings import DataprepConfig
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
    for name, field in model.model_fields.items():
        yield name
        for annotation in (field.annotation, *get_args(field.annotation)):
            if hasattr(annotation, "model_fields") and not issubclass(
                getattr(annotation, "__origin__", annotation), PromptFormat
            ):
                yield from fields_of(annotation)


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
