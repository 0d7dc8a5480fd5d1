"""How good a reconstruction is: scores against a known object, in its gauge.

Patterns leave a gauge free: a global phase, and with a free probe a linear phase ramp, the scale
between object and probe, and a shift.  ``align_gauge`` fits these four, jointly and in the complex
plane, where phases do not wrap; then amplitudes and phases are compared pixel by pixel over the box
of the probe centres, which every scan has illuminated from all sides (``similarity``).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from ptychoconfig.errors import DataError

from .similarity import mean_error, ms_ssim, pearson, psnr_db, ssim

__all__ = [
    "Comparison",
    "Gauge",
    "align_gauge",
    "amplitude_ssim",
    "common_box",
    "compare",
    "phase_ssim",
    "score",
]

Complex = NDArray[np.complex128]
Real = NDArray[np.float64]

_MIN_BOX_PX = 16
_MARGIN_PX = 32
_REFINEMENTS = 10


@dataclass(frozen=True)
class Gauge:
    """What was fitted: aligned(r) = factor · exp(i ramp·(r − centre)) · obj(r − shift).

    Args:
        factor: scale and global phase.
        ramp_rad_per_px: slope of the phase (y, x).
        shift_px: displacement (y, x) of the object's content.
    """

    factor: complex = 1
    ramp_rad_per_px: tuple[float, float] = (0.0, 0.0)
    shift_px: tuple[float, float] = (0.0, 0.0)


def align_gauge(
    obj: NDArray[np.complexfloating], truth: NDArray[np.complexfloating], weight: Real | None = None
) -> tuple[Complex, Gauge]:
    """Bring an object into the gauge of a known one.

    Ramp and shift start from the peaks of two correlations, and the shift from 0 as well;
    Gauss-Newton steps on Σ w |truth − aligned|² refine them together with the factor, whose
    modulus at last is the one that fits the amplitudes best.  The better fit is returned.

    Args:
        obj: (H, W) object.
        truth: (H, W) the known one, on the same pixels.
        weight: (H, W) ≥ 0, 0 where there is nothing to compare; None = all alike.

    Returns:
        The aligned object, (H, W), and what was fitted.
    """
    w = np.ones(obj.shape) if weight is None else weight.astype(np.float64)
    ours, known = (np.asarray(image, dtype=np.complex128) for image in (obj, truth))
    shift, fits = np.zeros(2), []
    for _ in range(2):
        moved = _Model(ours, shift)
        ramp = _coarse_ramp(moved.obj, known, w)
        fits.append(_refine(ours, known, w, ramp, shift))
        shift = shift + _coarse_shift(moved.with_ramp(ramp), known, w)
        if not shift.any():
            break
    _, aligned, gauge = min(fits, key=lambda fit: fit[0])
    return aligned, gauge


class _Model:
    """An object moved by a Fourier shift, its derivatives, and its ramp."""

    def __init__(self, obj: Complex, shift: Real) -> None:
        self.k = [2 * np.pi * np.fft.fftfreq(side) for side in obj.shape]
        self.r = [np.arange(side) - (side - 1) / 2 for side in obj.shape]
        k_y, k_x = self.k
        self.spectrum = np.fft.fft2(obj) * np.exp(-1j * (shift[0] * k_y[:, None] + shift[1] * k_x))
        self.obj = np.fft.ifft2(self.spectrum)

    def with_ramp(self, ramp: Real) -> Complex:
        return np.asarray(self.obj * self._ramp(ramp))

    def tangents(self, factor: complex, ramp: Real) -> Complex:
        """Derivatives by Re, Im of the factor, ramp (y, x) and shift (y, x): (6, H, W)."""
        y, x = self.r[0][:, None], self.r[1][None, :]
        bent = self.with_ramp(ramp)
        gradient = [
            np.fft.ifft2(-1j * k * self.spectrum) for k in (self.k[0][:, None], self.k[1][None, :])
        ]
        return np.stack(
            [bent, 1j * bent, 1j * y * factor * bent, 1j * x * factor * bent]
            + [factor * self._ramp(ramp) * g for g in gradient]
        )

    def _ramp(self, ramp: Real) -> Complex:
        return np.asarray(
            np.exp(1j * ramp[0] * self.r[0])[:, None] * np.exp(1j * ramp[1] * self.r[1])
        )


def _coarse_ramp(obj: Complex, truth: Complex, w: Real) -> Real:
    """Slope (y, x) in rad/px of the phase between object and truth: the peak of a spectrum."""
    shape = tuple(2 * side for side in obj.shape)
    spectrum = np.abs(np.fft.fft2(w * truth * obj.conj(), s=shape))
    peak = np.unravel_index(int(spectrum.argmax()), shape)
    return np.array([2 * np.pi * np.fft.fftfreq(n)[i] for n, i in zip(shape, peak, strict=True)])


def _coarse_shift(obj: Complex, truth: Complex, w: Real) -> Real:
    """Displacement (y, x) in pixels of the truth's content against the object's.

    The truth's weighted part is looked for in the whole object, so that the weight, which does
    not move, draws nothing towards zero.
    """
    from skimage.registration import phase_cross_correlation

    template, scene = (z - np.sum(w * z) / np.sum(w) for z in (truth, obj))
    if min(np.linalg.norm(w * z) for z in (template, scene)) <= 1e-6 * np.linalg.norm(w * truth):
        return np.zeros(2)  # nothing in a flat image says where it lies
    shift = phase_cross_correlation(w * template, scene, upsample_factor=10, normalization=None)[0]
    plausible = np.all(np.abs(shift) <= np.array(obj.shape) / 4)
    return np.asarray(shift if plausible else np.zeros(2), dtype=np.float64)


def _refine(
    obj: Complex, truth: Complex, w: Real, ramp: Real, shift: Real
) -> tuple[float, Complex, Gauge]:
    """Gauss-Newton from a coarse ramp and shift, while it helps: misfit, aligned, gauge."""
    model = _Model(obj, shift)
    bent = model.with_ramp(ramp)
    factor = _project(bent, truth, w)
    error = _misfit(factor * bent, truth, w)
    for _ in range(_REFINEMENTS):
        tangents = model.tangents(factor, ramp)
        weighted = w * tangents.conj()
        normal = np.einsum("iyx,jyx->ij", weighted, tangents).real
        right = np.einsum("iyx,yx->i", weighted, truth - factor * bent).real
        step = np.linalg.lstsq(normal, right, rcond=1e-12)[0]
        trial_ramp, trial_shift = ramp + step[2:4], shift + step[4:]
        trial = _Model(obj, trial_shift)
        trial_bent = trial.with_ramp(trial_ramp)
        trial_factor = _project(trial_bent, truth, w)
        trial_error = _misfit(trial_factor * trial_bent, truth, w)
        if not trial_error < error:
            break
        model, bent, factor = trial, trial_bent, trial_factor
        ramp, shift, error = trial_ramp, trial_shift, trial_error
    modulus = np.sum(w * np.abs(truth * bent)) / np.sum(w * np.abs(bent) ** 2)
    factor = complex(modulus * np.exp(1j * np.angle(factor)))
    y, x = ramp.tolist(), shift.tolist()
    return error, factor * bent, Gauge(factor, (y[0], y[1]), (x[0], x[1]))


def _project(obj: Complex, truth: Complex, w: Real) -> complex:
    """The factor that brings the object closest to the truth."""
    return complex(np.sum(w * obj.conj() * truth) / np.sum(w * np.abs(obj) ** 2))


def _misfit(obj: Complex, truth: Complex, w: Real) -> float:
    return float(np.sum(w * np.abs(truth - obj) ** 2))


def amplitude_ssim(obj: Complex, truth: Complex) -> float:
    """SSIM of the amplitudes of two aligned objects; NaN where the known one is even."""
    return ssim(np.abs(truth), np.abs(obj))


def phase_ssim(obj: Complex, truth: Complex) -> float:
    """SSIM of the phases of two aligned objects; NaN where the known one is even."""
    return ssim(*_phases(obj, truth))


def _phases(obj: Complex, truth: Complex) -> tuple[Real, Real]:
    """Phases of truth and object in radians, (H, W) each.

    The truth's are cut where it has the fewest phases, so that they do not jump for as long as they
    span less than 2π; the object's differ from them by at most π.
    """
    angle = np.angle(truth)
    bins = np.histogram(angle, bins=64, range=(-np.pi, np.pi))[0].astype(np.float64)
    emptiest = int(gaussian_filter1d(bins, sigma=4, mode="wrap").argmin())
    cut = -np.pi + (emptiest + 0.5) * 2 * np.pi / 64
    known = np.mod(angle - cut, 2 * np.pi) + cut
    return known, known + np.angle(obj * truth.conj())


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two objects over one box, in one gauge.

    Args:
        obj: (h, w) the object, aligned.
        truth: (h, w) what it is compared with.
        gauge: what was fitted to align it.
        scores: as ``score`` returns them.
    """

    obj: Complex
    truth: Complex
    gauge: Gauge
    scores: dict[str, float]


