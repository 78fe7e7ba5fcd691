"""Faults are planted at known places; the audit must find these and no others."""

import json
import random
import re
import string

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from tests.conftest import ROOT, ROWS, run_module
from utilities import plots
from utilities.audit.__main__ import main
from utilities.audit.audit import audit_rows, run_audit, token_budget
from utilities.audit.leaks import leakage
from utilities.audit.row_checks import CODES
from utilities.audit.settings import AuditConfig
from utilities.audit.text_checks import comparable
from utilities.errors import DataError
from utilities.features.packing import best_fit
from utilities.features.tokenization import encode_texts
from utilities.prompts.built_in import ALPACA, CHAT, PLAIN, QUESTION_ANSWER, TEXT, USER_ASSISTANT
from utilities.rows.patches import row_hash
from utilities.rows.sources import Source, read_rows
from utilities.scores.baselines import nearest_question_answers
from utilities.scores.statistics import wilson_interval

LAMINI = ROOT.parent / "shared" / "data" / "lamini_docs.jsonl"


def clean_rows(n=100):
    """Rows without a fault: unlike prompts and responses, all of usual length."""
    rng = random.Random(0)
    words = ["".join(rng.choices("bcdfglmnprst", k=6)) for _ in range(12 * n)]
    texts = [" ".join(words[12 * i : 12 * i + 12]) for i in range(n)]
    return [{"question": f"{text[:40]}?", "answer": f"{text[40:]}."} for text in texts]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def found(audit, code):
    return audit.findings[audit.findings["code"] == code]


def numbers(audit, code):
    return found(audit, code)["row"].tolist()


def codes(audit):
    return set(audit.findings["code"])


def with_planted(**planted):
    """Clean rows, with `{"question": …}` or the like put into the rows of those numbers."""
    rows = clean_rows()
    for name, values in planted.items():
        rows[int(name.removeprefix("row_")) - 1].update(values)
    return rows


def test_clean_rows_give_no_finding_and_no_patch():
    audit = audit_rows(clean_rows())
    assert audit.findings.empty and not audit.patch
    assert audit.summary["code"].tolist() == list(CODES)
    assert audit.summary["rows"].sum() == 0 and audit.rows == 100


