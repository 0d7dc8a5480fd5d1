"""``ptycho inspect``: what a scientist would check first."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ptychocli.console import Console, text
from ptychocli.options import ConfigOption, ForceOption, JsonOption, given, settings_from
from ptychoconfig.errors import DataError

app = typer.Typer(add_completion=False)


@app.command("inspect")
@settings_from(("data",))
def inspect_file(
    source: Annotated[Path, typer.Argument(metavar="SCAN", help="Scan file.")],
    preview: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="PNG to draw on one page: mean pattern, probe, positions, counts, findings.",
        ),
    ] = None,
    orientation: Annotated[
        bool,
        typer.Option(
            help="Test which way patterns and positions lie to each other, and whether they "
            "belong together; takes a few seconds."
        ),
    ] = True,
    config: ConfigOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
    **settings: Any,
) -> None:
    """Check a scan before using it: dose, axes, orientation, probe, overlap, bad pixels, outliers.

    Each finding comes with its evidence and with the flags that mend it. Ends with exit code 4 if
    something is found that makes the scan unusable.
    """
    from ptychocli.rundir import refuse_existing
    from ptychocli.scans import read_scans, resolve_data
    from ptychodata.fixtures import verify_sidecar
    from ptychodata.inspection import inspect_scan

    with Console(quiet=True, as_json=as_json) as console:
        if preview is not None:
            refuse_existing(preview, force=force)
        data, _ = resolve_data(given(settings), config)
        [scan] = read_scans([source], data, console, near_field=True)
        inspection = inspect_scan(scan, orientation=orientation)
        found = inspection.as_dict()
        _print(found, (*scan.notes, *verify_sidecar(source)), console)
        if preview is not None:
            from ptychocli.preview import write_preview

            write_preview(scan, inspection, preview)
            console.result(f"wrote {preview}")
        console.finish(found)
        bad = [finding.name for finding in inspection.findings if finding.severity == "error"]
        if bad:
            raise DataError(f"{source}: expected a usable scan, found: {', '.join(bad)}")


def _print(found: Mapping[str, Any], notes: Sequence[str], console: Console) -> None:
    for name, value in found.items():
        if name != "findings" and value not in ([], {}):
            console.result(f"{name:24} {text(value)}")
    for note in notes:
        console.result(f"note: {note}")
    for finding in found["findings"]:
        console.result(f"{finding['severity']}: {finding['message']}; {finding['hint']}")