def score(
    obj: NDArray[np.complexfloating],
    origin_yx_px: NDArray[Any],
    truth: NDArray[np.complexfloating],
    positions_px: Real,
    *,
    truth_origin_yx_px: NDArray[Any] | tuple[float, float] = (0.0, 0.0),
) -> dict[str, float]:
    """Score a reconstruction against a known object, or against another reconstruction.

    Compared is the box of the probe centres, at least 16 pixels wide, after ``align_gauge``.

    Args:
        obj: (H, W) the object to score.
        origin_yx_px: (2,) position of its pixel [0, 0], in the scan's coordinates.
        truth: (H', W') the known object.
        positions_px: (P, 2) probe centres (y, x).
        truth_origin_yx_px: (2,) position of the truth's pixel [0, 0].

    Returns:
        ``amplitude_ssim``, ``phase_ssim``, their ``…_ms_ssim`` and ``…_psnr_db``, with the peaks
        ``amplitude_psnr_peak`` and ``phase_psnr_peak_rad``; ``amplitude_mae``, ``phase_mae_rad``,
        ``amplitude_correlation`` and ``phase_correlation`` (Pearson, 0 for a flat image),
        ``complex_correlation``, and the fitted ``scale``, ``shift_y_px``,
        ``shift_x_px``, ``ramp_y_rad_per_px``, ``ramp_x_rad_per_px``.  What the truth leaves
        undefined, such as the phase's SSIM where it has no phase, is left out.

    Raises:
        DataError: the two objects do not both hold the box.
    """
    origins = np.array([origin_yx_px, truth_origin_yx_px], dtype=np.float64)
    return compare((obj, truth), origins, positions_px).scores


