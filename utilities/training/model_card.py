"""The model card of a run."""

from utilities.prompts.base import PromptFormat
from utilities.training.run_folder import Run


def write_model_card(run: Run, prompt_format: PromptFormat) -> None:
    """Write `README.md` into a run folder: what the model is, and how to use it."""
    record, weights = run.record, run.record["weights"][-1]
    is_adapter = (run.folder / "adapter_config.json").is_file()
    best = run.best()
    counts = record["data"]["train"]
    front = {
        "library_name": "peft" if is_adapter else "transformers",
        "pipeline_tag": "text-generation",
    }
    if record["model"]["source"].startswith("hub"):
        front["base_model"] = record["model"]["name"]
    stop = ", ".join(repr(text) for text in prompt_format.stop) or "none"
    lines = [
        "---",
        *(f"{name}: {value}" for name, value in front.items()),
        "---",
        f"# {run.folder.name}",
        "",
        f"{record['model']['name']}, fine-tuned (method: {record['method']}; "
        f"{weights['trained']:,} of {weights['weights']:,} weights trained).",
        "",
        "| | |",
        "| --- | --- |",
        f"| training rows | {counts['kept']:,} ({counts['supervised_tokens']:,} learned tokens) |",
        f"| {best['metric']} | {best['value']:.4f} nats a token, at step {best['step']} |",
        f"| seed | {record['settings']['seed']} |",
        f"| data fingerprint | {counts['fingerprint']} |",
        f"| versions | {', '.join(f'{k} {v}' for k, v in record['versions'].items())} |",
        "",
        f"Prompt format: `{prompt_format.name}`, kept in `prompt_format.json`. "
        f"Texts that end an answer: {stop}.",
        "",
        "```python",
        "from utilities import models",
        "from utilities.inference import generate",
        "from utilities.prompts import PromptFormat",
        "",
        "folder = '.'  # where this file is",
        "model, tokenizer = models.load(folder)",
        "prompt_format = PromptFormat.load(folder).bind(tokenizer)",
        "```",
        "",
        "It was measured on no more than the validation rows named above. What it was not trained "
        "on it may answer wrongly, and in the same tone.",
    ]
    (run.folder / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
