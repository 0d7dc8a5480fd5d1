"""CXI, the HDF5 layout of cxidb.org, with the dialects of PyNX, cdtools and Ptychodus.

The file keeps the motion t of the *sample* in the laboratory, and the vectors b from a pixel to the
next along the detector's slow and fast axes.  The beam moves over the sample by −t, and an axis of
the object array lies along the detector's: ``r = −t · b / |b|``.  Without vectors the detector is
upright, slow axis down (0, −1, 0), fast axis (−1, 0, 0), so that +x goes along the columns and +y
down the rows.  Energy is in joule; in the mask a good pixel is 0, or 0x1000, which says "has
signal".
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

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
from ptychodata.formats.units import ELEMENTARY_CHARGE_C, energy_eV_of_joule

__all__ = [
    "NAME",
    "SUFFIXES",
    "SUMMARY",
    "mask_of",
    "modes_of",
    "pixel_of",
    "project",
    "read",
    "recognises",
    "shapes",
    "write",
]

NAME = "cxi"
SUFFIXES = (".cxi",)
SUMMARY = "CXI (cxidb.org): entry_1/instrument_1/detector_1/data and translation"

_DETECTOR = "entry_1/instrument_1/detector_1"
_SOURCE = "entry_1/instrument_1/source_1"
_DATA = (f"{_DETECTOR}/data", "entry_1/data_1/data")
_TRANSLATION = (
    *("entry_1/sample_1/geometry_1/translation", f"{_DETECTOR}/translation"),
    "entry_1/data_1/translation",
)
_PROBE = (f"{_SOURCE}/illumination", "entry_1/image_1/data")
_HAS_SIGNAL = 0x1000
_MAX_MODES = 64


def recognises(source: Source) -> bool:
    """Whether the file is of this format, by its paths."""
    tree = source.hdf5
    return tree is not None and tree.first(*_DATA) is not None


def shapes(source: Source) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
    """Shapes of the patterns, (P, N, N), and of the probe, (M, N, N), from the headers alone."""
    tree = source.hdf5
    assert tree is not None
    key = tree.first(*_DATA) or _DATA[0]
    shape = tree.shape(key)
    probe = tree.first(*_PROBE)
    flat = (int(np.prod(shape[:-2])), *shape[-2:])
    found = None if probe is None else tree.shape(probe)
    return flat, found if found is None or len(found) != 2 else (1, *found)


def read(source: Source) -> Recorded:
    """Read the file, its positions turned into the motion of the beam along the array's axes.

    Raises:
        DataError: a key is missing or wrong.
    """
    tree = source.hdf5
    assert tree is not None
    key = tree.first(*_DATA) or _DATA[0]
    patterns = tree.patterns(key)
    pixel, unit_vectors, notes = _detector(tree)
    recorded = Recorded(
        where=str(tree.path),
        key=key,
        diffraction=patterns,
        positions_m=project(_translation(tree, len(patterns)), unit_vectors),
        probe=_probe(tree, patterns.shape[-1], notes),
        domain="counts",
        probe_power="relative",
        mask=mask_of(tree, f"{_DETECTOR}/mask", patterns.shape),
        notes=notes,
    )
    distance = tree.number(f"{_DETECTOR}/distance")
    found = {"detector_pixel_m": pixel, "detector_distance_m": distance and abs(distance)}
    energy = tree.number(f"{_SOURCE}/energy", positive=True)
    if energy is not None:
        found["photon_energy_eV"], note = energy_eV_of_joule(energy)
        notes += [f"cxi: {note}"] if note else []
    recorded.geometry = {name: value for name, value in found.items() if value}
    read_extras(tree, recorded)
    return recorded


def _detector(tree: Tree) -> tuple[float | None, NDArray[np.float64], list[str]]:
    """Pixel size, and unit vectors (2, 3) along the slow and the fast axis."""
    pixel = pixel_of(tree, _DETECTOR)
    key = f"{_DETECTOR}/basis_vectors"
    if key not in tree:
        return pixel, np.array([[0.0, -1, 0], [-1, 0, 0]]), []
    basis = tree.array(key, "uif").astype(np.float64)
    if basis.shape == (3, 2):
        basis = basis.T
    with np.errstate(over="ignore", invalid="ignore"):  # infinity is refused below
        lengths = np.linalg.norm(basis, axis=-1) if basis.shape == (2, 3) else np.zeros(1)
    if (
        not ((lengths > 0) & (lengths < np.inf)).all()
        or abs(basis[0] @ basis[1]) > 1e-3 * lengths.prod()
    ):
        raise tree.refuse(key, "two perpendicular vectors, (3, 2) or (2, 3)", basis, "correct it")
    if not np.isclose(lengths[0], lengths[1], rtol=1e-6):
        raise tree.refuse(key, "square pixels", f"{lengths} m", "resample the patterns")
    unit = basis / lengths[:, None]
    note = f"cxi: basis_vectors say slow axis {unit[0].round(3)}, fast axis {unit[1].round(3)}."
    usual = np.allclose(unit, [[0, -1, 0], [-1, 0, 0]], atol=1e-6)
    return pixel or float(lengths[0]), unit, [] if usual else [note]


def pixel_of(tree: Tree, detector: str) -> float | None:
    """Side of a pixel of the group ``detector`` in metres."""
    x, y = (tree.number(f"{detector}/{axis}_pixel_size", positive=True) for axis in "xy")
    if x is not None and y is not None and not np.isclose(x, y, rtol=1e-6):
        raise tree.refuse(detector, "square pixels", f"{y} × {x} m", "resample the patterns")
    return x or y


def _translation(tree: Tree, count: int) -> NDArray[np.float64]:
    """Motion of the sample (P, 3); PyNX writes (3, P)."""
    key = tree.first(*_TRANSLATION) or _TRANSLATION[0]
    motion = tree.array(key, "uif").astype(np.float64)
    if motion.shape not in ((count, 3), (3, count), (count, 2)):
        raise tree.refuse(key, f"shape ({count}, 3)", motion.shape, "give each pattern a position")
    motion = motion.T if motion.shape != (count, 3) and motion.shape == (3, count) else motion
    return np.pad(motion, ((0, 0), (0, 3 - motion.shape[1])))


def project(
    motion_m: NDArray[np.float64], unit_vectors: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Positions (P, 2) (y, x) of the beam, from the sample's motion (P, 3) and the axes (2, 3)."""
    return np.asarray(-motion_m @ unit_vectors.T)