@pytest.mark.parametrize(
    ("code", "column", "text", "action"),
    [
        ("empty", "question", " \n", "drop"),
        ("empty", "answer", "", "drop"),
        ("empty", "answer", None, "drop"),
        ("unreadable", "answer", 7, ""),
        ("refusal", "answer", "Well, SORRY, but that is beyond what I can tell.", ""),
        (
            "template_in_text",
            "question",
            "### Question:\nWhy pad so much?\n\n### Answer:",
            "replace",
        ),
        ("template_in_text", "question", "Question: Why pad so much?\nAnswer:", "replace"),
        ("template_in_text", "question", "[INST] Why pad so very much? [/INST]", "replace"),
        (
            "template_in_text",
            "question",
            "<|im_start|>user\nWhy pad so much?<|im_end|>\n<|im_start|>assistant\n",
            "replace",
        ),
        ("template_in_text", "answer", "For rows of equal length.<|endoftext|>", "replace"),
        ("template_in_text", "answer", "### Answer:\nFor rows of equal length.", "replace"),
        ("template_in_text", "answer", "One.\n### Question:\nTwo?\n### Answer:\nThree.", ""),
        (
            "template_in_text",
            "question",
            "### Instruction:\nTranslate it.\n\n### Input:\nthe house\n\n### Response:",
            "",
        ),
        ("control_characters", "answer", "An answer with a zero\u200b-width space.", "replace"),
        ("control_characters", "answer", "An answer \u202ewith bidi\u202c controls.", "replace"),
        ("control_characters", "answer", "A terminal escape \x1b[31mturns red.", "replace"),
        ("control_characters", "answer", "Half an emoji \ud83d stands in here.", "replace"),
        ("control_characters", "answer", "A lost letter na\ufffdve in this place.", ""),
        ("control_characters", "answer", "A garbled letter cafÃ© in this place.", ""),
        ("control_characters", "answer", "A garbled itâ€™s in this very place.", ""),
        (
            "other_script",
            "question",
            "Зачем дополнять строки до одной длины и ещё больше слов?",
            "",
        ),
        ("very_long", "answer", "bla " * 700, ""),
        ("very_short", "question", "Eh?", ""),
        ("email", "answer", "Write to jane.doe+x@mail.acme.org today.", ""),
        ("phone", "answer", "Call +1 (415) 555-2671 or come by.", ""),
        ("phone", "answer", "Call (415) 555-2671 in the morning.", ""),
        ("secret", "answer", "Use sk-proj-a1B2c3D4e5F6g7H8i9J0k1 there.", ""),
        ("secret", "answer", "It is AKIAIOSFODNN7EXAMPLE on our side.", ""),
        ("secret", "answer", "It is hf_" + "aBcD1234" * 4 + " on our side.", ""),
        ("secret", "answer", "-----BEGIN RSA PRIVATE KEY-----\nMIIE and so on", ""),
        ("secret", "answer", "KEY=q8Zr4TnW1xVb7YkPd3LsMf9Hc2Gj5Ra6Ue0Io", ""),
    ],
)
def test_a_planted_fault_is_found_and_nothing_else(code, column, text, action):
    audit = audit_rows(with_planted(row_42={column: text}), refusals=["sorry, but"])
    assert numbers(audit, code) == [42]
    assert codes(audit) == {code}
    assert found(audit, code)["action"].tolist() == [action]
    assert [(entry.row, entry.action) for entry in audit.patch] == [(42, action)] * bool(action)
    line = audit.summary.set_index("code").loc[code]
    assert (line["rows"], line["share"], line["mended"]) == (1, 0.01, int(bool(action)))


def test_a_template_around_nothing_is_empty_and_dropped():
    audit = audit_rows(with_planted(row_42={"question": "### Question:\n \n\n### Answer:"}))
    assert numbers(audit, "empty") == numbers(audit, "template_in_text") == [42]
    assert [(entry.row, entry.action) for entry in audit.patch] == [(42, "drop")]


@pytest.mark.parametrize(
    "text",
    [
        "The heading `### Answer:` announces it, and [INST] another.",
        "Every response ends with <|endoftext|>",
        "The checksum is 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822c.",
        "See AutoModelForSequenceClassification and test_a_planted_fault_is_found_1.",
        "See https://colab.research.google.com/drive/1QMeGzR9FnhNJJFmcHtm9RhFP3vrwIkFn",
        "Clone git@github.com:acme/lab.git and write to you@example.com.",
        "On 2024-01-15 at 10:30, 1,234,567 of 8 000 000 rows, 127.0.0.1:8888, v1.2.3-4.",
        "São Paulo, Åre, naïve café – “quotes”… 👩‍💻 नमस्ते and a\ttab\r\nline.",
        "The commit is 116bd85 or pythia-70m-deduped-v0-step143000-GGUF-Q4_K_M.",
    ],
)
def test_no_false_alarm(text):
    assert codes(audit_rows(with_planted(row_42={"answer": text}))) == set()


def test_repeats_and_contradictions_count_exactly():
    rows = clean_rows()
    copy, other = rows[9], rows[19]
    rows[29] = {**copy, "question": copy["question"].upper()}  # exact, but for case
    rows[39] = {"question": f" {other['question']} ", "answer": rows[39]["answer"]}  # contradicts
    rows[49] = {**rows[49], "answer": rows[48]["answer"]}
    audit = audit_rows(rows)
    assert numbers(audit, "exact_duplicate") == [30]
    assert numbers(audit, "repeated_prompt") == [10, 20, 30, 40]
    assert numbers(audit, "contradiction") == [20, 40]
    assert numbers(audit, "repeated_response") == [30, 50]
    assert codes(audit) == {
        "exact_duplicate",
        "repeated_prompt",
        "contradiction",
        "repeated_response",
    }
    assert "row 40 asks the same letter for letter" in found(audit, "contradiction").iloc[0].detail
    assert audit.summary.set_index("code").loc["repeated_prompt", "groups"] == 2
    assert [(entry.row, entry.action) for entry in audit.patch] == [(30, "drop")]


