"""The reference table of all settings, in Markdown, from their declarations.

``python -m ptychoconfig.reference`` prints it; with a page as argument it writes the table into
the page, between two marks.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from ptychoconfig.describe import expected, first_line, flag_name
from ptychoconfig.errors import ConfigError
from ptychoconfig.schema import ARCHITECTURE_DEFAULTS, SECTIONS

__all__ = ["BEGIN", "END", "main", "reference", "updated"]

BEGIN, END = "<!-- settings begin -->\n", "<!-- settings end -->\n"


def reference() -> str:
    """Every setting with its flag, what it accepts, its default and one sentence."""
    return "\n".join(_table(section) for section in SECTIONS)


def updated(page: str) -> str:
    """The page with the table, as it is now, between its marks.

    Raises:
        ConfigError: the marks are not there.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ConfigError(f"expected a page with the lines {BEGIN!r} and {END!r}, found none")
    return f"{before}{begin}\n{reference()}\n{end}{after}"


def main(arguments: Sequence[str]) -> None:
    """Print the table, or write it into the pages named."""
    if not arguments:
        sys.stdout.write(reference())
    for name in arguments:
        page = Path(name)
        page.write_text(updated(page.read_text(encoding="utf-8")), encoding="utf-8")


def _table(section: str) -> str:
    model = SECTIONS[section]
    lines = [
        f"### `{section}`",
        "",
        first_line(model.__doc__),
        "",
        "| setting | flag | accepts | default | what it does |",
        "|---|---|---|---|---|",
    ]
    for field, info in model.model_fields.items():
        accepts, default = expected(section, field), _default(section, field)
        cells = [f"`{field}`", f"`{flag_name(field)}`", accepts, default, str(info.description)]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join([*lines, ""])


def _default(section: str, field: str) -> str:
    default = _code(SECTIONS[section].model_fields[field].default)
    others: dict[str, list[str]] = {}  # value → the networks that have it
    for architecture, sections in ARCHITECTURE_DEFAULTS.items():
        own = sections.get(section, {})
        if field in own and _code(own[field]) != default:
            others.setdefault(_code(own[field]), []).append(f"`{architecture}`")
    exceptions = [f"{value} for {', '.join(names)}" for value, names in others.items()]
    return "; ".join([default, *exceptions])


def _code(value: object) -> str:
    return f"`{json.dumps(value, ensure_ascii=False)}`".replace('"', "")


if __name__ == "__main__":
    main(sys.argv[1:])
