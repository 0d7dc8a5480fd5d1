"""The canonical NPZ: ``diffraction``, ``probeGuess``, ``xcoords``, ``ycoords`` and their kin.

Reads every layout that is in use: both names of the patterns, both orders of their axes,
uint16 counts, float64 and complex128 arrays, and files without dose or known object.  What cannot
be told from the file is refused, never guessed.
"""

import math
import os
import zipfile
from collections.abc import Mapping
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

import ptychodata
from ptychoconfig.errors import DataError
from ptychodata.contracts import Domain, ProbePower, Scan
from ptychodata.files import atomic_path, dump_json, parse_json, stored_member
from ptychodata.formats.recorded import Recorded
from ptychodata.formats.source import Source
from ptychodata.patterns import Patterns, blocks

__all__ = ["NAME", "SUFFIXES", "SUMMARY", "read", "recognises", "shapes", "write", "write_array"]

NAME = "npz"
SUFFIXES = (".npz",)
SUMMARY = "canonical NPZ: diffraction or diff3d, probeGuess, xcoords, ycoords (PtychoPINN)"

_PATTERNS = ("diffraction", "diff3d")
_LABELS = ("Y", "ground_truth_patches")
_AXES = {"P,y,x": 0, "y,x,P": 2}
_MAX_MODES = 64
_GEOMETRY = {
    "object_pixel_m": ("object_pixel_m",),
    "photon_energy_eV": ("photon_energy_eV", "probe_energy_eV"),
    "detector_distance_m": ("detector_distance_m",),
    "detector_pixel_m": ("detector_pixel_m", "detector_pixel_size_m"),
}
"""Field of ``Scan`` → keys that hold it."""

_READ = {
    *_PATTERNS,
    *_LABELS,
    *(key for keys in _GEOMETRY.values() for key in keys),
    *("probeGuess", "xcoords", "ycoords", "objectGuess", "scan_index", "axes", "_metadata"),
    *("domain", "intensity_scale", "nphotons", "probe_power", "mask", "bad_pixels", "background"),
    *("xcoords_true", "ycoords_true"),
    *("near_field", "has_dose"),
}


def recognises(source: Source) -> bool:
    """Whether the file is of this format, by its keys."""
    return any(key in source.members for key in _PATTERNS)


def shapes(source: Source) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
    """Shapes of the patterns, (P, N, N), and of the probe, (M, N, N), from the headers alone."""
    key = next(key for key in _PATTERNS if key in source.members)
    shape = _squeezed(source.members[key].shape)
    axis = _pattern_axis(source, key, shape)
    patterns = (shape[axis], *shape[:axis], *shape[axis + 1 :])
    probe = source.members.get("probeGuess")
    return patterns, None if probe is None else _probe_shape(source, probe.shape)


def read(source: Source) -> Recorded:
    """Read the file in its own units.

    Raises:
        DataError: a key is missing, of the wrong shape or kind, or contradicts another.
    """
    key, patterns = _patterns(source)
    axis = _pattern_axis(source, key, patterns.shape)
    metadata, notes = _metadata(source)
    unread = sorted(set(source.members) - _READ)
    if unread:
        notes.append(f"keys not used: {', '.join(unread)}.")
    return Recorded(
        where=str(source.path),
        key=key,
        diffraction=np.moveaxis(patterns, axis, 0),
        positions_px=_positions(source, "ycoords", "xcoords"),
        probe=_probe(source, (side := patterns.shape[1])),
        domain=cast(Domain | None, _choice(source, "domain", ("counts", "amplitude"))),
        intensity_scale=_scalar(source, "intensity_scale"),
        nphotons=_nphotons(source, metadata, notes, patterns.dtype),
        probe_power=cast(ProbePower | None, _choice(source, "probe_power", _POWERS)),
        mask=_mask(source, patterns.shape, axis),
        background=_background(source, side),
        scan_index=_scan_index(source),
        truth=_truth(source),
        labels=_labels(source, axis),
        true_positions_px=_true_positions(source),
        near_field=bool(_scalar(source, "near_field")),
        has_dose=_scalar(source, "has_dose") != 0,
        geometry=_geometry(source),
        notes=notes,
        stored_notes=_stored_notes(metadata),
        provenance=_provenance(metadata),
    )


_POWERS = ("absolute", "relative")


def _refuse(source: Source, key: str, expected: str, found: object, remedy: str) -> DataError:
    return DataError(f"{source.path}: key {key!r}: expected {expected}, found {found}; {remedy}")