def test_headings_do_not_make_prompts_alike_or_different():
    heading = "### Question:\n{}\n\n### Answer:"
    rows = [{**row, "question": heading.format(row["question"])} for row in clean_rows()]
    rows[7] = {**rows[6], "question": clean_rows()[6]["question"]}
    audit = audit_rows(rows)
    assert numbers(audit, "exact_duplicate") == [8]
    assert numbers(audit, "near_duplicate") == []
    assert len(numbers(audit, "template_in_text")) == 99


def test_near_duplicates_are_told_with_the_earlier_row():
    rows = with_planted(
        row_5={"question": "What does the label of the padding token look like?"},
        row_77={"question": "What does the label of a padding token look like?"},
    )
    (line,) = found(audit_rows(rows), "near_duplicate").itertuples()
    assert (line.row, line.group) == (77, 5) and "0.90 with row 5" in line.detail
    assert audit_rows(rows, near_duplicate=0.91).findings.empty


def test_a_response_under_many_prompts_is_reported_with_its_share():
    rows = clean_rows(200)
    for index in range(0, 60, 10):
        rows[index]["answer"] = "Let us keep to the subject, please do."
    for index in range(100, 104):  # four wordings of one fact are no stock response
        rows[index]["answer"] = "A fact that has been asked in four ways."
    audit = audit_rows(rows)
    assert numbers(audit, "stock_response") == [1, 11, 21, 31, 41, 51]
    assert audit.stock.to_dict("records") == [
        {"response": "Let us keep to the subject, please do.", "rows": 6, "share": 0.03}
    ]


def test_same_text_but_for_a_sign_in_a_formula_is_not_the_same():
    assert comparable("What is 2+2?") != comparable("What is 2*2?")
    assert comparable("Is it -5?") != comparable("Is it 5?")
    assert comparable("C++") != comparable("C#") != comparable("C")
    assert comparable("कि") != comparable("की")
    assert comparable("😀") != comparable("😢")
    assert comparable("  Why `PAD`, then?! ") == "why pad then"
    assert comparable("?!…") == comparable("//") == ""


@given(st.text(max_size=40), st.sampled_from(["", " ", "\n", "?", "!!", "…"]))
def test_comparable_forgives_case_blanks_and_final_marks(text, end):
    once = comparable(text)
    assert comparable(once) == once
    assert comparable(f" {text}{end}") == once


PLANTS = [
    {"question": "", "answer": ""},
    {"question": "### Question:\nWhy pad?\n\n### Answer:", "answer": "Equal length.</s>"},
    {"question": "Why\u200b not?", "answer": "[INST] Be\u202ecause."},
    {"question": "What is an epoch?", "answer": "One pass over the rows."},
    {"question": "what is an EPOCH", "answer": "One pass over the rows."},
    {"question": "### Question:\n\n### Answer:", "answer": "What?"},
    {"answer": "no question"},
]


@settings(max_examples=10, deadline=None)
@given(st.lists(st.sampled_from([*PLANTS, *ROWS]), min_size=1, max_size=12))
def test_an_applied_patch_leaves_nothing_to_mend(tmp_path_factory, rows):
    rows = [*rows, {"question": "Is there a good row?", "answer": "There is."}]
    folder = tmp_path_factory.mktemp("patch")
    path = write(folder / "rows.jsonl", rows)
    audit = audit_rows(path)
    audit.write(folder)
    source = Source(kwargs={"path": str(path)}, patch=folder / "patch.jsonl")
    again = audit_rows(source)
    assert (again.findings["action"] == "").all()
    assert again.patch == audit.patch  # what is mended stays mended when the file is written again
    assert len(read_rows(source, QUESTION_ANSWER)) == again.rows


