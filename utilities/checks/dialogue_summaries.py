"""Checks of notebook 09: mending a config, contexts in a prompt, packing, ROUGE-L."""

import tempfile
from pathlib import Path
from typing import Any

from utilities.checks import attempt, exercise, expect, given


@exercise
def mend_config(answer):
    """The package takes the config, and it still says what its author wanted."""
    text = given(answer)
    expect(isinstance(text, str), "the check needs the YAML as one text, between triple quotes")
    config = _loaded(text)
    expect(config.max_length == 256, "max_length no longer has the value that its author gave it")
    expect(config.packing == "best_fit", "rows are no longer packed; mend the keys, keep the wish")
    expect(config.split, "the rows are no longer split, so there is nothing to watch the loss on")
    expect(config.split.sizes == {"validation": 20}, "the split is no longer the author's")
    expect(config.source.limit == 220, "another number of rows is read than the author wanted")
    folder = Path(config.writer.kwargs["dataset_path"]).name
    expect(folder == "prepared", "the dataset is written into another folder")
    expect(config.prompt_format.name == "user_assistant", "the prompt format is another one")
    rows = Path(str(config.source.kwargs["path"])).name
    expect(
        rows != "shop_test.jsonl",
        "it loads, but one fault is left that no program can name: read the comment on top, and "
        "ask which rows the model would learn from",
    )
    expect(rows == "shop_train.jsonl", "the rows to learn from are in the file of the comment")


def _loaded(text: str) -> Any:
    from utilities.config import load_config
    from utilities.dataprep.settings import DataprepConfig
    from utilities.errors import ConfigError

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mended.yaml"
        path.write_text(text, encoding="utf-8")
        try:
            return load_config(path, DataprepConfig)
        except ConfigError as error:
            message = str(error).replace(str(path), "your YAML")
    expect(False, f"the package still refuses it: {message}")


_CHAT = "Ana: here {or} there?\nBo: there, at 5"


@exercise
def with_contexts(answer):
    """Contexts come first, one on a line; without any there is no trace of their heading."""
    two = ["Bo is Ana's brother.", "Calendar: market at 5"]
    prompt = _prompt(answer, {"input": _CHAT, "contexts": two})
    expect(_CHAT in prompt, "the chat is not in the prompt as it was, braces included")
    expect(prompt.count(_CHAT) == 1, "the chat stands in the prompt more than once")
    expect(all(text in prompt for text in two), "a context is missing when there are two")
    positions = [prompt.index(text) for text in (*two, _CHAT)]
    expect(
        positions == sorted(positions), "the contexts do not come before the chat, in their order"
    )
    lines = prompt.splitlines()
    expect(f"- {two[0]}" in lines and f"- {two[1]}" in lines, "each context needs a line `- …`")
    expect("Background:" in lines, "the heading over the contexts is missing")
    expect(prompt.endswith("Summary:\n"), "the prompt must end where the summary begins")
    without: dict[str, dict[str, Any]] = {
        "the key `contexts` is missing": {"input": _CHAT},
        "`contexts` is None": {"input": _CHAT, "contexts": None},
        "`contexts` is an empty list": {"input": _CHAT, "contexts": []},
        "all contexts are blank": {"input": _CHAT, "contexts": ["", "  "]},
    }
    for named, row in without.items():
        prompt = _prompt(answer, row)
        expect("Background" not in prompt, f"there is an empty heading when {named}")
        expect(_CHAT in prompt, f"the chat is lost when {named}")
        _same_text(prompt, _form([]), f"when {named}")
    for contexts in (two, two[:1], [two[0], " "]):
        row = {"input": _CHAT, "contexts": contexts}
        shown = [text for text in contexts if text.strip()]
        _same_text(_prompt(answer, row), _form(shown), f"with the contexts {contexts}")


def _prompt(answer: Any, row: dict[str, Any]) -> str:
    prompt = attempt(answer, row)
    expect(isinstance(prompt, str), "the function must return text")
    return prompt


