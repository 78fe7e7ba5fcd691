"""One source block: columns are found, declared or refused; faults are told with file and row."""

import json
from collections import Counter

import pytest

from utilities.config import StrictModel, load_config
from utilities.errors import ConfigError, DataError
from utilities.prompts.built_in import ALPACA, CHAT, PLAIN, QUESTION_ANSWER, TEXT, USER_ASSISTANT
from utilities.rows.patches import row_hash
from utilities.rows.sources import ConfigSource, Source, fingerprint, read_rows, stream_rows

GOOD = {"question": "Why?", "answer": "So.", "topic": "x"}


def write(tmp_path, *lines, name="rows.jsonl"):
    path = tmp_path / name
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    path.write_bytes(text.encode())
    return path


def source(path, **fields):
    return Source(kwargs={"path": str(path)}, **fields)


def test_reads_rows_with_all_their_columns(tmp_path):
    rows = read_rows(write(tmp_path, GOOD, {**GOOD, "topic": 3}), QUESTION_ANSWER)
    assert rows == [GOOD, {**GOOD, "topic": 3}]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"question": "Why?"', 'expected one JSON object, found \'{"question": "Why?"\''),
        ("[1, 2]", "expected one JSON object, found '[1, 2]'"),
        ("", "expected one JSON object, found an empty line"),
        ({"question": "Why?"}, "lacks the column 'answer'. (it has 'question')"),
        ({"question": "?", "answr": "So."}, "'answer', did you mean 'answr'?"),
        ({**GOOD, "answer": 7}, "'answer' must be text, found int: 7"),
        ({**GOOD, "answer": None}, "'answer' must be text, found NoneType"),
        ({**GOOD, "answer": ["a", 2]}, "'answer' must be text, found int: 2"),
        ({**GOOD, "question": " \n"}, "'question' is empty"),
        ('{"question": "\\ud83d?", "answer": "x"}', "half of a character (a lone surrogate)"),
    ],
)
def test_a_bad_row_is_named_with_file_and_number(tmp_path, line, told):
    path = write(tmp_path, GOOD, line, GOOD)
    with pytest.raises(DataError) as error:
        read_rows(path, QUESTION_ANSWER)
    assert f"{path}, line 2: " in str(error.value)
    assert told in str(error.value)


def test_bad_rows_can_be_skipped_and_are_counted_aloud(tmp_path, caplog):
    path = write(tmp_path, GOOD, "nonsense", GOOD)
    counts = Counter()
    rows = list(stream_rows(source(path, on_bad_rows="skip"), QUESTION_ANSWER, counts))
    assert rows == [GOOD, GOOD]
    assert counts == {"read": 3, "bad": 1, "rows": 2}
    assert "1 bad row(s) left out" in caplog.text and "line 2" in caplog.text


def test_many_faults_are_summed_up(tmp_path):
    with pytest.raises(DataError, match="and 7 more") as error:
        read_rows(write(tmp_path, GOOD, *["x"] * 12), QUESTION_ANSWER)
    assert str(error.value).count("expected one JSON") == 5


@pytest.mark.parametrize("lines", [[], ["x"], [{"question": "", "answer": ""}] * 3])
def test_no_usable_row_is_an_error_even_when_bad_ones_are_skipped(tmp_path, lines):
    path = write(tmp_path, *lines)
    with pytest.raises(DataError, match=f"{path}: no usable row in it \\({len(lines)} read"):
        read_rows(source(path, on_bad_rows="skip"), QUESTION_ANSWER)


REQUEST, RESPONSE = "Name a color.", "Blue."
NAMES = [
    ("question", "answer"),
    ("Question", "Answer"),
    ("instruction", "output"),
    ("input", "output"),
    ("input", "response"),
    ("prompt", "completion"),
]


@pytest.mark.parametrize("names", NAMES, ids="/".join)
@pytest.mark.parametrize("prompt_format", [QUESTION_ANSWER, PLAIN, ALPACA, USER_ASSISTANT, CHAT])
def test_usual_conventions_are_recognized_by_every_format(names, prompt_format):
    row = dict(zip(names, (REQUEST, RESPONSE), strict=True)) | {"extra": 1}
    (read,) = read_rows([row], prompt_format)
    assert row.items() <= read.items()
    if prompt_format is CHAT:
        turns = [(message["role"], message["content"]) for message in read["messages"]]
        assert turns == [("user", REQUEST), ("assistant", RESPONSE)]
    else:
        assert REQUEST in prompt_format.prompt(read)
        assert prompt_format.reference(read) == RESPONSE


