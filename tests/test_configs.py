"""Every config that ships is valid, and names files that ship too."""

import pytest

from tests.conftest import ROOT
from utilities.config import load_config
from utilities.evaluation import EvaluationConfig
from utilities.training import TrainingConfig

MODELS = {"finetune": TrainingConfig, "evaluate": EvaluationConfig}
PATHS = sorted((ROOT / "configs").rglob("*.yaml"))


@pytest.mark.parametrize("path", PATHS, ids=lambda path: str(path.relative_to(ROOT / "configs")))
def test_config_loads_and_its_data_exist(path):
    config = load_config(path, MODELS[path.stem])
    for key, value in config:
        if key.endswith("_file") and value is not None:
            assert value.is_file(), key
    assert f"python -m utilities.{type(config).__module__.split('.')[-1]}" in path.read_text()


def test_the_course_assistant_is_evaluated_where_it_is_written():
    folder = ROOT / "configs" / "course_assistant"
    training = load_config(folder / "finetune.yaml", TrainingConfig)
    evaluation = load_config(folder / "evaluate.yaml", EvaluationConfig)
    assert evaluation.model == str(training.output_dir)
    assert evaluation.train_file == training.train_file
