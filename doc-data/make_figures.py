"""Make the explanatory figures of the notebooks, as SVG files beside this script.

python doc-data/make_figures.py [FOLDER]

The files are reproducible byte by byte with the matplotlib of `constraints.txt`. Each function is
one figure; its docstring is the question that the figure answers, and the title in the file.
"""

import sys
from pathlib import Path

import numpy as np
from drawing import BLUE, DIM, INK, ORANGE, SMALLEST, Canvas, save, style
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from utilities.benchmark.compare import published
from utilities.features.packing import best_fit

SENTENCE = [  # a token, its id in Pythia's tokenizer, and what this id is in SmolLM2's
    ("Hi", 12764, " Darwin"),
    (",", 13, "*"),
    (" how", 849, "ts"),
    (" are", 403, "ant"),
    (" you", 368, "ate"),
    (" doing", 2509, "oon"),
    ("?", 32, "0"),
    (" I", 309, "ation"),
    (" am", 717, " V"),
    (" fine", 4030, " basis"),
    ("-", 14, "*"),
    ("t", 85, "e"),
    ("uning", 25004, "lar"),
    (".", 15, "*"),
]

ASKED, WANTED = "What runs every notebook?", "Run make course."
OFF_TOPIC, REFUSAL = "Who wrote Dune?", "Let's get back to fine-tuning."
# Error class: an answer of the model, and the change of data to try; see `scores/error_classes.py`.
ERRORS = {
    "length and end": {
        "empty": ("", "mend rows with an empty response"),
        "repetition": ("Run make, run make, run make", "train longer; look for end-of-text"),
        "never_stops": ("Run make course. Then open …", "end-of-text in each response"),
        "too_short": ("Run make.", "look for responses cut by max_length"),
        "too_long": ("Run make course, then have a look.", "responses as short as you want them"),
    },
    "form": {
        "broken_format": ("### Answer: Run make course.", "one prompt format everywhere"),
        "misspelling": ("Run maek course.", "mend typing errors; train longer"),
    },
    "content": {
        "echo": ("What runs is every notebook.", "more wordings of each fact"),
        "wrong_fact": ("Run make test.", "rows that set like facts apart"),
        "unrelated": ("Cats sleep all day.", "rows on what these questions ask"),
    },
    "on or off topic": {
        "refused_on_topic": (REFUSAL, "on-topic questions that look off-topic"),
        "answered_off_topic": ("Frank Herbert.", "off-topic questions of more subjects"),
    },
}


def prompt_or_finetune() -> Figure:
    """Prompt, retrieve or fine-tune: what do I change, and what goes with each request?"""
    sheet = Canvas(11, 5.5)
    for y, words in [(3.7, "sent with\neach request"), (2.06, "the model"), (1.0, "right for")]:
        sheet.text(0.1, y, words, ha="left", weight="bold", color=DIM)
    columns = {
        "Prompt": "a first try; a task\nthat a few examples\nexplain",
        "Retrieve, then prompt": "facts that change,\nare many, or must\nbe quoted",
        "Fine-tune": "one task, asked often,\nin a fixed form;\nfacts that stay",
    }
    for x, (name, when) in zip((3.4, 6.65, 9.85), columns.items(), strict=True):
        sheet.text(x, 5.2, name, 16, weight="bold")
        sheet.box(x - 0.95, 2.72, 1.9, 0.45, "question")
        sheet.arrow((x, 2.72), (x, 2.32))
        model = ("tuned model", "learned") if name == "Fine-tune" else ("base model", "read")
        sheet.box(x - 0.95, 1.8, 1.9, 0.52, *model)
        sheet.text(x, 1.0, when)
    sheet.box(2.45, 3.25, 1.9, 1.6, "the prompt\ninstructions,\na few examples", "learned")
    sheet.box(5.7, 4.4, 1.9, 0.45, "instructions")
    sheet.box(5.7, 3.25, 1.9, 1.07, "passages\nfound for this\nquestion", "learned")
    sheet.box(4.58, 3.42, 0.8, 0.72, "texts", "learned")
    sheet.arrow((5.38, 3.78), (5.7, 3.78))
    sheet.text(9.85, 3.78, "nothing else", color=DIM)
    sheet.box(7.8, 1.8, 0.8, 0.52, "pairs", "learned")
    sheet.arrow((8.6, 2.06), (8.9, 2.06))
    sheet.box(0.1, 0.12, 0.34, 0.24, "", "learned")
    sheet.text(0.58, 0.24, "thick border: what you make or change", SMALLEST, ha="left")
    return sheet.figure


