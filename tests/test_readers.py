"""Raw rows from every kind of file: what they hold, and what is said when something is wrong."""

import gzip
import json

import pandas as pd
import pytest
from datasets import Dataset, DatasetDict

from utilities.errors import DataError
from utilities.rows.readers import RawRow, find_files, read_files, read_saved, read_table

ROWS = [
    {"question": "Why, oh why?", "answer": 'So "so".\nReally.'},
    {"question": "é", "answer": "ß"},
]


def write_json(path):
    path.write_text(json.dumps(ROWS), encoding="utf-8")


def write_jsonl(path):
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")


def write_gzip(path):
    path.write_bytes(gzip.compress("".join(json.dumps(r) + "\n" for r in ROWS).encode()))


WRITERS = {
    "rows.jsonl": write_jsonl,
    "rows.ndjson": write_jsonl,
    "rows.jsonl.gz": write_gzip,
    "rows.json": write_json,
    "rows.csv": lambda path: pd.DataFrame(ROWS).to_csv(path, index=False),
    "excel.csv": lambda path: pd.DataFrame(ROWS).to_csv(path, index=False, encoding="utf-8-sig"),
    "rows.tsv": lambda path: pd.DataFrame(ROWS).to_csv(path, index=False, sep="\t"),
    "rows.parquet": lambda path: pd.DataFrame(ROWS).to_parquet(path),
}


def values(rows):
    return [row.values for row in rows]


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_rows(tmp_path, name):
    WRITERS[name](tmp_path / name)
    rows = list(read_files(tmp_path / name))
    assert values(rows) == ROWS
    assert all(row.fault is None and str(tmp_path / name) in row.place for row in rows)


def test_a_pattern_or_a_list_gives_all_files_in_order(tmp_path):
    for name in ("b.jsonl", "a.jsonl"):
        (tmp_path / name).write_text(json.dumps({"text": name}) + "\n")
    both = [{"text": "a.jsonl"}, {"text": "b.jsonl"}]
    assert values(read_files(tmp_path / "*.jsonl")) == both
    assert values(read_files([tmp_path / "a.jsonl", tmp_path / "b.jsonl"])) == both
    assert values(read_files(f"file://{tmp_path}/*.jsonl")) == both
    (tmp_path / "[odd].jsonl").write_text('{"text": "c"}\n')
    assert values(read_files(tmp_path / "[odd].jsonl")) == [{"text": "c"}]


def test_memory_addresses_go_through_fsspec():
    import fsspec

    with fsspec.open("memory://rows.csv", "w") as file:
        file.write("text\nhello\n")
    assert values(read_files("memory://rows.csv")) == [{"text": "hello"}]
    with pytest.raises(DataError, match="no such data file"):
        list(read_files("memory://nothing.csv"))


