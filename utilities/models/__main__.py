"""Command line: `python -m utilities.models`."""

import argparse
import sys
from pathlib import Path

from utilities.config import report_errors


def _where() -> str:
    from utilities.models.choice import choose

    choice = choose()
    return f"{choice}\n{choice.folder or '(will be downloaded when it is loaded)'}"


def _fetch() -> str:
    from utilities.models import offline

    state = "was there already" if offline.is_fetched() else "is ready"
    folder = offline.fetch()
    return f"{offline.NAME} {state}: {folder}"


def _list() -> str:
    from utilities.models.choice import local_models

    return "\n".join(map(str, local_models())) or "no model on this machine yet"


def _export(run: Path, folder: Path) -> str:
    from utilities.models.loading import export

    return f"wrote: {export(run, folder)}"


def main(argv: list[str] | None = None) -> int:
    """Run `where`, `fetch`, `list` or `export`."""
    parser = argparse.ArgumentParser(
        prog="python -m utilities.models",
        description="Show, list, fetch and export models.",
        epilog="COURSE_MODEL names the model: a hub id, a folder, or auto (the default).",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("where", help="show which model would be used, and why")
    commands.add_parser("fetch", help="fetch the offline model, for places without the model hub")
    commands.add_parser("list", help="list the models on this machine")
    export = commands.add_parser(
        "export",
        help="write a run's model for other tools; an adapter is merged",
        description="Write a run's model as a plain folder for other tools; an adapter is merged.",
    )
    export.add_argument("run", type=Path, metavar="RUN", help="a run folder, or any model folder")
    export.add_argument("folder", type=Path, metavar="FOLDER", help="the folder to create")
    arguments = parser.parse_args(argv)

    def work() -> None:
        if arguments.command == "export":
            message = _export(arguments.run, arguments.folder)
        else:
            message = {"where": _where, "fetch": _fetch, "list": _list}[arguments.command]()
        sys.stdout.write(message + "\n")

    return report_errors(work)


if __name__ == "__main__":
    sys.exit(main())
