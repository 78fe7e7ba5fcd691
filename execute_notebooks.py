"""Execute all notebooks in order, each in its own kernel, and write the course's HTML pages.

    python execute_notebooks.py             executed copies as HTML, with an index, in build/course/
    python execute_notebooks.py --save      the same, and saves the outputs in the notebooks
    python execute_notebooks.py 05 06       only notebooks whose names start with 05 or 06

If a notebook fails, the others run nevertheless; the exit status is then 1.
"""

import argparse
import base64
import copy
import html
import mimetypes
import os
import re
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbconvert import HTMLExporter

from utilities.config import course_profile

ROOT = Path(__file__).resolve().parent
NOTEBOOKS = ROOT / "notebooks"
PAGES = ROOT / "build" / "course"
CELL_SECONDS = 900
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
PROGRESS_BAR_MIME = "application/vnd.jupyter.widget-view+json"


def execute(path: Path) -> tuple[nbformat.NotebookNode, str | None]:
    """Execute a notebook in its own folder; return it with its outputs, and the error or None."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=CELL_SECONDS,
        kernel_name="python3",
        record_timing=False,
        extra_arguments=["--log-level=40"],  # without it the kernel warns of TCP at every start
        resources={"metadata": {"path": str(path.parent)}},
    )
    try:
        client.execute()
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        return notebook, str(error)
    return notebook, None


def normalize(notebook: nbformat.NotebookNode) -> None:
    """Remove what differs between runs: counts, timing, progress bars, widget state, folders."""
    notebook.metadata.pop("widgets", None)
    notebook.metadata["language_info"] = {"name": "python"}
    for cell in notebook.cells:
        for volatile in ("execution", "collapsed", "scrolled"):
            cell.metadata.pop(volatile, None)
        if cell.cell_type != "code":
            continue
        cell.execution_count = None
        cell.outputs = [output for output in cell.outputs if not _is_progress(output)]
        for output in cell.outputs:
            if "execution_count" in output:
                output.execution_count = None
            if "text" in output:
                output.text = output.text.replace(f"{ROOT}{os.sep}", "")


def _is_progress(output: nbformat.NotebookNode) -> bool:
    is_stderr = output.output_type == "stream" and output.name == "stderr"
    return is_stderr or PROGRESS_BAR_MIME in output.get("data", {})


def write_page(notebook: nbformat.NotebookNode, path: Path) -> None:
    """Write an executed notebook as one HTML file with its images embedded."""
    notebook = copy.deepcopy(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = LINK.sub(_link_from_page, cell.source)
    exporter = HTMLExporter(exclude_anchor_links=True)
    page, _ = exporter.from_notebook_node(notebook, resources={"metadata": {"name": path.stem}})
    path.write_text(page, encoding="utf-8")


def _link_from_page(link: re.Match) -> str:
    """Rewrite a link of a notebook for its page: images are embedded, notebooks become pages.

    The exporter can embed images too, but it then closes every `<details>` too early.
    """
    is_image, text, target = link.groups()
    file = (NOTEBOOKS / target).resolve()
    if "://" in target or not file.exists():
        return link[0]
    if is_image:
        image = base64.b64encode(file.read_bytes()).decode()
        target = f"data:{mimetypes.guess_type(file.name)[0]};base64,{image}"
    elif file.parent == NOTEBOOKS:
        target = f"{file.stem}.html"
    else:
        target = Path(os.path.relpath(file, PAGES)).as_posix()
    return f"{is_image}[{text}]({target})"


def title(notebook: nbformat.NotebookNode) -> str:
    """Return the text of the first heading."""
    return notebook.cells[0].source.splitlines()[0].lstrip("# ")


def stated_minutes(notebook: nbformat.NotebookNode) -> int:
    """Return the minutes on two CPU cores that the notebook states."""
    return int(re.search(r"\*\*Needs:\*\* about (\d+) minute", notebook.cells[0].source)[1])


def write_index(results: list[tuple[Path, str, int, float, str | None]]) -> None:
    """Write the index page: the notebooks with their times and results."""
    rows = "\n".join(
        f'<tr><td><a href="{path.stem}.html">{html.escape(name)}</a></td>'
        f"<td>{minutes} min</td><td>{seconds:.0f} s</td>"
        f"<td>{'failed' if error else 'ran'}</td></tr>"
        for path, name, minutes, seconds, error in results
    )
    (PAGES / "index.html").write_text(
        f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>Finetuning Lab</title>
<style>
body {{ font: 18px/1.5 system-ui, sans-serif; max-width: 46rem;
  margin: 3rem auto; padding: 0 1rem }}
table {{ border-collapse: collapse; width: 100% }}
td, th {{ text-align: left; padding: .5rem; border-bottom: 1px solid #ccc }}
</style>
<h1>Finetuning Lab</h1>
<p>Every notebook as it ran here, in order. Profile: {course_profile()}.</p>
<table><tr><th>Notebook</th><th>Stated</th><th>Time</th><th>Result</th></tr>
{rows}
</table></html>
""",
        encoding="utf-8",
    )


def main() -> int:
    """Execute the notebooks; return 1 when one fails."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="how the notebooks' names start; all by default")
    parser.add_argument("--save", action="store_true", help="keep the outputs in the notebooks")
    arguments = parser.parse_args()
    chosen = tuple(arguments.names) or ("",)
    paths = [path for path in sorted(NOTEBOOKS.glob("*.ipynb")) if path.name.startswith(chosen)]
    if not paths:
        parser.error(f"no notebook's name starts with {' or '.join(chosen)}")
    PAGES.mkdir(parents=True, exist_ok=True)
    results = []
    for number, path in enumerate(paths, 1):
        print(f"[{number}/{len(paths)}] {path.stem:<32}", end="", flush=True)
        start = time.monotonic()
        notebook, error = execute(path)
        seconds = time.monotonic() - start
        minutes = stated_minutes(notebook)
        slow = f", over twice the {minutes} min it states" if seconds > 120 * minutes else ""
        print(f"{seconds:6.0f} s  {'FAILED' if error else 'ran'}{slow}", flush=True)
        if error:
            print(error, file=sys.stderr)
        normalize(notebook)
        write_page(notebook, PAGES / f"{path.stem}.html")
        if arguments.save and not error:
            nbformat.write(notebook, path)
        results.append((path, title(notebook), minutes, seconds, error))
    write_index(results)
    print(f"{sum(seconds for *_, seconds, _ in results) / 60:.1f} minutes in all")
    print(f"\nOpen {os.path.relpath(PAGES / 'index.html')}")
    return int(any(error for *_, error in results))


if __name__ == "__main__":
    sys.exit(main())
