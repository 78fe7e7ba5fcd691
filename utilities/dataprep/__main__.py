"""Command line: `python -m utilities.dataprep`."""

import sys
from typing import Any

from utilities.commands import Command, command_line
from utilities.dataprep.settings import DataprepConfig


def _work(config: DataprepConfig) -> None:
    from utilities.dataprep.preparation import prepare
    from utilities.dataprep.prepared import summary
    from utilities.models.choice import choose
    from utilities.models.loading import load_tokenizer

    prepared = prepare(config, progress=True)
    tokenizer = load_tokenizer(choose(config.base_model, weights=False))
    sys.stdout.write(summary(prepared, tokenizer) + "\n")


def _config_for(source: dict[str, Any], name: str) -> dict[str, Any]:
    return {"source": source, "writer": {"kwargs": {"dataset_path": f"runs/{name}_data"}}}


COMMAND = Command(
    name="dataprep",
    purpose="Prepare a dataset for training: read, split, tokenize, pack.",
    model=DataprepConfig,
    work=_work,
    form="configs/starting_point/dataprep.yaml",
    config_for=_config_for,
)


def main(argv: list[str] | None = None) -> int:
    """Prepare data from a config file."""
    return command_line(COMMAND, argv)


if __name__ == "__main__":
    sys.exit(main())
