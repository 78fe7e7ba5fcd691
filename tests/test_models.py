"""Which model runs: every way to choose one, against a stand-in hub and without any."""

import json
import shutil
import time

import pytest
import torch

from tests.conftest import run_module
from tests.stand_in_hub import COMMIT
from utilities import models
from utilities.errors import ModelError
from utilities.models import loading

# Chooses, loads and answers through the public functions, and prints what it found.
PROGRAM = """
import json, time
from utilities import models
from utilities.models import loading
start = time.monotonic()
choice = models.choose()
seconds = time.monotonic() - start
models.choose()
model, tokenizer = models.load(choice)
print(json.dumps({"name": choice.name, "source": choice.source, "reason": choice.reason,
                  "seconds": seconds, "dtype": str(model.dtype), "pad": tokenizer.pad_token,
                  "folder": str(models.download(choice))}))
"""


def run_program(environment, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.replace("import json, time", "import json, sys, time", 1))
    wrapper = tmp_path / "runner.py"
    wrapper.write_text(
        "import runpy, sys\nfrom utilities.config import report_errors\n"
        f"sys.exit(report_errors(lambda: runpy.run_path({str(program)!r})))\n"
    )
    import subprocess
    import sys

    return subprocess.run(
        [sys.executable, wrapper],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def result(done):
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])


@pytest.fixture
def with_offline_model(clean_environment, model_folder, tmp_path):
    shutil.copytree(model_folder, tmp_path / "lab-cache" / "models" / "SmolLM2-135M-Instruct")
    return clean_environment


def weights_in(folder):
    return [path for path in folder.rglob("*") if path.suffix == ".safetensors" and path.is_file()]


def test_auto_takes_the_default_model_from_the_hub_and_then_from_the_cache(
    hub, clean_environment, tmp_path
):
    environment = clean_environment | {"HF_ENDPOINT": hub.url}
    first = result(run_program(environment, tmp_path))
    assert (first["name"], first["source"]) == ("EleutherAI/pythia-70m", "hub")
    assert first["dtype"] == "torch.float32"  # the file holds float16
    assert first["pad"] == "<|padding|>"
    assert first["folder"].endswith(COMMIT)
    asked = sum(
        "GET /api/models/EleutherAI/pythia-70m?" in r or r.endswith("pythia-70m")
        for r in hub.requests
    )
    assert asked == 1, hub.requests  # one probe, however often one chooses
    hub.requests.clear()
    second = result(run_program(environment, tmp_path))
    assert second["source"] == "hub cache" and hub.requests == []


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("missing", "the hub does not have it"),
        ("error", "the hub answered 500"),
        ("hang", "out of reach"),
        ("closed", "the hub cannot be reached"),
    ],
)
def test_auto_takes_the_offline_model_when_the_hub_fails(
    hub, with_offline_model, tmp_path, mode, reason
):
    if mode == "missing":
        hub.repositories.clear()
    else:
        hub.mode = mode
    url = "http://127.0.0.1:9" if mode == "closed" else hub.url
    found = result(run_program(with_offline_model | {"HF_ENDPOINT": url}, tmp_path))
    assert (found["name"], found["source"]) == ("SmolLM2-135M-Instruct", "offline model")
    assert reason in found["reason"]
    assert found["seconds"] < 4.5  # 3 for the hub, the rest for imports


def test_offline_variables_ask_nobody(hub, with_offline_model, tmp_path):
    environment = with_offline_model | {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "1"}
    found = result(run_program(environment, tmp_path))
    assert found["source"] == "offline model" and "offline mode is set" in found["reason"]
    assert hub.requests == []


def test_no_hub_and_no_offline_model_names_the_remedy(hub, clean_environment, tmp_path):
    hub.mode = "error"
    done = run_program(clean_environment | {"HF_ENDPOINT": hub.url}, tmp_path)
    assert done.returncode == 2
    assert "run `python -m utilities.models fetch`" in done.stderr
    assert "Traceback" not in done.stderr


