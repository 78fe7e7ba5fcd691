"""Command line: `python -m utilities.dataprep`."""

import sys

from utilities import models
from utilities.config import command_line
from utilities.dataprep.preparation import prepare
from utilities.dataprep.prepared import summary
from utilities.dataprep.settings import DataprepConfig


def _report(config: DataprepConfig) -> None:
    prepared = prepare(config, progress=True)
    tokenizer = models.load_tokenizer(models.choose(config.base_model, weights=False))
    sys.stdout.write(summary(prepared, tokenizer) + "\n")


def main(argv: list[str] | None = None) -> int:
    """Prepare data from a config file on the command line."""
    purpose = "Prepare a dataset for training from a YAML file."
    return command_line(DataprepConfig, _report, "utilities.dataprep", purpose, argv)


if __name__ == "__main__":
    sys.exit(main())