def _numeric(source: Source, key: str, kinds: str, expected: str) -> NDArray[Any]:
    if key not in source.members:
        found = ", ".join(sorted(source.members))
        raise DataError(f"{source.path}: expected the key {key!r}, found only {found}; add it")
    if source.members[key].dtype.kind not in kinds:
        raise _refuse(source, key, expected, source.members[key].dtype, "convert it")
    return source.array(key)


def _finite(source: Source, key: str, array: NDArray[Any]) -> NDArray[Any]:
    if not np.isfinite(array).all():
        raise _refuse(source, key, "finite values", "NaN or infinity", "repair the file")
    return array


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Without the trailing channel axis that some writers add."""
    return shape[:-1] if len(shape) == 4 and shape[-1] == 1 else shape


def _patterns(source: Source) -> tuple[str, NDArray[Any]]:
    """The patterns under whichever of their names; under both, they must be the same."""
    found = [
        _numeric(source, key, "uif", "real patterns") for key in _PATTERNS if key in source.members
    ]
    if len(found) == 2 and not _same(*found):
        raise DataError(
            f"{source.path}: expected the same patterns under 'diffraction' and 'diff3d', found "
            "them different; remove one of the keys"
        )
    key = next(key for key in _PATTERNS if key in source.members)
    return key, found[0].reshape(_squeezed(found[0].shape))


def _same(first: NDArray[Any], second: NDArray[Any]) -> bool:
    return first.shape == second.shape and all(
        np.array_equal(a.astype(np.float32), b.astype(np.float32), equal_nan=True)
        for a, b in zip(first, second, strict=True)
    )


def _pattern_axis(source: Source, key: str, shape: tuple[int, ...]) -> Literal[0, 2]:
    """The axis that counts patterns, first or last, as the number of positions tells.

    The probe's shape decides nothing more: where both axes fit the positions, all three sides are
    equal.  Such a file must say so itself.
    """
    if len(shape) != 3:
        raise _refuse(source, key, "patterns of shape (P, N, N) or (N, N, P)", shape, "reshape it")
    fitting = [axis for axis, square in ((0, shape[1:]), (2, shape[:2])) if len({*square}) == 1]
    if not fitting:
        raise _refuse(source, key, "square patterns", shape, "crop them to squares")
    if "axes" in source.members:
        axes = _choice(source, "axes", tuple(_AXES))
        fitting = [axis for axis in fitting if axis == _AXES[str(axes)]]
    count = _count(source)
    matching = [axis for axis in fitting if shape[axis] == count]
    if len(matching) == 2:
        raise _refuse(
            source,
            key,
            "axes that the number of positions tells apart",
            f"{shape} and {count} positions, which fits (P, N, N) and (N, N, P)",
            f"add a key 'axes' holding {' or '.join(map(repr, _AXES))}",
        )
    if not matching:
        found = " or ".join(str(shape[axis]) for axis in fitting) or f"axes unlike {shape}"
        raise _refuse(
            source,
            key,
            f"one pattern for each of the {count} positions in 'xcoords'",
            f"{found} patterns (shape {shape})",
            "give each pattern its position",
        )
    return 0 if matching[0] == 0 else 2


def _count(source: Source) -> int:
    for key in ("xcoords", "ycoords"):
        if key not in source.members:
            found = ", ".join(sorted(source.members))
            raise DataError(f"{source.path}: expected the key {key!r}, found only {found}; add it")
    return math.prod(source.members["xcoords"].shape)


def _positions(source: Source, *keys: str) -> NDArray[np.float64]:
    columns = []
    for key in keys:
        column = _finite(source, key, _numeric(source, key, "uif", "real coordinates in pixels"))
        if max(column.shape, default=1) != column.size:
            raise _refuse(source, key, "one value per pattern", column.shape, "flatten it")
        columns.append(column.reshape(-1).astype(np.float64))
    if len(columns[0]) != len(columns[1]):
        raise _refuse(
            source, keys[0], f"{len(columns[1])} values as in {keys[1]!r}", len(columns[0]), "match"
        )
    return np.stack(columns, axis=1)


def _true_positions(source: Source) -> NDArray[np.float64] | None:
    if not {"ycoords_true", "xcoords_true"} & source.members.keys():
        return None
    positions = _positions(source, "ycoords_true", "xcoords_true")
    if len(positions) != _count(source):
        raise _refuse(source, "xcoords_true", f"{_count(source)} values", len(positions), "match")
    return positions


def _probe_shape(source: Source, shape: tuple[int, ...]) -> tuple[int, ...]:
    """(M, N, N) for (N, N), (N, N, 1) and (M, N, N)."""
    plain = shape[:-1] if len(shape) == 3 and shape[-1] == 1 else shape
    modes = (1, *plain) if len(plain) == 2 else plain
    if len(modes) != 3 or modes[1] != modes[2] or not 0 < modes[0] <= _MAX_MODES:
        raise _refuse(
            source,
            "probeGuess",
            f"shape (N, N), (N, N, 1) or (M, N, N) with at most {_MAX_MODES} modes M",
            shape,
            "store one probe, not one per pattern",
        )
    return modes


def _probe(source: Source, side: int) -> NDArray[Any] | None:
    if "probeGuess" not in source.members:
        return None
    probe = _numeric(source, "probeGuess", "cf", "a complex probe")
    probe = _finite(source, "probeGuess", probe).reshape(_probe_shape(source, probe.shape))
    if probe.shape[-1] != side:
        raise _refuse(
            source,
            "probeGuess",
            f"a probe of {side}×{side} pixels, the size of the patterns",
            f"{probe.shape[1]}×{probe.shape[2]}",
            "crop or pad one of them",
        )
    return probe


def _mask(source: Source, shape: tuple[int, ...], axis: int) -> NDArray[np.bool_] | None:
    """True = valid, from ``mask``, or from ``bad_pixels``, where True = bad."""
    found: NDArray[np.bool_] | None = None
    for key in ("mask", "bad_pixels"):
        if key not in source.members:
            continue
        values = _numeric(source, key, "bui", "booleans, or 0 and 1")
        if values.shape not in (shape, (side := (shape[1], shape[1]))):
            raise _refuse(source, key, f"shape {side} or {shape}", values.shape, "crop it")
        if not np.isin(values, (0, 1)).all():
            raise _refuse(source, key, "booleans, or 0 and 1", "other numbers", "convert it")
        valid = values.astype(np.bool_) ^ (key == "bad_pixels")
        valid = np.moveaxis(valid, axis, 0) if valid.ndim == 3 else valid
        found = valid if found is None else found & valid
    return found


def _background(source: Source, side: int) -> NDArray[Any] | None:
    if "background" not in source.members:
        return None
    background = _finite(source, "background", _numeric(source, "background", "uif", "counts"))
    if background.shape != (side, side):
        raise _refuse(source, "background", f"shape ({side}, {side})", background.shape, "crop it")
    return background


def _scan_index(source: Source) -> NDArray[np.int64] | None:
    if "scan_index" not in source.members:
        return None
    index = _numeric(source, "scan_index", "ui", "whole numbers").reshape(-1).astype(np.int64)
    if len(index) != _count(source):
        raise _refuse(source, "scan_index", f"{_count(source)} values", len(index), "match them")
    return index


def _truth(source: Source) -> NDArray[Any] | None:
    if "objectGuess" not in source.members:
        return None
    truth = _finite(source, "objectGuess", _numeric(source, "objectGuess", "cf", "complex values"))
    return truth[0] if truth.ndim == 3 and len(truth) == 1 else truth


def _labels(source: Source, axis: int) -> NDArray[Any] | None:
    """Known patches, one per pattern, their axes in the order of the patterns'."""
    for key in _LABELS:
        if key in source.members:
            patches = _numeric(source, key, "c", "complex patches")
            if patches.ndim != 3:
                raise _refuse(source, key, "one patch per pattern", patches.shape, "reshape it")
            return np.moveaxis(patches, axis, 0)
    return None


