"""What a training begins with: a checkpoint, a bundle, the probes that an earlier run found."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ptychocli.console import Console
from ptychoconfig.errors import ConfigError

if TYPE_CHECKING:
    from ptychodata.bundle import Bundle
    from ptychodata.contracts import Scan

__all__ = ["find_checkpoint", "find_start", "is_finished", "keep_probes", "kept_probes"]


def is_finished(output_dir: Path) -> bool:
    """Whether the folder holds the bundle of a run that was not interrupted."""
    from ptychocli.rundir import BUNDLE, PROVENANCE
    from ptychodata.files import parse_json

    if not (output_dir / BUNDLE).is_file():
        return False
    try:
        origin = parse_json((output_dir / PROVENANCE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return True
    return not origin.get("interrupted", False)


def find_checkpoint(resume: str | None, output_dir: Path, console: Console) -> Path | None:
    """The checkpoint to go on from; says so, or that the run starts afresh."""
    from ptychodata.backends import LAST_CHECKPOINT

    last = output_dir / LAST_CHECKPOINT
    if resume is None:
        if last.exists() and not is_finished(output_dir):
            console.warn(
                f"starting afresh over the checkpoint of an unfinished run in {output_dir}; "
                "--resume auto would have continued it"
            )
        return None
    if resume != "auto":
        last = Path(resume) / LAST_CHECKPOINT if Path(resume).is_dir() else Path(resume)
        if not last.is_file():
            raise ConfigError(
                f"--resume {resume}: expected auto, a checkpoint or the folder of a run, found no "
                f"{last}; check the path, or leave --resume out to start afresh"
            )
    elif not last.is_file():
        console.note(f"no checkpoint in {output_dir} yet: starting afresh")
        return None
    console.note(f"continuing from {last}")
    return last


def find_start(start: str | None) -> "Bundle | None":
    """The bundle to begin with."""
    from ptychodata.bundle import read_bundle
    from ptychodata.pretrained import PRETRAINED

    if start is None:
        return None
    return read_bundle(PRETRAINED if start == "pretrained" else Path(start))


def keep_probes(scans: "Sequence[Scan]", chosen: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Keep what was solved for, so that a resumed run goes on with the same."""
    import json

    import numpy as np

    from ptychodata.files import atomic_path

    solved = {
        str(n): scan.photon_probe
        for n, (scan, how) in enumerate(zip(scans, chosen, strict=True))
        if how["source"] == "solved"
    }
    path.unlink(missing_ok=True)
    if solved:
        path.parent.mkdir(exist_ok=True)
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, chosen=json.dumps(list(chosen)), **solved)


def kept_probes(scans: "Sequence[Scan]", path: Path) -> "tuple[list[Scan], list[dict[str, Any]]]":
    """The scans with the probes that an interrupted run solved for."""
    import numpy as np

    from ptychodata.files import parse_json
    from ptychodata.formats.source import open_source

    with open_source(path) as source:
        chosen = parse_json(str(source.array("chosen")[()]))
        found = {int(key): np.array(source.array(key)) for key in source.members if key.isdecimal()}
    return [
        scan.with_probe(found[n]) if n in found else scan for n, scan in enumerate(scans)
    ], chosen
