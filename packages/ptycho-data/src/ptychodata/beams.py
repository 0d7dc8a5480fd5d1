"""Probes to simulate with: one coherent beam, and the incoherent modes that it may fall into."""

from math import comb
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from ptychoconfig.errors import ConfigError, DataError
from ptychoconfig.schema import SimulationConfig

from .inspection import probe_diameter_px
from .physics import far_field, inverse_far_field

__all__ = [
    "ABERRATIONS",
    "aberrated",
    "coherent_beam",
    "incoherent_modes",
    "make_probe",
    "most_defocus_rad",
    "schell_modes",
]

Real = NDArray[np.float64]
Complex = NDArray[np.complex128]

_DEFOCUS_RAD = {"disk": 0.0, "disk-original": 0.0, "gaussian": 8.0, "zone-plate": 8.0}
_MOST_PUPIL = 0.45
"""Largest radius of a pupil that N pixels hold with room for what the object scatters, 1/px."""
_AIRY = 1.22  # diameter of a focus over λ / NA
_SCHELL_TERMS = 128


def make_probe(
    config: SimulationConfig, rng: np.random.Generator
) -> tuple[NDArray[np.complexfloating], float]:
    """The probe that the settings ask for.

    Args:
        config: the settings.
        rng: draws the aberrations.

    Returns:
        (M, N, N) orthogonal modes in any unit, the strongest first, and the diameter in pixels.

    Raises:
        DataError: the probe file does not fit.
        ConfigError: the zone plate's pupil would not fit the detector.
    """
    if config.probe_file is None:
        diameter = config.probe_diameter_px or _default_diameter(config)
        modes: NDArray[np.complexfloating] = coherent_beam(config, diameter)[None]
    else:
        modes = _probe_of_file(config.probe_file, config.N)
        diameter = config.probe_diameter_px or probe_diameter_px(modes)
        if config.defocus_rad:
            modes = _defocused(modes, config.defocus_rad)
    if config.aberration_rad:
        drawn = rng.standard_normal(len(ABERRATIONS))
        modes = aberrated(modes, config.aberration_rad * drawn / np.linalg.norm(drawn))
        diameter = config.probe_diameter_px or probe_diameter_px(modes)
    if config.coherence_length_px is not None:
        return schell_modes(modes[0], config.coherence_length_px, config.probe_modes), diameter
    if config.probe_modes > 1:
        modes = incoherent_modes(modes[0], config.probe_modes, config.probe_mode_decay, diameter)
    return modes, diameter


def _default_diameter(config: SimulationConfig) -> float:
    if config.probe_kind == "disk-original":
        return float(config.N / (0.7 * np.pi**2) * np.sqrt(8 * np.log(2)))
    return 0.44 * config.N


def coherent_beam(config: SimulationConfig, diameter_px: float) -> Complex:
    """One mode, (N, N), of the kind that the settings name; φ is ``defocus_rad``, R = diameter/2.

    - ``disk``: a pinhole's shadow, blurred with σ = 1 px, times exp(iφ(r/R)²).
    - ``disk-original``: a Gaussian window about (N−1)/2 of full width at half maximum 2R, cut at
      one half and blurred with σ = 1 px, + 10⁻⁹, times the same phase.
    - ``gaussian``: exp((−1 + iφ)(r/R)²).
    - ``zone-plate``: F⁻¹ of an annular pupil times exp(iφ(k/k₀)²); see ``_zone_plate``.
    """
    defocus = config.defocus_rad
    if defocus is None:
        defocus = _DEFOCUS_RAD[config.probe_kind]
    if config.probe_kind == "zone-plate":
        return _zone_plate(config.N, diameter_px, defocus, config.central_stop)
    middle = (config.N - 1) / 2 if config.probe_kind == "disk-original" else config.N // 2
    r = np.arange(config.N) - middle
    radius = np.hypot(r[:, None], r) / (diameter_px / 2)  # 1 at the edge
    if config.probe_kind == "gaussian":
        return np.asarray(np.exp((-1 + 1j * defocus) * radius**2))
    modulus = gaussian_filter((radius <= 1).astype(np.float64), sigma=1, mode="constant")
    modulus += 1e-9 if config.probe_kind == "disk-original" else 0
    return np.asarray(modulus * np.exp(1j * defocus * radius**2))


