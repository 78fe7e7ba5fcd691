"""Prompt formats: what they write, what they refuse, and that training asks as generation does."""

import pickle

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from tests.conftest import ROWS
from utilities import models
from utilities.errors import PromptError
from utilities.features.tokenization import IGNORE_INDEX, encode_texts, tokenize_examples
from utilities.models import offline
from utilities.prompts.base import PromptFormat
from utilities.prompts.built_in import (
    ALPACA,
    CHAT,
    FORMATS,
    PLAIN,
    QUESTION_ANSWER,
    TEXT,
    USER_ASSISTANT,
    get_format,
)
from utilities.prompts.chat import ChatText
from utilities.prompts.template import TemplateFormat

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="session")
def chat_tokenizer(tokenizer):
    """The GPT-NeoX tokenizer of the tests with two more special tokens and a ChatML template."""
    from copy import deepcopy

    chatty = deepcopy(tokenizer)
    chatty.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    chatty.add_special_tokens({"eos_token": "<|im_end|>"})
    chatty.chat_template = CHATML
    return chatty


@pytest.fixture(scope="session")
def offline_tokenizer():
    if not offline.is_fetched():
        pytest.skip("the offline model is not here; run `python -m utilities.models fetch`")
    return models.load_tokenizer(str(offline.offline_folder()))


@pytest.fixture(params=["gpt_neox", "offline_model"])
def any_tokenizer(request, chat_tokenizer):
    if request.param == "gpt_neox":
        return chat_tokenizer
    return request.getfixturevalue("offline_tokenizer")


def full_row(question="What is 2 < 3?", answer="A fact."):
    """A row with the columns of every format."""
    return {
        "question": question,
        "answer": answer,
        "instruction": question,
        "output": answer,
        "input": question,
        "response": answer,
        "contexts": ["One context.", "Another one."],
        "text": answer,
        "messages": [
            {"role": "user", "content": question},
            {"role": "assistant", "content": "First answer."},
            {"role": "user", "content": "And then?"},
            {"role": "assistant", "content": answer},
        ],
    }


def test_question_answer_is_the_format_of_the_course():
    row = {"question": "Why?", "answer": "So.", "topic": "x"}
    assert QUESTION_ANSWER.example(row) == {
        "prompt": "### Question:\nWhy?\n\n### Answer:\n",
        "response": "So.",
    }
    assert QUESTION_ANSWER.columns == ["question", "answer"]
    assert QUESTION_ANSWER.prompt_columns == ["question"]
    assert QUESTION_ANSWER.optional_columns == []


def test_the_other_built_in_formats_word_for_word():
    assert PLAIN.example({"question": "Why?", "answer": "So."}) == {
        "prompt": "Question: Why? \nAnswer:",
        "response": " So.",
    }
    row = {"input": "Hi", "response": "Hello."}
    assert USER_ASSISTANT.prompt(row) == "User: Hi\nAssistant:"
    for contexts in (["A.", "B."], "A.\n\nB."):
        with_contexts = USER_ASSISTANT.prompt({**row, "contexts": contexts})
        assert with_contexts == "Context:\nA.\n\nB.\n\nUser: Hi\nAssistant:"
    assert TEXT.example({"text": "All of it."}) == {"prompt": "", "response": "All of it."}
    plain = ALPACA.prompt({"instruction": "Say hi.", "output": "Hi."})
    assert plain.endswith("### Instruction:\nSay hi.\n\n### Response:\n") and "Input" not in plain
    for nothing in ("", " ", None, []):
        assert ALPACA.prompt({"instruction": "Say hi.", "input": nothing}) == plain
    full = ALPACA.prompt({"instruction": "Translate.", "input": "chat"})
    assert "### Instruction:\nTranslate.\n\n### Input:\nchat\n\n### Response:\n" in full


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("question", ["Why?", "<|endoftext|> or <|im_end|>?", "  é\n\n日本 🙂 "])
def test_the_prompt_of_training_is_the_prompt_of_generation(name, question, any_tokenizer):
    """Token for token: what stands before the last answer in training is what a model is given."""
    prompt_format = get_format(name).bind(any_tokenizer)
    row = full_row(question)
    (features,) = tokenize_examples([prompt_format.example(row)], any_tokenizer, 500).features
    (prompt,) = encode_texts(any_tokenizer, [prompt_format.prompt(row)], beginning=True)
    assert features["input_ids"][: len(prompt)] == prompt
    learned = features["labels"][len(prompt) :]
    assert IGNORE_INDEX not in learned and learned[-1] == any_tokenizer.eos_token_id
    answer = prompt_format.example(row)["response"]
    assert any_tokenizer.decode(learned[:-1]) == (answer if isinstance(answer, str) else answer[-1])


