"""Command line: `python -m utilities.runner`."""

import argparse
import sys
from collections.abc import Sequence

from utilities.config import report_errors
from utilities.runner.conversation import Conversation, chat_in_terminal
from utilities.runner.loaded_model import LoadedModel, choose_run, find_run
from utilities.training.run_folder import Run
from utilities.training.run_page import write_dashboard


def main(argv: Sequence[str] | None = None) -> int:
    """Do `chat` and `dashboard` on the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m utilities.runner",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    talk = commands.add_parser("chat", help="talk to a model")
    talk.add_argument("run", help="a run's id, a folder, a hub id, or auto")
    talk.add_argument("--max-new-tokens", type=int, default=100, help="tokens of an answer")
    page = commands.add_parser("dashboard", help="write the page of a run anew")
    page.add_argument("runs", nargs="+", help="a run's id or folder, and runs to compare it with")
    arguments = parser.parse_args(argv)

    def work() -> None:
        if arguments.command == "chat":
            model = LoadedModel(choose_run(arguments.run))
            chat_in_terminal(Conversation(model, arguments.max_new_tokens))
        else:
            run, *others = [Run.load(find_run(name) or name) for name in arguments.runs]
            sys.stdout.write(f"wrote: {write_dashboard(run, others)}\n")

    return report_errors(work)


if __name__ == "__main__":
    sys.exit(main())
