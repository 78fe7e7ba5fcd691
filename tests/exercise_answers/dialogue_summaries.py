"""Right and wrong answers to the exercises of notebook 09, for tests/test_checks.py."""

from collections import Counter
from difflib import SequenceMatcher
from functools import cache

BROKEN = """
# Chats of our shop. Learn from shop_train.jsonl, test on shop_test.jsonl.
source:
  kwargs: {path: shop_test.jsonl}
  limit: 220
prompt_format: user_asistant
max_lenght: 256                # tokens
packing: best_fit
packed_length: 128
split: {sizes: {validation: 20}}
writer:
  kwargs: {path: prepared}
"""
LOADS = (
    BROKEN.replace("asistant", "assistant")
    .replace("lenght", "length")
    .replace("packed_length: 128", "packed_length: 512")
    .replace("{path: prepared}", "{dataset_path: prepared}")
)
MENDED = LOADS.replace("path: shop_test", "path: shop_train")
LONGHAND = """
source:
  method: files
  kwargs:
    path: ./shop_train.jsonl
  limit: 220
prompt_format: user_assistant
max_length: 256
packing: best_fit
split:
  sizes:
    validation: 20
writer:
  method: save_to_disk
  kwargs:
    dataset_path: prepared
"""


def contexts_by_lines(row):
    contexts = [each for each in row.get("contexts") or [] if each.strip()]
    lines = ["Background:", *[f"- {each}" for each in contexts], ""] if contexts else []
    return "\n".join([*lines, "Summarize the chat:", row["input"], "", "Summary:", ""])


def contexts_by_parts(row):
    text = ""
    for context in row.get("contexts") or ():
        if context.strip():
            text += f"- {context}\n"
    if text:
        text = f"Background:\n{text}\n"
    return text + "Summarize the chat:\n" + row["input"] + "\n\nSummary:\n"


def contexts_always_headed(row):
    listed = "".join(f"- {each}\n" for each in row.get("contexts") or [])
    return f"Background:\n{listed}\nSummarize the chat:\n{row['input']}\n\nSummary:\n"


def contexts_blank_ones_kept(row):
    listed = "".join(f"- {each}\n" for each in row.get("contexts") or [])
    heading = f"Background:\n{listed}\n" if listed else ""
    return f"{heading}Summarize the chat:\n{row['input']}\n\nSummary:\n"


def contexts_by_format(row):
    return contexts_by_parts({**row, "input": "{input}"}).replace("{input}", row["input"]).format()


def contexts_behind(row):
    prompt = contexts_by_parts({"input": row["input"]})
    return contexts_by_parts(row).removesuffix(prompt) and prompt.replace(
        "Summary:\n",
        contexts_by_parts(row).removesuffix(prompt) + "Summary:\n",
    )


def saved_by_loops(lengths, batch_rows, packed_length):
    if not lengths:
        return 0.0
    padded = 0
    for start in range(0, len(lengths), batch_rows):
        batch = lengths[start : start + batch_rows]
        padded += len(batch) * max(batch)
    rows, space = 0, 0
    for length in lengths:
        if length > space:
            rows, space = rows + 1, packed_length
        space -= length
    return 1 - rows * packed_length / padded


def saved_by_lists(lengths, batch_rows, packed_length):
    starts = range(0, len(lengths), batch_rows)
    batches = [lengths[start : start + batch_rows] for start in starts]
    bins = []
    for length in lengths:
        if bins and sum(bins[-1]) + length <= packed_length:
            bins[-1].append(length)
        else:
            bins.append([length])
    padded = sum(max(batch) for batch in batches for _ in batch)
    return (padded - len(bins) * packed_length) / padded if padded else 0


def saved_with_best_fit(lengths, batch_rows, packed_length):
    return saved_by_loops(sorted(lengths, reverse=True), batch_rows, packed_length)


def saved_first_fit(lengths, batch_rows, packed_length):
    bins = []
    for length in lengths:
        fitting = [each for each in bins if sum(each) + length <= packed_length]
        (fitting[0] if fitting else bins.append([]) or bins[-1]).append(length)
    whole = saved_by_loops(lengths, batch_rows, packed_length)
    rows = _rows_of(lengths, packed_length)
    return 1 - (1 - whole) * len(bins) / rows if rows else 0.0


def _rows_of(lengths, packed_length):
    rows, space = 0, 0
    for length in lengths:
        if length > space:
            rows, space = rows + 1, packed_length
        space -= length
    return rows


def saved_last_batch_full(lengths, batch_rows, packed_length):
    starts = range(0, len(lengths), batch_rows)
    padded = sum(batch_rows * max(lengths[at : at + batch_rows]) for at in starts)
    return 1 - _rows_of(lengths, packed_length) * packed_length / padded if padded else 0.0


def saved_padded_to_the_longest(lengths, batch_rows, packed_length):
    padded = len(lengths) * max(lengths, default=0)
    return 1 - _rows_of(lengths, packed_length) * packed_length / padded if padded else 0.0


def saved_without_the_last_row(lengths, batch_rows, packed_length):
    kept = 1 - saved_by_loops(lengths, batch_rows, packed_length)
    rows = _rows_of(lengths, packed_length)
    return 1 - kept * max(rows - 1, 1) / rows if rows else 0.0


def longest_run(first, second):
    table = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i, left in enumerate(first, 1):
        for j, right in enumerate(second, 1):
            if left == right:
                table[i][j] = table[i - 1][j - 1] + 1
            else:
                table[i][j] = max(table[i - 1][j], table[i][j - 1])
    return table[-1][-1]