def _scalar(source: Source, key: str) -> float | None:
    if key not in source.members:
        return None
    value = _numeric(source, key, "buif", "a number")
    if value.size != 1:
        raise _refuse(source, key, "one number", f"shape {value.shape}", "store a scalar")
    return float(value.reshape(-1)[0])


def _choice(source: Source, key: str, choices: tuple[str, ...]) -> str | None:
    if key not in source.members:
        return None
    value = _text(source, key)
    if value not in choices:
        raise _refuse(source, key, " or ".join(choices), repr(value), "correct it")
    return value


def _text(source: Source, key: str) -> str:
    """A text scalar, or UTF-8 bytes as uint8."""
    array = _numeric(source, key, "USu", "text")
    if array.dtype.kind != "u" and array.size != 1:
        raise _refuse(source, key, "one text", f"shape {array.shape}", "store a scalar")
    value = array.tobytes() if array.dtype.kind == "u" else array.reshape(-1)[0]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _geometry(source: Source) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, keys in _GEOMETRY.items():
        for key in keys:
            value = _scalar(source, key)
            if value is None or np.isnan(value):
                continue
            if not (np.isfinite(value) and value > 0):
                raise _refuse(source, key, "a number above 0, or NaN", value, "correct it")
            if not np.isclose(value, found.get(name, value)):
                raise _refuse(source, key, f"{found[name]} as in {keys[0]!r}", value, "keep one")
            found[name] = value
    return found