def mask_of(tree: Tree, key: str, shape: tuple[int, ...]) -> NDArray[np.bool_] | None:
    """Mask in bits, 0 = good, as True = valid; None if all is good or there is none."""
    if key not in tree:
        return None
    bits = tree.array(key, "bui")
    plain = bits[0] if bits.ndim == 3 and len(bits) == 1 else bits
    if plain.shape not in (shape, shape[1:]):
        raise tree.refuse(key, f"shape {shape[1:]} or {shape}", bits.shape, "correct it")
    valid: NDArray[np.bool_] = (plain.astype(np.int64) & ~_HAS_SIGNAL) == 0
    return None if valid.all() else valid


def _probe(tree: Tree, side: int, notes: list[str]) -> NDArray[np.complex128] | None:
    key = tree.first(*_PROBE)
    if key is None:
        return None
    probe = modes_of(tree, key)
    if probe is None or probe.shape[-2:] != (side, side):
        notes.append(f"cxi: {key} of shape {tree.shape(key)} is no probe, dropped.")
        return None
    if "entry_1/image_2/data" in tree:
        notes.append("cxi: image_2, an object whose place is not given, was dropped.")
    return probe


def modes_of(tree: Tree, key: str) -> NDArray[np.complex128] | None:
    """Complex modes (M, N, N) from (N, N) up to (…, M, N, N); None if it is no such array."""
    shape = tree.shape(key)
    if tree.dtype(key).kind != "c" or len(shape) < 2 or 0 in shape:
        return None
    probe = tree.array(key, "c")
    modes: NDArray[np.complex128] = probe.reshape(-1, *shape[-2:])
    if len(modes) > _MAX_MODES:
        raise tree.refuse(key, f"at most {_MAX_MODES} probe modes", len(modes), "store fewer")
    return modes


def write(scan: Scan, path: Path) -> tuple[str, ...]:
    """Write the scan as one CXI file.

    Raises:
        DataError: the object pixel is unknown.
        ConfigError: the place is not writable.
    """
    import h5py

    positions = positions_m_of(scan)
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        file["cxi_version"] = 160
        detector = file.create_group(_DETECTOR)
        write_patterns(detector, "data", counts_of(scan))
        if np.isfinite(scan.photon_energy_eV):
            file[f"{_SOURCE}/energy"] = scan.photon_energy_eV * ELEMENTARY_CHARGE_C
        if np.isfinite(scan.detector_distance_m):
            detector["distance"] = scan.detector_distance_m
        if np.isfinite(size := scan.detector_pixel_m):
            detector["x_pixel_size"] = detector["y_pixel_size"] = size
            detector["basis_vectors"] = np.array([[0, -size, 0], [-size, 0, 0]]).T
        held = {"photon_energy_eV", "detector_distance_m", "detector_pixel_m"}
        if scan.mask is None or scan.mask.ndim == 2:
            held.add("mask")
            valid = np.ones((scan.N, scan.N), np.bool_) if scan.mask is None else scan.mask
            detector["mask"] = (~valid).astype(np.uint32)
        motion = np.stack([positions[:, 1], positions[:, 0], np.zeros(len(scan))], axis=1)
        file[_TRANSLATION[0]] = motion
        if scan.probe is not None:
            probe = scan.probe[0] if len(scan.probe) == 1 else scan.probe
            file[_PROBE[0]] = probe
        detector["translation"] = h5py.SoftLink(f"/{_TRANSLATION[0]}")
        for name in ("data", "translation"):
            file[f"entry_1/data_1/{name}"] = h5py.SoftLink(f"/{_DETECTOR}/{name}")
        write_extras(file, scan, held)
    squared = "cxi: amplitudes were squared, the format holds counts."
    return (squared,) if scan.domain == "amplitude" else ()
