"""The NPZ of tike: ``data``, ``scan`` and ``probe``, plain or compressed with bzip2.

Differs from ours in two ways, both undone here: DC lies at ``[0, 0]`` of a pattern, and a position
is the minimum corner of the window, up to an offset.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptychoconfig.errors import DataError
from ptychodata.formats.recorded import Recorded
from ptychodata.formats.source import Source

__all__ = ["NAME", "SUMMARY", "read", "recognises", "shapes"]

NAME = "tike"
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
