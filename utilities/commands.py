"""The frame of the command lines that read a config: help, JSON Schema, errors, data files.

    python -m utilities.audit CONFIG [key=value …]     do the work
    python -m utilities.audit --help                   every key, its type, its default, one line
    python -m utilities.audit --schema                 the JSON Schema of the config, for editors

Help and schema are made from the config model alone, so no heavy library is imported for them: a
command imports torch and the like inside its work.
"""

import argparse
import json
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

from utilities.config import StrictModel, check_config, load_config, report_errors
from utilities.errors import ConfigError, DataError
from utilities.rows.readers import format_of

SAVED_DATASET_FILES = ("dataset_dict.json", "dataset_info.json")
"""What the library `datasets` writes into the folder of a saved dataset; either one is enough."""

DIALECT = "https://json-schema.org/draft/2020-12/schema"

Schema = dict[str, Any]


@dataclass(frozen=True)
class Command:
    """A command line that reads one config.

    Attributes:
        name: of the package; `python -m utilities.NAME` runs it.
        purpose: one sentence, for `--help`.
        model: the model that the YAML file is read into.
        work: does the work and reports; heavy imports belong inside it.
        form: an example config below `configs/`.
        config_for: returns the smallest config for a data file, given its `source` block and a name
            made of the file's.
        runs_on_data: whether a data file in place of a config is worked on as it is; otherwise the
            answer shows the smallest config to write.
    """

    name: str
    purpose: str
    model: type[StrictModel]
    work: Callable[[Any], None]
    form: str
    config_for: Callable[[Schema, str], dict[str, Any]]
    runs_on_data: bool = False


def command_line(command: Command, argv: Sequence[str] | None = None) -> int:
    """Run a command: `CONFIG [key=value …]`.

    Args:
        command: what to run.
        argv: the arguments, `sys.argv[1:]` by default.

    Returns:
        The exit status: 0, or 2 after a `LabError`, whose message goes to standard error.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m utilities.{command.name}",
        usage=f"python -m utilities.{command.name} CONFIG [key=value …]",
        description=command.purpose,
        epilog=keys_in_words(command.model),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    data = "; a data file is taken as it is" if command.runs_on_data else ""
    parser.add_argument(
        "config", nargs="?", metavar="CONFIG", help=f"a YAML file, such as {command.form}{data}"
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="set a key in place of the file's, such as source.limit=100; the value is YAML",
    )
    parser.add_argument(
        "--schema", action="store_true", help="print the JSON Schema of the config, for editors"
    )
    arguments = parser.parse_args(argv)
    if arguments.schema:
        print_schema(command.model)
        return 0
    if arguments.config is None:
        parser.error("CONFIG is missing; --help says what goes into it")
    return report_errors(
        lambda: command.work(_read_config(command, arguments.config, arguments.overrides))
    )


def _read_config(command: Command, path: str, overrides: Sequence[str]) -> StrictModel:
    source = data_source(path)
    if source is None:
        return load_config(path, command.model, overrides)
    stem = re.sub(r"\W+", "_", Path(path).name.split(".")[0]).strip("_") or "data"
    values = command.config_for(source, stem)
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    if not command.runs_on_data:
        raise ConfigError(
            f"{path} is a data file, and `python -m utilities.{command.name}` reads a config. "
            f"Write this into a file such as {command.name}.yaml, and name that file:\n\n"
            f"{text}\n{command.form} is a form with every key; so does --help name them."
        )
    config = check_config(values, command.model, overrides, Path.cwd(), path)
    sys.stdout.write(f"{path} is a data file; this config was used for it:\n\n{text}\n")
    return config


def data_source(path: str) -> Schema | None:
    """Return the `source` block for a data file or a saved dataset, or None for anything else.

    A JSON file is a config when it is a mapping in which not all values are lists.
    """
    if any((Path(path) / name).is_file() for name in SAVED_DATASET_FILES):
        return {"method": "load_from_disk", "kwargs": {"dataset_path": path}}
    try:
        if format_of(path) == "json" and _is_json_config(Path(path)):
            return None
    except DataError:
        return None
    return {"kwargs": {"path": path}}


def _is_json_config(path: Path) -> bool:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(values, dict) and not all(isinstance(v, list) for v in values.values())


class _SchemaGenerator(GenerateJsonSchema):
    """Pydantic's JSON Schema without a title for each key, which would only repeat the key."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def schema_of(model: type[StrictModel], late: bool = True) -> Schema:
    """Return the JSON Schema (draft 2020-12) of a config.

    Args:
        model: the config model.
        late: also describe the fields that a model checks which is slow to import; see
            `StrictModel.late_models`.
    """
    schema = _plain_schema(model)
    for name, load in model.late_models.items() if late else ():
        inner = _plain_schema(load())
        schema.setdefault("$defs", {}).update(inner.pop("$defs", {}))
        for field in inner["properties"].values():
            field.pop("default", None)  # a late model's None stands for "not given"
        inner["description"] = schema["properties"][name]["description"]
        schema["properties"][name] = inner
    return {"$schema": DIALECT, **schema}