def test_context_goes_where_the_format_has_a_place_for_it():
    alpaca = {"instruction": "Translate.", "input": "chat", "output": "cat"}
    (row,) = read_rows([alpaca], USER_ASSISTANT)
    assert (row["input"], row["contexts"], row["response"]) == ("Translate.", "chat", "cat")
    contexts = {"input": "Who?", "contexts": ["Ann left.", "Bob came."], "response": "Bob."}
    (row,) = read_rows([contexts], ALPACA)
    assert "### Input:\nAnn left.\n\nBob came.\n" in ALPACA.prompt(row)


@pytest.mark.parametrize("prompt_format", [QUESTION_ANSWER, PLAIN, CHAT])
def test_text_that_would_be_lost_is_an_error(prompt_format):
    rows = [
        {"instruction": "Say hi.", "input": "", "output": "Hi."},
        {"instruction": "Translate.", "input": "chat", "output": "cat"},
    ]
    assert len(read_rows(rows[:1], prompt_format)) == 1
    with pytest.raises(DataError, match="row 2: has text in 'input', which the format"):
        read_rows(rows, prompt_format)


def test_what_is_declared_is_taken_at_its_word(tmp_path):
    path = write(tmp_path, {"instruction": "Translate.", "input": "chat", "output": "cat"})
    declared = source(path, columns={"question": "instruction", "answer": "output"})
    assert read_rows(declared, QUESTION_ANSWER)[0]["answer"] == "cat"


def test_text_that_comes_late_would_be_lost_too():
    rows = [{"instruction": "Say hi.", "output": "Hi."}] * 150
    with pytest.raises(DataError, match="row 151: has text in 'input'"):
        read_rows([*rows, {"instruction": "T", "input": "chat", "output": "cat"}], QUESTION_ANSWER)


def test_columns_that_could_mean_two_things_are_an_error_until_declared(tmp_path):
    both = {"prompt": "P", "completion": "C", "input": "I", "output": "O"}
    path = write(tmp_path, both)
    with pytest.raises(DataError, match=r"input/output or prompt/completion.*say which"):
        read_rows(path, QUESTION_ANSWER)
    declared = source(path, columns={"question": "prompt", "answer": "output"})
    assert QUESTION_ANSWER.example(read_rows(declared, QUESTION_ANSWER)[0])["response"] == "O"


def test_declared_columns_are_checked(tmp_path):
    path = write(tmp_path, {"frage": "?", "antwort": "!"})
    good = source(path, columns={"question": "frage", "answer": "antwort"})
    assert read_rows(good, QUESTION_ANSWER)[0]["answer"] == "!"
    with pytest.raises(DataError, match="lacks the column 'antwrt', did you mean 'antwort'"):
        read_rows(source(path, columns={"question": "frage", "answer": "antwrt"}), QUESTION_ANSWER)
    with pytest.raises(DataError, match="no column 'questions', did you mean 'question'"):
        read_rows(source(path, columns={"questions": "frage"}), QUESTION_ANSWER)
    with pytest.raises(DataError, match=r"no row has the column 'question'.*'frage', 'antwort'"):
        read_rows(path, QUESTION_ANSWER)
    with pytest.raises(DataError, match="no row has the column 'text'"):
        read_rows(path, TEXT)


ONLY_ROWS = [
    {"question": "1", "answer": "a", "part": "core", "n": 1},
    {"question": "2", "answer": "b", "part": "more", "n": 2},
    {"question": "3", "answer": "c", "part": "rest"},
]


@pytest.mark.parametrize(
    ("only", "kept"),
    [
        ({"part": "core"}, "1"),
        ({"part": ("core", "rest")}, "13"),
        ({"n": "2"}, "2"),
        ({"n": 2}, "2"),
        ({"n": (1, 2)}, "12"),
        ({"part": "more", "n": "2"}, "2"),
    ],
)
def test_rows_can_be_selected_by_their_values(tmp_path, only, kept):
    rows = read_rows(source(write(tmp_path, *ONLY_ROWS), only=only), QUESTION_ANSWER)
    assert "".join(row["question"] for row in rows) == kept


@pytest.mark.parametrize(
    ("only", "told"),
    [
        ({"parts": "core"}, "no row has the column 'parts', did you mean 'part'?"),
        ({"part": "cores"}, "found: core, more, rest"),
        ({"part": ("core", "nowhere")}, "{'nowhere'} in 'part'"),
        ({"part": "core", "n": "2"}, "no usable row in it (3 read"),
    ],
)
def test_a_selection_that_finds_nothing_is_an_error(tmp_path, only, told):
    with pytest.raises(DataError) as error:
        read_rows(source(write(tmp_path, *ONLY_ROWS), only=only), QUESTION_ANSWER)
    assert told in str(error.value)


