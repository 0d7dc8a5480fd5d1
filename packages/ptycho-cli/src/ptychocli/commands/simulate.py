"""``ptycho simulate``: a scan whose object is known."""

from pathlib import Path
from time import monotonic
from typing import Annotated, Any

import typer

from ptychocli.console import Console, duration
from ptychocli.options import ConfigOption, ForceOption, JsonOption, given, settings_from

app = typer.Typer(add_completion=False)


@app.command("simulate")
@settings_from(("simulation",))
def simulate_scan(
    target: Annotated[Path, typer.Argument(metavar="OUT", help="NPZ file to write.")],
    config: ConfigOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
    **settings: Any,
) -> None:
    """Simulate a scan whose object is known, and write it as a canonical NPZ."""
    from ptychocli.rundir import refuse_existing
    from ptychocli.scans import file_size, summary
    from ptychoconfig.resolve import resolve
    from ptychoconfig.schema import SimulationConfig
    from ptychodata.formats import write
    from ptychodata.simulate import simulate

    with Console(as_json=as_json) as console:
        refuse_existing(target, force=force)
        resolved = resolve(["simulation"], flags=given(settings), config_file=config)
        simulation = resolved.sections["simulation"]
        assert isinstance(simulation, SimulationConfig)
        started = monotonic()
        scan = simulate(simulation)
        for note in scan.notes:
            console.note(note)
        write(scan, target)
        console.result(f"simulated {scan} in {duration(monotonic() - started)}")
        console.result(f"wrote {target} ({file_size(target)})")
        console.finish({"target": str(target), **summary(scan)})