def _plain_schema(model: type[BaseModel]) -> Schema:
    return _with_plain_descriptions(model.model_json_schema(schema_generator=_SchemaGenerator))


def _with_plain_descriptions(schema: Any) -> Any:
    """Undo the line breaks that docstrings have in descriptions."""
    if isinstance(schema, list):
        return [_with_plain_descriptions(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {key: _with_plain_descriptions(value) for key, value in schema.items()}
    if isinstance(text := plain.get("description"), str):
        plain["description"] = " ".join(text.split())
    return plain


def print_schema(model: type[StrictModel]) -> None:
    """Print the JSON Schema of a config."""
    sys.stdout.write(json.dumps(schema_of(model), indent=2, ensure_ascii=False) + "\n")


def keys_in_words(model: type[StrictModel]) -> str:
    """Return help on every key of a config: dotted name, type, default, and one sentence.

    Blocks have sections of their own. A block that stands under several keys is explained once,
    under the first of them.
    """
    schema = schema_of(model, late=False)
    definitions = schema.get("$defs", {})
    width = min(shutil.get_terminal_size().columns, 100)
    sections = ["Keys of CONFIG (paths are relative to it):"]
    sections += _entries(schema, "", width)
    holders: dict[str, list[str]] = {}  # by block, the keys that hold it
    waiting = [("", schema)]
    while waiting:
        prefix, block = waiting.pop(0)
        for key, name in _blocks_of(block, prefix):
            if name not in holders:
                waiting.append((f"{key}.", definitions[name]))
            holders.setdefault(name, []).append(key)
    for name, keys in holders.items():
        also = f" (the same in {', '.join(f'`{key}`' for key in keys[1:])})" if keys[1:] else ""
        title = f"The block `{keys[0]}`{also}: {_first_sentence(definitions[name])}"
        sections += ["", textwrap.fill(title, width)]
        sections += _entries(definitions[name], f"{keys[0]}.", width)
    return "\n".join(sections)


def _entries(block: Schema, prefix: str, width: int) -> list[str]:
    """Return the lines on the keys of one block."""
    lines = []
    for key, value in block["properties"].items():
        required = key in block.get("required", ())
        default = "required" if required else f"default {_default_in_words(value)}"
        lines.append(f"  {prefix}{key}: {type_in_words(value)}; {default}")
        indent = " " * 6
        sentence = _first_sentence(value)
        lines.append(
            textwrap.fill(sentence, width, initial_indent=indent, subsequent_indent=indent)
        )
    return lines


def _blocks_of(block: Schema, prefix: str) -> Iterator[tuple[str, str]]:
    """Yield (dotted key, name of the definition) of the blocks in a block, in order."""
    for key, value in block["properties"].items():
        for member in (value, *value.get("anyOf", ())):
            if "$ref" in member:
                yield f"{prefix}{key}", member["$ref"].rpartition("/")[2]
            for inner in _members(member.get("additionalProperties")):
                if "$ref" in inner:
                    yield f"{prefix}{key}.NAME", inner["$ref"].rpartition("/")[2]


def _members(schema: Any) -> list[Schema]:
    """Return the members of a union, or the one schema; of True or None nothing."""
    return schema.get("anyOf", [schema]) if isinstance(schema, dict) else []


def _first_sentence(schema: Schema) -> str:
    return re.split(r"(?<=\.) (?=[A-Z`])", schema["description"], maxsplit=1)[0]


def type_in_words(schema: Schema) -> str:
    """Return the type that a JSON Schema describes, such as `whole number ≥ 1`."""
    if "title" in schema:
        return str(schema["title"])
    if "anyOf" in schema:
        # null is left to the default; a type that is named twice is one to the reader.
        names = dict.fromkeys(type_in_words(m) for m in schema["anyOf"] if m != {"type": "null"})
        return " or ".join(names)
    if "enum" in schema:
        return f"one of {', '.join(map(str, schema['enum']))}"
    if "const" in schema:
        return str(schema["const"])
    if "$ref" in schema:
        return "block"
    kind = schema.get("type")
    if kind in ("integer", "number"):
        return " ".join(["whole number" if kind == "integer" else "number", *_bounds(schema)])
    if kind == "array":
        return f"list of {type_in_words(schema.get('items', {}))}"
    if kind == "object":
        inner = schema.get("additionalProperties")
        return f"mapping to {type_in_words(inner)}" if isinstance(inner, dict) else "mapping"
    if kind == "string":
        return "path" if schema.get("format") == "path" else "text"
    return "true/false" if kind == "boolean" else "any value"


def _bounds(schema: Schema) -> list[str]:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {schema[name]:g}" for name, sign in signs.items() if name in schema]
    return [" and ".join(bounds)] if bounds else []


def _default_in_words(schema: Schema) -> str:
    """Return a default as YAML writes it; a block's by its name, or as `the block's own`."""
    default = schema.get("default", {})  # left out of the schema where a function makes it
    if schema.get("type") != "object" and isinstance(default, dict):
        return str(default.get("name") or "the block's own")
    is_word = isinstance(default, str) and default.strip() == default != ""
    return default if is_word else json.dumps(default, ensure_ascii=False)