def test_a_patch_is_extended_not_forgotten(tmp_path):
    rows = with_planted(row_3={"answer": ""}, row_8={"answer": "Equal length it is.</s>"})
    path = write(tmp_path / "rows.jsonl", rows)
    audit_rows(path).write(tmp_path)
    source = Source(kwargs={"path": str(path)}, patch=tmp_path / "patch.jsonl")
    again = audit_rows(source, near_duplicate=0.5)
    assert again.rows == 99 and again.findings.empty
    assert [(e.row, e.action, e.values) for e in again.patch] == [
        (3, "drop", {}),
        (8, "replace", {"answer": "Equal length it is."}),
    ]


def test_a_patch_made_by_hand_is_kept_beside_what_the_audit_adds(tmp_path):
    rows = with_planted(row_8={"answer": "Equal length it is.</s>"})
    path = write(tmp_path / "rows.jsonl", rows)
    mine = {"row": 8, "sha256": row_hash(rows[7]), "action": "replace"}
    write(tmp_path / "patch.jsonl", [{**mine, "values": {"question": "Why do I pad the rows?"}}])
    source = Source(kwargs={"path": str(path)}, patch=tmp_path / "patch.jsonl")
    (entry,) = audit_rows(source).patch
    assert entry.values == {
        "question": "Why do I pad the rows?",
        "answer": "Equal length it is.",
    }
    assert entry.sha256 == row_hash(rows[7])


def test_keys_of_chance_are_found_and_names_are_not():
    rng = random.Random(0)
    rows = clean_rows()
    for row in rows[:50]:
        key = "".join(rng.choices(string.ascii_letters + string.digits, k=40))
        row["answer"] = f"The password is {key}, keep it."
    for row in rows[50:]:
        name = "".join(rng.choice(["Model", "For", "Token2", "Linear", "Base64"]) for _ in range(9))
        row["answer"] = f"The name is {name}, use it."
    assert (
        48
        <= len(numbers(audit_rows(rows), "secret"))
        == sum(number <= 50 for number in numbers(audit_rows(rows), "secret"))
    )


def test_a_patch_names_the_columns_of_the_source(tmp_path):
    rows = [{"Frage": row["question"], "Text": row["answer"]} for row in clean_rows()]
    rows[4]["Frage"] = "### Question:\nWhy pad the rows?\n\n### Answer:"
    columns = {"question": "Frage", "answer": "Text"}
    path = str(write(tmp_path / "rows.jsonl", rows))
    (entry,) = audit_rows(Source(kwargs={"path": path}, columns=columns)).patch
    assert (entry.row, entry.values) == (5, {"Frage": "Why pad the rows?"})


def test_only_and_limit_of_a_source_count_and_keep_the_numbers(tmp_path):
    rows = [{**row, "part": "ab"[i % 2]} for i, row in enumerate(clean_rows())]
    rows[5]["answer"] = rows[8]["answer"] = rows[91]["answer"] = ""
    path = str(write(tmp_path / "rows.jsonl", rows))
    audit = audit_rows(Source(kwargs={"path": path}, only={"part": "b"}, limit=40))
    assert audit.rows == 40 and numbers(audit, "empty") == [6]


def test_leaks_into_a_test_are_measured_exactly():
    train, test = clean_rows(100)[:80], clean_rows(100)[80:]
    test[0] = {**train[3], "question": train[3]["question"].upper()}  # copied: also copied right
    test[1] = {**test[1], "question": train[5]["question"]}
    test[2] = {**test[2], "answer": train[7]["answer"]}
    near = "one two three four five six seven eight nine ten"
    train[9] = {**train[9], "question": near}
    test[3] = {**test[3], "question": near.replace("ten", "eleven")}
    table = leakage(train, test).set_index("measure")
    counted = table["rows"].to_dict()
    assert list(counted.values()) == [2, 3, 3, 3, 2, 1, 0]
    assert table["n"].tolist() == [20] * 6 + [17]
    assert table.iloc[0][["share", "low", "high"]].tolist() == list(wilson_interval(2, 20))
    audit = audit_rows(train, test=test)
    assert numbers(audit, "leaks_into_test") == [4, 6, 10]
    assert audit.leakage.equals(leakage(train, test))