def test_what_an_address_needs_is_told(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(DataError, match=r"pip install 'finetuning-lab\[s3\]'"):
        list(read_files("s3://bucket/rows.jsonl"))
    with pytest.raises(DataError, match="nowhere://x"):
        list(read_files("nowhere://x/rows.jsonl"))


def test_splits_of_a_json_object(tmp_path):
    path = tmp_path / "data.json"
    path.write_text(json.dumps({"train": ROWS, "test": ROWS[:1], "note": "x"}))
    assert values(read_files(path, split="test")) == ROWS[:1]
    with pytest.raises(DataError, match="no split 'tset', did you mean 'test'"):
        list(read_files(path, split="tset"))
    with pytest.raises(DataError, match=r"say which `split:`.*'train', 'test'"):
        list(read_files(path))
    path.write_text(json.dumps({"train": ROWS}))
    assert values(read_files(path)) == ROWS
    path.write_text(json.dumps(ROWS))
    with pytest.raises(DataError, match="one list of rows"):
        list(read_files(path, split="train"))


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        (
            "a.csv",
            b"question,answer\n1,2\ncaf\xe9,x\n",
            "line 3: not UTF-8 (byte 0xe9 at position 4)",
        ),
        ("a.json", b'[{"text": "bbb\xe9"}]', "not UTF-8 at byte 15"),
        ("a.json", b'{"text": ', "not valid JSON"),
        ("a.json", b'"text"', "expected a list of rows, found str"),
        ("a.csv", b"question;answer\n1;2\n", "only one column, 'question;answer'"),
        ("a.csv", b"a,a\n1,2\n", "a column is named twice"),
        ("a.csv", b'a,b\n1,"2\n', "line 2: not valid CSV"),
        ("a.parquet", b"PAR1 not really", "not a valid parquet file"),
        ("a.jsonl.gz", b"no gzip", "cannot be read"),
        ("a.docx", b"", "cannot tell its format from its name"),
        ("a.jsonl.zip", b"", "cannot tell its format from its name"),
        ("a.jsonl.xz", b"no xz", "cannot be read"),
        ("a.json", b'{"a": 1}\n{"a": 2}\n', "say `format: jsonl`"),
        ("a.json", b"[" * 100_000, "not valid JSON"),
    ],
)
def test_files_that_cannot_be_read_at_all(tmp_path, name, content, told):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError) as error:
        list(read_files(path))
    assert str(path) in str(error.value) and told in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "place", "told"),
    [
        (
            "a.jsonl",
            b'{"a": "1"}\n{"a": "bbb\xe9"}\n',
            "line 2",
            "not UTF-8 (byte 0xe9 at position",
        ),
        ("a.jsonl", b'{"a": "1"}\n{"a"\n', "line 2", "expected one JSON object, found '{\"a\"'"),
        ("a.jsonl", b'{"a": "1"}\n\n', "line 2", "found an empty line"),
        ("a.csv", b'a,b\n"1\n2",3\n4\n', "line 4", "expected 2 fields (a, b), found 1"),
        ("a.csv", b"a,b\n1,2,3\n", "line 2", "expected 2 fields (a, b), found 3"),
        ("a.json", b'[{"a": "1"}, 2]', "row 2", "expected an object, found 2"),
    ],
)
def test_faults_of_single_rows_do_not_end_the_reading(tmp_path, name, content, place, told):
    path = tmp_path / name
    path.write_bytes(content)
    bad = [row for row in read_files(path) if row.fault]
    assert bad == [RawRow(f"{path}, {place}", {}, bad[0].fault)]
    assert told in bad[0].fault


def test_options_that_a_format_has_no_use_for_are_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"a": "b"}\n')
    for options in ({"split": "train"}, {"delimiter": ";"}):
        with pytest.raises(DataError, match="`split:` is for JSON files, `delimiter:` for CSV"):
            list(read_files(tmp_path / "a.jsonl", **options))
    with pytest.raises(DataError, match="unknown format 'xlsx'; valid: jsonl, json"):
        list(read_files(tmp_path / "a.jsonl", format="xlsx"))


def test_empty_lines_before_the_header_do_not_matter(tmp_path):
    (tmp_path / "a.csv").write_text("\n\na,b\n1,2\n")
    assert values(read_files(tmp_path / "a.csv")) == [{"a": "1", "b": "2"}]


def test_missing_files_are_told_with_the_nearest_name(tmp_path):
    (tmp_path / "train.jsonl").touch()
    with pytest.raises(DataError, match=r"no such data file, did you mean 'train\.jsonl'"):
        find_files(tmp_path / "traim.jsonl")
    with pytest.raises(DataError, match="no data file fits this pattern"):
        find_files(tmp_path / "*.csv")
    with pytest.raises(DataError, match="is a folder"):
        find_files(tmp_path)


def test_tables_in_memory():
    frame = pd.DataFrame(ROWS)
    frame.loc[1, "answer"] = None
    assert values(read_table(frame)) == [ROWS[0], {"question": "é", "answer": None}]
    assert values(read_table(Dataset.from_list(ROWS))) == ROWS
    assert [row.place for row in read_table(ROWS)] == ["the data, row 1", "the data, row 2"]


def test_saved_datasets(tmp_path):
    Dataset.from_list(ROWS).save_to_disk(tmp_path / "one")
    assert values(read_saved(tmp_path / "one")) == ROWS
    parts = DatasetDict(train=Dataset.from_list(ROWS), test=Dataset.from_list(ROWS[:1]))
    parts.save_to_disk(tmp_path / "two")
    assert values(read_saved(tmp_path / "two", split="test")) == ROWS[:1]
    with pytest.raises(DataError, match="say which `split:`"):
        read_saved(tmp_path / "two")
    with pytest.raises(DataError, match="only one part"):
        read_saved(tmp_path / "one", split="test")
    with pytest.raises(DataError, match="holds no dataset of save_to_disk"):
        read_saved(tmp_path / "none")
