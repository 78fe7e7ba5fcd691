"""Command line: `python -m utilities.runner`."""

import argparse
import sys
from collections.abc import Sequence

from utilities.config import report_errors


def _chat(name: str, max_new_tokens: int) -> None:
    from utilities.runner.conversation import Conversation, chat_in_terminal
    from utilities.runner.loaded_model import LoadedModel, choose_run

    chat_in_terminal(Conversation(LoadedModel(choose_run(name)), max_new_tokens))


def _write_dashboard(names: Sequence[str]) -> None:
    from utilities.runner.loaded_model import find_run
    from utilities.training.run_folder import Run
    from utilities.training.run_page import write_dashboard

    run, *others = [Run.load(find_run(name) or name) for name in names]
    sys.stdout.write(f"wrote: {write_dashboard(run, others)}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run `chat` or `dashboard`."""
    parser = argparse.ArgumentParser(
        prog="python -m utilities.runner",
        description="Chat with a model, or write the page of a run again.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    chat = commands.add_parser("chat", help="chat with a model", description="Chat with a model.")
    chat.add_argument(
        "run", metavar="RUN", help="a run's id, a run or model folder, a hub id, or auto"
    )
    chat.add_argument(
        "--max-new-tokens", type=int, default=100, help="tokens of an answer (default: 100)"
    )
    page = commands.add_parser(
        "dashboard",
        help="write the page of a run again",
        description="Write the page of a run again, next to other runs for comparison.",
    )
    page.add_argument(
        "runs", nargs="+", metavar="RUN", help="a run's id or folder; then runs to compare it with"
    )
    arguments = parser.parse_args(argv)

    def work() -> None:
        if arguments.command == "chat":
            _chat(arguments.run, arguments.max_new_tokens)
        else:
            _write_dashboard(arguments.runs)

    return report_errors(work)


if __name__ == "__main__":
    sys.exit(main())