def test_copying_is_what_the_baseline_of_the_evaluation_does():
    rows = read_rows(ROOT / "data" / "course_assistant" / "train.jsonl", QUESTION_ANSWER)
    train, test = rows[::2], rows[1::2]
    answers = nearest_question_answers(train, test, PLAIN)
    right = sum(a == row["answer"] for a, row in zip(answers, test, strict=True))
    line = leakage(train, test).query("measure.str.startswith('copying')")
    assert abs(line["rows"].item() - right) <= 3  # headings of the format shift ties


def test_benchmark_questions_are_found_asked_and_quoted():
    questions = [
        "Why are the metal wires of a lamp cord wrapped in plastic?",
        "Which gas do plants take from the air, and which do they give back to it by day?",
        "Why is it so?",
    ]
    rows = with_planted(
        row_11={"question": "why are the metal wires of a lamp cord wrapped in plastic"},
        row_22={"question": f"Choose one. {questions[1]} A) oxygen B) carbon"},
    )
    audit = audit_rows(rows, benchmark=questions)
    assert numbers(audit, "leaks_into_benchmark") == [11, 22]
    assert audit.leakage[["rows", "n"]].values.tolist() == [[2, 3]]


def test_budget_equals_brute_force(tokenizer):
    rows = [{"question": "why? " * (i % 5), "answer": "pad " * (i * i % 23 + 1)} for i in range(21)]
    prompts = encode_texts(tokenizer, [QUESTION_ANSWER.prompt(row) for row in rows], True)
    answers = encode_texts(tokenizer, [row["answer"] for row in rows])
    edge = len(answers[-3]) + 1  # a response and its end fill it exactly: no room for a prompt
    limits = [20, 40, edge, 500]
    budget = token_budget(rows, QUESTION_ANSWER, tokenizer, limits).set_index("limit")
    for limit, line in budget.iterrows():
        kept, cut, dropped = [], 0, 0
        for prompt, answer in zip(prompts, answers, strict=True):
            length = len(prompt) + len(answer) + 1
            cut += length > limit
            if length > limit and len(answer) + 1 > limit - 1:
                dropped += 1
            else:
                kept.append(min(length, limit))
        batches = [kept[i : i + 8] for i in range(0, len(kept), 8)]
        positions = sum(max(batch) * len(batch) for batch in batches)
        packs = len(best_fit(kept, limit))
        assert line.to_dict() == pytest.approx(
            {
                "cut": cut / 21,
                "dropped": dropped / 21,
                "waste_in_batches": 1 - sum(kept) / positions,
                "waste_at_limit": 1 - sum(kept) / (limit * len(kept)),
                "packed_fill": sum(kept) / (packs * limit),
                "rows_per_pack": len(kept) / packs,
            }
        )
    assert 0 < budget.loc[20, "dropped"] < budget.loc[20, "cut"]
    assert budget.loc[500, "cut"] == 0


def test_a_limit_that_drops_all_rows_has_no_padding(tokenizer):
    line = token_budget([{"question": "a", "answer": "pad " * 50}], QUESTION_ANSWER, tokenizer, [5])
    assert line["dropped"].item() == 1 and np.isnan(line["packed_fill"].item())


