"""Tasks of the harness, with their data from the hub, from a file, or bundled."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xxhash
import yaml

from utilities.benchmark.arc_files import read_arc
from utilities.config import bundled
from utilities.errors import BenchmarkError, LabError, nearest
from utilities.files import cache_folder
from utilities.hub import probe

if TYPE_CHECKING:
    from lm_eval.api.task import Task
    from lm_eval.tasks import TaskManager


BUNDLED = "science_questions"


TASKS = Path(__file__).with_name("task_files")


# Where the harness keeps well-known tasks, and their data; to index all of them takes ten seconds.
_FOLDERS = {"arc": "arc", "hellaswag": "hellaswag", "truthfulqa": "truthfulqa", "mmlu": "mmlu"}


_DATA = {
    "arc": "allenai/ai2_arc",
    "hellaswag": "Rowan/hellaswag",
    "truthfulqa": "truthfulqa/truthful_qa",
    "mmlu": "cais/mmlu",
}


def _family(task: str) -> str | None:
    return next((name for name in _FOLDERS if task == name or task.startswith(f"{name}_")), None)


def task_index(tasks: Sequence[str]) -> "TaskManager":
    """Return an index of the harness's tasks, no larger than it must be."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    families = {_family(task) for task in tasks} - {None}
    folder = Path(lm_eval.__file__).parent / "tasks"
    places = [folder / _FOLDERS[family] for family in sorted(families)]
    small = TaskManager(include_defaults=False, include_path=[TASKS, *places])
    return small if set(tasks) <= set(small.all_tasks) else TaskManager()


def load_tasks(tasks: Sequence[str], data_files: dict[str, Path]) -> dict[str, "Task"]:
    """Return the harness's task objects by name; groups such as `mmlu` are taken apart."""
    others = [name for name in tasks if name != BUNDLED]
    manager, loaded = task_index(others), {}
    if left := set(data_files) - set(tasks):
        raise BenchmarkError(f"data_files names {sorted(left)[0]!r}, which is not among the tasks")
    for name in tasks:
        if name == BUNDLED:
            path = TASKS / f"{BUNDLED}.yaml"
            spec = over_file(path, bundled("data/science_questions/test.jsonl"))
        elif name in data_files:
            spec = _from_file(name, data_files[name])
        elif name in manager.all_tasks:
            _reach(name)
            spec = name
        else:
            every = [BUNDLED, *manager.all_tasks]
            raise BenchmarkError(f"there is no task {name!r}{nearest(name, every)}")
        try:
            loaded |= manager.load([spec])["tasks"]
        except LabError:
            raise
        except Exception as error:  # the harness and `datasets` raise many kinds
            raise BenchmarkError(_no_data(name, f"{type(error).__name__}: {error}")) from error
    for name, task in loaded.items():
        if task.OUTPUT_TYPE != "multiple_choice":
            raise BenchmarkError(f"{name} is no multiple-choice task; run it with lm-eval itself")
    return loaded


def _reach(name: str) -> None:
    """Ask the hub once for a well-known task's data; in offline mode the cache may have them."""
    family = _family(name)
    if family and (state := probe(_DATA[family], "dataset")) not in (
        "there",
        "offline mode is set",
    ):
        raise BenchmarkError(_no_data(name, state))


def _no_data(name: str, why: str) -> str:
    own = " or name a copy of it in `data_files`" if (_family(name) == "arc") else ""
    return (
        f"the data of {name} cannot be had ({' '.join(why.split())[:300]}). "
        f"Take the task `{BUNDLED}`, which needs no hub,{own or ' or try again with a network'}"
    )


def over_file(path: Path, data: Path) -> dict[str, Any]:
    """Return a task's settings with a JSONL file in place of its data."""
    spec = yaml.safe_load(path.read_text(encoding="utf-8"))
    spec |= {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}}}
    for key in ("dataset_name", "training_split", "validation_split"):
        spec.pop(key, None)
    return {**spec, "test_split": "test"}


def _from_file(name: str, path: Path) -> dict[str, Any]:
    import lm_eval

    if name not in ("arc_easy", "arc_challenge"):
        raise BenchmarkError(f"data_files: only arc_easy and arc_challenge are read, not {name}")
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in read_arc(path))
    # `datasets` knows files by their place, and keeps what it made of them.
    place = cache_folder() / "benchmarks"
    place.mkdir(parents=True, exist_ok=True)
    checked = place / f"{name}-{xxhash.xxh3_64_hexdigest(lines.encode())}.jsonl"
    checked.write_text(lines, encoding="utf-8")
    easy = Path(lm_eval.__file__).parent / "tasks" / "arc" / "arc_easy.yaml"
    return {**over_file(easy, checked), "task": name}