def test_rows_that_are_not_selected_may_be_faulty(tmp_path):
    path = write(tmp_path, {**GOOD, "part": "core"}, {"question": "", "answer": "", "part": "x"})
    assert len(read_rows(source(path, only={"part": "core"}), QUESTION_ANSWER)) == 1


def test_a_limit_takes_the_first_rows(tmp_path):
    path = write(tmp_path, *[{**GOOD, "question": str(n)} for n in range(9)])
    rows = read_rows(source(path, limit=2), QUESTION_ANSWER)
    assert [row["question"] for row in rows] == ["0", "1"]


def patch(tmp_path, *entries):
    return write(tmp_path, *entries, name="patch.jsonl")


def test_a_patch_drops_and_replaces_exactly_its_rows(tmp_path):
    path = write(tmp_path, GOOD, {**GOOD, "answer": ""}, GOOD)
    entries = [
        {"row": 1, "sha256": row_hash(GOOD), "action": "drop", "reason": "duplicate of row 3"},
        {
            "row": 2,
            "sha256": row_hash({**GOOD, "answer": ""}),
            "action": "replace",
            "values": {"answer": "Mended."},
        },
    ]
    rows = read_rows(source(path, patch=patch(tmp_path, *entries)), QUESTION_ANSWER)
    assert [row["answer"] for row in rows] == ["Mended.", "So."]


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ({"row": 1, "sha256": "0" * 16, "action": "drop"}, "is not the row that"),
        ({"row": 9, "sha256": "0" * 16, "action": "drop"}, "corrects row 9"),
        ({"row": 1, "sha256": row_hash(GOOD), "action": "replace"}, "must give new `values`"),
        (
            {"row": 1, "sha256": row_hash(GOOD), "action": "replace", "values": {"answr": "x"}},
            "must give new `values`",
        ),
        ({"row": 1, "sha256": "0", "action": "delete"}, "line 1: not a correction"),
        ("nonsense", "line 1: not a correction"),
    ],
)
def test_a_patch_for_other_rows_is_refused(tmp_path, entry, told):
    path = write(tmp_path, GOOD)
    with pytest.raises(DataError, match=told):
        read_rows(source(path, patch=patch(tmp_path, entry)), QUESTION_ANSWER)


def test_the_fingerprint_follows_content_and_meaning_not_the_place(tmp_path):
    one, two = write(tmp_path, GOOD), write(tmp_path, GOOD, name="copy.jsonl")
    assert fingerprint(source(one)) == fingerprint(source(two))
    assert fingerprint(source(one)) != fingerprint(source(one, limit=1))
    before = fingerprint(source(one))
    one.write_text(json.dumps(GOOD) + "\n\n")
    assert fingerprint(source(one)) != before
    entry = {"row": 1, "sha256": row_hash(GOOD), "action": "drop"}
    assert fingerprint(source(two, patch=patch(tmp_path, entry))) != before


class Config(StrictModel):
    source: ConfigSource


def load(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return load_config(path, Config).source


def test_in_a_config_paths_start_at_its_folder_and_a_path_alone_will_do(tmp_path):
    write(tmp_path, GOOD)
    short = load(tmp_path, "source: rows.jsonl")
    assert short == load(tmp_path, "source: {method: files, kwargs: {path: rows.jsonl}}")
    assert short.kwargs["path"] == str(tmp_path / "rows.jsonl")
    several = load(tmp_path, "source: {kwargs: {path: [a.csv, s3://b/c.csv]}}").kwargs["path"]
    assert several == [str(tmp_path / "a.csv"), "s3://b/c.csv"]
    hub = load(tmp_path, "source: {method: load_dataset, kwargs: {path: org/name}}")
    assert hub.kwargs["path"] == "org/name"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{kwargs: {pth: x}}", "unknown key 'pth', did you mean 'path'?"),
        ("{kwargs: {split: x}}", "files needs the key 'path'"),
        ("{kwargs: {path: null}}", "path must be text, found None"),
        ("{kwargs: {path: []}}", "path must be text, found []"),
        ("{kwargs: {path: x, delimiter: ';;'}}", "delimiter must be one character"),
        (
            "{method: load_from_disk, kwargs: {path: x}}",
            "unknown key 'path'. load_from_disk takes dataset_path, split",
        ),
        ("{method: load_dataset, kwargs: {path: a/b, streaming: true}}", "leave streaming out"),
        ("{method: file, kwargs: {path: x}}", "source.method"),
        ("{kwargs: {path: x}, limits: {a: b}}", "source.limits: unknown key, did you mean 'limit'"),
    ],
)
def test_a_wrong_source_block_is_told_before_anything_is_read(tmp_path, text, told):
    with pytest.raises(ConfigError) as error:
        load(tmp_path, f"source: {text}")
    assert told in str(error.value)
