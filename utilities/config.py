"""Strict YAML configuration: a file is checked against a pydantic model.

Unknown keys are refused with the nearest valid name, all faults are reported at once, `1e-5` is a
number, `key=value` on the command line overrides the file, and paths are relative to the file that
names them. `utilities.commands` builds the command lines on it.
"""

import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_args

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo

from utilities.errors import ConfigError, LabError, nearest

Profile = Literal["ci", "class", "full"]


class StrictModel(BaseModel):
    """Base of all configs: unknown keys are errors, and a checked config is immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    late_models: ClassVar[Mapping[str, Callable[[], type[BaseModel]]]] = {}
    """Fields declared as plain mappings, because the model that checks them is slow to import.

    For each, a function that imports and returns that model. Messages about unknown keys, and the
    schema that `--schema` prints, are taken from it.
    """


def from_file(path: Path, info: ValidationInfo) -> Path:
    """Return the absolute form of a path in a config; it starts at the config file's folder."""
    folder = (info.context or {}).get("folder", Path.cwd())
    try:
        return (folder / path.expanduser()).resolve()
    except RuntimeError as error:  # an unknown user after `~`, or a loop of links
        raise ConfigError(str(error)) from None


def _model_name(name: str, info: ValidationInfo) -> str:
    is_path = name.startswith((".", "~", "/"))
    return str(from_file(Path(name), info)) if is_path else name


ConfigPath = Annotated[Path, AfterValidator(from_file)]
"""A path in a config; relative ones start at the config file's folder."""


ModelName = Annotated[str, AfterValidator(_model_name), Field(title="auto, hub id or folder")]
"""`auto`, a hub id, or a folder (which starts with `.`, `~` or `/`)."""


def keys_by_method(
    default: str, methods: Mapping[str, tuple[Set[str], Set[str] | None]]
) -> dict[str, Any]:
    """Return a part of a JSON Schema: which keys `kwargs` may have depends on `method`.

    Args:
        default: the method when a block names none.
        methods: by method, the required keys and the optional ones; None for any.
    """
    rules = []
    for method, (required, optional) in methods.items():
        condition: dict[str, Any] = {"properties": {"method": {"const": method}}}
        if method != default:  # a condition on an absent key holds
            condition["required"] = ["method"]
        kwargs: dict[str, Any] = {"required": sorted(required)}
        if optional is not None:
            kwargs["properties"] = dict.fromkeys(sorted(required | optional), True)
            kwargs["additionalProperties"] = False
        rules.append({"if": condition, "then": {"properties": {"kwargs": kwargs}}})
    return {"allOf": rules}


def course_profile() -> Profile:
    """Return how much work a notebook does: `COURSE_PROFILE`, or `class` when it is not set.

    Raises:
        ConfigError: the variable holds something other than `ci`, `class` or `full`.
    """
    name = os.environ.get("COURSE_PROFILE", "class")
    profiles: tuple[Profile, ...] = get_args(Profile)
    for profile in profiles:
        if profile == name:
            return profile
    raise ConfigError(
        f"COURSE_PROFILE is {name!r}{nearest(name, profiles)} "
        "Set it to ci (every cell, minimal work), class (two CPU cores) or full (a GPU)."
    )


