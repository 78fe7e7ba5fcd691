"""Tiny models, a tokenizer trained on the spot, a stand-in hub: no test needs a network."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

# Two workers on two cores: a thread each, before PyTorch counts the cores.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

from tests.stand_in_hub import StandInHub

ROOT = Path(__file__).resolve().parent.parent
ROWS = [
    {"question": "What is an epoch?", "answer": "One pass over the rows."},
    {"question": "What is a step?", "answer": "One update of the weights."},
    {"question": "Do I need a GPU to follow this course at home?", "answer": "No."},
    {"question": "Which file pins the versions?", "answer": "It is constraints.txt, of course."},
    {"question": "Mars?", "answer": "Let's get back to fine-tuning."},
    {"question": "What does the label -100 mean, and why?", "answer": "Skip this token."},
    {"question": "How do I start?", "answer": "Run make course."},
    {"question": "Why pad?", "answer": "To give every row of a batch the same length."},
]
LLAMA_LIKE = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
FAMILIES = {
    "gpt_neox": {"hidden_size": 256, "intermediate_size": 1024, "num_attention_heads": 4},
    "llama": LLAMA_LIKE,
    "mistral": LLAMA_LIKE,
    "qwen2": LLAMA_LIKE,
    "qwen3": {**LLAMA_LIKE, "head_dim": 64},
    "gpt2": {"n_embd": 256, "n_head": 4},
    "gpt_neo": {"hidden_size": 256, "num_heads": 4},
}


@pytest.fixture(scope="session")
def tokenizer():
    """A byte-level BPE tokenizer with Pythia's special tokens: end-of-text 0, padding 1."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>", "<|padding|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator([text for row in ROWS for text in row.values()], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|endoftext|>",
        bos_token="<|endoftext|>",
        pad_token="<|padding|>",
    )


def tiny_model(architecture: str, vocab_size: int = 512, seed: int = 0, context: int = 256):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    config = AutoConfig.for_model(
        architecture,
        **sizes,
        num_attention_heads=4,
        vocab_size=vocab_size,
        max_position_embeddings=context,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=1,
    )
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def family_model(family: str, layers: int):
    """A model wide enough that its matrices, not its norms, make the sizes that plans are about."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {**FAMILIES[family], "num_hidden_layers": layers, "vocab_size": 500}
    if family == "gpt_neo":
        sizes |= {"num_layers": layers, "attention_types": [[["global"], layers]]}
    config = AutoConfig.for_model(family, **sizes, bos_token_id=0, eos_token_id=0)
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, attn_implementation="eager").train()


@pytest.fixture(params=["gpt_neox", "llama"])
def model(request):
    return tiny_model(request.param)


@pytest.fixture(scope="session")
def model_folder(tokenizer, tmp_path_factory):
    """A tiny GPT-NeoX as the hub would have it: float16 safetensors and a tokenizer."""
    folder = tmp_path_factory.mktemp("tiny") / "pythia-tiny"
    tiny_model("gpt_neox", context=2048).half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def data_file(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return path


@pytest.fixture
def hub(model_folder, tmp_path):
    """The tiny model under the name of the course's default model, and a dataset, on 127.0.0.1."""
    folder, inbox = tmp_path / "hub-dataset", tmp_path / "hub-inbox"
    folder.mkdir()
    inbox.mkdir()
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (folder / "test.jsonl").write_text(json.dumps(ROWS[0]) + "\n")
    models = {"EleutherAI/pythia-70m": model_folder}
    with StandInHub(models, {"school/questions": folder}, inbox) as hub:
        yield hub


@pytest.fixture
def clean_environment(tmp_path):
    """An environment without models, caches or choices, for programs started by a test."""
    ours = ("COURSE_", "HF_", "FINETUNING_LAB_", "TRANSFORMERS_")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
    return environment | {
        "FINETUNING_LAB_CACHE": str(tmp_path / "lab-cache"),
        "HF_HOME": str(tmp_path / "hf-home"),
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "127.0.0.1",
    }


def run_module(module: str, *arguments: object, environment=None, cwd=None):
    """Run `python -m module …`; return the completed process with its text output."""
    return subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        env=environment,
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.fixture
def fake_offline_model(model_folder, tmp_path, monkeypatch):
    """A cache folder that holds a tiny model in the place of the offline one."""
    monkeypatch.setenv("FINETUNING_LAB_CACHE", str(tmp_path / "lab-cache"))
    monkeypatch.delenv("COURSE_MODEL", raising=False)
    from utilities.models import offline

    shutil.copytree(model_folder, offline.offline_folder())
    return offline.offline_folder()
