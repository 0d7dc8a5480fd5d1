r"""Fourier ring correlation: down to which length two images of one thing agree.

.. math::

    \mathrm{FRC}(k) = \frac{\mathrm{Re} \sum_{|q| \in k} F_1(q)\, F_2^*(q)}
    {\sqrt{\sum |F_1|^2 \sum |F_2|^2}}

over rings of the Fourier transforms of two complex objects, one pixel wide, up to the Nyquist
frequency ½ (the last whole ring where a side is odd).  Before, the second is brought into the gauge
of the first, and both lose their mean and are tapered by a Hann window, so that neither the edge
nor an even background counts as agreement.

The threshold of half a bit of information is that of M. van Heel & M. Schatz, J. Struct. Biol. 151,
250 (2005), eq. 17; a ring of n pixels counts as the n (Σw²)² / (A Σw⁴) that the window w leaves
independent on the area A.  A complex object has no symmetry that would halve it.  1/7 is that of
P. Rosenthal & R. Henderson, J. Mol. Biol. 333, 721 (2003), and 1/2 is for comparing with a truth.

Two halves of a scan agree on what the method makes up as well: this is consistency, not accuracy.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptychoconfig.errors import DataError

from .contracts import Reconstruction
from .metrics import align_gauge, common_box

__all__ = ["FRC", "frc", "frc_of"]

Real = NDArray[np.float64]
Complex = NDArray[np.complex128]

ONE_SEVENTH = 1 / 7
_MIN_SIDE = 16
_SKIPPED = 2  # the mean, and the ring that the window mixes it into
_LATEST = 6  # ring by which agreement must begin: a lattice that both share agrees only beyond
_RUN = 3  # rings in a row that noise does not pass
_ROUNDING = 1e-6  # of the modulus, below which single precision differs for no reason


@dataclass(frozen=True, eq=False)
class FRC:
    """A curve, its thresholds and where it crosses them.

    Lengths are full periods; NaN means "not reached": the images have nothing in common that
    chance would not give.  The period of the last ring, 2 px, means that none fell below.

    Args:
        frequency: (R,) centres of the rings in cycles per pixel, up to ½.
        correlation: (R,) in [−1, 1]; 0 for a ring without power.
        half_bit: (R,) threshold of half a bit.
        pixel_size_m: NaN if unknown.
    """

    frequency: Real
    correlation: Real
    half_bit: Real
    pixel_size_m: float = float("nan")
    resolution_px: float = field(init=False)
    one_seventh_px: float = field(init=False)
    one_half_px: float = field(init=False)

    def __post_init__(self) -> None:
        levels: dict[str, Real | float] = {
            "resolution_px": self.half_bit,
            "one_seventh_px": ONE_SEVENTH,
            "one_half_px": 0.5,
        }
        for name, level in levels.items():
            object.__setattr__(self, name, self._period_px(level))

    def _period_px(self, level: Real | float) -> float:
        """Period at which the curve first falls below a level, between rings by a straight line.

        It must have been above it, and above half a bit, for a few rings in a row among the lowest:
        in a ring of few pixels chance passes 1/7 with ease.
        """
        excess = self.correlation - level
        above = (excess > 0) & (self.correlation > self.half_bit)
        runs = np.convolve(above[_SKIPPED : _LATEST + _RUN], np.ones(_RUN), "valid")
        starts = np.flatnonzero(runs == _RUN) + _SKIPPED
        if starts.size == 0:
            return float("nan")
        below = np.flatnonzero(excess[starts[0] :] <= 0) + starts[0]
        if below.size == 0:
            return float(1 / self.frequency[-1])
        last, first = excess[below[0] - 1], excess[below[0]]
        ends = self.frequency[below[0] - 1 : below[0] + 1]
        return float(1 / (ends[0] + (ends[1] - ends[0]) * last / (last - first)))

    def describe(self) -> str:
        """The resolution by half a bit, for people."""
        if np.isnan(self.resolution_px):
            return "not reached"
        length = f"{self.resolution_px:.3g} px"
        if np.isfinite(self.pixel_size_m):
            length += f" ({self.resolution_px * self.pixel_size_m * 1e9:.3g} nm)"
        return length

    def as_dict(self) -> dict[str, Any]:
        """Figures and curve for JSON: what was not reached is NaN, which JSON writes as null."""
        return {
            "resolution_px": self.resolution_px,
            "resolution_m": self.resolution_px * self.pixel_size_m,
            "one_seventh_px": self.one_seventh_px,
            "one_seventh_m": self.one_seventh_px * self.pixel_size_m,
            "one_half_px": self.one_half_px,
            "frequency_per_px": self.frequency.tolist(),
            "correlation": self.correlation.tolist(),
            "half_bit": self.half_bit.tolist(),
        }


def frc(
    first: NDArray[np.complexfloating],
    second: NDArray[np.complexfloating],
    *,
    weight: Real | None = None,
    pixel_size_m: float = float("nan"),
    align: bool = True,
) -> FRC:
    """Correlate two objects on the same pixels, ring by ring.

    Args:
        first: (H, W) object.
        second: (H, W) another.
        weight: (H, W) ≥ 0, which the taper is multiplied with; it should not have sharp edges.
        pixel_size_m: side of a pixel in metres, NaN if unknown.
        align: bring the second into the gauge of the first before (phase, ramp, shift, scale).

    Raises:
        DataError: the shapes differ, or a side has fewer than 16 pixels.
    """
    if first.shape != second.shape or first.ndim != 2 or min(first.shape) < _MIN_SIDE:
        raise DataError(
            f"expected two objects of one shape, at least {_MIN_SIDE} × {_MIN_SIDE} pixels, to "
            f"correlate, found {first.shape} and {second.shape}; crop them to what both show"
        )
    window = np.outer(*(np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2 for n in first.shape))
    window = window if weight is None else window * weight
    if align:
        second, _ = align_gauge(second, first, window)
    ring, counted = _rings(first.shape)
    spectra = [_spectrum(image, window)[counted] for image in (first, second)]
    powers = [np.bincount(ring, np.abs(spectrum) ** 2) for spectrum in spectra]
    cross = np.bincount(ring, (spectra[0] * spectra[1].conj()).real)
    norm = np.sqrt(powers[0] * powers[1])
    independent = np.sum(window**2) ** 2 / (window.size * np.sum(window**4))
    return FRC(
        frequency=np.arange(len(cross)) / min(first.shape),
        correlation=np.divide(cross, norm, out=np.zeros_like(cross), where=norm > 0),
        half_bit=_half_bit(np.bincount(ring) * independent),
        pixel_size_m=pixel_size_m,
    )


def frc_of(first: Reconstruction, second: Reconstruction) -> FRC:
    """Correlate two reconstructions over the box of the probe centres of both.

    Raises:
        DataError: one of them does not hold the box.
    """
    centres = np.array(
        [[r.positions_px.min(axis=0), r.positions_px.max(axis=0)] for r in (first, second)]
    )
    box = np.array([centres[:, 0].max(axis=0), centres[:, 1].min(axis=0)])
    if (box[0] > box[1]).any():
        raise DataError("expected two reconstructions of one place, found their scans apart")
    images = (first.obj, second.obj)
    origins = np.array([first.origin_yx_px, second.origin_yx_px])
    low, high, _ = common_box(origins, (images[0].shape, images[1].shape), box)
    crops = [
        image[tuple(map(slice, start, stop))]
        for image, start, stop in zip(images, low.tolist(), high.tolist(), strict=True)
    ]
    return frc(crops[0], crops[1], pixel_size_m=first.pixel_size_m)


def _spectrum(image: NDArray[np.complexfloating], window: Real) -> Complex:
    """Transform of the tapered image without its mean; 0 for one that is even to rounding."""
    varying = image - np.sum(window * image) / np.sum(window)
    if np.abs(varying).max() <= _ROUNDING * np.abs(image).max():
        varying = np.zeros_like(varying)
    return np.asarray(np.fft.fft2(window * varying), dtype=np.complex128)


def _rings(shape: tuple[int, ...]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Number of the ring of each pixel up to the Nyquist frequency, and which pixels these are."""
    radius = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.fftfreq(shape[1])[None, :])
    ring = np.floor(radius * min(shape) + 0.5).astype(np.int64)
    counted = ring <= min(shape) // 2
    return ring[counted], counted


def _half_bit(pixels: Real) -> Real:
    root = np.sqrt(pixels)
    return (0.2071 * root + 1.9102) / (1.2071 * root + 0.9102)