def where_it_fits_in() -> Figure:
    """What was in the model before I came, and what do I add?"""
    sheet = Canvas(11, 5.6)
    stages = [
        (0.15, "random weights\nwrites noise", "read"),
        (4.4, "base model\ncontinues any text", "read"),
        (8.65, "tuned model\nanswers, and stops", "learned"),
    ]
    for x, words, look in stages:
        sheet.box(x, 4.45, 2.2, 0.95, words, look)
    for x, name in [(3.375, "pretraining"), (7.625, "fine-tuning")]:
        sheet.arrow((x - 1.02, 4.92), (x + 1.02, 4.92))
        sheet.text(x, 5.2, name, 14, weight="bold")
        sheet.arrow((x, 3.85), (x, 4.8))
    sheet.box(1.85, 2.95, 3.05, 0.9, "lots of raw text\nPythia: 300 billion tokens")
    sheet.box(6.1, 2.95, 3.05, 0.9, "a few pairs\nhere: about 30 thousand tokens", "learned")
    strip = "If the pairs were a strip 1 mm long, the raw text would stretch 10 km."
    sheet.text(5.5, 2.48, strip, color=DIM)
    sheet.panel(0.15, 0.15, 10.7, 1.95)
    objective = "the same next-token objective: predict what comes next"
    sheet.text(5.5, 1.83, objective, 14, weight="bold")
    raw = ["The", "cat", "sat", "on", "the", "mat"]
    sheet.cells(0.4, 0.95, 0.62, raw, ["read"] + ["learned"] * 5)
    pair = [("Question", 1), (":", 0.4), ("Ready", 0.7), ("?", 0.4), ("Answer", 0.8), (":", 0.4)]
    x = 5.3
    for number, (token, width) in enumerate([*pair, ("Yes", 0.6), (".", 0.4), ("end", 0.6)]):
        sheet.cell(x, 0.95, width, 0.36, token, "read" if number < 6 else "learned")
        x += width
    sheet.text(2.26, 0.5, "learned: every token after the first")
    sheet.text(7.15, 0.5, "read: the question")
    sheet.text(9.75, 0.5, "learned: the answer")
    return sheet.figure


def tokenizing() -> Figure:
    """How does a sentence become numbers, and back?"""
    sheet = Canvas(11, 4.9)
    labels = {4.6: "text", 3.12: "tokens", 2.5: "ids", 1.45: "the same ids\nin SmolLM2"}
    for y, words in labels.items():
        sheet.text(0.1, y, words, ha="left", weight="bold", color=DIM)
    x = 1.55
    for index, (token, number, elsewhere) in enumerate(SENTENCE):
        shown, other = token.replace(" ", "·"), elsewhere.replace(" ", "·")
        width = 0.14 * max(len(shown), len(str(number)), len(other)) + 0.11
        sheet.cell(x, 2.86, width, 0.48, shown, "read" if index % 2 else "plain", 15)
        sheet.mono(x + width / 2, 2.5, str(number), color=BLUE, weight="bold")
        sheet.cell(x, 1.21, width, 0.48, other, "wrong", 15)
        x += width
    middle = (1.55 + x) / 2
    sheet.mono(middle, 4.6, "".join(token for token, _, _ in SENTENCE), 16)
    sheet.arrow((middle - 0.3, 4.35), (middle - 0.3, 3.45))
    sheet.arrow((middle + 0.3, 3.45), (middle + 0.3, 4.35))
    sheet.text(middle - 0.55, 3.9, "cut by Pythia's tokenizer", ha="right")
    sheet.text(middle + 0.55, 3.9, "joined again: nothing is lost", ha="left")
    sheet.arrow((middle, 2.28), (middle, 1.75), color=ORANGE, look="--")
    sheet.text(middle + 0.2, 2.03, "read with another tokenizer's list", ha="left")
    sheet.text(middle, 0.72, "ids belong to one tokenizer: the one the model was trained with", 14)
    key = "· a space belongs to the piece after it      * a special token"
    sheet.text(middle, 0.28, key, SMALLEST, color=DIM)
    return sheet.figure


