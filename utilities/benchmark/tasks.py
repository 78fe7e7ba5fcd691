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
# Families of well-known tasks: each has a folder of that name in the harness. To index these alone
# is fast; to index all takes ten seconds.
_HUB_DATA = {
    "arc": "allenai/ai2_arc",
    "hellaswag": "Rowan/hellaswag",
    "truthfulqa": "truthfulqa/truthful_qa",
    "mmlu": "cais/mmlu",
}


def _family(task: str) -> str | None:
    return next((name for name in _HUB_DATA if task == name or task.startswith(f"{name}_")), None)


def task_index(tasks: Sequence[str]) -> "TaskManager":
    """Return the harness's index of tasks, reduced to the folders that these are in."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    families = {family for task in tasks if (family := _family(task))}
    folder = Path(lm_eval.__file__).parent / "tasks"
    folders = [folder / family for family in sorted(families)]
    small = TaskManager(include_defaults=False, include_path=[TASKS, *folders])
    return small if set(tasks) <= set(small.all_tasks) else TaskManager()


def load_tasks(tasks: Sequence[str], data_files: dict[str, Path]) -> dict[str, "Task"]:
    """Return the harness's task objects by name; groups such as `mmlu` are replaced by their tasks.

    Raises:
        BenchmarkError: a task is unknown or not multiple-choice, or its data are not available.
    """
    others = [name for name in tasks if name != BUNDLED]
    manager = task_index(others)
    loaded: dict[str, Task] = {}
    if left := set(data_files) - set(tasks):
        raise BenchmarkError(f"data_files names {sorted(left)[0]!r}, which is not among the tasks")
    for name in tasks:
        spec: str | dict[str, Any]
        if name == BUNDLED:
            path = TASKS / f"{BUNDLED}.yaml"
            spec = over_file(path, bundled("data/science_questions/test.jsonl"))
        elif name in data_files:
            spec = _from_file(name, data_files[name])
        elif name in manager.all_tasks:
            _check_hub(name)
            spec = name
        else:
            known = [BUNDLED, *manager.all_tasks]
            raise BenchmarkError(f"there is no task {name!r}{nearest(name, known)}")
        try:
            loaded |= manager.load([spec])["tasks"]
        except LabError:
            raise
        except Exception as error:  # the harness and `datasets` raise many kinds
            raise BenchmarkError(_no_data(name, f"{type(error).__name__}: {error}")) from error
    for name, task in loaded.items():
        if task.OUTPUT_TYPE != "multiple_choice":
            raise BenchmarkError(
                f"{name} is not a multiple-choice task; run it with lm-eval itself"
            )
    return loaded


def _check_hub(name: str) -> None:
    """Raise a BenchmarkError when the hub does not have a well-known task's data."""
    family = _family(name)
    if family is None:
        return
    state = probe(_HUB_DATA[family], "dataset")
    # In offline mode the cache may have them.
    if state not in ("there", "offline mode is set"):
        raise BenchmarkError(_no_data(name, state))


def _no_data(name: str, reason: str) -> str:
    own = " or name a copy of it in `data_files`" if _family(name) == "arc" else ""
    return (
        f"the data of {name} are not available ({' '.join(reason.split())[:300]}). "
        f"Take the task `{BUNDLED}`, which needs no hub,{own or ' or try again with a network'}"
    )


def over_file(path: Path, data: Path) -> dict[str, Any]:
    """Return a task's settings with its data replaced by a JSONL file."""
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
    # `datasets` caches what it read by the path of a file, so the path depends on the content.
    folder = cache_folder() / "benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    checked = folder / f"{name}-{xxhash.xxh3_64_hexdigest(lines.encode())}.jsonl"
    checked.write_text(lines, encoding="utf-8")
    easy = Path(lm_eval.__file__).parent / "tasks" / "arc" / "arc_easy.yaml"
    return {**over_file(easy, checked), "task": name}