def compare(
    images: tuple[NDArray[np.complexfloating], NDArray[np.complexfloating]],
    origins_yx_px: Real,
    positions_px: Real,
) -> Comparison:
    """Align an object with a known one over the box of the probe centres, and score it.

    Args:
        images: the object (H, W) and the known one (H', W').
        origins_yx_px: (2, 2) positions of their pixels [0, 0].
        positions_px: (P, 2) probe centres (y, x), or the corners of another box.

    Raises:
        DataError: the two objects do not both hold the box.
    """
    shapes = (images[0].shape, images[1].shape)
    low, high, margin = common_box(origins_yx_px, shapes, positions_px)
    crops = [
        image[tuple(slice(a, b) for a, b in zip(first, last, strict=True))]
        for image, first, last in zip(images, low - margin, high + margin, strict=True)
    ]
    inner = tuple(slice(margin, side - margin) for side in crops[0].shape)
    weight = np.zeros(crops[0].shape)
    weight[inner] = 1
    aligned, gauge = align_gauge(_faded(crops[0], inner, margin), crops[1], weight)
    ours, truth = aligned[inner], crops[1][inner].astype(np.complex128)
    found = _figures(ours, truth) | {
        "scale": abs(gauge.factor),
        "shift_y_px": gauge.shift_px[0],
        "shift_x_px": gauge.shift_px[1],
        "ramp_y_rad_per_px": gauge.ramp_rad_per_px[0],
        "ramp_x_rad_per_px": gauge.ramp_rad_per_px[1],
    }
    scores = {name: float(value) for name, value in found.items() if np.isfinite(value)}
    return Comparison(ours, truth, gauge, scores)


