"""``ptycho convert``: any known format in, the canonical NPZ or another format out."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ptychocli.console import Console, text
from ptychocli.options import ConfigOption, ForceOption, JsonOption, given, settings_from

app = typer.Typer(add_completion=False)


@app.command()
@settings_from(("data",))
def convert(
    source: Annotated[Path, typer.Argument(metavar="IN", help="Scan file in any known format.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="File to write.")],
    format_name: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="Format to write; default the one that the ending of OUT stands for.",
        ),
    ] = None,
    config: ConfigOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
    **settings: Any,
) -> None:
    """Read a scan in any known format and write it in another, by default the canonical NPZ.

    What was read, inferred, assumed and dropped is printed.
    """
    from ptychocli.rundir import refuse_existing
    from ptychocli.scans import file_size, read_scans, resolve_data, summary
    from ptychodata.formats import outputs, write

    with Console(quiet=True, as_json=as_json) as console:
        files = outputs(target, format_name)
        for file in files:
            refuse_existing(file, force=force)
        data, _ = resolve_data(given(settings), config)
        [scan] = read_scans([source], data, console, near_field=True)
        dropped = write(scan, target, format_name)
        found = summary(scan) | {"dropped": list(dropped)}
        for name, value in found.items():
            if name not in ("notes", "dropped"):
                console.result(f"{name:16} {text(value)}")
        for note in scan.notes:
            console.result(f"{'note':16} {note}")
        for note in dropped:
            console.result(f"{'on writing':16} {note}")
        for file in files:
            console.result(f"wrote {file} ({file_size(file)})")
        console.finish(
            {
                "source": str(source),
                "target": str(target),
                "files": [str(file) for file in files],
                **found,
            }
        )
