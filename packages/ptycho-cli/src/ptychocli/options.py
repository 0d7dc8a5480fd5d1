"""The flags of a command, made from the declarations of its settings.

A flag that is not given is None, so that unset differs from the default; types and choices are
checked while parsing, bounds by ``ptychoconfig.resolve``, which knows where a value came from.
"""

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import typer
from pydantic import BeforeValidator
from pydantic.fields import FieldInfo

from ptychoconfig.resolve import flag_name
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
    "settings_from",
]

Command = TypeVar("Command", bound=Callable[..., None])

ScansArgument = Annotated[
    list[Path], typer.Argument(metavar="SCAN...", help="Scan files.", show_default=False)
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
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No notes, no progress.")]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print the result as one JSON object on stdout.")
]

_TYPES: dict[str, type] = {"integer": int, "number": float, "boolean": bool, "string": str}
_BOUNDS = {
    "minimum": "≥ {}",
    "exclusiveMinimum": "> {}",
    "maximum": "≤ {}",
    "exclusiveMaximum": "< {}",
    "multipleOf": "multiple of {}",
}


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
        _flag(name, field, _merge(properties[name]), panel=f"{section.capitalize()} settings")
        for name, field in model.model_fields.items()
        if name not in without
    ]


def _flag(
    name: str, field: FieldInfo, declared: Mapping[str, Any], *, panel: str
) -> inspect.Parameter:
    flag = flag_name(name)
    kind: Any = _TYPES[declared["type"]]
    extra: dict[str, Any] = {}
    if "enum" in declared:
        kind = Literal[tuple(declared["enum"])]
    elif Duration in get_args(field.annotation):
        kind, extra = float, {"parser": _seconds, "metavar": "TIME"}
    option = typer.Option(
        None,
        f"{flag}/--no-{flag.removeprefix('--')}" if kind is bool else flag,
        help=_help(field, declared),
        rich_help_panel=panel,
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


def _help(field: FieldInfo, declared: Mapping[str, Any]) -> str:
    """The declaration's sentence, with bounds and default in round brackets.

    Square brackets would be read as markup.
    """
    bounds = [text.format(declared[key]) for key, text in _BOUNDS.items() if key in declared]
    default = field.default
    if isinstance(default, bool):
        bounds.append(f"default {'on' if default else 'off'}")
    elif default is not None:
        bounds.append(f"default {default}")
    return f"{field.description} ({', '.join(bounds)})" if bounds else str(field.description)


def _seconds(text: str) -> float:
    """Parse a duration as the declaration does, with a bad one a usage error."""
    convert: Any = next(m for m in get_args(Duration) if isinstance(m, BeforeValidator)).func
    try:
        return float(convert(text))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
