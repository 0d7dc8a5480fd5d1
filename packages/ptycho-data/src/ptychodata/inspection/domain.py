r"""Whether patterns hold counts or their square root, told from the values themselves.

Two marks, on at most 64 patterns:

- *quantum*: photons come in whole numbers.  Either the values, or their squares, are whole
  multiples of one unit u (the smallest value above 0, or the unit in which the file claims to be);
  values up to 30 u are tested, which float32 tells apart.
- *support*: the Fourier transform of an intensity is the autocorrelation of the exit wave, which
  vanishes further out than the probe is wide; its root has cusps where the wave has zeros and its
  square is twice as wide.  The share of power further out than 0.45 N is least for the intensity.
  Values without noise or with an unknown gain bear this mark only, and only if the probe is small.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ptychodata.contracts import Domain, Scan

__all__ = ["DomainEvidence", "domain_evidence"]

_PATTERNS = 64
_PIXELS = 2**24
_STEPS = 30  # multiples of the unit that float32 tells apart, squared
_TOLERANCE = 1e-3
_ENOUGH = 100  # values of two units or more
_CONTRAST = 3.0
_OUTER = 0.45  # of N


@dataclass(frozen=True)
class DomainEvidence:
    """What the values say about their domain.

    Args:
        quantised: what comes in whole multiples of the unit: the values (``counts``) or their
            squares (``amplitude``); None if neither.
        unit: u in the file's unit, NaN if none was found.
        outer_power: share of Fourier power beyond 0.45 N if the values are counts, and if they
            are amplitudes.
    """

    quantised: Domain | None
    unit: float
    outer_power: dict[Literal["counts", "amplitude"], float]

    @property
    def supported(self) -> Domain | None:
        """The domain that the support of the autocorrelation names; None if it is not clear."""
        counts, amplitude = self.outer_power["counts"], self.outer_power["amplitude"]
        if counts * _CONTRAST < amplitude:
            return "counts"
        return "amplitude" if amplitude * _CONTRAST < counts else None


def domain_evidence(scan: Scan) -> DomainEvidence:
    """Look for the marks of counts and of amplitudes in a scan."""
    count = max(1, min(_PATTERNS, len(scan), _PIXELS // scan.N**2))
    index = np.unique(np.linspace(0, len(scan) - 1, count).astype(np.int64))
    values = np.asarray(scan.diffraction[index], dtype=np.float32)
    valid = scan.valid(index)
    usable = np.isfinite(values) & (values >= 0)
    values = np.where(usable if valid is None else usable & valid, values, 0)
    quantised, unit = _quantum(scan, values[values > 0].astype(np.float64))
    return DomainEvidence(quantised, unit, _outer_power(values))


def _quantum(scan: Scan, values: NDArray[np.float64]) -> tuple[Domain | None, float]:
    if not values.size:
        return None, float("nan")
    units = (float(values.min()), 1.0, 1 / (scan.intensity_scale or 1.0))
    for unit in dict.fromkeys(units):
        steps = values[values < (_STEPS + 0.5) * unit] / unit
        if np.count_nonzero(steps > 1.4) < _ENOUGH:
            continue
        if _whole(steps):
            return "counts", unit
        if _whole(steps**2):
            return "amplitude", unit
    return None, float("nan")


def _whole(steps: NDArray[np.float64]) -> bool:
    return bool((np.abs(steps - np.rint(steps)) < _TOLERANCE).all())


def _outer_power(values: NDArray[np.float32]) -> dict[Literal["counts", "amplitude"], float]:
    from scipy import fft

    side = values.shape[-1]
    radius = side * np.hypot(fft.fftfreq(side)[:, None], fft.rfftfreq(side))
    twice = np.where(np.arange(side // 2 + 1) % (side // 2), 2, 1)  # the half that rfft2 omits
    found: dict[Literal["counts", "amplitude"], float] = {}
    for domain in ("counts", "amplitude"):
        power = np.zeros(radius.shape)
        for pattern in values:
            intensity = pattern if domain == "counts" else pattern**2
            spectrum = fft.rfft2(intensity / max(1e-30, float(intensity.mean())))
            power += twice * (spectrum.real**2 + spectrum.imag**2)
        rest = float(power[radius > 0].sum())
        found[domain] = float(power[radius > _OUTER * side].sum()) / rest if rest > 0 else 0.0
    return found
