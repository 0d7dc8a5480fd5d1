"""fold_slice: ``dp``, ``ppX`` and ``ppY`` in HDF5 or in a MATLAB file of version 5 or 7.3.

MATLAB numbers the axes of an array from the fastest, so that its ``dp`` (y, x, pattern) lies in
HDF5 as (pattern, x, y).  Positions are in metres, those of the beam; ``lambda`` is the wavelength
and ``dx`` the object pixel, both in metres.
"""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptychoconfig.errors import DataError
from ptychodata.formats.hdf5 import Hdf5
from ptychodata.formats.matlab5 import variables
from ptychodata.formats.recorded import Recorded
from ptychodata.formats.source import Source
from ptychodata.formats.units import HC_EV_M
from ptychodata.patterns import Patterns, mapped

__all__ = ["NAME", "SUMMARY", "read", "recognises", "shapes"]

NAME = "foldslice"
SUMMARY = "fold_slice: dp, ppX, ppY in HDF5 or MATLAB files (v5, v7.3)"

_KEYS = ("dp", "ppX", "ppY")
_OPTIONAL = ("lambda", "dx", "probe")
Arrays = dict[str, NDArray[Any]]


def recognises(source: Source) -> bool:
    """Whether the file holds patterns and positions under fold_slice's names."""
    if source.hdf5 is not None:
        return all(key in source.hdf5 for key in _KEYS)
    return source.data[:10].tobytes() == b"MATLAB 5.0" and set(_KEYS) <= set(_sizes(source))


def shapes(source: Source) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
    """Shapes of the patterns, (P, N, N), and of the probe, (M, N, N), from the headers alone."""
    if source.hdf5 is not None:
        tree = source.hdf5
        shape = tree.shape("dp")
        if len(shape) != 3:
            raise _refuse(source, "dp", "three axes", shape)
        probe = tree.shape("probe")[::-1] if "probe" in tree else None
        return (shape[0], *shape[:0:-1]), _modes_shape(probe)
    sizes = _sizes(source)
    dp = sizes["dp"]
    if len(dp) != 3:
        raise _refuse(source, "dp", "three axes", dp)
    return (dp[-1], *dp[:-1]), _modes_shape(sizes.get("probe"))


def _modes_shape(shape: tuple[int, ...] | None) -> tuple[int, ...] | None:
    """(M, y, x) of a probe (y, x), (y, x, M) or (y, x, M, OPR)."""
    if shape is None or len(shape) < 2:
        return None
    return (shape[2] if len(shape) > 2 else 1, *shape[:2])


def read(source: Source) -> Recorded:
    """Read the file.

    Raises:
        DataError: a key is missing or wrong, or the file is broken.
    """
    patterns, arrays = _from_hdf5(source.hdf5) if source.hdf5 else _from_v5(source)
    if patterns.ndim != 3:
        raise _refuse(source, "dp", "three axes", patterns.shape)
    y, x = (arrays[key].reshape(-1) for key in ("ppY", "ppX"))
    for key, values in (("ppY", y), ("ppX", x)):
        if values.dtype.kind not in "uif" or len(values) != len(patterns):
            raise _refuse(source, key, f"{len(patterns)} positions", (values.dtype, values.shape))
        if not np.isfinite(values).all():
            raise _refuse(source, key, "finite positions", "NaN or infinity")
    notes = [
        "foldslice: ppX and ppY taken as metres of the beam; --negate-x, --negate-y turn them."
    ]
    wavelength, pixel = (_scalar(source, arrays, key) for key in ("lambda", "dx"))
    found = {
        "photon_energy_eV": None if wavelength is None else HC_EV_M / wavelength,
        "object_pixel_m": pixel,
    }
    return Recorded(
        where=str(source.path),
        key="dp",
        diffraction=patterns,
        positions_m=np.stack([y, x], axis=1).astype(np.float64),
        probe=_probe(source, arrays, notes),
        domain="counts",
        probe_power="relative",
        geometry={name: value for name, value in found.items() if value is not None},
        notes=notes,
    )


def _from_hdf5(tree: Hdf5) -> tuple[Patterns, Arrays]:
    stored = tree.patterns("dp")
    shape = (stored.shape[2], stored.shape[1])
    patterns = mapped(stored, lambda block, _: block.swapaxes(1, 2), side=shape)
    keys = [key for key in (*_KEYS[1:], *_OPTIONAL) if key in tree]
    return patterns, {key: tree.array(key, "uifc").T for key in keys}


def _sizes(source: Source) -> dict[str, tuple[int, ...]]:
    """Shapes of the numeric variables of a MATLAB file of version 5."""
    with _reading(source):
        return {name: found.shape for name, found in variables(source.data).items()}


def _from_v5(source: Source) -> tuple[Patterns, Arrays]:
    with _reading(source):
        found = variables(source.data)
        wanted = [key for key in (*_KEYS, *_OPTIONAL) if key in found]
        for key in wanted:
            if found[key].dtype.kind == "O":
                raise _refuse(source, key, "numbers", "text or cells")
        arrays: Arrays = {key: found[key].load() for key in wanted}
    return np.moveaxis(arrays.pop("dp"), -1, 0), arrays


def _probe(source: Source, arrays: Arrays, notes: list[str]) -> NDArray[Any] | None:
    """Modes (M, y, x) of a probe (y, x), (y, x, M) or (y, x, M, OPR), its first OPR mode."""
    if "probe" not in arrays:
        return None
    probe = arrays["probe"]
    if probe.ndim == 4:
        notes.append("foldslice: only the first OPR mode of the probe was kept.")
        probe = probe[..., 0]
    if probe.dtype.kind != "c" or not 2 <= probe.ndim <= 3 or not np.isfinite(probe).all():
        raise _refuse(source, "probe", "finite complex (y, x, M)", (probe.dtype, probe.shape))
    return np.moveaxis(probe.reshape(*probe.shape[:2], -1), -1, 0)


def _scalar(source: Source, arrays: Arrays, key: str) -> float | None:
    if key not in arrays:
        return None
    value = arrays[key]
    if value.size != 1 or value.dtype.kind not in "uif" or not 0 < float(value.flat[0]) < np.inf:
        raise _refuse(source, key, "one number above 0", value.reshape(-1)[:3])
    return float(value.flat[0])


def _refuse(source: Source, key: str, expected: str, found: object) -> DataError:
    return DataError(
        f"{source.path}: key {key!r}: expected {expected}, found {found}; "
        "check how the file was written"
    )


@contextmanager
def _reading(source: Source) -> Iterator[None]:
    """Turn what a broken MATLAB file raises into one message."""
    try:
        yield
    except (ValueError, MemoryError, zlib.error) as error:
        raise _broken(source, error) from error


def _broken(source: Source, why: object) -> DataError:
    return DataError(
        f"{source.path}: expected a whole MATLAB file, found it broken ({why}); copy it again"
    )
