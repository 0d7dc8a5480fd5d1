"""The tables of the reference pages, in Markdown, from the declarations.

``python -m ptychoconfig.reference`` prints that of all settings; with pages as arguments it writes
each table into the pages that have its two marks.
"""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from ptychoconfig import migration
from ptychoconfig.describe import expected, first_line, flag_name
from ptychoconfig.errors import ConfigError
from ptychoconfig.schema import ARCHITECTURE_DEFAULTS, SECTIONS

__all__ = ["main", "reference", "updated"]


def reference() -> str:
    """Every setting with its flag, what it accepts, its default and one sentence."""
    return "\n".join(_table(section) for section in SECTIONS)


TABLES: dict[str, Callable[[], str]] = {
    "settings": reference,
    "old flags": migration.flags,
    "old keys": migration.keys,
}
"""What stands between the marks of a page: name → table."""


def updated(page: str) -> str:
    """The page with its tables, as they are now, each between its marks.

    Raises:
        ConfigError: it has the marks of none.
    """
    found = False
    for name, table in TABLES.items():
        before, begin, rest = page.partition(f"<!-- {name} begin -->\n")
        _, end, after = rest.partition(f"<!-- {name} end -->\n")
        if begin and end:
            page, found = f"{before}{begin}\n{table()}\n{end}{after}", True
    if not found:
        raise ConfigError(
            f"expected a page with the marks of {', '.join(TABLES)}, found none; write "
            "<!-- settings begin --> and <!-- settings end --> on lines of their own"
        )
    return page


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
