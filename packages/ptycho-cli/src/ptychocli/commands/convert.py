"""``ptycho convert``: any known format in, the canonical NPZ out."""

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
    target: Annotated[Path, typer.Argument(metavar="OUT", help="NPZ file to write.")],
    config: ConfigOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
    **settings: Any,
) -> None:
    """Read a scan in any known format and write it as a canonical NPZ.

    What was read, inferred and assumed is printed.
    """
    from ptychocli.rundir import refuse_existing
    from ptychocli.scans import file_size, read_scans, resolve_data, summary
    from ptychodata.formats import write

    with Console(quiet=True, as_json=as_json) as console:
        refuse_existing(target, force=force)
        data, _ = resolve_data(given(settings), config)
        [scan] = read_scans([source], data, console)
        found = summary(scan)
        for name, value in found.items():
            if name != "notes":
                console.result(f"{name:16} {text(value)}")
        for note in scan.notes:
            console.result(f"{'note':16} {note}")
        write(scan, target)
        console.result(f"wrote {target} ({file_size(target)})")
        console.finish({"source": str(source), "target": str(target), **found})
