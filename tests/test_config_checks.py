"""What the settings alone tell is reported before any row is read or any weight loaded."""

import importlib.util
import json
import sys
from types import ModuleType

import filelock
import pytest
import transformers
from transformers.training_args import OptimizerNames

from tests.conftest import ROWS, tiny_model
from tests.test_structure import loaded_by
from tests.test_training import CHOICE
from utilities import tracking
from utilities.config import load_config
from utilities.dataprep import prepared
from utilities.errors import DataError, LabError, TrackingError, TrainingError
from utilities.features.tokenization import tokenizer_fingerprint
from utilities.prompts.built_in import QUESTION_ANSWER
from utilities.training.config_checks import check_settings
from utilities.training.run import run_training, train
from utilities.training.settings import (
    DEFAULT_ARGUMENTS,
    Settings,
    TrainingConfig,
    argument_fields,
    make_training_arguments,
)

PACKAGES = {  # of optimizers, as the library's message names them
    "adamw_bnb_8bit": ("bitsandbytes", "bitsandbytes"),
    "paged_lion_8bit": ("bitsandbytes", "bitsandbytes"),
    "galore_adamw": ("galore_torch", "galore_torch"),
    "apollo_adamw_layerwise": ("apollo_torch", "apollo_torch"),
    "adamw_torch_4bit": ("torchao", "torchao"),
    "schedule_free_sgd": ("schedulefree", "schedulefree"),
    "lomo": ("lomo_optim", "lomo_optim"),
    "grokadamw": ("grokadamw", "grokadamw"),
    "stable_adamw": ("optimi", "torch-optimi"),
    "adamw_anyprecision": ("torchdistx", "torchdistx"),
    "adamw_torch_xla": ("torch_xla", "torch_xla"),
}
BEST = "load_best_model_at_end: true"
REFUSED = {
    "early stopping without validation": ("early_stopping: {}", "need validation data"),
    "best without validation": (f"training_arguments: {{{BEST}}}", "need validation data"),
    "evaluation without validation": (
        "training_arguments: {eval_strategy: steps}",
        "need validation data",
    ),
    "a metric that will not exist": (
        "validation: missing.jsonl\ntraining_arguments: {metric_for_best_model: eval_rouge}",
        "there is no metric 'eval_rouge'",
    ),
    "a metric that is not measured": (
        "validation: missing.jsonl\nsamples: 0\n"
        "training_arguments: {metric_for_best_model: exact_match}",
        "there is no metric 'eval_exact_match'",
    ),
    "saves and evaluations apart": (
        f"validation: missing.jsonl\ntraining_arguments: {{{BEST}, save_strategy: steps}}",
        "do not meet",
    ),
    "unknown scheduler": ("training_arguments: {lr_scheduler_type: steep}", "steep"),
    "a scheduler without its option": (
        "training_arguments: {lr_scheduler_type: cosine_with_min_lr}",
        "lr_scheduler_type cosine_with_min_lr: .*min_lr",
    ),
    "unknown strategy": ("training_arguments: {save_strategy: sometimes}", "sometimes"),
    "unknown optimizer": ("training_arguments: {optim: adamm}", "adamm"),
    "options that are none": ("training_arguments: {optim: sgd, optim_args: fast}", "optim sgd"),
    "no steps": ("training_arguments: {num_train_epochs: 0}", "there is no step to train"),
}


def config_of(folder, text=""):
    """Return a config whose data and model do not exist."""
    path = folder / "finetune.yaml"
    path.write_text(f"base_model: ./nowhere\ntrain: missing.jsonl\noutput_dir: run\n{text}\n")
    return load_config(path, TrainingConfig)


def test_without_another_fault_the_data_are_reported(tmp_path, model_folder):
    config = config_of(tmp_path).model_copy(update={"base_model": str(model_folder)})
    with pytest.raises(DataError, match=r"missing\.jsonl"):
        run_training(config)


@pytest.mark.parametrize("case", REFUSED)
def test_settings_before_data(case, tmp_path):
    text, message = REFUSED[case]
    config = config_of(tmp_path, text)
    with pytest.raises(TrainingError, match=message):
        run_training(config)
    assert [path.name for path in tmp_path.iterdir()] == ["finetune.yaml"]


@pytest.mark.parametrize("optimizer", PACKAGES)
def test_the_package_of_an_optimizer_before_data(optimizer, tmp_path):
    module, name = PACKAGES[optimizer]
    if importlib.util.find_spec(module):
        pytest.skip(f"{module} is installed")
    config = config_of(tmp_path, f"training_arguments: {{optim: {optimizer}}}")
    with pytest.raises(TrainingError, match=f"optim .*{name}"):
        run_training(config)


def test_every_optimizer_that_is_here_is_accepted(tmp_path):
    accepted = set()
    for name in OptimizerNames:
        try:
            check_settings(Settings.of(optim=name.value), tmp_path / "run", False)
            accepted.add(name.value)
        except TrainingError as error:
            assert "optim" in str(error), name
    assert accepted >= {"adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adagrad"}


def test_an_optimizer_that_needs_the_model_is_left_to_the_trainer(tmp_path, monkeypatch):
    galore = ModuleType("galore_torch")
    for name in ("GaLoreAdafactor", "GaLoreAdamW", "GaLoreAdamW8bit"):
        setattr(galore, name, object)
    monkeypatch.setitem(sys.modules, "galore_torch", galore)
    monkeypatch.setattr("transformers.trainer_optimizer.is_galore_torch_available", lambda: True)
    settings = Settings.of(optim="galore_adamw", optim_target_modules=["attn"])
    check_settings(settings, tmp_path / "run", False)
    with pytest.raises(TrainingError, match="optim_target_modules"):
        check_settings(Settings.of(optim="galore_adamw"), tmp_path / "run", False)