@pytest.mark.parametrize(
    ("prompt_format", "good", "bad"),
    [
        (ALPACA, {"instruction": "Say it in French.", "input": "the house", "output": "la maison"},
         {"instruction": "Say it in French.", "input": "the house", "output": "le logis"}),
        (USER_ASSISTANT, {"input": "Who?", "contexts": ["Ann sat.", "Bob ran."], "response": "Ann"},
         {"input": "Who?", "contexts": ["Ann sat.", "Bob ran."], "response": "Bob"}),
        (CHAT, {"messages": [{"role": "user", "content": "Hi, who is it?"},
                             {"role": "assistant", "content": "It is me."}]},
         {"messages": [{"role": "user", "content": "Hi, who is it?"},
                       {"role": "assistant", "content": "It is you."}]}),
    ],
)  # fmt: skip
def test_other_formats(prompt_format, good, bad):
    audit = audit_rows([good, bad, good], prompt_format)
    assert numbers(audit, "contradiction") == [1, 2, 3]
    assert numbers(audit, "exact_duplicate") == [3]
    if prompt_format is ALPACA:  # the same instruction with another input is another prompt
        assert audit_rows([good, {**bad, "input": "the cat"}], ALPACA).findings.empty


def test_text_without_prompts_has_no_contradictions():
    rows = [{"text": text} for text in ("One text of some length.", "Another.", "another")]
    audit = audit_rows(rows, TEXT, test=rows)
    assert numbers(audit, "exact_duplicate") == [3]
    assert codes(audit) == {"exact_duplicate", "repeated_prompt", "leaks_into_test"}


def test_chat_made_of_columns_is_mended_in_its_columns():
    rows = [{"prompt": "[INST] Why pad? [/INST]", "completion": "Equal length."}]
    (entry,) = audit_rows(rows, CHAT).patch
    assert entry.values == {"prompt": "Why pad?"}


def test_rows_that_are_all_empty_are_findings_not_an_error(tmp_path, tokenizer):
    audit = audit_rows([{"question": "", "answer": None}] * 3, tokenizer=tokenizer)
    assert numbers(audit, "empty") == [1, 2, 3] and audit.budget.empty
    assert numbers(audit, "exact_duplicate") == []  # once is enough to drop it
    assert {entry.action for entry in audit.patch} == {"drop"}
    audit.write(tmp_path)


def test_one_row_is_enough(tmp_path, tokenizer):
    audit = audit_rows(ROWS[:1], test=ROWS[:1], tokenizer=tokenizer)
    assert codes(audit) == {"leaks_into_test"} and len(audit.budget) == 5
    audit.write(tmp_path)


def test_lines_that_are_not_utf8_are_found_and_a_file_of_them_is_an_error(tmp_path):
    path = tmp_path / "rows.jsonl"
    good = json.dumps(ROWS[0]).encode()
    path.write_bytes(good + b"\n" + '{"question": "Café?"}'.encode("latin-1") + b"\n[1]\n")
    audit = audit_rows(path)
    assert numbers(audit, "unreadable") == [2, 3]
    assert "not UTF-8 (byte 0xe9" in found(audit, "unreadable").iloc[0].detail
    audit.write(tmp_path)
    patched = Source(kwargs={"path": str(path)}, patch=tmp_path / "patch.jsonl")
    assert read_rows(patched, QUESTION_ANSWER) == ROWS[:1]
    path.write_bytes("Café\n".encode("utf-16-le"))
    with pytest.raises(DataError, match=r"rows.jsonl: no row can be read.*line 1: not UTF-8"):
        audit_rows(path)


def test_the_wrong_format_is_an_error_and_no_patch_that_drops_everything():
    with pytest.raises(DataError, match="no row has the column 'question'"):
        audit_rows([{"a": "x", "b": "y"}])
    with pytest.raises(DataError, match=r"no row fits the format question_answer.*Name another"):
        audit_rows([{"question": 1, "answer": "y"}])
    with pytest.raises(DataError, match=r"no row can be read \(0 found\)"):
        audit_rows([])


def test_text_that_the_format_would_lose_is_never_dropped():
    rows = [
        {"instruction": "a", "input": "b", "response": "c"},
        {"instruction": "d", "response": "e"},
    ]
    rows[1]["input"] = ""
    audit = audit_rows(rows, PLAIN)
    assert numbers(audit, "unreadable") == [1] and not audit.patch


