"""The list of commands: `python -m utilities`; with a command's name, that command."""

import runpy
import sys

from utilities.errors import nearest

COMMANDS = {
    "audit": "Look for what is wrong with data: duplicates, leaks, empty or odd texts.",
    "dataprep": "Prepare a dataset for training: read, split, tokenize, pack.",
    "training": "Fine-tune a model: all weights, some of them, or a LoRA adapter.",
    "evaluation": "Evaluate a model: answers, metrics with intervals, a report.",
    "benchmark": "Run multiple-choice benchmarks on a model.",
    "models": "Show, list, fetch and export models.",
    "runner": "Chat with a model, or write the page of a run again.",
}


def main(argv: list[str] | None = None) -> int:
    """List the commands, or run the one that is named first.

    Returns:
        The exit status of the list: 0, or 2 for an unknown command. A command that runs ends the
        program with its own.
    """
    name, *arguments = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in COMMANDS:
        sys.argv = [name, *arguments]
        runpy.run_module(f"utilities.{name}", run_name="__main__")
    if name not in ("-h", "--help"):
        sys.stderr.write(f"error: unknown command {name!r}{nearest(name, COMMANDS)}\n")
        sys.stderr.write(f"There are {', '.join(COMMANDS)}.\n")
        return 2
    lines = [f"  python -m utilities.{name:<11} {purpose}" for name, purpose in COMMANDS.items()]
    sys.stdout.write(
        "The commands of Finetuning Lab:\n\n"
        + "\n".join(lines)
        + "\n\nEach explains itself with --help; those that read a config name all its keys.\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