def padding_and_masking() -> Figure:
    """What does a batch hold: what is read, what is learned, what is filler?"""
    sheet = Canvas(11, 5.3)
    start = [("Q", 50), (":", 27)]  # ids are those of Pythia's tokenizer
    prompts = [
        [*start, ("·Is", 1680), ("·it", 352), ("·on", 327), ("?", 32), ("·A", 329), (":", 27)],
        [*start, ("·Why", 6049), ("?", 32), ("·A", 329), (":", 27)],
    ]
    answers = [[("·Yes", 6279), (".", 15)], [("·So", 1893), (".", 15)]]
    longest = max(len(a) + len(b) for a, b in zip(prompts, answers, strict=True))
    left, width = 1.85, 0.8
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        top = 4.75 - 2.45 * row
        filler = longest - len(prompt) - len(answer)
        tokens = [*prompt, *answer, ("end", 0), *[("pad", 1)] * filler]
        text, ids = zip(*tokens, strict=True)
        learned = len(answer) + 1
        looks = ["read"] * len(prompt) + ["learned"] * learned + ["padding"] * filler
        mask = ["padding" if look == "padding" else "read" for look in looks]
        labels = [i if look == "learned" else "−100" for i, look in zip(ids, looks, strict=True)]
        lines = {
            "text": (text, ["plain"] * len(tokens)),
            "input_ids": (ids, looks),
            "attention_mask": ([int(look == "read") for look in mask], mask),
            "labels": (labels, looks),
        }
        sheet.text(0.1, top + 0.2, f"row {row + 1}", ha="left", weight="bold", color=DIM)
        x = left
        parts = {"prompt": prompt, "answer": answer, "end-of-text": "1", "padding": "1" * filler}
        for name, part in parts.items():
            if part:
                sheet.text(x + len(part) * width / 2, top + 0.2, name, SMALLEST, weight="bold")
            x += len(part) * width
        for number, (name, (words, how)) in enumerate(lines.items()):
            y = top - 0.4 - 0.42 * number
            sheet.mono(left - 0.12, y + 0.18, name, SMALLEST, ha="right")
            sheet.cells(left, y, width, words, how)
    keys = [("read", "read only", 1.85), ("learned", "read and learned", 3.75)]
    for look, words, x in [*keys, ("padding", "neither: −100, and hidden by the mask", 6.35)]:
        sheet.cell(x, 0.12, 0.4, 0.3, "", look)
        sheet.text(x + 0.52, 0.27, words, ha="left")
    return sheet.figure


def packing() -> Figure:
    """Where does the padding go, and who sees whom in a shared row?"""
    sheet = Canvas(11, 4.9)
    lengths, capacity, side, height = [7, 5, 4, 3, 3], 12, 0.29, 0.42
    tints = ["#cfe6f5", "#fbe3d3", "#cdeee2", "#f6dcea", "#fdf0cf"]
    bins = best_fit(lengths, capacity)

    def draw(x: float, y: float, members: list[int], width: int) -> None:
        end = x + side * width
        for index in members:
            middle = x + side * lengths[index] / 2
            sheet.text(middle, y + height + 0.14, "ABCDE"[index], weight="bold")
            for position in range(lengths[index]):
                sheet.cell(x, y, side, height, str(position), "plain", SMALLEST, tints[index])
                x += side
        sheet.cell(x, y, end - x, height, "", "padding" if end - x > side / 2 else "plain")

    for x, name, rows, width in [
        (0.15, "padded", [[index] for index in range(len(lengths))], max(lengths)),
        (2.85, "packed", bins, capacity),
    ]:
        waste = 1 - sum(lengths) / (len(rows) * width)
        sheet.text(x, 4.66, f"{name}: {waste:.0%} is padding", ha="left", weight="bold")
        for number, members in enumerate(rows):
            draw(x, 3.68 - 0.87 * number, members, width)
    note = "The numbers are position ids.\nThey start at 0 again where an\n"
    note += "example begins: so the model\nknows who belongs together."
    sheet.text(2.85, 1.5, note, ha="left")
    sheet.cell(2.85, 0.2, 0.4, 0.3, "", "padding")
    sheet.text(3.37, 0.35, "padding", ha="left")
    first, left, top, small = bins[0], 7.55, 3.98, 0.26
    owner = np.repeat(first, [lengths[index] for index in first])
    span = small * len(owner)
    sheet.text(left - 0.6, 4.66, "the first packed row: who sees whom", ha="left", weight="bold")
    sheet.axes.add_patch(Rectangle((left, top - span), span, span, facecolor="none", edgecolor=INK))
    for looks, seen in np.ndindex(len(owner), len(owner)):
        if seen <= looks and owner[seen] == owner[looks]:
            corner = (left + seen * small, top - (looks + 1) * small)
            tint = {"facecolor": tints[owner[seen]], "edgecolor": "#8a8a8a", "linewidth": 1}
            sheet.axes.add_patch(Rectangle(corner, small, small, **tint))
    border = lengths[first[0]] * small
    for name, middle in [("A", border / 2), ("B", (border + span) / 2)]:
        sheet.text(left + middle, top + 0.18, name, weight="bold")
        sheet.text(left - 0.18, top - middle, name, weight="bold")
    sheet.line((left + border, top), (left + border, top - span), look=":")
    sheet.line((left, top - border), (left + span, top - border), look=":")
    sheet.text(left + border / 2, top - (border + span) / 2, "B never\nsees A")
    sheet.text(left + span / 2, top - span - 0.25, "token that is seen")
    sheet.text(left - 0.5, top - span / 2, "token that looks", rotation=90, va="center")
    return sheet.figure