def test_unknown_model_is_one_sentence(hub, clean_environment, tmp_path):
    environment = clean_environment | {
        "HF_ENDPOINT": hub.url,
        "COURSE_MODEL": "EleutherAI/pythia-71m",
    }
    done = run_program(environment, tmp_path)
    assert done.returncode == 2
    assert "cannot get the model 'EleutherAI/pythia-71m': the hub does not have it" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_download_cut_off_half_way_leaves_nothing_broken(hub, with_offline_model, tmp_path):
    environment = with_offline_model | {"HF_ENDPOINT": hub.url}
    hub.mode = "cut"
    done = run_program(environment, tmp_path)
    assert done.returncode == 2
    assert "the download of EleutherAI/pythia-70m broke off" in done.stderr
    assert "Traceback" not in done.stderr
    assert weights_in(tmp_path / "hf-home") == []
    # While the hub is away, the half-filled cache does not pass for a model.
    away = result(run_program(environment | {"HF_HUB_OFFLINE": "1"}, tmp_path))
    assert away["source"] == "offline model"
    # With the hub back, the same command succeeds, and the weights are whole.
    hub.mode = "ok"
    found = result(run_program(environment, tmp_path))
    assert found["source"] == "hub"
    (weights,) = weights_in(tmp_path / "hf-home")
    original = hub.repositories["EleutherAI/pythia-70m"] / "model.safetensors"
    assert weights.read_bytes() == original.read_bytes()


def test_only_safetensors_are_read(hub, model_folder, clean_environment, tmp_path):
    pickled = tmp_path / "pickled"
    shutil.copytree(model_folder, pickled)
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    hub.repositories["org/pickled"] = pickled
    environment = clean_environment | {"HF_ENDPOINT": hub.url, "COURSE_MODEL": "org/pickled"}
    done = run_program(environment, tmp_path)
    assert done.returncode == 2
    assert "lacks model.safetensors" in done.stderr and "only safetensors" in done.stderr
    assert not any("pytorch_model.bin" in request for request in hub.requests)


def test_where_says_what_and_why(hub, clean_environment):
    done = run_module(
        "utilities.models", "where", environment=clean_environment | {"HF_ENDPOINT": hub.url}
    )
    assert done.returncode == 0
    assert "EleutherAI/pythia-70m from the hub, because the hub can be reached" in done.stdout


def test_list_names_complete_models(with_offline_model, tmp_path):
    done = run_module("utilities.models", "list", environment=with_offline_model)
    assert done.stdout.strip() == str(tmp_path / "lab-cache" / "models" / "SmolLM2-135M-Instruct")


def test_a_folder_can_be_named(model_folder, monkeypatch):
    monkeypatch.setenv("COURSE_MODEL", str(model_folder))
    choice = models.choose()
    assert (choice.name, choice.source) == ("pythia-tiny", "folder")
    model, tokenizer = models.load()
    assert model.dtype == torch.float32 and not model.training
    assert tokenizer.pad_token_id == 1
    assert models.load(dtype="float16")[0].dtype == torch.float16


def test_a_tokenizer_without_padding_gets_one(model_folder, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(model_folder, folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("pad_token")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    assert models.load_tokenizer(str(folder)).pad_token == "<|padding|>"


@pytest.mark.parametrize("name", ["./no/such/folder", "/no/such", "a/b/c"])
def test_missing_folders(name):
    with pytest.raises(ModelError, match="there is no model folder"):
        models.choose(name)


def test_names_that_are_no_hub_ids():
    with pytest.raises(ModelError, match="neither a folder nor a hub id"):
        models.choose("a b")


def test_a_folder_without_weights_and_a_damaged_one(model_folder, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(model_folder, folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match="damaged"):
        models.load(str(folder))
    weights.unlink()
    with pytest.raises(ModelError, match=r"lacks model\.safetensors"):
        models.choose(str(folder))


def test_a_stand_in_keeps_its_own_name(fake_offline_model):
    start = time.monotonic()
    choice = models.choose(str(fake_offline_model))
    assert choice.name == "SmolLM2-135M-Instruct"
    assert choice.source == "offline model"
    assert time.monotonic() - start < 1


def test_bars_of_downloads_stay_off():
    from huggingface_hub import utils as hub
    from transformers.utils import logging

    logging.enable_progress_bar()
    hub.disable_progress_bars()
    try:
        with loading.without_progress_bars():
            assert not logging.is_progress_bar_enabled()
        assert logging.is_progress_bar_enabled() and hub.are_progress_bars_disabled()
    finally:
        hub.enable_progress_bars()
