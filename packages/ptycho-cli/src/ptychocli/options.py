"""The flags of a command, made from the declarations of its settings.

A flag that is not given is None, so that unset differs from the default; types and choices are
checked while parsing, bounds by ``ptychoconfig.resolve``, which knows where a value came from.
"""

import inspect
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import typer
from pydantic import BeforeValidator
from pydantic.fields import FieldInfo

from ptychoconfig.describe import expected, flag_name
from ptychoconfig.schema import SECTIONS, Duration

__all__ = [
    "BackendOption",
    "ConfigOption",
    "ForceOption",
    "JsonOption",
    "OutputDirOption",
    "QuietOption",
    "ScansArgument",
    "given",
    "seconds_of",
    "settings_from",
]

Command = TypeVar("Command", bound=Callable[..., None])

ScansArgument = Annotated[
    list[Path], typer.Argument(metavar="SCAN", help="Scan files.", show_default=False)
]
OutputDirOption = Annotated[
    Path, typer.Option(help="Folder that takes everything the run writes.", show_default=False)
]
BackendOption = Annotated[str, typer.Option(help="Framework to compute with: torch or tf.")]
ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="YAML file of settings; flags override it."),
]
ForceOption = Annotated[bool, typer.Option("--force", help="Overwrite an existing result.")]
QuietOption = Annotated[
    bool,
    typer.Option("--quiet/--progress", "-q", help="No notes, no progress; or both, the default."),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print the result as one JSON object on stdout.")
]

_MORE_THAN_A_TYPE = re.compile("^(an integer|a finite number|text) ?| or null")
"""What the type and the default of a flag already say."""

_TYPES: dict[str, type] = {"integer": int, "number": float, "boolean": bool, "string": str}


def settings_from(
    sections: Sequence[str], *, without: Collection[str] = ()
) -> Callable[[Command], Command]:
    """Give a command one flag per field of ``sections``, in place of its ``**settings``.

    Args:
        sections: names of sections in ``ptychoconfig.schema.SECTIONS``.
        without: fields that have no flag because they come from elsewhere.
    """

    def decorate(command: Command) -> Command:
        signature = inspect.signature(command, eval_str=True)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        flags = [flag for name in sections for flag in _flags(name, without)]
        command.__signature__ = signature.replace(parameters=own + flags)  # type: ignore[attr-defined]
        return command

    return decorate


def given(settings: Mapping[str, Any], *sections: str) -> dict[str, Any]:
    """The settings that the user set, of ``sections`` alone if any are named."""
    known = {name for section in sections for name in SECTIONS[section].model_fields}
    return {
        name: value
        for name, value in settings.items()
        if value is not None and (not sections or name in known)
    }


def _flags(section: str, without: Collection[str]) -> list[inspect.Parameter]:
    model = SECTIONS[section]
    properties = model.model_json_schema()["properties"]
    return [
        _flag(section, name, field, _merge(properties[name]))
        for name, field in model.model_fields.items()
        if name not in without
    ]


def _flag(
    section: str, name: str, field: FieldInfo, declared: Mapping[str, Any]
) -> inspect.Parameter:
    flag = flag_name(name)
    kind: Any = _TYPES[declared["type"]]
    names, takes = flag, _MORE_THAN_A_TYPE.sub("", expected(section, name))
    extra: dict[str, Any] = {}
    if kind is bool:
        names, takes = f"{flag}/--no-{flag.removeprefix('--')}", ""
    elif "enum" in declared:
        kind, takes = Literal[tuple(declared["enum"])], ""
    elif _is_duration(field):
        extra = {"parser": seconds_of, "metavar": "TIME"}
    option = typer.Option(
        None,
        names,
        help=_help(field, takes),
        rich_help_panel=f"{section.capitalize()} settings",
        show_default=False,
        **extra,
    )
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=option, annotation=kind | None
    )


def _merge(declared: Mapping[str, Any]) -> dict[str, Any]:
    """Fold ``anyOf: [something, null]``, the JSON schema of an optional, into one mapping."""
    some = [case for case in declared.get("anyOf", ()) if case["type"] != "null"]
    return {**declared, **(some[0] if some else {})}


def _help(field: FieldInfo, takes: str) -> str:
    """The declaration's sentence, with what it takes and the default in round brackets.

    Square brackets would be read as markup.
    """
    default = field.default
    if isinstance(default, bool):
        default = "on" if default else "off"
    notes = [takes] if takes else []
    notes += [] if default is None else [f"default {default}"]
    return f"{field.description} ({'; '.join(notes)})" if notes else str(field.description)


def _is_duration(field: FieldInfo) -> bool:
    """Whether a field, or its value where it is optional, is a ``Duration``."""
    mark = next(m for m in get_args(Duration) if isinstance(m, BeforeValidator))
    return Duration in get_args(field.annotation) or mark in field.metadata


def seconds_of(text: str) -> float:
    """Parse a duration as the declaration does, with a bad one a usage error."""
    convert: Any = next(m for m in get_args(Duration) if isinstance(m, BeforeValidator)).func
    try:
        return float(convert(text))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
