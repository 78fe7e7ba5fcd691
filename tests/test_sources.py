import json

import pytest

from utilities.sources import DataError, read_jsonl, select_rows

GOOD = {"question": "Why?", "answer": "So.", "topic": "x"}
COLUMNS = ["question", "answer"]


def write(tmp_path, *lines):
    path = tmp_path / "rows.jsonl"
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    path.write_bytes(text.encode())
    return path


def test_reads_rows_with_all_their_columns(tmp_path):
    rows = read_jsonl(write(tmp_path, GOOD, {**GOOD, "topic": 3}), COLUMNS)
    assert rows == [GOOD, {**GOOD, "topic": 3}]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"question": "Why?"', 'expected one JSON object, found \'{"question": "Why?"\''),
        ("[1, 2]", "expected one JSON object, found '[1, 2]'"),
        ("", "expected one JSON object, found an empty line"),
        ({"question": "Why?"}, "lacks the column 'answer'. (it has 'question')"),
        ({"question": "?", "Answer": "So."}, "'answer', did you mean 'Answer'?"),
        ({**GOOD, "answer": 7}, "'answer' must be text, found int: 7"),
        ({**GOOD, "answer": None}, "'answer' must be text, found NoneType"),
        ({**GOOD, "question": " \n"}, "'question' is empty"),
    ],
)
def test_a_bad_line_is_named_with_file_and_number(tmp_path, line, told):
    path = write(tmp_path, GOOD, line, GOOD)
    with pytest.raises(DataError) as error:
        read_jsonl(path, COLUMNS)
    assert f"{path}, line 2: " in str(error.value)
    assert told in str(error.value)


def test_bad_lines_can_be_skipped_and_are_counted_aloud(tmp_path, caplog):
    rows = read_jsonl(write(tmp_path, GOOD, "nonsense", GOOD), COLUMNS, on_bad_rows="skip")
    assert rows == [GOOD, GOOD]
    assert "1 bad line(s) left out" in caplog.text and "line 2" in caplog.text


def test_many_faults_are_summed_up(tmp_path):
    with pytest.raises(DataError, match="and 7 more") as error:
        read_jsonl(write(tmp_path, *["x"] * 12), COLUMNS)
    assert str(error.value).count("expected one JSON") == 5


def test_not_utf8(tmp_path):
    path = tmp_path / "latin.jsonl"
    path.write_bytes('{"question": "café", "answer": "x"}\n'.encode("latin-1"))
    with pytest.raises(DataError, match="line 1"):
        read_jsonl(path, COLUMNS)


def test_missing_and_empty_files(tmp_path):
    with pytest.raises(DataError, match="no such data file"):
        read_jsonl(tmp_path / "none.jsonl", COLUMNS)
    with pytest.raises(DataError, match="no usable row"):
        read_jsonl(write(tmp_path), COLUMNS)
    with pytest.raises(DataError, match="no usable row"):
        read_jsonl(write(tmp_path, "x"), COLUMNS, on_bad_rows="skip")


ROWS = [{"part": "core", "n": 1}, {"part": "more", "n": 2}, {"part": "rest"}]


@pytest.mark.parametrize(
    ("only", "kept"),
    [
        ({"part": "core"}, [0]),
        ({"part": ("core", "rest")}, [0, 2]),
        ({"n": "2"}, [1]),
        ({"part": "more", "n": "2"}, [1]),
    ],
)
def test_rows_can_be_selected_by_their_values(only, kept):
    assert select_rows(ROWS, only) == [ROWS[index] for index in kept]


@pytest.mark.parametrize(
    ("only", "told"),
    [
        ({"parts": "core"}, "no row has the column 'parts', did you mean 'part'?"),
        ({"part": "cores"}, "found: core, more, rest"),
        ({"part": ("core", "nowhere")}, "{'nowhere'} in 'part'"),
        ({"part": "core", "n": "2"}, "found: 1"),
    ],
)
def test_a_selection_that_finds_nothing_is_an_error(only, told):
    with pytest.raises(DataError) as error:
        select_rows(ROWS, only)
    assert told in str(error.value)


def test_reading_selects_too(tmp_path):
    path = write(tmp_path, GOOD, {**GOOD, "topic": "y"})
    assert [row["topic"] for row in read_jsonl(path, COLUMNS, only={"topic": "y"})] == ["y"]