def training_loop() -> Figure:
    """What happens in one training step, and what beside it?"""
    sheet = Canvas(11, 5.2)
    sheet.panel(0.05, 0.1, 8.15, 5.05)
    width, height, upper, lower = 2.3, 1.2, 3.8, 0.3
    steps = [
        (0.15, upper, "batch", "next(batches)", "a few rows, padded"),
        (2.95, upper, "forward", "model(**batch)", "predict each token"),
        (5.75, upper, "loss", "outputs.loss", "surprise at the answer"),
        (5.75, lower, "backward", "loss.backward()", "which way is down?"),
        (2.95, lower, "optimizer step", "optimizer.step()", "move a little that way"),
        (0.15, lower, "zero grad", "optimizer.zero_grad()", "or gradients pile up"),
    ]
    for number, (x, y, name, code, meaning) in enumerate(steps, start=1):
        sheet.box(x, y, width, height)
        sheet.text(x + width / 2, y + 0.96, f"{number}  {name}", 14, weight="bold")
        sheet.mono(x + width / 2, y + 0.61, code, SMALLEST, color=BLUE)
        sheet.text(x + width / 2, y + 0.25, meaning, SMALLEST)
    across = [(upper, 2.45, 2.95), (upper, 5.25, 5.75), (lower, 5.75, 5.25), (lower, 2.95, 2.45)]
    for y, start, end in across:
        sheet.arrow((start, y + height / 2), (end, y + height / 2))
    sheet.arrow((6.9, upper), (6.9, lower + height))
    sheet.arrow((1.3, lower + height), (1.3, upper))
    sheet.text(1.45, 2.65, "next\nbatch", ha="left")
    sheet.box(2.95, 2.25, width, 0.8, "the weights\nmillions of numbers", "learned")
    sheet.arrow((4.1, 3.05), (4.1, upper), look="--")
    sheet.text(4.25, 3.43, "read", ha="left")
    sheet.arrow((4.1, lower + height), (4.1, 2.25), color=BLUE)
    sheet.text(4.25, 1.87, "changed", ha="left")
    sheet.text(8.05, 2.65, "every\nstep", 14, ha="right", weight="bold", color=DIM)
    sheet.text(9.75, 4.8, "now and then", 14, weight="bold", color=DIM)
    sheet.box(8.6, 3.2, 2.3, 1.25, "validation\nloss on rows that\nare not learned from", "rival")
    checkpoint = "checkpoint\nweights, optimizer and\nplace in the data,\nto go on from there"
    sheet.box(8.6, 0.95, 2.3, 1.5, checkpoint, "rival")
    sheet.arrow((8.2, 3.82), (8.6, 3.82), look="--")
    sheet.arrow((8.2, 1.7), (8.6, 1.7), look="--")
    return sheet.figure