def _zone_plate(side: int, diameter_px: float, defocus_rad: float, central_stop: float) -> Complex:
    """The beam of a zone plate with central stop: a donut out of focus, rings in focus.

    The pupil is 1 for s·k₀ ≤ k ≤ k₀, with edges one detector pixel wide, and its phase is
    φ(k/k₀)².  Rays from its rim meet the sample at radius φ/(πk₀) and diffraction widens them by
    0.61/k₀, so that k₀ = (1.22 + 2φ/π) / diameter.
    """
    pupil = (_AIRY + 2 * defocus_rad / np.pi) / diameter_px
    if pupil > _MOST_PUPIL:
        raise ConfigError(
            f"--defocus-rad {defocus_rad:g}: expected a pupil of at most {_MOST_PUPIL:g} / pixel, "
            f"found {pupil:.2f} with a probe of {diameter_px:.3g} pixels; lower it, or raise "
            "--probe-diameter-px"
        )
    k = np.arange(side) - side // 2
    radius = np.hypot(k[:, None], k)  # in detector pixels
    rim = pupil * side
    inside = np.clip(rim - radius + 0.5, 0, 1) * np.clip(radius - central_stop * rim + 0.5, 0, 1)
    return np.asarray(inverse_far_field(inside * np.exp(1j * defocus_rad * (radius / rim) ** 2)))


def most_defocus_rad(diameter_px: float) -> float:
    """The most defocus of a zone plate with a beam so wide: its pupil just fits the detector."""
    return float((1 - 1e-9) * np.pi / 2 * (_MOST_PUPIL * diameter_px - _AIRY))


def _defocused(
    modes: NDArray[np.complexfloating], defocus_rad: float
) -> NDArray[np.complexfloating]:
    """Propagate (M, N, N) freely; the phase is φ at the Nyquist frequency."""
    k = np.fft.fftshift(np.fft.fftfreq(modes.shape[-1])) / 0.5
    return np.asarray(
        inverse_far_field(far_field(modes) * np.exp(1j * defocus_rad * (k[:, None] ** 2 + k**2)))
    )


ABERRATIONS = (
    ("defocus", 2, 0),
    ("oblique astigmatism", 2, -2),
    ("vertical astigmatism", 2, 2),
    ("vertical coma", 3, -1),
    ("horizontal coma", 3, 1),
    ("vertical trefoil", 3, -3),
    ("oblique trefoil", 3, 3),
    ("spherical aberration", 4, 0),
)
"""Name, radial order n and azimuthal frequency m of each (J. Noll, JOSA 66, 207 (1976))."""

_ENOUGH_RADII = 1.2


def aberrated(
    modes: NDArray[np.complexfloating], coefficients_rad: Real
) -> NDArray[np.complexfloating]:
    """A beam that passed bad optics: exp(i Σ c Z(ρ, θ)) over its far field.

    The Zernike polynomials have unit variance over the disk ρ ≤ 1, which is the one that holds
    90 % of the far field's power; they stay as they are beyond ρ = 1.2.

    Args:
        modes: (M, N, N).
        coefficients_rad: c of each of ``ABERRATIONS``.

    Returns:
        (M, N, N) modes, their powers and products as before.
    """
    waves = far_field(modes)
    k = np.arange(modes.shape[-1]) - modes.shape[-1] // 2
    radius = np.hypot(k[:, None], k) / (probe_diameter_px(waves) / 2)
    rho, theta = np.minimum(radius, _ENOUGH_RADII), np.arctan2(k[:, None], k)
    phase = sum(
        c * _zernike(n, m, rho, theta)
        for c, (_, n, m) in zip(coefficients_rad, ABERRATIONS, strict=True)
    )
    return np.asarray(inverse_far_field(waves * np.exp(1j * np.asarray(phase))))


