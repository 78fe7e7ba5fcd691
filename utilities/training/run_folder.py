"""Run folders: what a fine-tuning run leaves, reading it again, and comparing several.

A run folder holds the weights (or the adapter), tokenizer and prompt format, `run.json` (model
origin, method, settings, data counts and fingerprints, trained weights, pre-flight, best
checkpoint, totals, versions, git state), `config.yaml` when it was trained from one,
`history.jsonl`, `samples.jsonl`, `loss.png` and a model card.
"""

import dataclasses
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from utilities.errors import TrainingError

RUN_RECORD, HISTORY, SAMPLES = "run.json", "history.jsonl", "samples.jsonl"


SAMPLE_COLUMNS = ["step", "prompt", "reference", "prediction"]


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished fine-tuning run.

    Attributes:
        folder: the run folder; `models.load(str(folder))` loads its model.
        record: what `run.json` says.
        history: one row a logged step: `step`, `epoch`, `loss`, its parts `loss_response` and
            `loss_end`, `learning_rate`, `grad_norm`, `tokens` and `seconds` so far, and `eval_loss`
            with its parts where there was an evaluation. Losses are in nats per supervised token.
        samples: answers at each evaluation: `step`, `prompt`, `reference`, `prediction`.
    """

    folder: Path
    record: dict[str, Any]
    history: pd.DataFrame
    samples: pd.DataFrame = dataclasses.field(
        default_factory=lambda: pd.DataFrame(columns=SAMPLE_COLUMNS)
    )

    @classmethod
    def load(cls, folder: str | Path) -> "Run":
        """Read a run folder.

        Raises:
            TrainingError: it is not a finished run.
        """
        folder = Path(folder)
        try:
            record = json.loads((folder / RUN_RECORD).read_text(encoding="utf-8"))
            history = _table(folder / HISTORY, ["step", "loss"])
            has_samples = (folder / SAMPLES).is_file()
            samples = _table(folder / SAMPLES, SAMPLE_COLUMNS) if has_samples else None
        except (OSError, ValueError) as error:
            raise TrainingError(f"{folder} is not a finished run: {error}") from None
        history = history.groupby("step", as_index=False).first()
        return cls(folder, record, history, *([] if samples is None else [samples]))

    def best(self) -> dict[str, Any]:
        """Return `step`, `metric` and `value` of the checkpoint that was kept, or of the end."""
        if self.record.get("best"):
            return self.record["best"]
        metric = "eval_loss" if "eval_loss" in self.history else "loss"
        last = self.history.dropna(subset=[metric]).iloc[-1:]
        return {
            "step": int(last["step"].squeeze()) if len(last) else 0,
            "metric": metric,
            "value": float(last[metric].squeeze()) if len(last) else None,
        }


def _table(file: Path, columns: list[str]) -> pd.DataFrame:
    # Not by jsonlines, which refuses NaN: a gradient's norm may be NaN in a good fp16 run.
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return pd.DataFrame(lines or {name: [] for name in columns})


def compare_runs(runs: Sequence[Run | str | Path]) -> pd.DataFrame:
    """Compare runs in a table, one row per run.

    Args:
        runs: runs, or their folders.

    Returns:
        Columns `run`, `model`, `method`, the settings in which they differ, `trained` (number of
        weights), `loss` (the last), `eval_loss` (of the checkpoint that was kept), `tokens`,
        `seconds` and `tokens_per_second`.

    Raises:
        TrainingError: a folder is not a finished run.

    Example:
        `compare_runs(["runs/full", "runs/lora"])`
    """
    loaded = [run if isinstance(run, Run) else Run.load(run) for run in runs]
    settings = [_flat(run.record["settings"]) for run in loaded]
    names = dict.fromkeys(name for own in settings for name in own)  # in order, each once
    differing = [name for name in names if len({repr(own.get(name)) for own in settings}) > 1]
    lines = []
    for run, own in zip(loaded, settings, strict=True):
        record, totals = run.record, run.record.get("totals", {})
        best = run.best()
        lines.append(
            {
                "run": run.folder.name,
                "model": record["model"]["name"],
                "method": record.get("method", "full"),
                **{name: own.get(name) for name in differing},
                "trained": record["weights"][-1]["trained"],
                "loss": run.history["loss"].dropna().iloc[-1] if len(run.history) else None,
                "eval_loss": best["value"] if best["metric"] == "eval_loss" else None,
                "tokens": totals.get("tokens"),
                "seconds": record["seconds"],
                "tokens_per_second": totals.get("tokens_per_second"),
            }
        )
    return pd.DataFrame(lines)


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings with those of inner blocks beside them."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= value if isinstance(value, dict) else {name: value}
    return flat


def git_state(folder: Path | None = None) -> dict[str, Any] | None:
    """Return `commit` and `changed` (number of changed files) of a folder; None outside git."""

    def git(*arguments: str) -> str:
        command = ["git", *arguments]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no").splitlines()
        return {"commit": git("rev-parse", "HEAD"), "changed": len(changed)}
    except (OSError, subprocess.CalledProcessError):
        return None
