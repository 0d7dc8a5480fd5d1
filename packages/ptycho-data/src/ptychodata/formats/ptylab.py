"""PtyLab's flat HDF5: ``ptychogram`` (counts), ``encoder`` (metres), wavelength and distances.

The documentation calls the columns of ``encoder`` (x, y), its engines use the first as the row: so
do we.  They are positions of the beam from the middle pixel of the object.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ptychoconfig.errors import DataError
from ptychodata.contracts import Scan
from ptychodata.files import atomic_path
from ptychodata.formats.extras import (
    counts_of,
    positions_m_of,
    read_extras,
    write_extras,
    write_patterns,
)
from ptychodata.formats.recorded import Recorded
from ptychodata.formats.source import Source
from ptychodata.formats.tree import Tree
from ptychodata.formats.units import HC_EV_M

__all__ = ["NAME", "SUFFIXES", "SUMMARY", "read", "recognises", "shapes", "write"]

NAME = "ptylab"
SUFFIXES = ()
SUMMARY = "PtyLab HDF5: ptychogram, encoder, wavelength, dxd, zo"

_MAX_MODES = 64


def recognises(source: Source) -> bool:
    """Whether the file holds a ptychogram and its encoder."""
    return source.hdf5 is not None and all(k in source.hdf5 for k in ("ptychogram", "encoder"))


def shapes(source: Source) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
    """Shapes of the patterns, (P, N, N), and of the probe, (M, N, N), from the headers alone."""
    tree = source.hdf5
    assert tree is not None
    probe = tree.shape("probe") if "probe" in tree else None
    return tree.shape("ptychogram"), probe and (int(np.prod(probe[:-2])), *probe[-2:])


def read(source: Source) -> Recorded:
    """Read the file.

    Raises:
        DataError: a key is missing or wrong.
    """
    tree = source.hdf5
    assert tree is not None
    patterns, notes = tree.patterns("ptychogram"), []
    encoder = tree.array("encoder", "uif").astype(np.float64)
    if encoder.shape == (2, len(patterns)) and len(patterns) != 2:
        encoder = encoder.T
        notes.append("ptylab: the encoder was turned from (2, P) to (P, 2).")
    if encoder.shape != (len(patterns), 2):
        raise tree.refuse("encoder", f"({len(patterns)}, 2)", encoder.shape, "correct it")
    wavelength = tree.number("wavelength", positive=True)
    distance = tree.number("zo")
    found = {
        "photon_energy_eV": None if wavelength is None else HC_EV_M / wavelength,
        "detector_distance_m": None if distance is None else abs(distance),
        "detector_pixel_m": tree.number("dxd", positive=True),
    }
    if tree.number("orientation"):
        notes.append(
            "ptylab: the file names an orientation of its patterns, which was not applied; "
            "--transpose, --flip-y and --flip-x turn them."
        )
    unread = [key for key in ("emptyBeam", "entrancePupilDiameter", "object") if key in tree]
    if unread:
        notes.append(f"ptylab: keys not used: {', '.join(unread)}.")
    recorded = Recorded(
        where=str(tree.path),
        key="ptychogram",
        diffraction=patterns,
        positions_m=encoder,
        probe=_probe(tree, notes),
        domain="counts",
        probe_power="relative",
        geometry={name: value for name, value in found.items() if value},
        notes=notes,
    )
    read_extras(tree, recorded)
    return recorded


def _probe(tree: Tree, notes: list[str]) -> NDArray[np.complex128] | None:
    """Modes of a probe (wavelengths, object modes, modes, slices, N, N), of the first others."""
    if "probe" not in tree or tree.dtype("probe").kind != "c":
        return None
    probe = tree.array("probe", "c")
    if probe.ndim == 6:
        if probe.shape[0] * probe.shape[1] * probe.shape[3] > 1:
            notes.append("ptylab: of wavelengths, object modes and slices the first was kept.")
        probe = probe[0, 0, :, 0] if 0 not in probe.shape else probe.reshape(-1)
    if probe.ndim == 2:
        probe = probe[None]
    if probe.ndim != 3 or 0 in probe.shape or len(probe) > _MAX_MODES:
        raise tree.refuse("probe", "(1, 1, M, 1, N, N)", tree.shape("probe"), "correct it")
    return probe


def write(scan: Scan, path: Path) -> tuple[str, ...]:
    """Write the scan as one flat file.

    Raises:
        DataError: energy, distance or a pixel size is unknown.
        ConfigError: the place is not writable.
    """
    import h5py

    positions = positions_m_of(scan)
    needed = ("photon_energy_eV", "detector_distance_m", "detector_pixel_m")
    missing = [name for name in needed if not np.isfinite(getattr(scan, name))]
    if missing:
        flags = ", ".join("--" + name.lower().replace("_", "-") for name in missing)
        raise DataError(
            f"{scan.name}: expected {' and '.join(missing)}, which this format must hold, found "
            f"none; give {flags}"
        )
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        write_patterns(file, "ptychogram", counts_of(scan))
        file["encoder"] = positions
        file["wavelength"] = HC_EV_M / scan.photon_energy_eV
        file["dxd"], file["zo"] = scan.detector_pixel_m, scan.detector_distance_m
        if scan.probe is not None:
            file["probe"] = scan.probe[None, None, :, None]
        write_extras(file, scan, {"detector_distance_m", "detector_pixel_m"})
    squared = "ptylab: amplitudes were squared, the format holds counts."
    return (squared,) if scan.domain == "amplitude" else ()