def _form(contexts: list[str]) -> str:
    heading = "".join(["Background:\n", *(f"- {text}\n" for text in contexts), "\n"])
    return f"{heading if contexts else ''}Summarize the chat:\n{_CHAT}\n\nSummary:\n"


def _same_text(result: str, expected: str, when: str) -> None:
    """End the check where a prompt deviates from the form, with the text around it."""
    if result == expected:
        return
    pairs = zip(result, expected, strict=False)
    position = next(
        (n for n, (a, b) in enumerate(pairs) if a != b), min(len(result), len(expected))
    )
    near = result[max(0, position - 12) : position + 12]
    expect(False, f"{when}, the prompt leaves the form at character {position}, near {near!r}")


@exercise
def padding_saved(answer):
    """Positions are counted right, in batches and packed rows, also where packing loses."""
    cases: tuple[tuple[tuple[list[int], int, int], float, str], ...] = (
        (([], 2, 10), 0.0, "there are no rows at all, so nothing is saved"),
        (([6], 1, 6), 0.0, "one row fills a packed row exactly"),
        (([6], 1, 10), 1 - 10 / 6, "one row leaves much of its packed row empty: packing loses"),
        (([4, 4, 4], 1, 8), 1 - 16 / 12, "the last packed row is half empty; it counts in full"),
        (([4, 4], 2, 8), 0.0, "two rows fill a packed row exactly"),
        (([5, 5, 2], 3, 8), 1 - 16 / 15, "a row that does not fit begins the next packed row"),
        (([2, 10], 2, 12), 1 - 12 / 20, "a batch is padded to its longest row"),
        (([2, 10, 2, 10], 2, 12), 1 - 24 / 40, "batches are made of neighbors, in the given order"),
        (([2, 10, 3], 2, 12), 1 - 24 / 23, "the last batch has fewer rows, and its own longest"),
        (([7, 7, 3, 3], 4, 10), 1 - 30 / 28, "rows come in order; none is put back into a gap"),
        (([10, 1, 2, 1, 9, 1, 1, 1], 4, 13), 1 - 26 / 76, "two batches, two packed rows"),
    )
    for (lengths, rows, capacity), expected, case in cases:
        result = attempt(answer, lengths, rows, capacity)
        named = f"lengths {lengths}, {rows} in a batch, packed rows of {capacity}"
        value = float(result)
        expect(value == value, f"the share is not a number with {named}: {case}")
        expect(value <= 1, f"a share saved cannot be above 1, with {named}")
        expect(abs(value - expected) < 1e-6, f"wrong with {named}: {case}")


@exercise
def rouge_l(answer):
    """The longest common run in order, gaps allowed, as a fair mean of precision and recall."""
    same = "the dog stays home"
    cases = (
        (same, same, 1.0, "equal texts must score 1"),
        ("The DOG stays home", same, 1.0, "upper and lower case must not matter"),
        ("cat", "cart", 0.0, "words are compared, not letters"),
        ("a b", "c d", 0.0, "texts without a common word must score 0"),
        ("", same, 0.0, "an empty prediction must score 0"),
        (same, "", 0.0, "an empty reference must score 0"),
        ("", "", 0.0, "two empty texts must score 0"),
        ("the dog", same, 2 * 2 / 6, "what the prediction leaves out must count, evenly"),
        (same, "the dog", 2 * 2 / 6, "what the prediction says too much must count, evenly"),
        ("home stays dog the", same, 0.25, "the order of words must count"),
        ("the x dog y home", same, 2 * 3 / 9, "a gap must not break the run"),
        ("the the the", "the dog", 2 * 1 / 5, "a repeated word must count once if it stands once"),
        ("b a b a", "a b a b", 2 * 3 / 8, "the longest run is wanted, not the first one found"),
        ("d a b c", "a b c d", 2 * 3 / 8, "the longest run is wanted, not the first one found"),
    )
    for prediction, reference, expected, fault in cases:
        result = float(attempt(answer, prediction, reference))
        expect(abs(result - expected) < 1e-6, f"{fault} ({prediction!r} and {reference!r})")
