"""Command line: `python -m utilities.audit`."""

import sys
from typing import TYPE_CHECKING, Any

from utilities.audit.settings import AuditConfig
from utilities.commands import Command, command_line

if TYPE_CHECKING:
    import pandas as pd


def _percent(table: "pd.DataFrame") -> "pd.DataFrame":
    shares = [name for name in table.select_dtypes("float") if name != "rows_per_pack"]
    return table.assign(**{name: table[name].map("{:.1%}".format) for name in shares}).round(2)


def _work(config: AuditConfig) -> None:
    from utilities.audit.audit import run_audit
    from utilities.audit.row_checks import CODES

    audit = run_audit(config)
    summary = audit.summary[audit.summary["rows"] > 0]
    tables = [summary, audit.stock, audit.leakage, audit.budget]
    texts = [f"{audit.rows} rows, {len(summary)} of {len(CODES)} kinds of finding"]
    texts += [_percent(table).to_string(index=False) for table in tables if len(table)]
    if audit.patch:
        drops = sum(entry.action == "drop" for entry in audit.patch)
        texts.append(
            f"patch.jsonl drops {drops} rows and mends {len(audit.patch) - drops}; "
            f"to apply it, add to the source: `patch: {config.output_dir / 'patch.jsonl'}`"
        )
    texts.append(
        f"wrote: {config.output_dir / 'report.json'}, findings.csv, patch.jsonl, audit.png"
    )
    sys.stdout.write("\n\n".join(texts) + "\n")


def _config_for(source: dict[str, Any], name: str) -> dict[str, Any]:
    return {"source": source, "output_dir": f"runs/audit_{name}"}


COMMAND = Command(
    name="audit",
    purpose="Look for what is wrong with data: duplicates, leaks, empty or odd texts.",
    model=AuditConfig,
    work=_work,
    form="configs/starting_point/audit.yaml",
    config_for=_config_for,
    runs_on_data=True,
)


def main(argv: list[str] | None = None) -> int:
    """Audit from a config file or a data file."""
    return command_line(COMMAND, argv)


if __name__ == "__main__":
    sys.exit(main())
