"""One look at every pattern: sums, extremes, and where each pattern's power lies.

It is made while a file is read, and kept with the scan, because on a large scan each pass over the
patterns counts.  What is said of every pattern comes from every pattern; what is said of a pixel,
from at most 4096 patterns, drawn in runs of 16.  Whole numbers are summed in the narrowest dtype
that holds the sum, all else in float64.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ptychodata.patterns import Patterns, blocks

__all__ = ["CHUNK_BYTES", "Domain", "Survey", "survey_patterns"]

Domain = Literal["counts", "amplitude"]
Real = NDArray[np.float64]

CHUNK_BYTES = 2**21
"""Size of the patterns that are looked at together: it stays in the cache."""

_DRAWN, _RUN = 4096, 16


@dataclass(eq=False)
class Survey:
    """What is known of P patterns of N×N pixels; fill it with ``add``, each pattern once.

    All is in the unit of the patterns; I is a value, or the square of an amplitude.  Masked pixels
    count nowhere, and NaN and infinity as 0 in the sums.

    Args:
        shape: (P, N, N).
        domain: what the patterns hold.
    """

    shape: tuple[int, ...]
    domain: Domain
    intensity: Real = field(init=False)
    """(P,) Σ I of each pattern."""
    deflection_px: Real = field(init=False)
    """(P, 2) centre of mass (y, x) of each pattern, from [N//2, N//2]; 0 for an empty one."""
    profiles: Real = field(init=False)
    """(2, N) Σ I of all patterns, by row and by column."""
    largest: float = 0.0
    at_largest: int = 0
    not_finite: int = 0
    negative: int = 0
    whole: bool = True
    """Whether all values are whole numbers."""
    total: Real = field(init=False)
    """(N, N) Σ I over the patterns drawn."""
    seen: Real = field(init=False)
    """(N, N) patterns drawn in which the value is above 0."""
    looked: Real = field(init=False)
    """(N, N) patterns drawn in which the pixel is valid."""
    drawn: NDArray[np.bool_] = field(init=False)
    """(P,) patterns drawn, all of them where they are no more than 4096."""

    def __post_init__(self) -> None:
        count, side = self.shape[0], self.shape[-1]
        self.intensity, self.deflection_px = np.zeros(count), np.zeros((count, 2))
        self.profiles = np.zeros((2, side))
        self.total, self.seen, self.looked = np.zeros((3, side, side))
        runs = np.random.default_rng(0).permutation(-(-count // _RUN)) < _DRAWN // _RUN
        self.drawn = np.repeat(runs, _RUN)[:count]

    @property
    def mean_pattern(self) -> Real:
        """(N, N) mean of I over the patterns drawn in which a pixel is valid; 0 where in none."""
        return np.asarray(self.total / np.maximum(self.looked, 1))

    def add(self, part: slice, values: NDArray[Any], valid: NDArray[np.bool_] | None) -> None:
        """Look at some patterns.

        Args:
            part: which they are.
            values: (B, N, N) the patterns.
            valid: (N, N) or (B, N, N), True = valid; None = all.
        """
        if valid is not None:
            values = np.where(valid, values, values.dtype.type(0))
        values, largest = self._examined(values)
        if self.domain == "amplitude" or values.dtype.kind == "f":
            values = values.astype(np.float64)
            values = np.square(values, out=values) if self.domain == "amplitude" else values
        self._add_sums(part, values, largest)
        drawn = self.drawn[part]
        if drawn.any():
            some = values if drawn.all() else values[drawn]
            self.total += _sum(some, 0, largest)
            self.seen += _sum(some > 0, 0, 1)
            if valid is not None and valid.ndim == 3:
                self.looked += _sum(valid[drawn], 0, 1)
            else:
                self.looked += len(some) if valid is None else len(some) * valid

    def _examined(self, values: NDArray[Any]) -> tuple[NDArray[Any], int | float]:
        """Count what is impossible, saturated or whole; the values with 0 for NaN, their largest.

        Whole numbers without a sign come back unsigned.
        """
        least, largest = (0, values.max()) if values.dtype.kind == "u" else _range(values)
        if not (least > -np.inf and largest < np.inf):
            finite = np.isfinite(values)
            self.not_finite += int(np.count_nonzero(~finite))
            values = np.where(finite, values, 0)
            least, largest = _range(values)
        if least < 0:
            self.negative += int(np.count_nonzero(values < 0))
        elif values.dtype.kind == "i":
            values = values.view(f"u{values.dtype.itemsize}")
        if largest > self.largest:
            self.largest, self.at_largest = float(largest), 0
        if largest == self.largest:
            self.at_largest += int(np.count_nonzero(values == largest))
        if self.whole and values.dtype.kind == "f":
            self.whole = bool((values == np.rint(values)).all())
        return values, largest.item()

    def _add_sums(self, part: slice, values: NDArray[Any], largest: int | float) -> None:
        """Both projections of each pattern, which its power and its centre of mass follow from."""
        by_row, by_column = (_sum(values, axis, largest) for axis in (2, 1))
        offset = np.arange(values.shape[-1]) - values.shape[-1] // 2
        self.intensity[part] = photons = by_row.sum(axis=1)
        some = np.where(photons > 0, photons, 1)
        self.deflection_px[part, 0] = by_row @ offset / some
        self.deflection_px[part, 1] = by_column @ offset / some
        self.profiles += by_row.sum(axis=0), by_column.sum(axis=0)


def survey_patterns(patterns: Patterns, mask: NDArray[np.bool_] | None, domain: Domain) -> Survey:
    """Look at every value once, a few patterns at a time.

    Args:
        patterns: (P, N, N).
        mask: (N, N) or (P, N, N), True = valid; None = all.
        domain: what the patterns hold.
    """
    survey = Survey(patterns.shape, domain)
    for part, values in blocks(patterns, CHUNK_BYTES):
        survey.add(part, values, mask[part] if mask is not None and mask.ndim == 3 else mask)
    return survey


def _sum(values: NDArray[Any], axis: int, largest: int | float) -> Real:
    """Σ along an axis, of values up to ``largest``; narrow dtypes add several times faster."""
    most = largest * values.shape[axis]
    narrow = values.dtype.kind in "bu" and most < 2**64
    dtype = np.min_scalar_type(most) if narrow else np.dtype(np.float64)
    return np.asarray(values.sum(axis=axis, dtype=dtype), dtype=np.float64)


def _range(values: NDArray[Any]) -> tuple[Any, Any]:
    return values.min(), values.max()
