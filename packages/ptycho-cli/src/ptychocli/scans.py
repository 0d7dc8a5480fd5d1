"""Reading the scans that a command was given, and saying what they hold."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ptychocli.console import Console
from ptychocli.options import given
from ptychoconfig.errors import DataError
from ptychoconfig.resolve import resolve
from ptychoconfig.schema import DataConfig
from ptychodata.contracts import Scan

if TYPE_CHECKING:
    from ptychoconfig.resolve import Resolved

__all__ = [
    "file_size",
    "read_scans",
    "resolve_data",
    "summary",
    "warn_of_faults",
    "warn_of_orientation",
]


def resolve_data(
    settings: Mapping[str, Any], config_file: Path | None
) -> "tuple[DataConfig, Resolved]":
    """Resolve the section ``data`` alone, which is needed to read a scan."""
    resolved = resolve(["data"], flags=given(settings, "data"), config_file=config_file)
    data = resolved.sections["data"]
    assert isinstance(data, DataConfig)
    return data, resolved


def read_scans(
    paths: Sequence[Path], data: DataConfig, console: Console, *, near_field: bool = False
) -> list[Scan]:
    """Read scans without the patterns in ``exclude``, and ``n_subsample`` of the rest; say so.

    Args:
        paths: scan files.
        data: how to read them.
        console: where to say what was read.
        near_field: accept near-field scans, which cannot be reconstructed.

    Raises:
        DataError: a file is missing or is no scan, or one of the near field.
        ConfigError: patterns are excluded or to be drawn that a scan does not have.
    """
    scans = [_read(path, data, console) for path in paths]
    for path, scan in zip(paths, scans, strict=True):
        if scan.near_field and not near_field:
            raise DataError(
                f"{path}: expected a far-field scan, whose patterns are Fourier transforms of the "
                "exit waves, found a near-field one, for which there is no forward model; "
                "ptycho convert passes it on to another program"
            )
    return scans


def _read(path: Path, data: DataConfig, console: Console) -> Scan:
    from ptychodata.formats import read

    scan = read(path, options=data)
    console.note(f"{path}: {scan}")
    for note in scan.notes:
        console.note(f"{path}: {note}")
    if not scan.has_dose:
        console.warn(
            f"{path}: no photon counts are known, only relative amplitudes; "
            "give the mean photons per pattern with --nphotons"
        )
    if data.exclude is not None:
        scan = _exclude(path, scan, data.exclude, console)
    if data.n_subsample is None or data.n_subsample == len(scan):
        return scan
    return _subsample(path, scan, data.n_subsample, data.subsample_seed, console)


def _exclude(path: Path, scan: Scan, frames: str, console: Console) -> Scan:
    from ptychodata.grouping import keep_frames

    index = keep_frames(len(scan), frames)
    console.note(
        f"{path}: leaving out {len(scan) - len(index)} of {len(scan)} patterns (--exclude)"
    )
    return scan.subset(index)


def _subsample(path: Path, scan: Scan, count: int, seed: int, console: Console) -> Scan:
    from ptychodata.grouping import draw_subsample

    index = draw_subsample(len(scan), count, seed)
    console.note(
        f"{path}: using a subset, {count} of {len(scan)} patterns (--n-subsample, seed {seed})"
    )
    return scan.subset(index)


def warn_of_faults(path: Path, scan: Scan, console: Console) -> None:
    """Warn of what `ptycho inspect` would find wrong at a glance, with its evidence.

    That a probe is missing is no fault to a solver, which makes one up.
    """
    from ptychodata.inspection import inspect_scan

    for finding in inspect_scan(scan, orientation=False).findings:
        if finding.name == "no-probe":
            console.note(f"{path}: {finding.message}; it starts from a model")
        elif finding.severity != "info":
            console.warn(f"{path}: {finding.message}; {finding.hint}")


def warn_of_orientation(path: Path, scan: Scan, console: Console) -> None:
    """Warn of patterns or axes that lie flipped to each other; this takes a few seconds."""
    from ptychodata.inspection import check_orientation

    for finding in check_orientation(scan):
        if finding.severity != "info":
            console.warn(f"{path}: {finding.message}; {finding.hint}")


def summary(scan: Scan) -> dict[str, Any]:
    """What a scan holds, for ``--json``."""
    return {
        "name": scan.name,
        "n_patterns": len(scan),
        "N": scan.N,
        "dtype": str(scan.diffraction.dtype),
        "domain": scan.domain,
        "intensity_scale": scan.intensity_scale,
        "mean_photons": scan.mean_photons if scan.has_dose else None,
        "probe_shape": None if scan.probe is None else list(scan.probe.shape),
        "probe_power": scan.probe_power,
        "extent_yx_px": np.ptp(scan.positions_px, axis=0).tolist(),
        "object_pixel_m": scan.object_pixel_m,
        "has_mask": scan.mask is not None,
        "has_truth": scan.truth is not None,
        "near_field": scan.near_field,
        "notes": list(scan.notes),
    }


def file_size(path: Path) -> str:
    """Size of a file for people."""
    return f"{path.stat().st_size / 1e6:.1f} MB"
