"""Settings files: read, written, and drawn up for a person or an editor.

A file maps section names to settings (``training: {epochs: 20}``).  It is read as YAML 1.2 has it:
``1e-3`` is a number, ``off`` is text.  A key that stands twice is refused, as is any value that
is not a single one.
"""

import os
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ptychoconfig.describe import expected, first_line, unknown_setting
from ptychoconfig.errors import ConfigError
from ptychoconfig.schema import SECTIONS

if TYPE_CHECKING:
    from ptychoconfig.resolve import Resolved

__all__ = ["json_schema", "read_config", "resolved_yaml", "template", "write_resolved"]

Scalar = str | int | float | bool | None

SOURCES = "sources"
"""Key under which a file may record where values came from; ignored on reading."""

_INTEGER = re.compile(r"[-+]?[0-9]+")
_NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS: dict[str, Scalar] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


def read_config(path: Path) -> dict[str, dict[str, Scalar]]:
    """Read a settings file; its keys are checked here, its values by ``resolve``.

    Args:
        path: YAML file.

    Returns:
        Section name → field → value, for what the file sets.

    Raises:
        ConfigError: the file cannot be read, is not YAML, or holds an unknown or repeated key.
    """
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except OSError as error:
        raise ConfigError(
            f"--config {path}: expected a readable file, found: {error.strerror}; check the path"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(
            f"{path}: expected YAML, found: {_one_line(error)}; `ptycho config init` writes a "
            "file to start from"
        ) from error
    sections = dict(_entries(root, path, "sections", list(SECTIONS)))
    sections.pop(SOURCES, None)
    return {
        name: {
            key: _value(node, path, f"{name}.{key}")
            for key, node in _entries(node, path, name, list(SECTIONS[name].model_fields))
        }
        for name, node in sections.items()
    }


def _entries(
    node: yaml.Node | None, path: Path, what: str, known: list[str]
) -> Iterator[tuple[str, yaml.Node]]:
    """The keys and values of a mapping, each key known and there once; nothing if it is empty."""
    if node is None or (isinstance(node, yaml.ScalarNode) and _scalar(node) is None):
        return
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(
            f"{path}, line {_line(node)}: expected `key: value` lines for {what}, found "
            f"{'a list' if isinstance(node, yaml.SequenceNode) else 'a single value'}; "
            "`ptycho config init` shows the layout"
        )
    seen: set[str] = set()
    for key_node, value in node.value:
        key = str(key_node.value) if isinstance(key_node, yaml.ScalarNode) else "a list or mapping"
        where = f"{path}, line {_line(key_node)}"
        if key in seen:
            raise ConfigError(f"{where}: expected {key!r} once, found it again; remove one")
        if key not in known and not (what == "sections" and key == SOURCES):
            raise ConfigError(f"{where}: in {what}: {unknown_setting(key, known)}")
        seen.add(key)
        yield key, value


def _value(node: yaml.Node, path: Path, key: str) -> Scalar:
    if not isinstance(node, yaml.ScalarNode) or node.tag not in yaml.SafeLoader.yaml_constructors:
        kinds: dict[type[yaml.Node], str] = {
            yaml.SequenceNode: "a list",
            yaml.MappingNode: "a mapping",
        }
        raise ConfigError(
            f"{path}, line {_line(node)}: {key}: expected {expected(*key.split('.'))}, found "
            f"{kinds.get(type(node), f'the tag {node.tag}')}; give one plain value"
        )
    return _scalar(node)


def _scalar(node: yaml.ScalarNode) -> Scalar:
    """The value of a node; what stands in quotes or in a block is text."""
    return str(node.value) if node.style else _plain(node.value)


def _plain(text: str) -> Scalar:
    """What plain text means in YAML 1.2's core schema, in decimal."""
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text) and len(text) < 100:
        return int(text)
    return float(text) if _NUMBER.fullmatch(text) else text


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def resolved_yaml(resolved: "Resolved") -> str:
    """Every setting of a run as YAML, each with its source as a comment; reads back the same."""
    lines = ["# Every setting of this run, and where it came from; --config with this file"]
    lines.append("# repeats the run.")
    for section, model in resolved.sections.items():
        lines.append(f"{section}:")
        for field, value in model.model_dump(mode="json").items():
            setting = f"  {field}: {_dump(value)}"
            source = _dump_comment(resolved.sources[f"{section}.{field}"])
            lines.append(f"{setting:<40}  # {source}")
    return "\n".join([*lines, ""])


def write_resolved(path: Path, resolved: "Resolved") -> None:
    """Write ``resolved_yaml`` to ``path``, whole or not at all.

    Raises:
        ConfigError: the folder is missing or cannot be written to.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with temporary.open("x", encoding="utf-8") as file:
            file.write(resolved_yaml(resolved))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise ConfigError(
            f"{path}: expected a place that can be written to, found: {error.strerror}; choose "
            "another with --output-dir"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _dump(value: Scalar) -> str:
    """A value as YAML that 1.1 and 1.2 readers understand alike."""
    plain = not isinstance(value, str) or bool(re.fullmatch("[a-z][a-z0-9_-]*", value))
    style = None if plain else '"'
    return str(yaml.safe_dump(value, default_style=style, width=2**30)).splitlines()[0]


def _dump_comment(text: str) -> str:
    """Text without line breaks and what else YAML forbids."""
    return text.encode("unicode_escape").decode() if not text.isprintable() else text


def template(section_names: Sequence[str]) -> str:
    """A settings file with every setting commented out at its default, for a person to edit.

    As it stands it sets nothing; a line takes effect once its ``#`` is removed.
    """
    lines = ["# Settings of ptycho: remove the # before a setting to change it."]
    for name in section_names:
        model = SECTIONS[name]
        lines += ["", f"# {first_line(model.__doc__)}", f"{name}:"]
        for field, info in model.model_fields.items():
            lines += ["", f"  # {info.description}", f"  # Takes {expected(name, field)}."]
            lines += [f"  #{field}: {_dump(info.default)}"]
    return "\n".join([*lines, ""])


def json_schema() -> dict[str, Any]:
    """JSON schema of a settings file, for editors to check and complete it."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Settings of ptycho",
        "type": "object",
        "additionalProperties": False,
        "properties": {
            **{name: _section_schema(name) for name in SECTIONS},
            SOURCES: {"type": "object", "description": "Where values came from; ignored."},
        },
    }


def _section_schema(name: str) -> Mapping[str, Any]:
    return {**SECTIONS[name].model_json_schema(), "type": ["object", "null"]}