def rouge_by_table(prediction, reference):
    said, wanted = prediction.lower().split(), reference.lower().split()
    if not said or not wanted:
        return 0
    return 2 * longest_run(said, wanted) / (len(said) + len(wanted))


def rouge_by_recursion(prediction, reference):
    said, wanted = prediction.lower().split(), reference.lower().split()

    @cache
    def run(i, j):
        if i == len(said) or j == len(wanted):
            return 0
        if said[i] == wanted[j]:
            return 1 + run(i + 1, j + 1)
        return max(run(i + 1, j), run(i, j + 1))

    common = run(0, 0)
    if common == 0:
        return 0.0
    precision, recall = common / len(said), common / len(wanted)
    return 2 * precision * recall / (precision + recall)


def rouge_of_bags(prediction, reference):
    said, wanted = prediction.lower().split(), reference.lower().split()
    common = sum((Counter(said) & Counter(wanted)).values())
    return 2 * common / max(len(said) + len(wanted), 1)


def rouge_without_gaps(prediction, reference):
    said, wanted = prediction.lower().split(), reference.lower().split()
    match = SequenceMatcher(None, said, wanted, autojunk=False).find_longest_match()
    return 2 * match.size / max(len(said) + len(wanted), 1)


def rouge_first_found(prediction, reference):
    said, wanted = prediction.lower().split(), reference.lower().split()
    place, common = 0, 0
    for word in said:
        if word in wanted[place:]:
            place = wanted.index(word, place) + 1
            common += 1
    return 2 * common / max(len(said) + len(wanted), 1)


def rouge_recall(prediction, reference):
    said, wanted = prediction.lower().split(), reference.lower().split()
    return longest_run(said, wanted) / len(wanted) if wanted else 0.0


def rouge_precision(prediction, reference):
    return rouge_recall(reference, prediction)


def rouge_plain_mean(prediction, reference):
    return (rouge_recall(prediction, reference) + rouge_precision(prediction, reference)) / 2


ANSWERS = {
    "mend_config": {
        "right": [MENDED, LONGHAND],
        "wrong": [
            (BROKEN, "did you mean 'max_length'?"),
            (BROKEN.replace("lenght", "length"), "did you mean 'user_assistant'?"),
            (LOADS, "no program can name"),
            (MENDED.replace("packed_length: 512", "packed_length: 128"), "shorter than max_length"),
            (MENDED.replace("dataset_path", "path"), "the package still refuses it"),
            (
                "\n".join(line for line in MENDED.splitlines() if "max_length" not in line),
                "max_length no longer has",
            ),
            (MENDED.replace("packing: best_fit", "packing: none"), "no longer packed"),
            (MENDED.replace("split: {sizes: {validation: 20}}", ""), "no longer split"),
            (MENDED.replace("source:", "source"), "not valid YAML"),
            ({"source": "shop_train.jsonl"}, "as one text"),
        ],
    },
    "with_contexts": {
        "right": [contexts_by_lines, contexts_by_parts],
        "wrong": [
            (contexts_always_headed, "empty heading"),
            (contexts_blank_ones_kept, "all contexts are blank"),
            (contexts_by_format, "your function raises KeyError"),
            (lambda row: contexts_by_parts({**row, "contexts": None}), "a context is missing"),
            (lambda row: contexts_by_parts({**row, "contexts": row["contexts"]}), "KeyError"),
            (lambda row: contexts_by_parts(row).rstrip(), "end where the summary begins"),
            (lambda row: contexts_by_parts(row).replace("- ", ""), "needs a line"),
            (lambda row: contexts_by_parts(row).replace("\n\n", "\n"), "leaves the form at"),
            (lambda row: contexts_by_parts(row).replace("Background:\n", ""), "heading over the"),
            (contexts_behind, "do not come before the chat"),
        ],
    },
    "padding_saved": {
        "right": [saved_by_loops, saved_by_lists],
        "wrong": [
            (saved_with_best_fit, "neighbors, in the given order"),
            (saved_first_fit, "none is put back into a gap"),
            (saved_last_batch_full, "the last batch has fewer rows"),
            (saved_padded_to_the_longest, "the last batch has fewer rows"),
            (saved_without_the_last_row, "it counts in full"),
            (lambda *case: max(0.0, saved_by_loops(*case)), "packing loses"),
            (lambda *case: 1 - saved_by_loops(*case), "nothing is saved"),
            (lambda *case: 100 * saved_by_loops(*case), "packing loses"),
            (lambda lengths, *sizes: saved_by_loops(lengths, *sizes) / len(lengths), "raises Zero"),
            (
                lambda lengths, rows, size: saved_by_loops(lengths, rows, size + 1),
                "fills a packed row exactly",
            ),
        ],
    },
    "rouge_l": {
        "right": [rouge_by_table, rouge_by_recursion],
        "wrong": [
            (rouge_of_bags, "order of words must count"),
            (rouge_without_gaps, "gap must not break"),
            (rouge_first_found, "not the first one found"),
            (rouge_recall, "leaves out must count"),
            (
                lambda a, b: rouge_by_table(a, b) if len(a) < len(b) else rouge_recall(a, b),
                "too much must count",
            ),
            (
                lambda a, b: (rouge_recall(a, b) + rouge_precision(a, b)) / 2,
                "leaves out must count",
            ),
            (lambda a, b: rouge_by_table(" ".join(a), " ".join(b)), "not letters"),
        ],
    },
}