HOSTILE = st.text(
    st.characters() | st.sampled_from("\ud800\u200b\u202e\ufeff\0#<|>[]@+\n"), max_size=60
)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.fixed_dictionaries({"question": HOSTILE, "answer": HOSTILE}), min_size=1))
def test_hostile_unicode_is_audited_and_written(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("hostile")
    audit = audit_rows(rows, test=rows, benchmark=["why?"])
    (folder / "report.json").write_text(audit.to_json(), encoding="utf-8", errors="strict")
    for text in [*audit.findings["text"], *audit.findings["detail"]]:
        assert text.isprintable()


def test_hostile_unicode_does_not_stop_the_budget(tokenizer):
    rows = [{"question": "half \ud83d an emoji", "answer": "\u202e\0\ufeffx"}]
    assert len(audit_rows(rows, tokenizer=tokenizer).budget) == 5


def test_long_texts_take_no_quadratic_time():
    long = [
        " " * 200_000,
        "a" * 200_000,
        "#" * 200_000,
        "a." * 100_000,
        "1-" * 100_000,
        "aA1" * 70_000,
    ]
    assert audit_rows([{"question": f"x{text}x", "answer": "y"} for text in long]).rows == 6


def test_the_report_is_json_with_the_numbers_of_the_tables(tmp_path, tokenizer):
    rows = with_planted(
        row_42={"answer": ""}, row_50={"answer": "mail bob@acme.org about this one"}
    )
    audit = audit_rows(rows, test=ROWS, tokenizer=tokenizer, limits=[3, 64])
    files = audit.write(tmp_path / "new" / "folder")
    assert [file.name for file in files] == [
        "report.json",
        "findings.csv",
        "patch.jsonl",
        "audit.png",
    ]
    report = json.loads(files[0].read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert report["rows"] == 100
    for name in ("summary", "leakage", "budget", "stock"):
        table = getattr(audit, name).astype(object)
        assert report[name] == table.where(table.notna(), None).to_dict("records"), name
    assert report["budget"][0]["packed_fill"] is None
    csv = pd.read_csv(files[1], keep_default_na=False)
    pd.testing.assert_frame_equal(csv, audit.findings, check_dtype=False)
    assert files[3].read_bytes().startswith(b"\x89PNG")
    assert sorted(file.name for file in files[0].parent.iterdir()) == sorted(f.name for f in files)


def test_the_chart_tells_counts_and_shares():
    audit = audit_rows(with_planted(row_42={"answer": ""}))
    (axes,) = plots.audit_chart(audit.summary, audit.budget).axes
    assert [text.get_text().strip() for text in axes.texts] == ["1 (1.0%)"]
    (axes,) = plots.audit_chart(audit_rows(clean_rows()).summary, audit.budget).axes
    assert axes.texts[0].get_text() == "nothing found"


def config(tmp_path, text):
    path = tmp_path / "audit.yaml"
    path.write_text(text + "\noutput_dir: out\n", encoding="utf-8")
    return path


def test_command_line(tmp_path, model_folder, clean_environment):
    rows = with_planted(row_42={"answer": ""}, row_50={"answer": "Sorry, not about that at all."})
    write(tmp_path / "rows.jsonl", rows)
    write(tmp_path / "bench.jsonl", [{"ask": rows[2]["question"]}])
    path = config(
        tmp_path,
        "source: rows.jsonl\ntest: rows.jsonl\nbenchmark: bench.jsonl\nbenchmark_column: ask\n"
        f"refusals: [sorry]\nbase_model: {model_folder}",
    )
    done = run_module("utilities.audit", path, "limits=[32, 64]", environment=clean_environment)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["empty", "1", "1.0%", "0", "1"] in [line[:5] for line in lines]
    assert ["refusal", "1", "1.0%", "0", "0"] in [line[:5] for line in lines]
    assert re.search(r"prompt stands in training +100 +100 +100.0%", done.stdout)
    assert "drops 1 rows and mends 0" in done.stdout
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [line["limit"] for line in report["budget"]] == [32, 64]
    assert report["leakage"][-1]["rows"] == 1


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("source: none.jsonl", "none.jsonl: no such data file"),
        ("source: rows.jsonl\nlimit: [64]", "limit: unknown key, did you mean 'limits'?"),
        ("source: rows.jsonl\nlimits: [2]", "limits.0: Input should be greater"),
        (
            "source: rows.jsonl\nbenchmark: rows.jsonl\nbenchmark_column: ask",
            "lacks the column 'ask'",
        ),
    ],
)
def test_a_bad_config_ends_with_2_and_writes_nothing(tmp_path, capsys, text, fault):
    write(tmp_path / "rows.jsonl", ROWS)
    assert main([str(config(tmp_path, text + "\nbase_model: null"))]) == 2
    assert fault in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_run_audit_without_a_model_leaves_the_budget_out(tmp_path, data_file):
    values = {"source": data_file, "output_dir": tmp_path / "out", "base_model": None}
    assert run_audit(AuditConfig.model_validate(values)).budget.empty