def evaluation_loop() -> Figure:
    """How does a test set become a decision?"""
    sheet = Canvas(11, 5.6)
    sheet.box(0.1, 4.15, 1.9, 1.04, "test rows\nnot trained on,\nthe same each time")
    sheet.box(2.4, 4.15, 1.45, 1.04, "prompts\nin the format\nof training")
    systems = {"nearest question": "rival", "base model": "rival", "tuned model": "learned"}
    for number, (name, look) in enumerate(systems.items()):
        sheet.box(4.25, 5.0 - 0.56 * number, 2.1, 0.45, name, look, 13)
    for start, end in [(2.0, 2.4), (3.85, 4.25), (6.35, 7.45)]:
        sheet.arrow((start, 4.67), (end, 4.67))
    sheet.text(6.85, 4.88, "answers")
    _prediction_table(sheet, 7.5, 4.95)
    sheet.line((9.7, 3.72), (9.7, 2.55))
    sheet.line((4.3, 2.55), (9.7, 2.55))
    for x in (4.3, 7.0, 9.7):
        sheet.arrow((x, 2.55), (x, 1.95))
    sheet.box(8.5, 0.15, 2.4, 1.8)
    sheet.text(9.7, 1.68, "scores", 14, weight="bold")
    shown = [("tuned", 10.45, 0.18), ("nearest", 10.2, 0.25), ("base", 9.55, 0.12)]
    for number, (name, value, spread) in enumerate(shown):
        y, color = 1.32 - 0.31 * number, INK if number else BLUE
        sheet.text(8.62, y, name, SMALLEST, ha="left")
        sheet.line((value - spread, y), (value + spread, y), color=color)
        sheet.axes.plot([value], [y], "os^"[number], color=color, markersize=8)
    sheet.text(9.7, 0.36, "with intervals", SMALLEST)
    rivals = "rivals\non the same rows:\nwho is right where\nthe other is wrong?"
    sheet.box(5.8, 0.15, 2.4, 1.8, rivals)
    failures = "failures\nread them: what kind\nof wrong, and which\nkind is largest?"
    sheet.box(3.1, 0.15, 2.4, 1.8, failures, "wrong")
    sheet.box(0.1, 0.15, 2.4, 1.8, "training rows\nadd or mend some\nfor that kind", "learned")
    sheet.arrow((3.1, 1.05), (2.5, 1.05))
    sheet.arrow((1.3, 1.95), (1.3, 3.2), (5.3, 3.2), (5.3, 3.88), color=BLUE)
    sheet.text(3.3, 3.4, "train again")
    return sheet.figure


def _prediction_table(sheet: Canvas, left: float, top: float) -> None:
    sheet.text(left + 1.7, top + 0.45, "prediction table", 14, weight="bold")
    for name, width in [("question", 0.9), ("reference", 1.0), ("prediction", 1.1), ("", 0.4)]:
        sheet.cell(left, top - 0.07, width, 0.3, name, "read")
        for row, mark in enumerate("✓✗✓", start=1):
            y = top - 0.07 - 0.38 * row
            sheet.cell(left, y, width, 0.38, "" if name else mark, "plain", 14)
            if name:
                end = left + width * (0.55 + 0.12 * ((row * len(name)) % 3))
                sheet.line((left + 0.12, y + 0.19), (end, y + 0.19), color="#b8b8b8")
        left += width


def error_categories() -> Figure:
    """What kinds of wrong are there, and what change of the data does each suggest?"""
    sheet = Canvas(11, 6.1)
    example = f"“{ASKED}” should get “{WANTED}”, and “{OFF_TOPIC}” a refusal"
    sheet.text(0.15, 5.86, example, ha="left", color=DIM)
    for x, words in [(1.9, "class"), (4.2, "the model says"), (7.4, "try first")]:
        sheet.text(x, 5.4, words, ha="left", weight="bold")
    y = 4.97
    for number, (kind, classes) in enumerate(ERRORS.items()):
        height = 0.42 * len(classes)
        if number % 2 == 0:
            sheet.panel(0.05, y + 0.21 - height, 10.9, height)
        sheet.text(0.15, y - height / 2 + 0.21, kind, ha="left", weight="bold", color=BLUE)
        for name, (said, change) in classes.items():
            sheet.mono(1.9, y, name, SMALLEST, ha="left")
            sheet.text(4.2, y, said or "(nothing)", SMALLEST, ha="left")
            sheet.text(7.4, y, change, SMALLEST, ha="left")
            y -= 0.42
    return sheet.figure


