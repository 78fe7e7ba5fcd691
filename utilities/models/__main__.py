"""Command line: `python -m utilities.models`."""

import argparse
import sys
from pathlib import Path

from utilities.config import report_errors
from utilities.models import offline
from utilities.models.choice import choose, local_models
from utilities.models.loading import export


def main(argv: list[str] | None = None) -> int:
    """Answer `where`, `fetch` and `list` on the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m utilities.models",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=["where", "fetch", "list", "export"])
    parser.add_argument("folders", nargs="*", metavar="FOLDER", help="RUN and FOLDER, of export")
    arguments = parser.parse_args(argv)
    command, folders = arguments.command, arguments.folders
    if len(folders) != (2 if command == "export" else 0):
        parser.error("export takes two folders, RUN and FOLDER; the others take none")

    def work() -> None:
        if command == "where":
            choice = choose()
            lines = [str(choice), str(choice.folder or "(will be downloaded when it is loaded)")]
        elif command == "fetch":
            ready = offline.is_fetched()
            folder = offline.fetch()
            verb = "was there already" if ready else "is ready"
            lines = [f"{offline.NAME} {verb}: {folder}"]
        elif command == "export":
            lines = [f"wrote: {export(*map(Path, folders))}"]
        else:
            lines = [str(folder) for folder in local_models()] or ["no model on this machine yet"]
        sys.stdout.write("\n".join(lines) + "\n")

    return report_errors(work)


if __name__ == "__main__":
    sys.exit(main())
