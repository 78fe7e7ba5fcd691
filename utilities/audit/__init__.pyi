from .audit import (
    Audit as Audit,
    audit_rows as audit_rows,
    run_audit as run_audit,
    token_budget as token_budget,
)
from .leaks import leakage as leakage
from .row_checks import CODES as CODES
from .settings import AuditConfig as AuditConfig