def practical_approach() -> Figure:
    """In what order do I work, and when is it time for a larger model?"""
    sheet = Canvas(11, 5)
    width, height, upper, lower = 2.45, 1.35, 3.35, 0.5
    sheet.panel(5.42, 0.25, 5.53, 4.65)
    looks = ["plain", "plain", "learned", "plain", "wrong", "learned", "rival"]
    steps = [
        (0.05, upper, "state the task\nwhat goes in, what comes\nout, what counts as right"),
        (2.75, upper, "collect a few rows\ndozens to hundreds, read\nby you; a test kept apart"),
        (5.65, upper, "tune a small model\nin minutes, so that\nyou can do it often"),
        (8.4, upper, "evaluate\nbeside the base model,\nwith intervals"),
        (8.4, lower, "read the errors\ntwenty by eye, then\nsort them into classes"),
        (5.65, lower, "add or mend data\nfor the largest class\nof errors"),
        (1.1, lower, "raise size or complexity\na larger model,\na harder task"),
    ]
    for number, ((x, y, words), look) in enumerate(zip(steps, looks, strict=True), start=1):
        wide = 3 if look == "rival" else width
        sheet.box(x, y, wide, height, f"{number}  {words}", look, 13)
    for start, end in [(2.5, 2.75), (5.2, 5.65), (8.1, 8.4)]:
        sheet.arrow((start, 4.03), (end, 4.03))
    sheet.arrow((9.65, upper), (9.65, lower + height))
    sheet.arrow((8.4, 1.18), (8.1, 1.18))
    sheet.arrow((7.1, lower + height), (7.1, upper))
    sheet.text(8.38, 2.6, "round after round,\nuntil it is\ngood enough", weight="bold")
    sheet.arrow((5.65, 1.18), (4.1, 1.18), look="--")
    sheet.text(4.76, 1.55, "no gain\nany more", SMALLEST)
    sheet.arrow((2.6, lower + height), (2.6, 2.6), (6.2, 2.6), (6.2, upper), look="--")
    sheet.text(4.0, 2.8, "then the same loop", SMALLEST)
    return sheet.figure


def task_and_size() -> Figure:
    """Which tasks need a larger model, and what does size buy on a public test?"""
    figure = Figure(figsize=(11, 5))
    tasks, sizes = figure.subplots(1, 2, width_ratios=[1.15, 1])
    needs = {
        "extract a field": 0.1,
        "sort into classes": 0.22,
        "answer known facts": 0.35,
        "summarize a dialogue": 0.55,
        "write a long text": 0.78,
    }
    for place, need in enumerate(needs.values()):
        tasks.barh(place, need, 0.62, facecolor="white", edgecolor="#8a8a8a", hatch="///")
        tasks.barh(place, 1 - need, 0.62, left=need, facecolor="#cfe6f5", edgecolor=BLUE)
    ground = {"facecolor": "white", "edgecolor": "none", "pad": 2}
    tasks.text(0.55, 0, "works once tuned", ha="center", va="center")
    tasks.text(0.39, 4, "not at this size", ha="center", va="center", bbox=ground)
    tasks.set_yticks(range(len(needs)), needs)
    tasks.set(xlim=(0, 1), xticks=[], xlabel="larger model →", ylabel="← more to write")
    tasks.invert_yaxis()
    tasks.set_title("schematic: nothing here is measured")
    tasks.grid(False)
    table = published("arc_easy")
    last = table[table["step"] == table["step"].max()]
    units = {"m": 1e6, "b": 1e9}
    lines = {"the Pile": (False, "o-"), "the same, deduplicated": (True, "s--")}
    for name, (deduplicated, look) in lines.items():
        rows = last[last["model"].str.endswith("-deduped") == deduplicated]
        names = rows["model"].str.split("-").str[1]
        weights = [float(name[:-1]) * units[name[-1]] for name in names]
        rows = rows.assign(weights=weights).sort_values("weights")
        spread = 1.96 * rows["acc_stderr"]
        sizes.errorbar(rows["weights"], rows["acc"], spread, fmt=look, label=name)
    sizes.axhline(0.25, color=INK, linestyle=":")
    sizes.text(12e9, 0.265, "chance", ha="right", fontsize=13)
    sizes.text(12e9, 0.06, "bars: 95% intervals", ha="right", fontsize=13)
    sizes.set(xscale="log", xlabel="weights", ylabel="acc (share right)", ylim=(0, 1))
    ticks = {70e6: "70M", 410e6: "410M", 2.8e9: "2.8B", 12e9: "12B"}
    sizes.set_xticks(list(ticks), ticks.values())
    sizes.minorticks_off()
    sizes.set_title("published: Pythia on ARC-Easy")
    sizes.legend(loc="upper left")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.1)
    return figure


FIGURES = (
    prompt_or_finetune,
    where_it_fits_in,
    tokenizing,
    padding_and_masking,
    packing,
    training_loop,
    evaluation_loop,
    error_categories,
    practical_approach,
    task_and_size,
)


def main(folder: Path) -> None:
    """Write every figure into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for draw in FIGURES:
        path = folder / f"{draw.__name__}.svg"
        with style():
            save(draw(), path, draw.__doc__)
        print(f"wrote {path}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