def test_a_chat_asks_what_the_library_renders(any_tokenizer):
    chat = CHAT.bind(any_tokenizer)
    messages = full_row()["messages"]
    rendered = any_tokenizer.apply_chat_template(
        messages[:3], tokenize=False, add_generation_prompt=True
    )
    assert chat.prompt({"messages": messages[:3]}) == rendered == chat.prompt(full_row())
    ids = encode_texts(any_tokenizer, [chat.prompt(full_row())])[0]
    expected = any_tokenizer.apply_chat_template(
        messages[:3], add_generation_prompt=True, return_dict=False
    )
    assert ids == expected


def test_only_the_assistant_s_turns_are_learned(any_tokenizer):
    chat = CHAT.bind(any_tokenizer)
    (row,) = tokenize_examples([chat.example(full_row())], any_tokenizer, 500).features
    learned = [label for label in row["labels"] if label != IGNORE_INDEX]
    assert any_tokenizer.decode(learned) == "First answer.<|im_end|>A fact.<|im_end|>"
    whole = any_tokenizer.apply_chat_template(full_row()["messages"], tokenize=False)
    assert any_tokenizer.decode(row["input_ids"]) == whole.rstrip()
    assert row["full_text"] + "<|im_end|>" == whole.rstrip()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.sampled_from([*"a \n<|>", "im_end", "<|im_end|>", "<|im_start|>", "\ue000"])))
def test_what_users_type_never_becomes_a_special_token(chat_tokenizer, parts):
    content = "".join(parts)
    chat = CHAT.bind(chat_tokenizer)
    row = {"messages": [{"role": "user", "content": content}]}
    ids = encode_texts(chat_tokenizer, [chat.prompt(row)])[0]
    start, end = chat_tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    assert (ids.count(start), ids.count(end)) == (2, 1)
    assert chat_tokenizer.decode(ids) == chat.prompt(row)
    assert content in chat.prompt(row)


def test_a_template_that_ends_turns_in_its_own_way(tokenizer):
    from copy import deepcopy

    own = deepcopy(tokenizer)
    own.add_special_tokens({"additional_special_tokens": ["<turn>", "</turn>"]})
    own.chat_template = (
        "{% for m in messages %}<turn>{{ m['role'] }}\n{{ m['content'] }}</turn>\n{% endfor %}"
        "{% if add_generation_prompt %}<turn>assistant\n{% endif %}"
    )
    chat = CHAT.bind(own)
    (row,) = tokenize_examples([chat.example(full_row())], own, 500).features
    learned = [label for label in row["labels"] if label != IGNORE_INDEX]
    assert own.decode(learned) == "First answer.</turn>A fact.</turn><|endoftext|>"


def test_chats_that_cannot_work(tokenizer, chat_tokenizer):
    from copy import deepcopy

    with pytest.raises(PromptError, match="has no chat template"):
        CHAT.bind(tokenizer)
    with pytest.raises(PromptError, match="must be bound"):
        CHAT.prompt(full_row())
    chat = CHAT.bind(chat_tokenizer)
    with pytest.raises(PromptError, match="needs 'messages'"):
        chat.prompt({"question": "?"})
    changing = deepcopy(chat_tokenizer)
    changing.chat_template = "{{ messages | length }}" + CHATML
    with pytest.raises(PromptError, match="changes earlier messages when a conversation goes on"):
        CHAT.bind(changing).example(full_row())
    strict = deepcopy(chat_tokenizer)
    strict.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(PromptError, match="roles must alternate"):
        CHAT.bind(strict).example(full_row())


