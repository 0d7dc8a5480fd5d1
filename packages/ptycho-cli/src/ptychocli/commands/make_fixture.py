"""``ptycho make-fixture``: a small scan to test with, cut out of a large one."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ptychocli.console import Console, text
from ptychocli.options import ConfigOption, ForceOption, JsonOption, given, settings_from
from ptychoconfig.errors import ConfigError, UsageError

app = typer.Typer(add_completion=False)

_OF_THE_WHOLE = ("exclude", "n_subsample", "subsample_seed")
"""Settings that pick patterns, which is what the fixture does."""


@app.command("make-fixture")
@settings_from(("data",), without=_OF_THE_WHOLE)
def make_fixture_file(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="Scan file to cut from.")],
    target: Annotated[
        Path | None, typer.Argument(metavar="OUT", help="NPZ file to write.", show_default=False)
    ] = None,
    subset_size: Annotated[
        int, typer.Option(min=16, help="Patterns to keep, spread over the whole scan.")
    ] = 64,
    metadata_out: Annotated[
        Path | None,
        typer.Option(help="Sidecar; default OUT with .json.", show_default=False),
    ] = None,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify", help="Check an existing fixture: OUT against SOURCE, or SOURCE alone."
        ),
    ] = False,
    config: ConfigOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
    **settings: Any,
) -> None:
    """Cut a small scan out of a large one, with a sidecar that says how and vouches for it.

    Patterns stay with their positions, which is checked by the physics; they cover more than half
    of the scan along both axes, and the file is the same bytes on every run.
    """
    from ptychocli.scans import resolve_data
    from ptychodata.fixtures import make_fixture, verify_fixture

    with Console(quiet=True, as_json=as_json) as console:
        if verify:
            fixture, origin = (source, None) if target is None else (target, source)
            found = verify_fixture(fixture, source=origin, sidecar=metadata_out)
        elif target is None:
            raise UsageError("make-fixture: expected SOURCE and OUT, found no OUT; name the file")
        else:
            data, _ = resolve_data(given(settings), config)
            picked = [name for name in _OF_THE_WHOLE if name in data.model_fields_set]
            if picked:
                raise ConfigError(
                    f"make-fixture: expected a subset of the whole scan, found {', '.join(picked)} "
                    "set; unset it"
                )
            _refuse_results(target, metadata_out, force=force)
            found = make_fixture(source, target, subset_size, options=data, sidecar=metadata_out)
        for name, value in found.items():
            console.result(f"{name:18} {text(value)}")
        done = "verified" if verify else "wrote"
        console.result(f"{done} {target or source}")
        console.finish({"fixture": str(target or source), **found})


def _refuse_results(target: Path, sidecar: Path | None, *, force: bool) -> None:
    from ptychocli.rundir import refuse_existing
    from ptychodata.fixtures import sidecar_of

    for path in (target, sidecar or sidecar_of(target)):
        refuse_existing(path, force=force)
