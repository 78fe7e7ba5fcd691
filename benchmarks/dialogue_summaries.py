"""Do the bundled dialogues teach a small model to summarize? ROUGE-L, tuned against two baselines.

    python benchmarks/dialogue_summaries.py
    python benchmarks/dialogue_summaries.py --limit 8    a quick trial

Fine-tunes the course's model for one epoch on `data/dialogues` (about three minutes on two cores),
summarizes the test dialogues, and prints a table: mean ROUGE-L F1 (0 to 1) with its 95 % bootstrap
interval over dialogues, for the first sentence, the untuned and the tuned model, and for the paired
differences.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
from rouge_score.rouge_scorer import RougeScorer

from utilities import models
from utilities.config import bundled
from utilities.features.tokenization import tokenize_examples
from utilities.inference.local_model import generate
from utilities.prompts.built_in import USER_ASSISTANT
from utilities.prompts.template import TemplateFormat
from utilities.rows.sources import read_rows
from utilities.training.run import train
from utilities.training.settings import Settings

FORMAT = TemplateFormat(
    name="dialogue_summary",
    template="Summarize the following dialogue:\n{dialogue}\n\nSummary:\n",
    response="{response}",
    stop=("\n\n",),
)
SEED = 42


def read(split: str, limit: int | None) -> list[dict]:
    """Return the first rows of a split, the contexts joined to the dialogue."""
    rows = read_rows(bundled(f"data/dialogues/{split}.jsonl"), USER_ASSISTANT)[:limit]
    for row in rows:
        row["dialogue"] = "\n".join([*row.get("contexts", []), row["input"]])
    return rows


def mean_with_interval(values: np.ndarray) -> str:
    """Return a mean and its bootstrap interval as text."""
    resamples = np.random.default_rng(SEED).integers(0, len(values), (10_000, len(values)))
    low, high = np.quantile(values[resamples].mean(axis=1), [0.025, 0.975])
    return f"{values.mean():.3f} | {low:.3f} to {high:.3f}"


def main() -> int:
    """Summarize, train, summarize again, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--limit", type=int, help="rows of each split; all by default")
    limit = parser.parse_args().limit
    choice = models.choose()
    model, tokenizer = models.load(choice)
    rows = read("test", limit)
    prompts = [FORMAT.prompt(row) for row in rows]
    scorer = RougeScorer(["rougeL"], use_stemmer=True)

    def rouge(answers: list[str]) -> np.ndarray:
        pairs = zip(rows, answers, strict=True)
        return np.array([scorer.score(r["response"], a)["rougeL"].fmeasure for r, a in pairs])

    def summarize() -> np.ndarray:
        return rouge(generate(model, tokenizer, prompts, 50, FORMAT.stop, progress=True))

    first = rouge([row["input"].splitlines()[0].split(": ", 1)[1] for row in rows])
    untuned = summarize()
    data, validation = (
        tokenize_examples([FORMAT.example(row) for row in read(split, limit)], tokenizer, 320)
        for split in ("train", "validation")
    )
    with tempfile.TemporaryDirectory() as folder:
        run = train(
            model,
            tokenizer,
            data,
            Path(folder) / "run",
            Settings.of(seed=SEED, num_train_epochs=1, learning_rate=1e-4),
            prompt_format=FORMAT,
            choice=choice,
            eval_data=validation,
        )
    tuned = summarize()
    print(f"\n{choice}\ntrained in {run.record['seconds']} s; {len(rows)} test dialogues\n")
    print("| summaries by | ROUGE-L | 95 % interval |\n| --- | --- | --- |")
    for name, values in {
        "first sentence of the dialogue": first,
        "untuned model": untuned,
        "tuned model": tuned,
        "tuned − untuned": tuned - untuned,
        "tuned − first sentence": tuned - first,
    }.items():
        print(f"| {name} | {mean_with_interval(values)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
