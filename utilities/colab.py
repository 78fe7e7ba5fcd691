"""The first cell of every notebook: in Colab it installs the course, elsewhere it does nothing.

Colab has torch, numpy, pandas and transformers installed, and may have imported them. To replace
one of them in a running kernel breaks it in odd ways, so they are kept unless they are too old.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

PACKAGE = "finetuning-lab"


EXTRAS = ("", "benchmark")


KEPT = ("torch", "numpy", "pandas", "transformers")
"""Packages that Colab has installed, and that are kept if they are new enough."""


CELL = """\
# In Colab this cell installs the course's package; anywhere else it does nothing.
import subprocess
import sys

REPOSITORY = "{repository}"

if "google.colab" in sys.modules:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    subprocess.run([*pip, f"git+{{REPOSITORY}}"], check=True)
    from utilities.colab import install_requirements

    install_requirements()"""


def first_cell() -> str:
    """Return the source of the first cell, with the `Repository` of `pyproject.toml`."""
    addresses = metadata.metadata(PACKAGE).get_all("Project-URL") or []
    named = dict(address.split(", ", 1) for address in addresses)
    return CELL.format(repository=named["Repository"])


def version_of(name: str) -> str | None:
    """Return the installed version of a package, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def lacking(
    requirements: Iterable[str], installed: Callable[[str], str | None] = version_of
) -> tuple[list[str], list[str]]:
    """Return the requirements that are not met.

    Args:
        requirements: as in `importlib.metadata.requires`, with markers.
        installed: returns the version of a package, or None.

    Returns:
        (to install, to replace), as requirements for pip: packages that are missing or too old; and
        packages of `KEPT` that are installed and too old.
    """
    missing: list[str] = []
    too_old: list[str] = []
    for text in requirements:
        requirement = Requirement(text)
        marker = requirement.marker
        if marker and not any(marker.evaluate({"extra": extra}) for extra in EXTRAS):
            continue
        version = installed(requirement.name)
        if version and requirement.specifier.contains(version, prereleases=True):
            continue
        requirement.marker = None  # it applies here, and pip must not evaluate it without the extra
        if version and requirement.name in KEPT:
            too_old.append(str(requirement))
        else:
            missing.append(str(requirement))
    return missing, too_old


def install_requirements() -> None:
    """Install the requirements that Colab lacks; print a message if a restart is needed.

    Raises:
        subprocess.CalledProcessError: pip failed; its own message is printed above.
    """
    missing, too_old = lacking(metadata.requires(PACKAGE) or [])
    replaced = {Requirement(text).name for text in too_old}
    versions = {name: version_of(name) for name in KEPT if name not in replaced}
    pins = [f"{name}=={version}" for name, version in versions.items() if version]
    if missing or too_old:
        with tempfile.TemporaryDirectory() as folder:
            constraints = Path(folder) / "constraints.txt"
            constraints.write_text("\n".join(pins))
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "-c", str(constraints)]
            subprocess.run([*pip, *missing, *too_old], check=True)
    if too_old:
        print(  # noqa: T201 - a cell's message to its reader
            f"{', '.join(sorted(replaced))} was too old and is new now. Restart the session "
            "(Runtime, Restart session), then run this cell again."
        )
