"""Talking to a model: what it is given, in a notebook and in a terminal."""

import sys

import pandas as pd
import pytest
from transformers import AutoTokenizer

from utilities import models
from utilities.notebook import is_interactive
from utilities.prompts.built_in import CHAT, FORMATS, QUESTION_ANSWER
from utilities.runner import runner
from utilities.runner.conversation import Conversation, chat_in_terminal
from utilities.runner.loaded_model import LoadedModel, choose_run
from utilities.runner.runner import BasicModelRunner, chat
from utilities.training.run_folder import Run

CHATML = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.fixture(scope="module")
def saved(model_folder, tmp_path_factory):
    """Make a model folder with a prompt format beside it, as runs have it."""

    def save(prompt_format, chat_template=None):
        folder = tmp_path_factory.mktemp("saved") / "tuned"
        model, _ = models.load(str(model_folder))
        model.save_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(model_folder)
        tokenizer.chat_template = chat_template
        tokenizer.save_pretrained(folder)
        prompt_format.bind(tokenizer).save(folder)
        return folder

    return save


@pytest.fixture(scope="module")
def tuned(saved):
    return BasicModelRunner(saved(QUESTION_ANSWER))


def test_a_chat_remembers_and_other_formats_do_not(saved, tuned):
    loaded = LoadedModel(choose_run(str(saved(CHAT, CHATML))))
    conversation = Conversation(loaded, 8)
    assert "whole conversation" in conversation.rule
    first = conversation.say("Why?")
    second = conversation.say("Why?")
    history = ["Why?", first, "Why?"]
    roles = ["user", "assistant", "user"]
    messages = [{"role": r, "content": t} for r, t in zip(roles, history, strict=True)]
    assert loaded.answer([loaded.prompt_format.prompt({"messages": messages})], 8) == [second]
    assert [Conversation(loaded, 8).say("Why?")] == [first] == loaded.ask(["Why?"], 8)

    single = Conversation(tuned.loaded, 8)
    assert "Each message is answered on its own" in single.rule
    assert single.say("Why?") == single.say("Why?") == tuned("Why?", 8) != ""


def test_a_model_that_was_taught_plain_text_continues(saved, model_folder):
    plain = Conversation(LoadedModel(choose_run(str(saved(FORMATS["text"])))), 8)
    assert "it continues what you write" in plain.rule
    assert plain.say("Tell me how to") == BasicModelRunner(model_folder)("Tell me how to", 8)


def test_a_chat_in_a_notebook_works_by_clicks(tuned, monkeypatch):
    monkeypatch.setattr(runner, "is_interactive", lambda: True)
    box = chat(tuned, max_new_tokens=8)
    said, (text, send) = box.children[0], box.children[1].children
    send.click()
    assert said.value.count("<b>") == 0  # nothing was written
    text.value = "<b>Why</b>?"
    send.click()
    assert said.value.index("&lt;b&gt;Why&lt;/b&gt;?") > said.value.index("Each message")
    assert said.value.count("<b>") == 2 and "<b>model</b>" in said.value
    assert text.value == ""
    text.value = "Mars?"
    text._handle_string_msg(text, {"event": "submit"}, [])  # the Enter key
    assert said.value.count("<b>model</b>") == 2
    monkeypatch.setattr(tuned.loaded._model.config, "max_position_embeddings", 4)
    text.value = "Mars?"
    send.click()
    assert "<b>error</b>" in said.value


def test_where_nobody_can_type_examples_are_answered(tuned, capsys, monkeypatch):
    folder = tuned.base.folder
    table = chat(Run(folder, {}, pd.DataFrame()), max_new_tokens=4, examples=["Why?", "Mars?"])
    told = capsys.readouterr().out
    assert "No chat, because nobody can type here" in told
    assert f"python -m utilities.runner chat {folder}\n" in told
    assert table["you"].tolist() == ["Why?", "Mars?"]
    assert table["model"].tolist() == tuned(["Why?", "Mars?"], 4)
    monkeypatch.setattr(runner.importlib.util, "find_spec", lambda _: None)
    chat(str(folder), max_new_tokens=2)
    assert "because ipywidgets is not installed" in capsys.readouterr().out


def test_a_program_that_runs_a_notebook_cannot_type(monkeypatch):
    class Kernel:
        allowed = True

        def get_parent(self, channel):
            return {"content": {"allow_stdin": self.allowed}}

    class Shell:
        kernel = Kernel()

    class IPython:
        get_ipython = Shell

    monkeypatch.setitem(sys.modules, "IPython", IPython)
    assert is_interactive()
    Shell.kernel.allowed = False
    assert not is_interactive()
    Shell.kernel = None
    assert not is_interactive()
    monkeypatch.delitem(sys.modules, "IPython")
    assert not is_interactive()


@pytest.mark.parametrize("end", [EOFError, KeyboardInterrupt])
def test_a_chat_ends_with_the_input_or_ctrl_c(tuned, monkeypatch, capsys, end):
    lines = iter(["Why?"])

    def read(_):
        for line in lines:
            return line
        raise end

    monkeypatch.setattr("builtins.input", read)
    chat_in_terminal(Conversation(tuned.loaded, 4))
    assert f"{tuned('Why?', 4)}\n\n" in capsys.readouterr().out
