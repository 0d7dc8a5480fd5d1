"""``ptycho config``: settings files written, checked and explained."""

import json
from pathlib import Path
from typing import Annotated

import typer

from ptychocli.console import Console
from ptychocli.options import ConfigOption, ForceOption, JsonOption
from ptychoconfig.errors import UsageError
from ptychoconfig.schema import SECTIONS

app = typer.Typer(help="Write, check and explain settings files.", add_completion=False)


@app.command()
def init(
    target: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="File to write; default stdout.")
    ] = None,
    force: ForceOption = False,
) -> None:
    """Write a commented YAML file of every setting with its default."""
    from ptychocli.rundir import refuse_existing
    from ptychoconfig.yaml_files import template
    from ptychodata.files import atomic_path

    text = template(list(SECTIONS))
    if target is None:
        typer.echo(text, nl=False)
        return
    refuse_existing(target, force=force)
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8")
    typer.echo(f"wrote {target}")


@app.command()
def validate(
    source: Annotated[Path, typer.Argument(metavar="FILE", help="YAML file of settings.")],
) -> None:
    """Check a settings file: its keys, types, bounds and rules."""
    from ptychoconfig.resolve import resolve

    resolved = resolve(list(SECTIONS), environment={}, config_file=source)
    count = sum(where.startswith("file") for where in resolved.sources.values())
    typer.echo(f"{source}: valid, {count} settings")


@app.command()
def schema() -> None:
    """Print the JSON schema of a settings file, for editors."""
    from ptychoconfig.yaml_files import json_schema

    typer.echo(json.dumps(json_schema(), indent=2, ensure_ascii=False))


@app.command()
def show(
    sections: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SECTION]...", help=f"Of {', '.join(SECTIONS)}; default all."),
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print every setting as it would be used, and where its value comes from."""
    from ptychoconfig.resolve import resolve

    names = sections or list(SECTIONS)
    for name in names:
        if name not in SECTIONS:
            raise UsageError(f"expected a section of {', '.join(SECTIONS)}, found {name!r}")
    resolved = resolve(names, config_file=config)
    with Console(as_json=as_json) as console:
        shown = resolved.entries()
        for key, entry in shown.items():
            console.result(f"{key:36} {json.dumps(entry['value']):16} {entry['source']}")
        console.finish(shown)
