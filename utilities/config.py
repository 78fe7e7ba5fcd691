"""Strict YAML configuration, and the frame that every command line of the package shares.

A config file becomes a pydantic model. Unknown keys are refused with the nearest valid name, all
faults are reported at once, `1e-5` is a number, `key=value` on the command line overrides the file,
and paths are relative to the file they stand in.
"""

import argparse
import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, ValidationInfo

from utilities.errors import ConfigError, LabError, nearest

Profile = Literal["ci", "class", "full"]


class StrictModel(BaseModel):
    """Base of all configs: unknown keys are errors, values do not change once checked."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


def from_file(path: Path, info: ValidationInfo) -> Path:
    """Return a path of a config, which starts at the config file's folder, in full."""
    folder = (info.context or {}).get("folder", Path.cwd())
    return (folder / path.expanduser()).resolve()


def _model_name(name: str, info: ValidationInfo) -> str:
    is_path = name.startswith((".", "~", "/"))
    return str(from_file(Path(name), info)) if is_path else name


ConfigPath = Annotated[Path, AfterValidator(from_file)]
"""A path in a config; relative ones start at the config file's folder."""


ModelName = Annotated[str, AfterValidator(_model_name)]
"""`auto`, a hub id, or a folder (which starts with `.`, `~` or `/`)."""


def course_profile() -> Profile:
    """Return how much work a notebook does: `COURSE_PROFILE`, or `class` when it is not set.

    Raises:
        ConfigError: the variable holds something else than `ci`, `class` or `full`.
    """
    profile = os.environ.get("COURSE_PROFILE", "class")
    if profile not in get_args(Profile):
        raise ConfigError(
            f"COURSE_PROFILE is {profile!r}{nearest(profile, get_args(Profile))} "
            "Set it to ci (every cell, minimal work), class (two CPU cores) or full (a GPU)."
        )
    return profile


def bundled(path: str) -> Path:
    """Return the place of a file that ships with the package, such as `data/course_assistant`.

    The files stand beside the package in a checkout and inside it when it is installed.

    Raises:
        FileNotFoundError: there is no such file.
    """
    package = Path(__file__).resolve().parent
    for root in (package.parent, package):
        if (root / path).exists():
            return root / path
    raise FileNotFoundError(f"{path} does not ship with this package")


class _Loader(yaml.SafeLoader):
    """YAML as people expect it: `1e-5` is a number, a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key.value!r} is given twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


# YAML 1.1 reads 1e-5 as text, because it wants a dot and a signed exponent.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+0123456789."),
)


ConfigModel = TypeVar("ConfigModel", bound=BaseModel)


def load_config(
    path: str | Path, model: type[ConfigModel], overrides: Sequence[str] = ()
) -> ConfigModel:
    """Read a YAML file into a config model.

    Args:
        path: the YAML file.
        model: the pydantic model that says which keys are valid.
        overrides: `key=value` strings; `key` may be dotted, `value` is read as YAML. Paths in
            overrides are relative to the config file too.

    Raises:
        ConfigError: the file is missing or is not YAML, or keys or values are wrong; every fault is
            named in the one message.

    Example:
        `load_config("finetune.yaml", TrainingConfig, ["seed=7"])`
    """
    path = Path(path)
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such config file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected `key: value` lines, found {type(values).__name__}")
    for override in overrides:
        _apply(values, override)
    try:
        return model.model_validate(values, context={"folder": path.resolve().parent})
    except ValidationError as error:
        faults = [_describe(fault, model) for fault in error.errors()]
        raise ConfigError("\n".join([f"{path}: {len(faults)} fault(s)", *faults])) from None


def _apply(values: dict, override: str) -> None:
    """Set one dotted `key=value` in nested dicts."""
    key, equals, value = override.partition("=")
    if not (key and equals):
        raise ConfigError(f"{override!r} is no override; write key=value, such as seed=7")
    *parents, last = key.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise ConfigError(f"{override!r}: {parent!r} holds a value, not further keys")
    try:
        values[last] = yaml.load(value, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{override!r}: the value is not valid YAML: {error}") from None


def _describe(fault: dict[str, Any], model: type[BaseModel]) -> str:
    """Turn one pydantic fault into a line that names the key, and what would be right."""
    location = [str(part) for part in fault["loc"]]
    where = ".".join(location) or "(top level)"
    if fault["type"] == "extra_forbidden":
        for part in location[:-1]:
            field = model.model_fields.get(part)
            candidates = [field.annotation, *get_args(field.annotation)] if field else []
            model = next((c for c in candidates if hasattr(c, "model_fields")), model)
        return f"  {where}: unknown key{nearest(location[-1], model.model_fields)}"
    if fault["type"] == "unknown_key":  # of a block that looks for the nearest name itself
        return f"  {where}: {fault['msg']}"
    if fault["type"] == "missing":
        return f"  {where}: this key is required."
    told = fault["msg"].removeprefix("Value error, ")
    return f"  {where}: {told} (found {fault['input']!r})"


def command_line(
    config_model: type[ConfigModel],
    run: Callable[[ConfigModel], None],
    module: str,
    description: str,
    argv: Sequence[str] | None = None,
) -> int:
    """Run one config-driven command: `CONFIG [key=value …]`.

    Args:
        config_model: the model that the YAML file is read into.
        run: does the work.
        module: the module that is run with `python -m`.
        description: shown by `--help`.
        argv: the arguments, `sys.argv[1:]` by default.

    Returns:
        The exit status: 0, or 2 after a `LabError`, whose message goes to standard error.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=description)
    parser.add_argument("config", help="a YAML file; see configs/ for examples")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. seed=7")
    arguments = parser.parse_args(argv)
    return report_errors(
        lambda: run(load_config(arguments.config, config_model, arguments.overrides))
    )


def report_errors(work: Callable[[], None]) -> int:
    """Do the work of a command line; return 0, or 2 after printing a `LabError`."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        work()
    except LabError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("stopped\n")
        return 130
    return 0