def test_a_tracker_that_is_not_installed(tmp_path, monkeypatch):
    original = importlib.util.find_spec
    monkeypatch.setattr(
        tracking.importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "trackio" else original(name, *rest),
    )
    with pytest.raises(TrackingError, match="pip install trackio"):
        run_training(config_of(tmp_path, "tracking: {tracker: trackio}"))


def test_the_place_before_data(tmp_path):
    config = config_of(tmp_path, "if_exists: overwrite")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("years of work")
    with pytest.raises(
        TrainingError, match="run exists and is not a run folder; it is left untouched"
    ):
        run_training(config)
    (tmp_path / "run" / "thesis.txt").rename(tmp_path / "run" / "run.json")
    with pytest.raises(TrainingError, match="exists already"):
        run_training(config.model_copy(update={"if_exists": "refuse"}))
    (tmp_path / "run.partial").mkdir()
    (tmp_path / "run.partial" / "thesis.txt").write_text("years of work")
    with pytest.raises(TrainingError, match="is not an unfinished run; it is left untouched"):
        run_training(config)
    (tmp_path / "run.partial" / "thesis.txt").unlink()
    writing = pytest.raises(TrainingError, match="another run is writing")
    with filelock.FileLock(tmp_path / ".run.lock"), writing:
        run_training(config)
    # The lock's file alone, which a killed run leaves, is in nobody's way.
    (tmp_path / ".run.lock").touch()
    with pytest.raises(LabError, match="nowhere"):
        run_training(config)


def test_train_checks_the_same_before_it_looks_at_model_and_data(tmp_path):
    for options, message in [
        ({"early_stopping": {}}, "need validation data"),
        ({"optim": "lomo"}, "lomo_optim"),
        ({"lr_scheduler_type": "steep"}, "steep"),
    ]:
        with pytest.raises(TrainingError, match=message):
            train(
                None,
                None,
                None,
                tmp_path / "run",
                Settings.of(**options),
                prompt_format=QUESTION_ANSWER,
                choice=CHOICE,
            )
    assert not list(tmp_path.iterdir())


def test_a_prepared_dataset_without_validation_data(tmp_path, model_folder, tokenizer, monkeypatch):
    record = {"fingerprint": "", "format": "parquet", "model": {"name": "pythia-tiny"}}
    record |= {"counts": {"parts": {"train": {}}}, "tokenizer": tokenizer_fingerprint(tokenizer)}
    (tmp_path / prepared.PREPARED_RECORD).write_text(json.dumps(record))
    config = TrainingConfig(
        base_model=str(model_folder),
        prepared=tmp_path,
        output_dir=tmp_path / "run",
        early_stopping={},
    )
    with pytest.raises(TrainingError, match="need validation data"):  # not: the rows are missing
        run_training(config)


LIGHT = """
from utilities.training import TrainingConfig
from utilities.training.settings import Settings
config = TrainingConfig(train="rows.jsonl", output_dir="run", lora={"r": 2}, method="lora")
assert TrainingConfig.model_json_schema()["properties"]["seed"]
"""


def test_settings_load_no_heavy_library():
    assert loaded_by(LIGHT) == set()
    assert "torch" in loaded_by("from utilities.training import Settings; Settings.of(max_steps=1)")


def test_defaults_have_the_types_of_the_library():
    checked = argument_fields()(**DEFAULT_ARGUMENTS).model_dump(exclude_unset=True)
    assert checked == DEFAULT_ARGUMENTS
    assert {k: type(v) for k, v in checked.items()} == {
        k: type(v) for k, v in DEFAULT_ARGUMENTS.items()
    }


def test_defaults_given_are_the_same_settings_as_defaults_left_out():
    given = Settings.of(num_train_epochs=3, logging_steps=5, learning_rate=2e-4).arguments(False)
    left_out = Settings().arguments(False)
    assert json.dumps(given) == json.dumps(left_out)
    arguments = make_training_arguments("x", Settings.of(learning_rate=1e-5), has_validation=True)
    assert (arguments.learning_rate, arguments.eval_strategy) == (1e-5, "epoch")


def test_a_config_is_the_settings_that_train_gets(tmp_path, monkeypatch):
    """Nothing is unpacked or checked a second time on the way."""
    received = []
    monkeypatch.setattr("utilities.training.run.train", lambda *a, **k: received.append(a))
    monkeypatch.setattr("utilities.training.run._read_data", lambda *a: (None, None, None))
    monkeypatch.setattr("utilities.models.choose", lambda name: CHOICE)
    monkeypatch.setattr("utilities.models.load_tokenizer", lambda choice: None)
    monkeypatch.setattr("utilities.models.load", lambda choice, dtype: (None, None))
    config = config_of(tmp_path, "training_arguments: {learning_rate: 1e-5}")
    run_training(config)
    assert received[0][4] is config


def test_the_trainer_leaves_the_arguments_as_they_are(tmp_path):
    from utilities.training.trainer import SupervisedTrainer

    arguments = make_training_arguments(tmp_path, Settings.of(save_total_limit=1))
    for _ in range(2):
        trainer = SupervisedTrainer(model=tiny_model("llama"), args=arguments)
        assert trainer.save_total_limit == arguments.save_total_limit == 1


def test_a_run_leaves_the_library_s_switches_as_they_were(tmp_path, model_folder):
    from transformers.utils import logging

    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    before = (logging.is_progress_bar_enabled(), transformers.logging.get_verbosity())
    run_training(
        TrainingConfig(
            base_model=str(model_folder),
            train=str(rows),
            output_dir=tmp_path / "run",
            training_arguments={"max_steps": 1, "disable_tqdm": True},
        )
    )
    assert (logging.is_progress_bar_enabled(), transformers.logging.get_verbosity()) == before
