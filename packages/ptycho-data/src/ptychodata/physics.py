r"""The forward model and the losses, written down once, in NumPy.

This module is the definition.  It is written to be read and to be right, in the precision of its
inputs; each backend implements the same public functions and is held to vectors recorded from
these (``ptychodata.golden``).

Notation: a scan has P patterns, a batch B of them; N is the side of a pattern; M the number of
probe modes.  Arrays have axes (…, y, x).  ``I`` are photon counts with DC at ``[N//2, N//2]``,
``P_m`` probe modes in √photons, ``O`` the complex transmission of the object, ``r`` the probe
centre in object pixels, order (y, x).

.. math::

    n = \lfloor r + \tfrac12 \rfloor, \quad f = r - n \in [-\tfrac12, \tfrac12)^2, \qquad
    \lambda_j = \sum_m \bigl| F\{ (S_{f_j} P_m) \cdot O[n_j] \} \bigr|^2 + b

``O[n]`` is the N×N window of rows and columns n − N//2 … n − N//2 + N − 1, ``S_f`` the Fourier
shift of the probe, ``F`` the centred orthonormal Fourier transform, ``b`` an optional background.
There is no other scale factor, so that Σλ is the number of photons.

Sources: J. Rodenburg & A. Maiden, *Ptychography*, Springer Handbook of Microscopy (2019);
P. Thibault & M. Guizar-Sicairos, New J. Phys. 14, 063004 (2012), for the Poisson likelihood;
P. Thibault & A. Menzel, Nature 494, 68 (2013), for modes that add in intensity.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft

__all__ = [
    "EPSILON",
    "amplitude_mae",
    "amplitude_mse",
    "assemble",
    "coverage",
    "exit_waves",
    "extract",
    "far_field",
    "forward",
    "intensity",
    "inverse_far_field",
    "laplacian",
    "network_input",
    "object_update",
    "poisson_deviance",
    "r_factor",
    "shift_object",
    "shift_probe",
    "shift_ramp",
    "split_positions",
]

Real = NDArray[Any]
Complex = NDArray[Any]
Ints = NDArray[np.int64]

EPSILON = 1e-3
"""Counts below which a rate is not told from zero, in every loss and update (photons)."""


def split_positions(positions_px: Real) -> tuple[Ints, Real]:
    """Split positions r into pixels n = ⌊r + ½⌋ and fractions f = r − n in [−½, ½).

    Args:
        positions_px: (P, 2) probe centres (y, x) in object pixels.

    Returns:
        n, (P, 2) int64, and f, (P, 2) in pixels.
    """
    pixel = np.floor(positions_px + 0.5)
    return pixel.astype(np.int64), positions_px - pixel


def far_field(exit_wave: Complex) -> Complex:
    """Propagate to the detector: ψ = F{exit wave}, orthonormal, DC at ``[N//2, N//2]``.

    Shape (…, N, N) in and out; Σ|ψ|² = Σ|exit wave|² (Parseval).
    """
    return _centred(fft.fft2, exit_wave)


def inverse_far_field(wave: Complex) -> Complex:
    """Propagate back: the inverse, and adjoint, of ``far_field``. Shape (…, N, N)."""
    return _centred(fft.ifft2, wave)


def _centred(transform: Any, wave: Complex) -> Complex:
    axes = (-2, -1)
    return np.asarray(
        np.fft.fftshift(
            transform(np.fft.ifftshift(wave, axes=axes), axes=axes, norm="ortho"), axes=axes
        )
    )


def shift_ramp(fraction_px: Real, side: int) -> Complex:
    """What multiplies the transform of a probe to shift it: exp(−2πi k·f), k = fftfreq(N).

    Args:
        fraction_px: (B, 2) shifts (y, x) in pixels.
        side: N.

    Returns:
        (B, 1, N, N), the same for every mode.
    """
    ramp = np.exp(-2j * np.pi * fraction_px[:, :, None] * np.fft.fftfreq(side))  # (B, 2, N)
    return np.asarray((ramp[:, 0, :, None] * ramp[:, 1, None, :])[:, None])


def shift_probe(probe: Complex, fraction_px: Real) -> Complex:
    """Move the probe's content by +f: (S_f P)(u) = P(u − f).

    The multiplier in the Fourier plane is exp(−2πi k·f) with k = fftfreq(N); the Nyquist term is
    kept complex, so S_f is unitary, with adjoint S_{−f}.  It wraps around.  Exact for a
    band-limited probe.

    Args:
        probe: (M, N, N) modes.
        fraction_px: (B, 2) shifts (y, x) in pixels.

    Returns:
        (B, M, N, N) shifted modes.
    """
    spectrum = fft.fft2(probe)  # in the precision of the probe, and so is what follows
    ramp = shift_ramp(fraction_px, len(probe[0])).astype(spectrum.dtype)
    return np.asarray(fft.ifft2(spectrum[None] * ramp))


def shift_object(patches: Complex, shift_px: Real) -> Complex:
    """Move the content of object patches by +d, bilinearly: (T_d O)(u) = O(u − d).

    ``T_d`` is a matrix per axis, the hat function ``max(0, 1 − |u − v − d|)``, so its adjoint is
    T_{−d}; it takes 0 beyond the patch.  Unlike a Fourier shift it neither wraps nor rings, and
    it is not exact: half a pixel halves what lies at the Nyquist frequency and more.  For networks
    whose patches are centred on the exact position r = n + f: T_f brings such a patch into the
    window O[n].

    Args:
        patches: (B, N, N) complex.
        shift_px: (B, 2) shifts (y, x) in pixels, of any size.

    Returns:
        (B, N, N) shifted patches.
    """
    u = np.arange(patches.shape[-1])
    distance = (u[:, None] - u) - shift_px[:, :, None, None]  # (B, 2, N, N)
    hat = np.maximum(0, 1 - np.abs(distance))
    return np.asarray(hat[:, 0] @ patches @ hat[:, 1].swapaxes(-1, -2))


def extract(obj: Complex, pixel: Ints, side: int) -> Complex:
    """Cut the windows O[n] out of the object, each a plain slice.

    Args:
        obj: (H, W) object.
        pixel: (B, 2) window centres n (y, x).
        side: N.

    Returns:
        (B, N, N) windows, each of the rows and columns n − N//2 … n − N//2 + N − 1.

    Raises:
        IndexError: a window leaves the object.
    """
    corner = pixel - side // 2
    if (corner < 0).any() or (corner + side > np.array(obj.shape)).any():
        raise IndexError(f"expected windows inside the object {obj.shape}, found corners {corner}")
    return np.stack([obj[y : y + side, x : x + side] for y, x in corner])


def assemble(patches: Complex, pixel: Ints, shape: tuple[int, int]) -> Complex:
    """Add patches into a canvas: the adjoint of ``extract``.

    Args:
        patches: (B, N, N).
        pixel: (B, 2) window centres n (y, x).
        shape: (H, W) of the canvas.

    Returns:
        (H, W) sum, in the dtype of the patches.
    """
    side = patches.shape[-1]
    canvas = np.zeros(shape, dtype=patches.dtype)
    for patch, (y, x) in zip(patches, pixel - side // 2, strict=True):
        canvas[y : y + side, x : x + side] += patch
    return canvas


def laplacian(obj: Complex) -> Complex:
    r"""Sum of differences to the (up to four) neighbours: −∂/∂O* of Σ|∇O|².

    Args:
        obj: (…, H, W) objects.
    """
    result = np.zeros_like(obj)
    for axis in (-2, -1):
        along, steps = np.moveaxis(result, axis, 0), np.moveaxis(np.diff(obj, axis=axis), axis, 0)
        along[:-1] += steps
        along[1:] -= steps
    return result


def exit_waves(shifted_probe: Complex, patches: Complex) -> Complex:
    """Exit waves (S_f P_m) · O[n]: (B, M, N, N) modes times (B, N, N) patches."""
    return shifted_probe * patches[:, None]


def intensity(waves: Complex, background: Real | None = None) -> Real:
    """Expected counts ``λ = Σ_m |ψ_m|² + b``: (B, M, N, N) waves, (N, N) background → (B, N, N).

    Modes are incoherent: their intensities add (Thibault & Menzel 2013, eq. 1).
    """
    rate: Real = np.sum(waves.real**2 + waves.imag**2, axis=1)
    return rate if background is None else rate + background


def forward(
    obj: Complex, probe: Complex, positions_px: Real, background: Real | None = None
) -> Real:
    """The measurement that an object and a probe imply.

    Args:
        obj: (H, W) transmission.
        probe: (M, N, N) modes in √photons.
        positions_px: (B, 2) probe centres (y, x) in object pixels.
        background: (N, N) expected counts added to each pattern.

    Returns:
        (B, N, N) expected photon counts λ.
    """
    pixel, fraction = split_positions(positions_px)
    patches = extract(obj, pixel, probe.shape[-1])
    return intensity(far_field(exit_waves(shift_probe(probe, fraction), patches)), background)


def object_update(
    patches: Complex,
    shifted_probe: Complex,
    counts: Real,
    valid: Real | None = None,
    background: Real | None = None,
) -> Complex:
    r"""The object update that pattern and probe imply, as an ePIE step of unit length.

    .. math::
        g = \sum_m P_m^* F^{-1}\Bigl[ w\,\psi_m \bigl(\sqrt{I / (\lambda + \epsilon)} - 1\bigr)
        \Bigr] \Big/ \max \sum_m |P_m|^2

    the negative gradient of the amplitude loss with respect to O[n]*, over the maximal
    illumination (A. Maiden & J. Rodenburg, Ultramicroscopy 109, 1256 (2009), eq. 6).

    Args:
        patches: (B, N, N) current object windows.
        shifted_probe: (B, M, N, N) modes S_f P_m in √photons.
        counts: (B, N, N) measured I.
        valid: weight w in [0, 1], (N, N) or (B, N, N).
        background: (N, N) expected counts b.

    Returns:
        (B, N, N) dimensionless updates.
    """
    waves = far_field(exit_waves(shifted_probe, patches))
    factor = np.sqrt(counts / (intensity(waves, background) + EPSILON)) - 1
    factor = factor if valid is None else factor * valid
    back = inverse_far_field(waves * factor[:, None])
    power = np.sum(np.abs(shifted_probe) ** 2, axis=1)
    return np.asarray(
        np.sum(shifted_probe.conj() * back, axis=1) / power.max(axis=(-2, -1), keepdims=True)
    )


def coverage(shifted_probe: Complex) -> Real:
    """Illumination of each window, ``Σ_m |S_f P_m|²``: (B, M, N, N) → (B, N, N), photons."""
    return np.asarray(np.sum(shifted_probe.real**2 + shifted_probe.imag**2, axis=1))


def network_input(counts: Real, probe: Complex) -> Real:
    """Dimensionless amplitudes x = √I · (N/2) / √Σ|P|²: (B, N, N), for any dose.

    Args:
        counts: (B, N, N) photon counts.
        probe: (M, N, N) modes in √photons.
    """
    scale = (counts.shape[-1] / 2) / np.sqrt(np.sum(np.abs(probe) ** 2))
    return np.asarray(np.sqrt(counts) * scale)


def poisson_deviance(
    rate: Real, counts: Real, mean_photons: float, valid: Real | None = None
) -> float:
    r"""Poisson deviance per pattern, over the scan's mean photons.

    .. math::
        \frac{1}{B \bar n} \sum w \Bigl[\lambda - n - n \log\frac{\lambda+\epsilon}{n+\epsilon}
        \Bigr] = \frac{1}{B \bar n}\sum w \bigl[n(\delta - \log(1+\delta)) + \epsilon\delta\bigr],
        \quad \delta = \frac{\lambda - n}{n + \epsilon}

    The right-hand form is computed: at 10⁹ photons the left one drowns in float32.  Zero at
    λ = n, where its slope ε/(n + ε) vanishes for n ≫ ε; finite at λ = 0.

    Args:
        rate: (B, N, N) expected counts λ ≥ 0.
        counts: (B, N, N) measured counts n ≥ 0.
        mean_photons: the scan's mean Σ n per pattern, so that a learning rate means the same at
            any dose.
        valid: weight w in [0, 1], (N, N) or (B, N, N).
    """
    delta = (rate - counts) / (counts + EPSILON)
    ratio = (rate + EPSILON) / (counts + EPSILON)
    # δ rounds to −1 where λ ≪ n, and log 0 would be infinite: there the quotient itself is exact.
    log = np.where(ratio < 0.5, np.log(ratio), np.log1p(np.maximum(delta, -0.5)))
    return _per_pattern(counts * (delta - log) + EPSILON * delta, mean_photons, valid)


def amplitude_mse(
    rate: Real, counts: Real, mean_photons: float, valid: Real | None = None
) -> float:
    """Squared error of amplitudes, Σ w(√(λ+ε) − √n)² per pattern over the mean photons.

    Arguments as for ``poisson_deviance``.
    """
    error = np.sqrt(rate + EPSILON) - np.sqrt(counts)
    return _per_pattern(error**2, mean_photons, valid)


def amplitude_mae(
    rate: Real, counts: Real, mean_photons: float, valid: Real | None = None
) -> float:
    """Absolute error of amplitudes, Σ w|√(λ+ε) − √n| per pattern over √(N² mean photons).

    Arguments as for ``poisson_deviance``; the root keeps it dimensionless: by the inequality of
    Cauchy and Schwarz it is at most the root of ``amplitude_mse``.
    """
    error = np.abs(np.sqrt(rate + EPSILON) - np.sqrt(counts))
    return _per_pattern(error, np.sqrt(mean_photons) * counts.shape[-1], valid)


def _per_pattern(error: Real, scale: float, valid: Real | None) -> float:
    weighted = error if valid is None else error * valid
    return float(np.sum(weighted, dtype=np.float64) / (scale * len(error)))


def r_factor(rate: Real, counts: Real, valid: Real | None = None) -> float:
    """Residual R = Σ w|√I − √λ| / Σ w√I, dimensionless; 0 is a perfect fit.

    Args:
        rate: (B, N, N) expected counts.
        counts: (B, N, N) measured counts.
        valid: weight in [0, 1], (N, N) or (B, N, N).
    """
    weight = np.ones(1) if valid is None else valid
    error = np.sum(weight * np.abs(np.sqrt(counts) - np.sqrt(rate)), dtype=np.float64)
    return float(error / np.sum(weight * np.sqrt(counts), dtype=np.float64))