def _metadata(source: Source) -> tuple[Mapping[str, Any], list[str]]:
    """The JSON in ``_metadata``; what cannot be read without unpickling is left, with a note."""
    if "_metadata" not in source.members:
        return {}, []
    if source.members["_metadata"].is_pickled:
        return {}, ["_metadata is pickled, which could run any program: not read."]
    try:
        value = parse_json(_text(source, "_metadata"))
    except ValueError as error:
        return {}, [f"_metadata is not JSON ({error}): not read."]
    return (value, []) if isinstance(value, dict) else ({}, ["_metadata is no object: not read."])


def _nphotons(
    source: Source, metadata: Mapping[str, Any], notes: list[str], dtype: np.dtype[Any]
) -> float | None:
    """Mean photons from their key; for amplitudes also from the metadata of older files."""
    recorded = _scalar(source, "nphotons")
    physics = metadata.get("physics_parameters")
    stated = physics.get("nphotons") if isinstance(physics, dict) else None
    if recorded is None and isinstance(stated, int | float) and dtype.kind == "f":
        notes.append(f"nphotons = {stated:.6g} comes from _metadata.")
        return float(stated)
    return recorded


def _stored_notes(metadata: Mapping[str, Any]) -> tuple[str, ...]:
    notes = metadata.get("notes")
    return tuple(str(note) for note in notes) if isinstance(notes, list) else ()


def _provenance(metadata: Mapping[str, Any]) -> dict[str, Any]:
    found = metadata.get("provenance")
    return found if isinstance(found, dict) else {}


def write(scan: Scan, path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Write a scan as canonical NPZ, uncompressed and byte-identical for identical scans.

    The patterns are written in the domain and dtype that the scan has, which the key ``domain``
    records: √counts in float32 would not give the same counts back.

    Raises:
        ConfigError: the place is not writable.
    """
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for key, array in _arrays(scan).items():
            write_array(archive, key, array)
    return ()


def _arrays(scan: Scan) -> dict[str, Patterns]:
    """Key → array; what the scan does not know is left out, the patterns stay where they are."""
    known: dict[str, Any] = {
        "axes": "P,y,x",
        "domain": scan.domain,
        "intensity_scale": scan.intensity_scale,
        "nphotons": scan.mean_photons if scan.has_dose else None,
        "probe_power": scan.probe_power,
        "probeGuess": _unscaled_probe(scan),
        "xcoords": scan.positions_px[:, 1],
        "ycoords": scan.positions_px[:, 0],
        "xcoords_true": None if scan.true_positions_px is None else scan.true_positions_px[:, 1],
        "ycoords_true": None if scan.true_positions_px is None else scan.true_positions_px[:, 0],
        "mask": scan.mask,
        "background": scan.background,
        "scan_index": scan.scan_index,
        "objectGuess": scan.truth,
        "near_field": True if scan.near_field else None,
        "has_dose": None if scan.has_dose or scan.domain == "amplitude" else False,
        **{name: _unless_nan(getattr(scan, name)) for name in _GEOMETRY},
        "_metadata": dump_json(
            {
                "written_by": f"ptycho-data {ptychodata.__version__}",
                "notes": scan.notes,
                "provenance": scan.provenance,
            }
        ),
    }
    arrays: dict[str, Patterns] = {"diffraction": scan.diffraction}
    if scan.labels is not None:
        arrays["Y"] = scan.labels
    return arrays | {k: np.asarray(value) for k, value in known.items() if value is not None}


def _unless_nan(value: float) -> float | None:
    return None if np.isnan(value) else value


def _unscaled_probe(scan: Scan) -> NDArray[Any] | None:
    """The probe over the intensity scale; complex128 where only that restores it exactly."""
    if scan.probe is None:
        return None
    scale = scan.intensity_scale or 1.0
    exact = scan.probe.astype(np.complex128) / scale
    single = exact.astype(np.complex64)
    restored = (single.astype(np.complex128) * scale).astype(np.complex64)
    stored = single if np.array_equal(restored, scan.probe) else exact
    return stored[0] if len(stored) == 1 else stored


def write_array(archive: zipfile.ZipFile, key: str, array: Patterns) -> None:
    """Write one array in NPY format 1, block by block so that patterns stay on the disk."""
    header = {"descr": np.lib.format.dtype_to_descr(array.dtype), "fortran_order": False}
    large = array.nbytes > 2**30
    with archive.open(stored_member(f"{key}.npy"), "w", force_zip64=large) as stream:
        np.lib.format.write_array_header_1_0(stream, {**header, "shape": array.shape})
        if array.ndim == 3:
            for _, block in blocks(array):
                stream.write(np.ascontiguousarray(block).data)
        else:
            stream.write(np.asarray(array).tobytes())
