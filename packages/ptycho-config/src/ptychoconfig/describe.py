"""What a declaration says, in words: the names a setting goes by, and what it accepts.

Error messages, the YAML template and the reference page all speak through this module.
"""

import difflib
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

from ptychoconfig.schema import SECTIONS

__all__ = [
    "ENVIRONMENT_PREFIX",
    "environment_name",
    "expected",
    "first_line",
    "flag_name",
    "suggestion",
    "unknown_setting",
]

ENVIRONMENT_PREFIX = "PTYCHO_"

_TYPES = {
    "boolean": "true or false",
    "integer": "an integer",
    "null": "null",
    "number": "a finite number",
    "string": "text",
}
_BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def flag_name(field: str) -> str:
    """The flag that sets a field: ``learning_rate`` → ``--learning-rate``; units in lower case."""
    return "--" + field.replace("_eV", "_ev").replace("_", "-")


def environment_name(field: str) -> str:
    """The variable that sets a field: ``learning_rate`` → ``PTYCHO_LEARNING_RATE``."""
    return ENVIRONMENT_PREFIX + field.upper()


def expected(section: str, field: str) -> str:
    """What a field accepts, such as ``an integer ≥ 1 or null``."""
    declared = _declared(section)[field]
    return " or ".join(_phrase(case) for case in declared.get("anyOf", [declared]))


def suggestion(name: object, known: Iterable[str], write: Callable[[str], str] = str) -> str:
    """``; did you mean 'epochs'?`` where a known name is near, else how to see them all.

    Args:
        name: what was found.
        known: names it may have meant.
        write: how such a name is written where it was found.
    """
    near = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.5)
    return f"; did you mean {write(near[0])!r}?" if near else "; `ptycho config init` lists them"


def unknown_setting(name: object, known: Iterable[str]) -> str:
    """Say why ``name`` is no setting among ``known``, and which one may be meant."""
    if name in ("C", "c"):
        return (
            "expected no value for C, which is derived (C = gridsize²), found one; "
            "set gridsize (flag --gridsize) instead"
        )
    elsewhere = [key for key, model in SECTIONS.items() if name in model.model_fields]
    if elsewhere:
        return f"expected no {name!r} here, found it; it belongs to {' or '.join(elsewhere)}"
    return f"expected the name of a setting, found {name!r}{suggestion(name, known)}"


def first_line(doc: str | None) -> str:
    """The summary of a docstring."""
    return (doc or "").partition("\n")[0]


@cache
def _declared(section: str) -> Mapping[str, Any]:
    properties: Mapping[str, Any] = SECTIONS[section].model_json_schema()["properties"]
    return properties


def _number(value: float) -> float:
    """Without a fraction where there is none, whichever way the schema writes it."""
    return int(value) if value == int(value) else value


def _phrase(declared: Mapping[str, Any]) -> str:
    if "enum" in declared:
        return f"one of {', '.join(declared['enum'])}"
    if "examples" in declared:
        return f"text like {', '.join(declared['examples'])}"
    words = _TYPES[declared["type"]]
    if multiple := declared.get("multipleOf"):
        words = "an even integer" if multiple == 2 else f"a multiple of {multiple}"
    there = [(sign, declared[key]) for key, sign in _BOUNDS.items() if key in declared]
    bounds = [f"{sign} {_number(value)}" for sign, value in there]
    return " ".join([words, " and ".join(bounds)]).strip()
