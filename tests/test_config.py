from typing import Any

import pytest
import yaml
from pydantic import Field, ValidationError, field_validator

from utilities import config
from utilities.config import (
    ConfigPath,
    ModelName,
    StrictModel,
    faults_in_words,
    load_config,
    report_errors,
)
from utilities.errors import ConfigError


class Inner(StrictModel):
    learning_rate: float = 0.1
    rows: int = 1


class Outer(StrictModel):
    file: ConfigPath
    model: ModelName = "auto"
    training: Inner = Inner()
    maybe: Inner | None = None


def late_model():
    return Inner


class Late(StrictModel):
    """A field that another model checks, and one that may be a block or a name, by name."""

    late_models = {"checked": late_model}  # noqa: RUF012

    checked: dict[str, Any] = Field(default_factory=dict)
    beside: dict[str, Inner | ModelName] = Field(default_factory=dict)

    @field_validator("checked")
    @classmethod
    def _check(cls, values):
        return late_model().model_validate(values).model_dump()


def write(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_values_paths_and_numbers(tmp_path):
    path = write(tmp_path, "file: ../x.jsonl\ntraining: {learning_rate: 1e-5}\n")
    loaded = load_config(path, Outer)
    assert loaded.training.learning_rate == 1e-5
    assert loaded.file == tmp_path.parent / "x.jsonl"
    assert loaded.model == "auto"


@pytest.mark.parametrize("text", ["1e-5", "3e4", "2.5E-3", ".5e1", "-1e+2"])
def test_exponents_are_numbers(text):
    assert yaml.load(text, Loader=config._Loader) == float(text)


@pytest.mark.parametrize("text", ["1e5x", "e5", "12ab", "5e"])
def test_text_that_starts_like_a_number_stays_text(text):
    assert yaml.load(text, Loader=config._Loader) == text


def test_model_names_are_hub_ids_or_paths_from_the_file(tmp_path):
    hub = load_config(write(tmp_path, "file: x\nmodel: org/name"), Outer)
    assert hub.model == "org/name"
    folder = load_config(write(tmp_path, "file: x\nmodel: ./runs/a"), Outer)
    assert folder.model == str(tmp_path / "runs" / "a")


def test_overrides_win_and_reach_inside(tmp_path):
    path = write(tmp_path, "file: x\ntraining: {rows: 2}\n")
    loaded = load_config(path, Outer, ["training.rows=5", "maybe.learning_rate=1e-3"])
    assert (loaded.training.rows, loaded.maybe.learning_rate) == (5, 1e-3)


def test_all_faults_are_told_at_once_with_the_nearest_names(tmp_path):
    path = write(tmp_path, "fil: x\ntraining: {learnig_rate: 1, rows: many}\nmaybe: {row: 1}\n")
    with pytest.raises(ConfigError) as error:
        load_config(path, Outer)
    message = str(error.value)
    assert "5 fault(s)" in message
    assert "fil: unknown key, did you mean 'file'?" in message
    assert "training.learnig_rate: unknown key, did you mean 'learning_rate'?" in message
    assert "maybe.row: unknown key, did you mean 'rows'?" in message
    assert "file: this key is required" in message
    assert "training.rows" in message and "'many'" in message


def test_faults_of_a_model_that_a_validator_calls_are_told_like_any_other():
    with pytest.raises(ValidationError) as error:
        Late(checked={"learnig_rate": 1, "rows": "many"}, beside={"a": {"row": 1}, "b": "./x"})
    lines = faults_in_words(error.value, Late)
    assert "checked.learnig_rate: unknown key, did you mean 'learning_rate'?" in lines
    assert "beside.a.Inner.row: unknown key, did you mean 'rows'?" in lines
    assert any(line.startswith("checked.rows: Input should be a valid int") for line in lines)
    assert any(line.startswith("beside.a: ") for line in lines)  # nor is it a name
    assert not any("function-" in line for line in lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "not valid YAML"),
        ("- 1", "found list"),
        ("", "found NoneType"),
        ("file: a\nfile: b", "'file' is given twice"),
        ("? [a, b]\n: 1", "a key must be plain text"),
        ("? {a: b}\n: 1", "a key must be plain text"),
        ("file: 2026-02-30", "day is out of range|day .* must be in range"),
        ("file: !!int abc", "invalid literal"),
        (f"file: {'9' * 5000}", "Exceeds the limit"),
        ("file: " + "[" * 3000 + "]" * 3000, "nested too deeply"),
        ('file: "a\\0b"', "file: .*null"),
        ("file: ~nobody-of-that-name/x", "file: .*home directory"),
    ],
)
def test_broken_files(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message) as error:
        load_config(write(tmp_path, text), Outer)
    assert "config.yaml: " in str(error.value)


@pytest.mark.parametrize(
    "value", ["2026-02-30", "!!int abc", "9" * 5000, "[" * 3000, "{[a]: 1}", "a: b: c"]
)
def test_broken_overrides(tmp_path, value):
    with pytest.raises(ConfigError, match="the value is not valid YAML") as error:
        load_config(write(tmp_path, "file: x"), Outer, [f"model={value}"])
    assert "'model=" in str(error.value)


def test_an_override_opens_a_block_that_the_file_leaves_out(tmp_path):
    path = write(tmp_path, "file: x\nmaybe: null")
    assert load_config(path, Outer, ["maybe.rows=3"]).maybe.rows == 3


def test_missing_file_and_bad_overrides(tmp_path):
    with pytest.raises(ConfigError, match="no such config file"):
        load_config(tmp_path / "none.yaml", Outer)
    path = write(tmp_path, "file: x")
    with pytest.raises(ConfigError, match="'seed' is not an override; write key=value"):
        load_config(path, Outer, ["seed"])
    with pytest.raises(ConfigError, match="holds a value"):
        load_config(path, Outer, ["file.x=1"])


def test_profile(monkeypatch):
    monkeypatch.delenv("COURSE_PROFILE", raising=False)
    assert config.course_profile() == "class"
    monkeypatch.setenv("COURSE_PROFILE", "clas")
    with pytest.raises(ConfigError, match="did you mean 'class'"):
        config.course_profile()


def test_bundled_files_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert config.bundled("data/course_assistant/train.jsonl").is_file()
    with pytest.raises(FileNotFoundError):
        config.bundled("data/none")


@pytest.mark.parametrize(
    ("error", "status", "printed"),
    [(ConfigError("no"), 2, "error: no\n"), (KeyboardInterrupt(), 130, "stopped\n")],
)
def test_errors_of_a_command(error, status, printed, capsys):
    def work():
        raise error

    assert report_errors(work) == status
    assert capsys.readouterr().err == printed
    assert report_errors(lambda: None) == 0
