"""The NPZ of tike: ``data``, ``scan`` and ``probe``, plain or compressed with bzip2.

Differs from ours in two ways, both undone here: DC lies at ``[0, 0]`` of a pattern, and a position
is the minimum corner of the window, up to an offset.
"""

import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptychoconfig.errors import DataError
from ptychodata.contracts import Scan
from ptychodata.files import atomic_path
from ptychodata.formats.extras import counts_of
from ptychodata.formats.npz import write_array
from ptychodata.formats.recorded import Recorded
from ptychodata.formats.source import Source
from ptychodata.patterns import mapped

__all__ = ["NAME", "SUFFIXES", "SUMMARY", "read", "recognises", "shapes", "write"]

NAME = "tike"
SUFFIXES = ()
SUMMARY = "tike NPZ: data (counts, DC in the corner), scan, probe; also .npz.bz2"


def recognises(source: Source) -> bool:
    """Whether the file is of this format, by its keys."""
    return {"data", "scan"} <= set(source.members)


def shapes(source: Source) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
    """Shapes of the patterns, (P, N, N), and of the probe, (M, N, N), from the headers alone."""
    patterns = _leading_one(source, "data", 3, "(P, N, N) or (1, P, N, N)")
    if patterns[1] != patterns[2]:
        raise _refuse(source, "data", "square patterns", patterns)
    if "probe" not in source.members:
        return patterns, None
    probe = source.members["probe"].shape
    side = patterns[-1]
    if len(probe) < 2 or probe[-2:] != (side, side):
        raise _refuse(source, "probe", f"{side}×{side} pixels, the size of the patterns", probe)
    if len(probe) > 3 and probe[0] != 1:
        raise _refuse(source, "probe", "one probe for all positions, (1, 1, M, N, N)", probe)
    return patterns, (math.prod(probe[:-2]), side, side)


def read(source: Source) -> Recorded:
    """Read the file in its own units.

    Raises:
        DataError: a key is missing, of the wrong shape or kind, or contradicts another.
    """
    pattern_shape, probe_shape = shapes(source)
    scan_shape = _leading_one(source, "scan", 2, "(P, 2) or (1, P, 2)")
    if scan_shape != (pattern_shape[0], 2):
        raise _refuse(
            source,
            "scan",
            f"one (y, x) position for each of {pattern_shape[0]} patterns",
            scan_shape,
        )
    corner = _array(source, "scan", "uif").reshape(scan_shape).astype(np.float64)
    if not np.isfinite(corner).all():
        raise _refuse(source, "scan", "finite positions", "NaN or infinity")
    # a whole number of pixels, so that the fractions stay those of the file
    origin = np.floor(corner.min(axis=0))
    probe = None if probe_shape is None else _array(source, "probe", "cf").reshape(probe_shape)
    if probe is not None and not np.isfinite(probe).all():
        raise _refuse(source, "probe", "finite values", "NaN or infinity")
    unread = sorted(set(source.members) - {"data", "scan", "probe"})
    return Recorded(
        where=str(source.path),
        key="data",
        diffraction=np.fft.fftshift(
            _array(source, "data", "uif").reshape(pattern_shape), axes=(1, 2)
        ),
        positions_px=corner - origin + pattern_shape[-1] // 2,
        probe=probe,
        domain="counts",
        probe_power="relative",
        notes=[
            "tike: patterns taken as photon counts, DC moved from the corner to the centre.",
            f"tike: positions taken as corners (row, column) in pixels, moved by N/2 and by "
            f"({-origin[0]:g}, {-origin[1]:g}) so that the first window begins at pixel 0.",
            "tike: the probe is a guess, its power is set to that of the patterns.",
            *([f"keys not used: {', '.join(unread)}."] if unread else []),
        ],
    )


def _leading_one(source: Source, key: str, rank: int, expected: str) -> tuple[int, ...]:
    """The shape without the leading axis of length 1 that tike puts before it."""
    shape = source.members[key].shape
    plain = shape[1:] if len(shape) == rank + 1 and shape[0] == 1 else shape
    if len(plain) != rank or 0 in plain:
        raise _refuse(source, key, f"shape {expected}", shape)
    return plain


def _array(source: Source, key: str, kinds: str) -> NDArray[Any]:
    if source.members[key].dtype.kind not in kinds:
        expected = "real numbers" if kinds == "uif" else "complex numbers"
        raise _refuse(source, key, expected, source.members[key].dtype)
    return source.array(key)


def _refuse(source: Source, key: str, expected: str, found: object) -> DataError:
    return DataError(
        f"{source.path}: key {key!r}: expected {expected}, found {found}; "
        "write the file again as tike does"
    )


def write(scan: Scan, path: Path) -> tuple[str, ...]:
    """Write ``data``, ``scan`` and ``probe`` as tike keeps them, uncompressed.

    Raises:
        ConfigError: the place is not writable.
    """
    arrays = {
        "data": mapped(counts_of(scan), lambda block, _: np.fft.ifftshift(block, axes=(1, 2))),
        "scan": (scan.positions_px - scan.N // 2)[None],
    }
    if scan.probe is not None:
        arrays["probe"] = scan.probe[None, None, None]
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for key, array in arrays.items():
            write_array(archive, key, array)
    return tuple(
        f"tike: {what} dropped, the format has no place for it." for what in _not_held(scan)
    )


def _not_held(scan: Scan) -> list[str]:
    """What of the scan is not in the file, in words."""
    arrays = {
        "the mask": scan.mask,
        "the background": scan.background,
        "scan_index": scan.scan_index,
        "the known object": scan.truth,
        "the labels": scan.labels,
        "the true positions": scan.true_positions_px,
    }
    names = ("object_pixel_m", "photon_energy_eV", "detector_distance_m", "detector_pixel_m")
    lost = [what for what, value in arrays.items() if value is not None]
    lost += [name for name in names if np.isfinite(getattr(scan, name))]
    lost += ["the absolute power of the probe"] if scan.probe_power == "absolute" else []
    return lost + (["that it is of the near field"] if scan.near_field else [])
