"""Command line: `python -m utilities.audit`."""

import sys

import pandas as pd

from utilities.audit.audit import run_audit
from utilities.audit.row_checks import (
    CODES,
)
from utilities.audit.settings import AuditConfig
from utilities.config import command_line


def _percent(table: pd.DataFrame) -> pd.DataFrame:
    shares = [name for name in table.select_dtypes("float") if name != "rows_per_pack"]
    return table.assign(**{name: table[name].map("{:.1%}".format) for name in shares}).round(2)


def _report(config: AuditConfig) -> None:
    audit = run_audit(config)
    found = audit.summary[audit.summary["rows"] > 0]
    tables = [found, audit.stock, audit.leakage, audit.budget]
    told = f"{audit.rows} rows, {len(found)} of {len(CODES)} kinds of finding"
    texts = [told, *(_percent(table).to_string(index=False) for table in tables if len(table))]
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


def main(argv: list[str] | None = None) -> int:
    """Audit from a config file on the command line."""
    return command_line(
        AuditConfig,
        _report,
        "utilities.audit",
        "Look for what is wrong with data, from a YAML file.",
        argv,
    )


if __name__ == "__main__":
    sys.exit(main())
