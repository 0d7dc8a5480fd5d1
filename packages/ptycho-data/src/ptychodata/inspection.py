r"""What a scientist would check first in a scan, as figures and findings.

Definitions, with I the photon counts (or intensities in the file's unit where no dose is known),
P_m the probe modes and r the positions:

- *probe diameter*: of the circle around the centre of mass of Σ_m|P_m|² that holds 90 % of its
  sum; robust for a ring and for long tails.  A uniform disk of diameter D gives 0.95 D, a Gaussian
  beam 1.8 of its full width at half maximum.
- *median overlap*: 1 − median distance to the nearest different position / probe diameter.
- *border power*: share of Σ_m|P_m|² in a frame of N/32 pixels, where a shifted probe wraps.
- *power ratio*: Σ|P|² as the file gives it / mean of Σ I per pattern.
- *DC offset*: from ``[N//2, N//2]`` to the circular mean of the mean pattern, whose coordinate
  along y is N/2π · arg Σ Ī e^{2πi y/N}; it finds a pattern with DC in the corner too.
- *dead pixel*: zero in every pattern, where the median of the 5×5 neighbourhood is above zero so
  often that this happens by chance once in a million; told from 20 patterns on.
- *hot pixel*: sum over the scan above ten times the median of its 5×5 neighbourhood, outside the
  central N/4 where the direct beam is.
- *saturated value*: the largest of the file, if it is the limit of its integer dtype or, above
  255, is reached in more than one pattern in a hundred (and five times).
- *outlier position*: one further from its nearest neighbour than ten robust standard deviations
  above the median (and three medians), or five robust standard deviations off the scan's median
  along an axis.  Robust standard deviation = 1.4826 · median absolute deviation.

A finding is an *error* where training would be meaningless, a *warning* where the result will
suffer, an *info* otherwise.  The patterns are read in chunks.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ptychodata.contracts import Scan
from ptychodata.files import dump_json
from ptychodata.formats.recorded import object_pixel_m

__all__ = ["Finding", "Inspection", "Severity", "inspect_scan", "nearest_px", "probe_diameter_px"]

Severity = Literal["info", "warning", "error"]

_CHUNK_BYTES = 2**20  # stays in the cache
_ENCLOSED = 0.9
_ENOUGH_PATTERNS = 20  # fewer do not tell a dead pixel from the dark of a speckle
_ROBUST_SIGMA = 1.4826


@dataclass(frozen=True)
class Finding:
    """Something to know before training.

    Args:
        name: short identifier, such as ``dead-pixels``.
        severity: ``error`` where training would be meaningless.
        message: what was found, with its figures.
        hint: what to do.
    """

    name: str
    severity: Severity
    message: str
    hint: str


@dataclass(frozen=True)
class Inspection:
    """Figures and findings of a scan.

    Args:
        name: the scan's name.
        figures: name → number, text or list; NaN where unknown.
        findings: errors first.
    """

    name: str
    figures: Mapping[str, object]
    findings: tuple[Finding, ...]

    def as_dict(self) -> dict[str, Any]:
        """Name, figures and findings side by side, as strict JSON values; NaN becomes None."""
        plain: dict[str, Any] = json.loads(dump_json({**self.figures, "name": self.name}))
        ordered = {name: plain[name] for name in ("name", *self.figures)}
        return {**ordered, "findings": [asdict(finding) for finding in self.findings]}


def inspect_scan(scan: Scan) -> Inspection:
    """Measure a scan and say what is wrong with it; definitions at the top of this module."""
    survey = _survey(scan)
    figures = {
        **_pattern_figures(scan, survey),
        **_position_figures(scan),
        **_probe_figures(scan, float(np.mean(survey.photons))),
    }
    diameter = figures["probe_diameter_px"]
    figures["median_overlap"] = 1 - figures["median_step_px"] / diameter
    order = {"error": 0, "warning": 1, "info": 2}
    found = [*_value_findings(scan, figures), *_probe_findings(scan, figures)]
    found += [*_position_findings(figures), *_unit_findings(scan, figures)]
    return Inspection(scan.name, figures, tuple(sorted(found, key=lambda f: order[f.severity])))


def probe_diameter_px(probe: NDArray[np.complex64]) -> float:
    """Diameter that holds 90 % of the power of a probe (M, N, N), in pixels; NaN without power."""
    power = np.sum(np.abs(probe.astype(np.complex128)) ** 2, axis=0)
    total = power.sum()
    if not total > 0:
        return float("nan")
    y, x = np.indices(power.shape)
    centre_y, centre_x = (y * power).sum() / total, (x * power).sum() / total
    radius = np.hypot(y - centre_y, x - centre_x).ravel()
    order = np.argsort(radius, kind="stable")
    enclosed = np.cumsum(power.ravel()[order]) / total
    return float(2 * np.interp(_ENCLOSED, enclosed, radius[order]))


def nearest_px(positions_px: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distance of each position (P, 2) to its nearest other one, in pixels; NaN for a lone one."""
    from scipy.spatial import cKDTree

    if len(positions_px) < 2:
        return np.full(len(positions_px), np.nan)
    distances, _ = cKDTree(positions_px).query(positions_px, k=2)
    return np.asarray(distances[:, 1], dtype=np.float64)


