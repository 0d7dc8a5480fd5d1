"""Sizes of probes, distances of positions, and the object pixel that the optics imply."""

import numpy as np
from numpy.typing import NDArray

from ptychodata.contracts import Scan
from ptychodata.formats.recorded import object_pixel_m

__all__ = [
    "expected_pixel_m",
    "fwhm_px",
    "nearest_px",
    "outliers",
    "probe_diameter_px",
    "probe_intensity",
]

_ENCLOSED = 0.9
_ROBUST_SIGMA = 1.4826


def probe_intensity(probe: NDArray[np.complex64]) -> NDArray[np.float64]:
    """Σ_m|P_m|² of a probe (M, N, N): (N, N)."""
    return np.asarray(np.sum(np.abs(probe.astype(np.complex128)) ** 2, axis=0))


def probe_diameter_px(probe: NDArray[np.complex64]) -> float:
    """Diameter that holds 90 % of the power of a probe (M, N, N), in pixels; NaN without power."""
    power = probe_intensity(probe)
    total = power.sum()
    if not total > 0:
        return float("nan")
    y, x = np.indices(power.shape)
    centre_y, centre_x = (y * power).sum() / total, (x * power).sum() / total
    radius = np.hypot(y - centre_y, x - centre_x).ravel()
    order = np.argsort(radius, kind="stable")
    enclosed = np.cumsum(power.ravel()[order]) / total
    return float(2 * np.interp(_ENCLOSED, enclosed, radius[order]))


def fwhm_px(probe: NDArray[np.complex64]) -> float:
    """Diameter of a disk as large as where a probe (M, N, N) exceeds half its peak intensity.

    In pixels; NaN without power.  The area, unlike a cut, is defined for any shape.
    """
    power = probe_intensity(probe)
    if not power.max() > 0:
        return float("nan")
    return float(2 * np.sqrt(np.count_nonzero(power >= power.max() / 2) / np.pi))


def nearest_px(positions_px: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distance of each position (P, 2) to its nearest other one, in pixels; NaN for a lone one."""
    from scipy.spatial import cKDTree

    if len(positions_px) < 2:
        return np.full(len(positions_px), np.nan)
    distances, _ = cKDTree(positions_px).query(positions_px, k=2)
    return np.asarray(distances[:, 1], dtype=np.float64)


def outliers(positions: NDArray[np.float64], nearest: NDArray[np.float64]) -> NDArray[np.intp]:
    """Indices of the positions (P, 2) that lie far from the others.

    Args:
        positions: (P, 2).
        nearest: (P,) distance of each to the nearest different one.
    """

    def spread(values: NDArray[np.float64]) -> NDArray[np.float64]:
        deviation = np.abs(values - np.median(values, axis=0))
        return np.asarray(_ROBUST_SIGMA * np.median(deviation, axis=0))

    if len(positions) < 4:
        return np.empty(0, np.intp)
    step = np.median(nearest)
    lonely = nearest > max(step + 10 * float(spread(nearest)), 3 * step)
    width = np.maximum(spread(positions), step)  # a single line has no spread across
    off = np.abs(positions - np.median(positions, axis=0)) > 5 * width
    return np.flatnonzero(lonely | off.any(axis=1))


def expected_pixel_m(scan: Scan) -> float:
    """Object pixel λz/(N·Δ) that energy, distance and detector pixel imply; NaN if one lacks."""
    return object_pixel_m(
        scan.N, scan.photon_energy_eV, scan.detector_distance_m, scan.detector_pixel_m
    )