@pytest.mark.parametrize(
    ("messages", "told"),
    [
        (None, "must be a list of messages"),
        ([], "must be a list of messages"),
        ([{"role": "user"}], "message 1 of 'messages' must have 'role' and 'content'"),
        ([{"role": "user", "content": 3}], "'content' must be text, found int: 3"),
        ([{"role": "user", "content": "\ud83d"}], "found half of a character"),
        ([{"role": "user", "content": "?"}], "holds no answer"),
        ([{"role": "assistant", "content": " "}], "'content' is empty"),
        ([{"role": "assistant", "content": "Hi."}], "begins with an answer"),
        ([{"role": 1, "content": "?"}], "unknown role 1"),
        ([{"role": "Assistant", "content": "?"}], "did you mean 'assistant'"),
        ([{"role": "user", "content": "?", "tool_calls": [1]}], "would lose"),
    ],
)
def test_messages_that_do_not_fit_are_told(messages, told):
    assert told in CHAT.fault({"messages": messages})
    assert CHAT.fault(full_row()) is None
    assert "did you mean 'message'" in CHAT.fault({"message": []})


def test_chat_text_is_text_and_survives_pickling():
    text = ChatText([("<s>", True), ("", False), ("Hi", False)])
    assert text == "<s>Hi" and text.pieces == (("<s>", True), ("Hi", False))
    again = pickle.loads(pickle.dumps(text))
    assert again == text and again.pieces == text.pieces


def test_braces_in_data_are_text():
    assert "{x} {{y}}" in QUESTION_ANSWER.prompt({"question": "{x} {{y}}"})


@pytest.mark.parametrize("name", FORMATS)
def test_saved_and_read_again(tmp_path, name, chat_tokenizer):
    prompt_format = get_format(name).bind(chat_tokenizer)
    prompt_format.save(tmp_path)
    again = PromptFormat.load(tmp_path)
    assert again == prompt_format
    assert again.prompt(full_row()) == prompt_format.prompt(full_row())


def test_a_custom_format_saved_and_read_again(tmp_path):
    custom = TemplateFormat(name="my own", template="F: {q}\n{{}}A: ", response="{a}", stop=["F:"])
    custom.save(tmp_path)
    assert PromptFormat.load(tmp_path) == custom
    assert custom.prompt({"q": "1"}) == "F: 1\n{}A: "


def test_what_is_wrong_is_told(tmp_path):
    with pytest.raises(PromptError, match="did you mean 'question_answer'"):
        get_format("question_answers")
    with pytest.raises(PromptError, match="needs the column 'question', did you mean 'Question'"):
        QUESTION_ANSWER.prompt({"Question": "?"})
    with pytest.raises(PromptError, match=r"holds no prompt_format\.json"):
        PromptFormat.load(tmp_path)
    for damaged in ('{"template"', "[]", '{"template": "x"}'):
        (tmp_path / "prompt_format.json").write_text(damaged)
        with pytest.raises(PromptError, match="damaged"):
            PromptFormat.load(tmp_path)


@pytest.mark.parametrize(
    "template",
    ["no column", "{}", "{0}", "{a b}", "{open", "{a:d}", "{a!r}", "{a:.3}", (), ("{b}", "{a}")],
)
def test_templates_that_cannot_work(template):
    with pytest.raises(ValueError):
        TemplateFormat(template=template, response="{a}")


def test_contexts_are_given_up_from_the_last():
    row = {"input": "?", "response": "!", "contexts": ["a", "b"]}
    fewer = USER_ASSISTANT.without_last_context(row)
    assert fewer["contexts"] == ["a"]
    none = USER_ASSISTANT.without_last_context(fewer)
    assert none["contexts"] == [] and USER_ASSISTANT.without_last_context(none) is None
    assert QUESTION_ANSWER.without_last_context(ROWS[0]) is None


def test_optional_columns_hold_text_or_nothing():
    row = {"instruction": "Do.", "output": "Done."}
    assert ALPACA.fault(row) is None and ALPACA.fault({**row, "input": None}) is None
    assert "'input' must be text, a list of texts, or null, found int: 3" in ALPACA.fault(
        {**row, "input": 3}
    )