@dataclass
class _Survey:
    """Sums over the patterns' valid pixels, in one pass."""

    total: NDArray[np.float64]  # (N, N) Σ I
    seen: NDArray[np.int64]  # (N, N) patterns in which I > 0
    looked: NDArray[np.int64]  # (N, N) patterns in which the pixel is valid
    photons: list[float] = field(default_factory=list)
    largest: float = 0.0  # in the file's unit
    at_largest: int = 0
    not_finite: int = 0
    negative: int = 0
    whole: bool = True  # all values are whole numbers
    whole_squares: bool = True  # so are the squares of small values


def _survey(scan: Scan) -> _Survey:
    side = scan.N
    survey = _Survey(
        np.zeros((side, side)), np.zeros((side, side), np.int64), np.zeros((side, side), np.int64)
    )
    scale = (scan.intensity_scale or 1.0) ** 2
    step = max(1, _CHUNK_BYTES // (8 * side**2))
    for start in range(0, len(scan), step):
        part = slice(start, start + step)
        values = np.asarray(scan.diffraction[part], dtype=np.float64)
        valid = scan.valid(part)
        values = values if valid is None else np.where(valid, values, 0)
        values = _examined(survey, values)
        counts = scale * (values if scan.domain == "counts" else values**2)
        survey.total += counts.sum(axis=0)
        survey.seen += np.count_nonzero(values > 0, axis=0)
        survey.looked += len(values) if valid is None or valid.ndim == 2 else valid.sum(axis=0)
        survey.photons += counts.sum(axis=(1, 2)).tolist()
    if scan.mask is not None and scan.mask.ndim == 2:
        survey.looked *= scan.mask
    return survey


def _examined(survey: _Survey, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Count what is impossible, saturated, or whole; give the values with 0 for NaN."""
    finite = np.isfinite(values)
    if not finite.all():
        survey.not_finite += int(np.count_nonzero(~finite))
        values = np.where(finite, values, 0)
    survey.negative += int(np.count_nonzero(values < 0))
    largest = float(values.max())
    if largest > survey.largest:
        survey.largest, survey.at_largest = largest, 0
    if largest == survey.largest:
        survey.at_largest += int(np.count_nonzero(values == largest))
    if (survey.whole or survey.whole_squares) and (values != np.rint(values)).any():
        survey.whole = False
        small = values[values < 30] ** 2  # float32 tells whole squares up to about 10³
        survey.whole_squares &= bool((abs(small - np.rint(small)) < 1e-3).all())
    return values


def _pattern_figures(scan: Scan, survey: _Survey) -> dict[str, Any]:
    side, photons = scan.N, np.array(survey.photons)
    dead, hot = _odd_pixels(survey, len(scan))
    return {
        "n_patterns": len(scan),
        "N": side,
        "axes": "pattern, y, x",
        "dtype": str(scan.diffraction.dtype),
        "domain": scan.domain,
        "intensity_scale": _number(scan.intensity_scale),
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
        "whole_squares": survey.whole_squares,
        "masked_fraction": 1 - float(survey.looked.sum()) / (len(scan) * side**2),
        "dead_pixels": len(dead),
        "dead_pixels_yx": dead[:20].tolist(),
        "hot_pixels": len(hot),
        "hot_pixels_yx": hot[:20].tolist(),
        "dc_offset_px": _dc_offset(survey.total),
    }


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def _is_saturated(scan: Scan, survey: _Survey) -> bool:
    dtype = scan.diffraction.dtype
    if dtype.kind in "ui" and survey.largest == np.iinfo(dtype).max:
        return True
    return survey.largest > 255 and survey.at_largest >= max(5, 0.01 * len(scan))


def _odd_pixels(survey: _Survey, count: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Dead and hot pixels, (K, 2) [y, x] each; masked ones are neither."""
    from scipy.ndimage import median_filter

    looked = survey.looked > 0
    rate = np.where(looked, survey.seen / np.maximum(survey.looked, 1), 0)
    likely = median_filter(rate, 5, mode="nearest") > 1 - 10 ** (-6 / count)
    dead = looked & (survey.seen == 0) & likely & (count >= _ENOUGH_PATTERNS)
    mean = np.where(looked, survey.total / np.maximum(survey.looked, 1), 0)
    around = median_filter(mean, 5, mode="nearest")
    side = len(mean)
    offset = np.arange(side) - side // 2
    outside = np.hypot(offset[:, None], offset) > side / 8
    hot = looked & outside & (mean > 10 * around) & (mean > mean[looked].mean())
    return np.argwhere(dead), np.argwhere(hot)


def _dc_offset(total: NDArray[np.float64]) -> list[float]:
    """Offset (y, x) of the circular mean from [N//2, N//2], in [−N/2, N/2) pixels."""
    side = len(total)
    turn = np.exp(2j * np.pi * (np.arange(side) - side // 2) / side)
    return [
        float(side / (2 * np.pi) * np.angle((total.sum(axis=1 - axis) * turn).sum()))
        for axis in (0, 1)
    ]


def _position_figures(scan: Scan) -> dict[str, Any]:
    positions = scan.positions_px
    distinct, which = np.unique(positions, axis=0, return_inverse=True)
    nearest = nearest_px(distinct)[which.reshape(-1)]
    outliers = _outliers(positions, nearest)
    kept = np.delete(positions, outliers, axis=0)
    return {
        "scan_extent_px": np.ptp(kept, axis=0).tolist(),
        "median_step_px": float(np.median(nearest)),
        "repeated_positions": len(positions) - len(distinct),
        "outlier_positions": len(outliers),
        "outlier_indices": outliers[:20].tolist(),
        "object_pixel_m": scan.object_pixel_m,
        "known_object": scan.truth is not None,
    }


def _outliers(positions: NDArray[np.float64], nearest: NDArray[np.float64]) -> NDArray[np.intp]:
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


def _probe_figures(scan: Scan, mean_photons: float) -> dict[str, Any]:
    nan = float("nan")
    if scan.probe is None:
        return {
            "probe_modes": 0,
            "probe_power": scan.probe_power,
            "probe_diameter_px": nan,
            "power_ratio": nan,
            "probe_border_power": nan,
        }
    power = np.sum(np.abs(scan.probe.astype(np.complex128)) ** 2, axis=0)
    frame = max(1, scan.N // 32)
    inside = power[frame:-frame, frame:-frame].sum()
    total = float(power.sum())
    return {
        "probe_modes": len(scan.probe),
        "probe_power": scan.probe_power,
        "probe_diameter_px": probe_diameter_px(scan.probe),
        "power_ratio": total / mean_photons if mean_photons > 0 else nan,
        "probe_border_power": float(1 - inside / total) if total > 0 else nan,
    }


def _value_findings(scan: Scan, figures: Mapping[str, Any]) -> Iterator[Finding]:
    if figures["nan_values"]:
        yield Finding(
            "nan",
            "error",
            f"{figures['nan_values']} valid values are NaN or infinite",
            "mark them False in the mask, or repair the file",
        )
    if figures["negative_values"]:
        yield Finding(
            "negative",
            "error",
            f"{figures['negative_values']} valid values are negative",
            "counts cannot be: undo the dark subtraction, or mask the pixels",
        )
    if not figures["photons_max"] > 0:
        yield Finding("dark", "error", "no pattern holds a photon", "check the file")
    elif figures["empty_patterns"]:
        yield Finding(
            "empty-patterns",
            "warning",
            f"{figures['empty_patterns']} of {len(scan)} patterns hold no photon",
            "drop them with their positions: the shutter was closed, or frames were lost",
        )
    for kind, hint in (
        ("dead", "mark them False in the mask: they count as dark otherwise"),
        ("hot", "mark them False in the mask: they draw the fit"),
    ):
        if figures[f"{kind}_pixels"]:
            where = ", ".join(str(tuple(at)) for at in figures[f"{kind}_pixels_yx"][:5])
            message = f"{figures[f'{kind}_pixels']} {kind} pixels, first at (y, x) = {where}"
            yield Finding(f"{kind}-pixels", "warning", message, hint)
    if figures["saturated_values"]:
        yield Finding(
            "saturated",
            "warning",
            f"{figures['saturated_values']} values stand at the largest, "
            f"{figures['largest_value']:g}: the detector was saturated",
            "mark them False in a mask of shape (P, N, N), or lower the dose",
        )
    yield from _centre_findings(scan, figures)


def _centre_findings(scan: Scan, figures: Mapping[str, Any]) -> Iterator[Finding]:
    y, x = figures["dc_offset_px"]
    offset = float(np.hypot(y, x))
    where = f"the patterns' power is centred ({y:+.1f}, {x:+.1f}) px from [N//2, N//2]"
    if offset > scan.N / 4:
        hint = "DC seems to lie in the corner: apply fftshift to the patterns"
        yield Finding("dc-not-centred", "error", where, hint)
    elif offset > max(2.0, scan.N / 32):
        hint = "crop the patterns around the direct beam, or check the detector's centre"
        yield Finding("dc-not-centred", "warning", where, hint)


def _probe_findings(scan: Scan, figures: Mapping[str, Any]) -> Iterator[Finding]:
    ratio, border = figures["power_ratio"], figures["probe_border_power"]
    if not figures["probe_diameter_px"] > 0:
        yield Finding(
            "no-probe",
            "error",
            "the scan has no probe" if scan.probe is None else "the probe has no power",
            "give one under the key probeGuess, with --probe-trainable if it is only a guess",
        )
        return
    if border > 0.01:
        yield Finding(
            "probe-at-border",
            "warning",
            f"{border:.1%} of the probe's power lies on the border of its {scan.N} pixels, where "
            "sub-pixel shifts wrap around",
            "use larger patterns, or a probe cut to its support",
        )
    if scan.probe_power == "absolute" and ratio < 0.95:
        yield Finding(
            "power-mismatch",
            "error" if ratio < 0.1 else "warning",
            f"the probe holds {ratio:.3g} of the photons that the patterns hold on average: no "
            "object can amplify",
            "give --probe-power relative, or correct intensity_scale",
        )
    elif scan.probe_power == "relative" and abs(ratio - 1) > 0.01:
        yield Finding(
            "power-mismatch",
            "info",
            f"the probe holds {ratio:.3g} of the patterns' power; it is scaled to match",
            "nothing to do; the object's modulus is relative",
        )


def _position_findings(figures: Mapping[str, Any]) -> Iterator[Finding]:
    overlap = figures["median_overlap"]
    if overlap < 0.5:
        yield Finding(
            "low-overlap",
            "warning",
            f"neighbouring probes overlap by {overlap:.0%} (step {figures['median_step_px']:.1f} "
            f"px, probe {figures['probe_diameter_px']:.1f} px)",
            "60 % or more makes the object well determined; check the unit of the positions",
        )
    extent = max(figures["scan_extent_px"])
    if figures["n_patterns"] > 1 and extent < 1:
        yield Finding(
            "one-position",
            "error",
            f"all positions lie within {extent:.2g} px",
            "check that the positions are in object pixels and not in metres",
        )
    elif figures["repeated_positions"]:
        yield Finding(
            "repeated-positions",
            "info",
            f"{figures['repeated_positions']} patterns repeat the position of another",
            "fine for repeated exposures; otherwise check the encoder",
        )
    if figures["outlier_positions"]:
        first = ", ".join(map(str, figures["outlier_indices"][:5]))
        yield Finding(
            "outlier-positions",
            "warning",
            f"{figures['outlier_positions']} positions lie far from the others (patterns {first})",
            "remove these patterns: the object grows to hold them",
        )


def _unit_findings(scan: Scan, figures: Mapping[str, Any]) -> Iterator[Finding]:
    if not scan.has_dose:
        yield Finding(
            "no-dose",
            "warning",
            "no dose is recorded, so only the amplitude loss has a meaning",
            "give --nphotons, the mean number of photons per pattern",
        )
    largest = figures["largest_value"]
    if scan.domain == "amplitude" and figures["whole_numbers"] and largest > 1:
        yield Finding(
            "domain",
            "warning",
            f"the patterns are taken as amplitude, yet all values are whole numbers up to "
            f"{largest:g}, as counts are",
            "give --domain counts if they are",
        )
    if scan.domain == "counts" and figures["whole_squares"] and not figures["whole_numbers"]:
        yield Finding(
            "domain",
            "warning",
            "the patterns are taken as counts, yet their squares are whole numbers and they are "
            "not, as amplitudes are",
            "give --domain amplitude if they are",
        )
    expected_m = object_pixel_m(
        scan.N, scan.photon_energy_eV, scan.detector_distance_m, scan.detector_pixel_m
    )
    if abs(scan.object_pixel_m - expected_m) > 0.01 * expected_m:
        yield Finding(
            "geometry",
            "warning",
            f"the object pixel is {scan.object_pixel_m:.4g} m, but energy, distance and detector "
            f"pixel give {expected_m:.4g} m",
            "correct whichever is wrong: positions in metres are scaled by it",
        )
