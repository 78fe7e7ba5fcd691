"""Whether a notebook is interactive."""

import sys


def is_interactive() -> bool:
    """Whether a frontend runs this notebook that can answer `input()`, and not a program."""
    ipython = sys.modules.get("IPython")
    kernel = getattr(ipython and ipython.get_ipython(), "kernel", None)
    request = kernel.get_parent("shell") if kernel else {}
    return bool(request.get("content", {}).get("allow_stdin"))
