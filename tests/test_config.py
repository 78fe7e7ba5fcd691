import pytest
import yaml

from utilities import config
from utilities.config import ConfigPath, ModelName, StrictModel, load_config
from utilities.errors import ConfigError


class Inner(StrictModel):
    learning_rate: float = 0.1
    rows: int = 1


class Outer(StrictModel):
    file: ConfigPath
    model: ModelName = "auto"
    training: Inner = Inner()
    maybe: Inner | None = None


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


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: [1", "not valid YAML"),
        ("- 1", "found list"),
        ("", "found NoneType"),
        ("file: a\nfile: b", "'file' is given twice"),
    ],
)
def test_broken_files(tmp_path, text, told):
    with pytest.raises(ConfigError, match=told):
        load_config(write(tmp_path, text), Outer)


def test_missing_file_and_bad_overrides(tmp_path):
    with pytest.raises(ConfigError, match="no such config file"):
        load_config(tmp_path / "none.yaml", Outer)
    path = write(tmp_path, "file: x")
    with pytest.raises(ConfigError, match="write key=value"):
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