def _figures(ours: Complex, truth: Complex) -> dict[str, float]:
    """Every score of an aligned object over the box."""
    amplitude = np.abs(truth), np.abs(ours)
    phase = _phases(ours, truth)
    overlap = np.linalg.norm(truth) * np.linalg.norm(ours)
    return {
        "amplitude_ssim": ssim(*amplitude),
        "phase_ssim": ssim(*phase),
        "amplitude_ms_ssim": ms_ssim(*amplitude),
        "phase_ms_ssim": ms_ssim(*phase),
        "amplitude_psnr_db": psnr_db(*amplitude),
        "amplitude_psnr_peak": float(np.ptp(amplitude[0])),
        "phase_psnr_db": psnr_db(*phase),
        "phase_psnr_peak_rad": float(np.ptp(phase[0])),
        "amplitude_mae": mean_error(*amplitude),
        "phase_mae_rad": mean_error(*phase),
        "amplitude_correlation": pearson(*amplitude),
        "phase_correlation": pearson(*phase),
        "complex_correlation": float(np.abs(np.vdot(truth, ours)) / overlap) if overlap else 0.0,
    }


def common_box(
    origins: Real, shapes: tuple[tuple[int, ...], ...], positions_px: Real
) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """The box of the probe centres, at least 16 pixels wide, in each of some objects.

    Args:
        origins: (K, 2) positions of the objects' pixels [0, 0].
        shapes: their (H, W).
        positions_px: (P, 2) probe centres (y, x).

    Returns:
        Its first rows and columns, (K, 2), those after its last, (K, 2), and the margin that all
        of the objects have around it, at most 32 pixels.

    Raises:
        DataError: an object does not hold the box.
    """
    centre = (positions_px.min(axis=0) + positions_px.max(axis=0)) / 2
    half = np.maximum(np.ptp(positions_px, axis=0) / 2, _MIN_BOX_PX / 2)
    size = np.floor(2 * half).astype(np.int64) + 1
    low = np.ceil(centre - half).astype(np.int64) - np.floor(origins + 0.5).astype(np.int64)
    high = low + size
    spare = min(int(low.min()), int((np.array(shapes) - high).min()))
    if spare < 0:
        raise DataError(
            f"expected objects that all hold the box of the probe centres, {size[0]} × "
            f"{size[1]} pixels, found shapes {', '.join(map(str, shapes))} with pixel [0, 0] at "
            f"{', '.join(str(origin.tolist()) for origin in origins)}; check the origins"
        )
    return low, high, min(spare, _MARGIN_PX)


def _faded(
    image: NDArray[np.complexfloating], inner: tuple[slice, ...], margin: int
) -> NDArray[np.complexfloating]:
    """Fade to the mean of the box over the outer half of the margin around it.

    So shifting meets no edge, and shifts of up to half the margin bring in nothing faded.
    """
    distance = [np.minimum(np.arange(n), np.arange(n)[::-1]) for n in image.shape]
    fade = [np.sin(np.pi / 2 * np.clip(2 * d / max(1, margin), 0, 1)) ** 2 for d in distance]
    mean = image[inner].mean()
    blend = fade[0][:, None] * fade[1] if margin else 1.0
    return np.asarray(mean + blend * (image - mean))