@pytest.mark.parametrize(
    ("path", "prompt_format", "expected"),
    [
        ("course_assistant/train.jsonl", QUESTION_ANSWER, {"repeated_response", "stock_response"}),
        ("dialogues/train.jsonl", USER_ASSISTANT, set()),
        ("instructions/instructions.jsonl", ALPACA, set()),
    ],
)
def test_the_data_that_ships_is_clean(path, prompt_format, expected):
    audit = audit_rows(ROOT / "data" / path, prompt_format)
    assert codes(audit) == expected
    if "course_assistant" in path:
        assert audit.stock["rows"].tolist() == [43] * 4  # the four ways to turn a question down
        assert all("get back to fine-tuning" in text for text in audit.stock["response"])


@pytest.fixture(scope="module")
def lamini():
    if not LAMINI.is_file():
        pytest.skip("lamini_docs.jsonl is not beside this checkout, in shared/data")
    return [json.loads(line) for line in LAMINI.read_text(encoding="utf-8").splitlines()]


def test_lamini_docs_has_the_faults_that_are_known(lamini):
    audit = audit_rows(lamini)
    summary = audit.summary.set_index("code")
    assert audit.rows == len(numbers(audit, "template_in_text")) == 1400
    assert summary.loc["repeated_prompt", ["rows", "groups"]].tolist() == [23, 7]
    exact = found(audit, "contradiction").query("detail.str.contains('letter for letter')")
    assert exact["group"].nunique() == 3
    assert summary.loc["repeated_response", "rows"] == 141
    assert audit.stock["rows"].tolist() == [39, 32, 15]
    assert audit.stock["share"][0] == pytest.approx(0.028, abs=0.0005)
    assert "in question, answer" in found(audit, "empty")["detail"].tolist()
    assert not codes(audit) & {"control_characters", "other_script", "phone", "secret", "very_long"}


def test_lamini_docs_leaks_as_is_known(lamini):
    datasets = pytest.importorskip("datasets")
    parts = datasets.Dataset.from_list(lamini).train_test_split(0.1, shuffle=True, seed=123)
    counted = leakage(parts["train"], parts["test"])["rows"].tolist()
    assert counted == [4, 43, 24, 12, 23, 14, 11]


def test_lamini_docs_are_mended_by_the_patch(lamini, tmp_path):
    path = write(tmp_path / "rows.jsonl", lamini)
    audit_rows(path).write(tmp_path)
    source = Source(kwargs={"path": str(path)}, patch=tmp_path / "patch.jsonl")
    again = audit_rows(source)
    assert not codes(again) & {"empty", "template_in_text", "exact_duplicate"}
    assert again.rows == 1392 == len(read_rows(source, QUESTION_ANSWER))
