"""``ptycho inspect``: what a scientist would check first."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ptychocli.console import Console, text
from ptychocli.options import ConfigOption, JsonOption, given, settings_from
from ptychoconfig.errors import DataError

app = typer.Typer(add_completion=False)


@app.command("inspect")
@settings_from(("data",))
def inspect_file(
    source: Annotated[Path, typer.Argument(metavar="SCAN", help="Scan file.")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
    **settings: Any,
) -> None:
    """Check a scan before using it: dose, axes, probe, overlap, bad pixels, outliers.

    Ends with exit code 4 if something is found that makes the scan unusable.
    """
    from ptychocli.scans import read_scans, resolve_data
    from ptychodata.fixtures import verify_sidecar
    from ptychodata.inspection import inspect_scan

    with Console(quiet=True, as_json=as_json) as console:
        data, _ = resolve_data(given(settings), config)
        [scan] = read_scans([source], data, console, near_field=True)
        inspection = inspect_scan(scan)
        found = inspection.as_dict()
        _print(found, (*scan.notes, *verify_sidecar(source)), console)
        console.finish(found)
        bad = [finding.name for finding in inspection.findings if finding.severity == "error"]
        if bad:
            raise DataError(f"{source}: expected a usable scan, found: {', '.join(bad)}")


def _print(found: Mapping[str, Any], notes: Sequence[str], console: Console) -> None:
    for name, value in found.items():
        if name != "findings" and value != []:
            console.result(f"{name:24} {text(value)}")
    for note in notes:
        console.result(f"note: {note}")
    for finding in found["findings"]:
        console.result(f"{finding['severity']}: {finding['message']}; {finding['hint']}")
