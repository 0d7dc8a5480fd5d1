"""From overlapping patches to one object.

Stitching is additive: a canvas holds a weighted sum of patches and the sum of the weights, so that
chunks, workers and ranks can each add theirs and the result does not depend on the chunking.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from ptychoconfig.errors import DataError

from .physics import split_positions

__all__ = ["Canvas", "nearest_pattern", "plan_canvas", "stitch"]

MAX_PIXELS = 2**27
"""Largest canvas that is allocated, pixels (24 bytes each)."""


class Canvas:
    """A weighted sum of patches, and the sum of the weights.

    Args:
        shape: (H, W).
        origin_yx_px: (2,) int64 position, in the scan's coordinates, of pixel [0, 0].
        spread: collect also how far the patches differ, for ``disagreement``.

    Attributes:
        numerator: (H, W) complex128 Σ w · patch.
        weight: (H, W) float64 Σ w.
        squares: (H, W) float64 Σ w · |patch|²; None unless ``spread``.
    """

    def __init__(
        self, shape: tuple[int, int], origin_yx_px: NDArray[np.int64], *, spread: bool = False
    ) -> None:
        self.origin_yx_px = origin_yx_px
        self.squares = np.zeros(shape, dtype=np.float64) if spread else None
        self.numerator = np.zeros(shape, dtype=np.complex128)
        self.weight = np.zeros(shape, dtype=np.float64)

    def add(self, patches: NDArray[Any], pixel: NDArray[np.int64], weights: NDArray[Any]) -> None:
        """Add patches.

        Args:
            patches: (B, N, N) complex.
            pixel: (B, 2) window centres in the canvas, that is n − origin.
            weights: (B, N, N) ≥ 0, how much a patch speaks for each of its pixels.

        Raises:
            IndexError: a window leaves the canvas.
        """
        side = patches.shape[-1]
        corner = pixel - side // 2
        if (corner < 0).any() or (corner + side > np.array(self.weight.shape)).any():
            raise IndexError(f"expected windows inside the canvas {self.weight.shape}")
        weights = weights.astype(np.float64)
        for patch, weight, (y, x) in zip(patches, weights, corner.tolist(), strict=True):
            window = slice(y, y + side), slice(x, x + side)
            self.numerator[window] += patch * weight
            self.weight[window] += weight
            if self.squares is not None:
                wide = patch.astype(np.complex128)
                self.squares[window] += weight * (wide.real**2 + wide.imag**2)

    def merge(self, other: "Canvas") -> None:
        """Add what another worker has collected on a canvas of the same plan."""
        self.numerator += other.numerator
        self.weight += other.weight
        if self.squares is not None and other.squares is not None:
            self.squares += other.squares

    def object(self) -> NDArray[np.complex128]:
        """(H, W) weighted mean of the patches; 1, free space, where no patch has weight."""
        known = self.weight > 0
        mean = np.ones_like(self.numerator)
        return np.divide(self.numerator, self.weight, out=mean, where=known)

    def disagreement(self) -> NDArray[np.float32] | None:
        """(H, W) distance of the patches from their mean, weighted root mean square.

        0 where one patch speaks alone, and where none does; None without ``spread``.
        """
        if self.squares is None:
            return None
        known = self.weight > 0
        mean = np.zeros_like(self.squares)
        np.divide(self.squares, self.weight, out=mean, where=known)
        variance = np.where(known, mean - np.abs(self.object()) ** 2, 0)
        return np.sqrt(np.maximum(variance, 0)).astype(np.float32)

    def relative_coverage(self) -> NDArray[np.float32]:
        """(H, W) sum of the weights over its maximum, in [0, 1]."""
        peak = max(float(self.weight.max()), np.finfo(np.float64).tiny)
        return (self.weight / peak).astype(np.float32)


def plan_canvas(
    positions_px: NDArray[np.float64], side: int, max_pixels: int = MAX_PIXELS
) -> tuple[tuple[int, int], NDArray[np.int64]]:
    """The smallest canvas that holds every window, planned before it is allocated.

    Args:
        positions_px: (P, 2) probe centres (y, x).
        side: N.
        max_pixels: a larger canvas is refused.

    Returns:
        shape (H, W), and origin (2,) int64, the position of the canvas's pixel [0, 0].

    Raises:
        DataError: the canvas would be absurdly large; the position farthest out is named.
    """
    low, high = positions_px.min(axis=0), positions_px.max(axis=0)
    extent = np.floor(high + 0.5) - np.floor(low + 0.5) + side  # float: no overflow
    if not extent.prod() <= max_pixels:
        far = int(np.abs(positions_px - np.median(positions_px, axis=0)).max(axis=1).argmax())
        where = ", ".join(f"{x:.6g}" for x in positions_px[far])
        raise DataError(
            f"positions: expected an object of at most {max_pixels:.3g} pixels, found "
            f"{extent[0]:.6g} × {extent[1]:.6g}; position {far} at (y, x) = ({where}) px lies "
            "farthest out: check it, and that positions are in object pixels"
        )
    pixel, _ = split_positions(np.stack([low, high]))
    height, width = (pixel[1] - pixel[0] + side).tolist()
    return (height, width), pixel[0] - side // 2


def stitch(
    patches: NDArray[Any], positions_px: NDArray[np.float64], weights: NDArray[Any]
) -> Canvas:
    """Stitch patches (B, N, N) at positions (B, 2) with weights (B, N, N) in one go.

    Raises:
        DataError: the canvas would be absurdly large.
    """
    shape, origin = plan_canvas(positions_px, patches.shape[-1])
    canvas = Canvas(shape, origin)
    canvas.add(patches, split_positions(positions_px)[0] - origin, weights)
    return canvas


def nearest_pattern(
    positions_px: NDArray[np.float64], index: NDArray[np.int64], side: int
) -> NDArray[np.bool_]:
    """Which pixels of their windows some patterns are the nearest to, of all patterns.

    Every pixel belongs to one pattern of the scan at most, whatever the chunks: where two are
    equally near, the same one gets it each time.

    Args:
        positions_px: (P, 2) all probe centres (y, x).
        index: (B,) the patterns asked for.
        side: N.

    Returns:
        (B, N, N) bool.
    """
    tree = cKDTree(positions_px)
    near = tree.query(positions_px[index], k=min(9, len(positions_px)))[1].reshape(len(index), -1)
    pixel, _ = split_positions(positions_px[index])
    mine = np.zeros((len(index), side, side), dtype=np.bool_)
    offset = np.arange(side) - side // 2
    for row, (n, own) in enumerate(zip(pixel, index, strict=True)):
        y, x = n[0] + offset[:, None], n[1] + offset[None, :]
        # A few half-planes leave little of the window, which alone is looked up exactly.
        squared = [(y - ry) ** 2 + (x - rx) ** 2 for ry, rx in positions_px[[own, *near[row]]]]
        maybe = squared[0] <= np.min(squared[1:], axis=0) + 1e-6
        rows, columns = np.nonzero(maybe)
        points = np.stack([n[0] + offset[rows], n[1] + offset[columns]], axis=1)
        mine[row, rows, columns] = tree.query(points)[1] == own
    return mine
