"""The figures of a scan, from the survey of its patterns, its positions and its probe."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptychodata.contracts import Scan
from ptychodata.grouping import group_indices
from ptychodata.survey import Survey

from .geometry import (
    expected_pixel_m,
    fwhm_px,
    nearest_px,
    outliers,
    probe_diameter_px,
    probe_intensity,
)
from .overlap import overlap_metrics

__all__ = ["figures_of"]

_NAN = float("nan")
_ENOUGH_PATTERNS = 20  # fewer do not tell a dead pixel from the dark of a speckle
_GROUPS_OF = 2  # gridsize of the groups that overlap is measured in
_GROUP_NEIGHBORS = 4
_FALLBACK_DIAMETER = 0.6  # of N


def figures_of(scan: Scan) -> dict[str, Any]:
    """Everything measured that needs no model; definitions in ``ptychodata.inspection``."""
    figures = {
        **_pattern_figures(scan),
        **_position_figures(scan),
        **_probe_figures(scan),
    }
    figures["median_overlap"] = 1 - figures["median_step_px"] / figures["probe_diameter_px"]
    figures["overlap"] = _overlap(scan)
    return figures


def _pattern_figures(scan: Scan) -> dict[str, Any]:
    survey, photons = scan.survey, scan.photons
    dead, hot = _odd_pixels(survey)
    return {
        "n_patterns": len(scan),
        "N": scan.N,
        "axes": "pattern, y, x",
        "dtype": str(scan.diffraction.dtype),
        "domain": scan.domain,
        "intensity_scale": _NAN if scan.intensity_scale is None else scan.intensity_scale,
        "photons_min": float(photons.min()),
        "photons_median": float(np.median(photons)),
        "photons_max": float(photons.max()),
        "photons_mean": float(photons.mean()),
        "empty_patterns": int(np.count_nonzero(photons == 0)),
        "largest_value": survey.largest,
        "saturated_values": survey.at_largest if _is_saturated(scan, survey) else 0,
        "nan_values": survey.not_finite,
        "negative_values": survey.negative,
        "whole_numbers": survey.whole,
        "masked_fraction": 0.0 if scan.mask is None else 1 - float(scan.mask.mean()),
        "dead_pixels": len(dead),
        "dead_pixels_yx": dead[:20].tolist(),
        "hot_pixels": len(hot),
        "hot_pixels_yx": hot[:20].tolist(),
        "dc_offset_px": _dc_offset(survey.profiles),
    }


def _is_saturated(scan: Scan, survey: Survey) -> bool:
    dtype = scan.diffraction.dtype
    if dtype.kind in "ui" and survey.largest == np.iinfo(dtype).max:
        return True
    return survey.largest > 255 and survey.at_largest >= max(5, 0.01 * len(scan))


def _odd_pixels(survey: Survey) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Dead and hot pixels, (K, 2) [y, x] each; masked ones are neither."""
    from scipy.ndimage import median_filter

    looked, count = survey.looked > 0, np.count_nonzero(survey.drawn)
    rate = np.where(looked, survey.seen / np.maximum(survey.looked, 1), 0)
    likely = median_filter(rate, 5, mode="nearest") > 1 - 10 ** (-6 / count)
    dead = looked & (survey.seen == 0) & likely & (count >= _ENOUGH_PATTERNS)
    mean = survey.mean_pattern
    around = median_filter(mean, 5, mode="nearest")
    side = len(mean)
    offset = np.arange(side) - side // 2
    outside = np.hypot(offset[:, None], offset) > side / 8
    hot = looked & outside & (mean > 10 * around) & (mean > mean[looked].mean())
    return np.argwhere(dead), np.argwhere(hot)


def _dc_offset(profiles: NDArray[np.float64]) -> list[float]:
    """Offset (y, x) of the circular mean from [N//2, N//2], in [−N/2, N/2) pixels.

    Args:
        profiles: (2, N) power by row and by column.
    """
    side = profiles.shape[1]
    turn = np.exp(2j * np.pi * (np.arange(side) - side // 2) / side)
    return [float(side / (2 * np.pi) * np.angle(power @ turn)) for power in profiles]


def _position_figures(scan: Scan) -> dict[str, Any]:
    positions = scan.positions_px
    distinct, which = np.unique(positions, axis=0, return_inverse=True)
    nearest = nearest_px(distinct)[which.reshape(-1)]
    lone = outliers(positions, nearest)
    kept = np.delete(positions, lone, axis=0)
    return {
        "scan_extent_px": np.ptp(kept, axis=0).tolist(),
        "median_step_px": float(np.median(nearest)),
        "repeated_positions": len(positions) - len(distinct),
        "outlier_positions": len(lone),
        "outlier_indices": lone[:20].tolist(),
        "object_pixel_m": scan.object_pixel_m,
        "expected_pixel_m": expected_pixel_m(scan),
        "known_object": scan.truth is not None,
    }


def _probe_figures(scan: Scan) -> dict[str, Any]:
    found: dict[str, Any] = {
        "probe_modes": 0 if scan.probe is None else len(scan.probe),
        "probe_power": scan.probe_power,
        "probe_diameter_px": _NAN,
        "probe_fwhm_px": _NAN,
        "power_ratio": _NAN,
        "probe_border_power": _NAN,
    }
    if scan.probe is None:
        return found
    power = probe_intensity(scan.probe)
    frame = max(1, scan.N // 32)
    inside = power[frame:-frame, frame:-frame].sum()
    total = float(power.sum())
    return found | {
        "probe_diameter_px": probe_diameter_px(scan.probe),
        "probe_fwhm_px": fwhm_px(scan.probe),
        "power_ratio": total / scan.mean_photons if scan.mean_photons > 0 else _NAN,
        "probe_border_power": float(1 - inside / total) if total > 0 else _NAN,
    }


def _overlap(scan: Scan) -> dict[str, Any] | None:
    """The overlap metrics over one group of four per pattern; None where positions coincide."""
    if len(np.unique(scan.positions_px, axis=0)) < 2:
        return None
    diameter = _NAN if scan.probe is None else fwhm_px(scan.probe)
    known = diameter > 0
    neighbors, groups = min(_GROUP_NEIGHBORS, len(scan) - 1), None
    if len(scan) >= _GROUPS_OF**2:
        rng = np.random.default_rng(0)
        groups = group_indices(scan.positions_px, _GROUPS_OF, neighbors, rng)
    found = overlap_metrics(
        scan.positions_px, diameter if known else _FALLBACK_DIAMETER * scan.N, groups
    )
    return {
        **found,
        "diameter_source": "FWHM of the probe" if known else f"{_FALLBACK_DIAMETER} N",
        "group_neighbors": neighbors,
        "seed": 0,
    }
