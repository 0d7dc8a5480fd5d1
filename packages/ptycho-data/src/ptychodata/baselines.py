"""What a network must beat: the least that patterns and probe give without it.

The other baseline, the solver in the same time, is a backend's ``reconstruct``.
"""

import numpy as np

from . import physics
from .contracts import Reconstruction, Scan
from .stitching import Canvas, nearest_pattern, plan_canvas

__all__ = ["first_step"]

_TOGETHER_PIXELS = 2**20
_WEIGHT_FLOOR = 1e-4
"""Relative illumination below which a patch hardly speaks for a pixel."""


def first_step(scan: Scan, *, alone: bool = False) -> Reconstruction:
    """The first ePIE step of each pattern, from free space, stitched: the network's zero.

    The least that patterns and probe give, in one look at each.

    Args:
        scan: with a probe.
        alone: take each pixel from its nearest pattern only, as of single shots, and not from all
            that see it, weighted by their illumination.

    Raises:
        DataError: the scan has no probe.
    """
    probe, side = scan.photon_probe, scan.N
    shape, origin = plan_canvas(scan.positions_px, side)
    pixel, fraction = physics.split_positions(scan.positions_px)
    canvas, size = Canvas(shape, origin), max(1, _TOGETHER_PIXELS // (len(probe) * side**2))
    for start in range(0, len(scan), size):
        part = np.arange(start, min(start + size, len(scan)))
        shifted = physics.shift_probe(probe, fraction[part])
        free = np.ones((len(part), side, side), np.complex64)
        step = physics.object_update(
            free, shifted, scan.counts(part), scan.valid(part), scan.background
        )
        lit = physics.coverage(shifted)
        weight = lit / lit.max(axis=(1, 2), keepdims=True) + _WEIGHT_FLOOR
        if alone:
            weight = weight * nearest_pattern(scan.positions_px, part, side)
        canvas.add(free + step, pixel[part] - origin, weight)
    return Reconstruction(
        obj=canvas.object().astype(np.complex64),
        coverage=canvas.relative_coverage(),
        origin_yx_px=origin.astype(np.float64),
        positions_px=scan.positions_px,
        probe=probe,
        pixel_size_m=scan.object_pixel_m,
    )