def _zernike(n: int, m: int, rho: Real, theta: Real) -> Real:
    """Z of unit variance over the unit disk: the radial polynomial times cos mθ or sin |m|θ."""
    radial = sum(
        (-1) ** k * comb(n - k, k) * comb(n - 2 * k, (n - abs(m)) // 2 - k) * rho ** (n - 2 * k)
        for k in range((n - abs(m)) // 2 + 1)
    )
    turn = np.cos(m * theta) if m >= 0 else np.sin(-m * theta)
    return np.asarray(np.sqrt((n + 1) * (2 if m else 1)) * radial * turn)


def _probe_of_file(path: str, side: int) -> NDArray[np.complex64]:
    from .formats import read

    probe = read(Path(path)).probe
    if probe is None or probe.shape[-1] != side:
        found = "none" if probe is None else f"one of {probe.shape[-1]}×{probe.shape[-1]} pixels"
        raise DataError(
            f"--probe-file {path}: expected a probe of {side}×{side} pixels (--N), found {found}"
        )
    return probe


def incoherent_modes(
    beam: NDArray[np.complexfloating], count: int, decay: float, diameter_px: float
) -> Complex:
    """Orthogonal modes whose powers fall as decay^m; the first is the beam itself.

    The others are the beam times y', x', y'², y'x', x'², …, orthogonalised in this order, with
    y' = tanh(2y / diameter), which keeps the tails of the beam from growing.

    Args:
        beam: (N, N) coherent beam.
        count: M.
        decay: power of a mode over that of the one before.
        diameter_px: of the beam.

    Returns:
        (M, N, N), total power 1.
    """
    side = beam.shape[-1]
    r = np.tanh((np.arange(side) - side // 2) / (diameter_px / 2))
    orders = [(total - x, x) for total in range(count) for x in range(total + 1)][:count]
    shapes = np.stack([beam * (r**y)[:, None] * r**x for y, x in orders]).astype(np.complex128)
    orthonormal, triangle = np.linalg.qr(shapes.reshape(count, -1).T)
    phase = np.diagonal(triangle) / np.abs(np.diagonal(triangle))  # of the first: the beam's own
    powers = decay ** np.arange(count)
    scaled = (orthonormal * phase).T * np.sqrt(powers / powers.sum())[:, None]
    return np.asarray(scaled.reshape(count, side, side))


def schell_modes(beam: NDArray[np.complexfloating], coherence_px: float, count: int) -> Complex:
    r"""The strongest modes of a partially coherent beam (Gaussian Schell model).

    .. math::
        \sum_m P_m(r) P_m^*(r') = P(r) P^*(r') \exp\bigl(-|r - r'|^2 / 2\xi^2\bigr)

    with all modes (A. Starikov & E. Wolf, J. Opt. Soc. Am. 72, 923 (1982)); the strongest few are
    the best approximation of their number.

    Args:
        beam: (N, N) coherent beam P.
        coherence_px: coherence length ξ in object pixels.
        count: M.

    Returns:
        (M, N, N) orthogonal modes in the unit of the beam.
    """
    side = beam.shape[-1]
    r = np.arange(side)
    values, vectors = np.linalg.eigh(np.exp(-((r[:, None] - r) ** 2) / (2 * coherence_px**2)))
    weights = np.clip(values, 0, None)[:, None] * np.clip(values, 0, None)
    terms = max(_SCHELL_TERMS, 4 * count)
    strongest = np.argsort(weights, axis=None)[::-1][:terms]
    y, x = np.unravel_index(strongest, weights.shape)
    kernels = vectors.T[y][:, :, None] * vectors.T[x][:, None, :]
    fields = (np.sqrt(weights[y, x])[:, None, None] * kernels * beam).reshape(len(y), -1)
    mixing = np.linalg.eigh(fields.conj() @ fields.T)[1]
    modes = mixing[:, ::-1][:, :count].T @ fields
    return np.asarray(modes.reshape(-1, side, side))