def bundled(path: str) -> Path:
    """Return the path of a file that ships with the package, such as `data/course_assistant`.

    The files are beside the package in a checkout, and inside it when it is installed.

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

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(
                    None, None, "a key must be plain text", key.start_mark
                )
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key.value!r} is given twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


# YAML 1.1 reads 1e-5 as text, because it requires a dot and a signed exponent.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+0123456789."),
)


def _read_yaml(text: str) -> Any:
    """Read YAML text.

    Raises:
        ConfigError: it is not YAML, or holds a value that cannot be: February 30, `!!int abc`.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except RecursionError:
        raise ConfigError("not valid YAML: it is nested too deeply") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"not valid YAML: {error}") from None


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
        ConfigError: the file is missing or is not YAML, or keys or values are wrong; the one
            message names every fault.

    Example:
        `load_config("finetune.yaml", TrainingConfig, ["seed=7"])`
    """
    path = Path(path)
    try:
        values = _read_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such config file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected `key: value` lines, found {type(values).__name__}")
    return check_config(values, model, overrides, path.resolve().parent, str(path))


def check_config(
    values: dict[str, Any],
    model: type[ConfigModel],
    overrides: Sequence[str],
    folder: Path,
    name: str,
) -> ConfigModel:
    """Check the values of a config; see `load_config`.

    Args:
        values: by key, nested as in the file; the overrides are written into it.
        model: the pydantic model that says which keys are valid.
        overrides: `key=value` strings.
        folder: where relative paths start.
        name: of the file, for messages.

    Raises:
        ConfigError: keys or values are wrong.
    """
    for override in overrides:
        _apply(values, override)
    try:
        return model.model_validate(values, context={"folder": folder})
    except ValidationError as error:
        faults = [f"  {fault}" for fault in faults_in_words(error, model)]
        raise ConfigError("\n".join([f"{name}: {len(faults)} fault(s)", *faults])) from None


def _apply(values: dict[str, Any], override: str) -> None:
    """Set one dotted `key=value` in nested dicts."""
    key, equals, value = override.partition("=")
    if not (key and equals):
        raise ConfigError(f"{override!r} is not an override; write key=value, such as seed=7")
    *parents, last = key.split(".")
    for parent in parents:
        if values.get(parent) is None:  # `tracking: null` in the file makes way for a block
            values[parent] = {}
        values = values[parent]
        if not isinstance(values, dict):
            raise ConfigError(f"{override!r}: {parent!r} holds a value, not further keys")
    try:
        values[last] = _read_yaml(value)
    except ConfigError as error:
        raise ConfigError(f"{override[:100]!r}: the value is {error}") from None


def faults_in_words(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """Return one line per fault that pydantic found: the dotted key, and what would be right.

    Args:
        error: what pydantic raised.
        model: the model that was validated; unknown keys are compared with its keys, and with those
            of the models inside it.

    Example:
        `["training.seed: Input should be a valid integer (found 'x')"]`
    """
    lines = []
    for fault in error.errors():
        # Pydantic also names the member of a union that it tried, such as `function-after[…]`.
        keys = [str(part) for part in fault["loc"] if not str(part).startswith("function-")]
        where = ".".join(keys) or "(top level)"
        if fault["type"] == "extra_forbidden":
            lines.append(f"{where}: unknown key{nearest(keys[-1], _keys_at(model, keys[:-1]))}")
        elif fault["type"] == "missing":
            lines.append(f"{where}: this key is required.")
        else:
            message = fault["msg"].removeprefix("Value error, ")
            lines.append(f"{where}: {message} (found {fault['input']!r})")
    return lines


def _keys_at(model: type[BaseModel], location: Sequence[str]) -> list[str]:
    """Return the keys that are valid inside the block at a location of a config."""
    models = [model]
    for part in location:
        holders = [holder for holder in models if part in holder.model_fields]
        # A part that is no field is the key of a mapping, an index, or a member of a union.
        if holders:
            models = [inner for holder in holders for inner in models_of_field(holder, part)]
    return [key for inner in models for key in inner.model_fields]


def models_of_field(model: type[BaseModel], name: str) -> list[type[BaseModel]]:
    """Return the models that values of a field may have, however deep in unions and mappings."""
    late = getattr(model, "late_models", {})
    if name in late:
        return [late[name]()]
    return list(_models_in(model.model_fields[name].annotation))


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)


def report_errors(work: Callable[[], None]) -> int:
    """Do the work of a command line.

    Returns:
        The exit status: 0; 2 after a `LabError`, whose message goes to standard error; 130 after
        Ctrl-C, which prints `stopped`.
    """
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
