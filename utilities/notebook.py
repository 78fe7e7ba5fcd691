"""Whether somebody sits at the notebook."""

import sys


def is_interactive() -> bool:
    """Say whether the notebook is run by somebody, not by a program, which takes no input."""
    ipython = sys.modules.get("IPython")
    kernel = getattr(ipython and ipython.get_ipython(), "kernel", None)
    request = kernel.get_parent("shell") if kernel else {}
    return bool(request.get("content", {}).get("allow_stdin"))
