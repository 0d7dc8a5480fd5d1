"""NXcxi_ptycho: CXI's names with NeXus classes and units, and the plainer NeXus of beamlines.

Every number may name its unit.  The photon energy is the beam's; ``source_1/energy`` is, in NeXus,
that of the machine.  A raster may have a slow and a fast axis, which are joined.  Positions in two
columns are (slow, fast), taken as (y, x); in three columns (x, y, z) as in CXI.
"""

import math

import numpy as np
from numpy.typing import NDArray

from ptychodata.formats.cxi import mask_of, modes_of, project
from ptychodata.formats.recorded import Recorded
from ptychodata.formats.source import Source
from ptychodata.formats.tree import Tree
from ptychodata.formats.units import unit_scale

__all__ = ["NAME", "SUMMARY", "read", "recognises", "shapes"]

NAME = "nxcxi"
SUMMARY = "NXcxi_ptycho (NeXus): definition NXptycho or NXcxi_ptycho, detector data with units"

_DEFINITIONS = ("nxptycho", "nxcxi_ptycho")


def recognises(source: Source) -> bool:
    """Whether the file names the definition, and holds a detector's data."""
    return source.hdf5 is not None and _entry(source.hdf5) is not None


def _entry(tree: Tree) -> str | None:
    for entry in ("entry_1", "entry"):
        definition = tree.text(f"{entry}/definition")
        if definition is not None and definition.strip().lower() in _DEFINITIONS:
            return entry
    return None


def _data(tree: Tree, entry: str) -> str:
    keys = (f"{_detector(entry)}/data", f"{entry}/data_1/data", f"{entry}/data/data")
    return tree.first(*keys) or keys[0]


def _instrument(entry: str) -> str:
    return f"{entry}/instrument{entry[5:]}"


def _detector(entry: str) -> str:
    return f"{_instrument(entry)}/detector{entry[5:]}"


def shapes(source: Source) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
    """Shapes of the patterns, (P, N, N), and of the probe, (M, N, N), from the headers alone."""
    tree = source.hdf5
    assert tree is not None
    shape = tree.shape(_data(tree, _entry(tree) or "entry_1"))
    return (math.prod(shape[:-2]), *shape[-2:]), None


def read(source: Source) -> Recorded:
    """Read the file, every number in the unit that it names.

    Raises:
        DataError: a key is missing or wrong, or a unit is unknown.
    """
    tree = source.hdf5
    assert tree is not None
    entry = _entry(tree) or "entry_1"
    key, notes = _data(tree, entry), []
    patterns = tree.patterns(key)
    positions, note = _positions(tree, entry, len(patterns))
    notes += [note] if note else []
    detector, geometry = _detector(entry), _geometry(tree, entry)
    beam = _beam(tree, detector, geometry.get("detector_pixel_m"))
    probe = f"{_instrument(entry)}/source{entry[5:]}/illumination"
    return Recorded(
        where=str(tree.path),
        key=key,
        diffraction=patterns,
        positions_m=positions,
        probe=modes_of(tree, probe) if probe in tree else None,
        domain="counts",
        probe_power="relative",
        mask=mask_of(tree, _mask_key(tree, detector), patterns.shape),
        beam_yx_px=beam,
        geometry=geometry,
        notes=notes,
    )


def _mask_key(tree: Tree, detector: str) -> str:
    return tree.first(f"{detector}/pixel_mask", f"{detector}/mask") or f"{detector}/mask"


def _quantity(tree: Tree, default: str, *keys: str) -> float | None:
    """The first of ``keys`` that is there, in m or eV."""
    key = tree.first(*keys)
    value = None if key is None else tree.number(key)
    return None if value is None or key is None else value * unit_scale(tree, key, default)


def _geometry(tree: Tree, entry: str) -> dict[str, float]:
    detector, instrument = _detector(entry), _instrument(entry)
    beams = [f"{parent}/beam{entry[5:]}" for parent in (entry, instrument)]
    energies = [f"{b}/{name}" for b in beams for name in ("incident_beam_energy", "energy")]
    energies += [f"{b}/incident_energy" for b in beams]
    distance = _quantity(tree, "m", f"{detector}/distance")
    sizes = [_quantity(tree, "m", f"{detector}/{axis}_pixel_size") for axis in "xy"]
    x, y = sizes
    if x is not None and y is not None and not math.isclose(x, y, rel_tol=1e-6):
        raise tree.refuse(detector, "square pixels", f"{y} × {x} m", "resample the patterns")
    found = {
        "photon_energy_eV": _quantity(tree, "ev", *energies),
        "detector_distance_m": None if distance is None else abs(distance),
        "detector_pixel_m": x or y,
    }
    for name, value in found.items():
        if value is not None and not (math.isfinite(value) and value > 0):
            raise tree.refuse(name, "a number above 0", value, "correct it")
    return {name: value for name, value in found.items() if value is not None}


def _beam(tree: Tree, detector: str, pixel_m: float | None) -> tuple[float, float] | None:
    """Pixel (y, x) of the direct beam, from pixels or a length."""
    found = []
    for axis in "yx":
        key = f"{detector}/beam_center_{axis}"
        value = tree.number(key)
        if value is None:
            return None
        unit = (tree.text(key, "units") or "pixel").lower()
        if not unit.startswith(("pixel", "px")):
            if pixel_m is None:
                return None
            value *= unit_scale(tree, key, "m") / pixel_m
        found.append(value)
    return found[0], found[1]


def _positions(tree: Tree, entry: str, count: int) -> tuple[NDArray[np.float64], str | None]:
    """Positions (P, 2) (y, x) in metres, and what was assumed of them."""
    keys = (
        *(f"{entry}/sample_1/geometry_1/translation", f"{_detector(entry)}/translation"),
        *(f"{entry}/data_1/translation", f"{entry}/sample_1/transformations/translation"),
    )
    key = tree.first(*keys)
    if key is None:
        return _positioners(tree, entry, count)
    motion = tree.array(key, "uif").astype(np.float64) * unit_scale(tree, key, "m")
    motion = motion.reshape(-1, motion.shape[-1]) if motion.ndim > 1 else motion
    if motion.shape == (count, 2):
        return motion, "nxcxi: positions taken as (slow, fast) = (y, x) of the beam."
    if motion.shape != (count, 3):
        raise tree.refuse(key, f"({count}, 3) or ({count}, 2)", motion.shape, "correct it")
    return project(motion, np.array([[0.0, -1, 0], [-1, 0, 0]])), None


def _positioners(tree: Tree, entry: str, count: int) -> tuple[NDArray[np.float64], str]:
    """Readings of two motors; named y and x, or in their order."""
    groups = [f"{entry}/sample{entry[5:]}/positioner_{i}" for i in (1, 2)]
    columns = {}
    for group, usual in zip(groups, "xy", strict=True):
        key = f"{group}/raw_value"
        values = tree.array(key, "uif").astype(np.float64).reshape(-1)
        if len(values) != count:
            raise tree.refuse(key, f"{count} values", len(values), "give each pattern a position")
        name = (tree.text(f"{group}/name") or "").lower()
        axis = name[-1] if name.endswith(("x", "y")) else usual
        columns[axis] = values * unit_scale(tree, key, "m")
    if len(columns) != 2:
        raise tree.refuse(groups[0], "motors of two axes", list(columns), "name them x and y")
    note = "nxcxi: motor positions taken as those of the beam; --negate-x and --negate-y turn them."
    return np.stack([columns["y"], columns["x"]], axis=1), note
