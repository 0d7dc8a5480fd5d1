"""One pass over the patterns: sums, extremes, and where each pattern's power lies."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ptychodata.contracts import Scan

__all__ = ["Survey", "survey_patterns"]

_CHUNK_BYTES = 2**20  # stays in the cache


@dataclass
class Survey:
    """Sums over the patterns' valid pixels.

    Values are those of the file, I are counts.  NaN and infinity count as 0 in the sums.
    """

    total: NDArray[np.float64]  # (N, N) Σ I
    seen: NDArray[np.int64]  # (N, N) patterns in which the value is above 0
    looked: NDArray[np.int64]  # (N, N) patterns in which the pixel is valid
    photons: list[float] = field(default_factory=list)  # Σ I of each pattern
    deflection_px: list[list[float]] = field(default_factory=list)
    """Centre of mass (y, x) of each pattern, from [N//2, N//2]; 0 for an empty one."""
    largest: float = 0.0
    at_largest: int = 0
    not_finite: int = 0
    negative: int = 0
    whole: bool = True
    """Whether all values are whole numbers."""

    @property
    def mean_photons(self) -> float:
        """Mean of Σ I per pattern."""
        return float(np.mean(self.photons))

    @property
    def mean_pattern(self) -> NDArray[np.float64]:
        """(N, N) mean of I over the patterns in which a pixel is valid; 0 where in none."""
        return self.total / np.maximum(self.looked, 1)


def survey_patterns(scan: Scan) -> Survey:
    """Look at every value of a scan once, a few patterns at a time."""
    side = scan.N
    survey = Survey(
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
        _add_moments(survey, counts)
    if scan.mask is not None and scan.mask.ndim == 2:
        survey.looked *= scan.mask
    return survey


def _add_moments(survey: Survey, counts: NDArray[np.float64]) -> None:
    offset = np.arange(counts.shape[-1]) - counts.shape[-1] // 2
    rows, columns = counts.sum(axis=2), counts.sum(axis=1)
    photons = rows.sum(axis=1)
    moment = np.stack([rows @ offset, columns @ offset], axis=1)
    survey.photons += photons.tolist()
    survey.deflection_px += (moment / np.where(photons > 0, photons, 1)[:, None]).tolist()


def _examined(survey: Survey, values: NDArray[np.float64]) -> NDArray[np.float64]:
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
    if survey.whole:
        survey.whole = bool((values == np.rint(values)).all())
    return values
