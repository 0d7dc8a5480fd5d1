"""The misfit of a batch, and the steps of object and probe that it implies.

With the exit waves χ that the patterns ask for, gradients and illumination are sums over a batch of

    object:  Σ_m (S_f P_m)* χ_m   over   Σ_m |S_f P_m|²,
    probe:   S_{−f} (O[n]* χ_m)   over   |O[n]|²,

which is what ePIE does one pattern at a time (A. Maiden & J. Rodenburg, Ultramicroscopy 109, 1256
(2009)) with the denominators of rPIE (A. Maiden, D. Johnson & P. Li, Optica 4, 736 (2017)).  The
object's steps have momentum, as in mPIE.  All functions are pure: they return what changes.
"""

from typing import NamedTuple

import tensorflow as tf
from tensorflow import Tensor

from ptychotf import physics

__all__ = ["Patterns", "Rules", "Sums", "Unknowns", "Visit", "object_step", "probe_step", "visit"]

MOMENTUM = 0.75
"""Share of the last object step that is taken again."""

_FLOOR = {"object": 0.05, "probe": 0.5}
"""Part of the largest illumination in a denominator: weakly lit pixels move less."""

_POISSON_LENGTH = 0.25
"""Length of a step for Poisson noise: its gradient is twice that of amplitudes, and noisier."""


class Rules(NamedTuple):
    """What a compiled program is made for.

    Args:
        likelihood: ``amplitude`` or ``poisson``.
        refine_intensity, refine_background: whether to find what these should be.
    """

    likelihood: str
    refine_intensity: bool = False
    refine_background: bool = False


class Unknowns(NamedTuple):
    """What is solved for and lies on the device; see ``Estimate``."""

    obj: Tensor
    probe: Tensor
    background: Tensor | None
    variable: Tensor | None


class Patterns(NamedTuple):
    """A batch of patterns, and what the estimate says of each.

    Args:
        pixel: (B, 2) the windows' centres in the object.
        ramps: (B, 2, N) the probe's shift in Fourier space, along each axis; computed before, as
            XLA would compute the sines anew for every pixel.
        gain: (B,) float32 root of the incoming intensity; 0 = there is no such pattern.
        weights: (B, K) float32 of the varying modes, or None.
        amplitude: (B, N, N) √I.
        valid: (B, N, N) or (B, 1, 1) weights of the pixels.
    """

    pixel: Tensor
    ramps: Tensor
    gain: Tensor
    weights: Tensor | None
    amplitude: Tensor
    valid: Tensor


class Visit(NamedTuple):
    """Some patterns, what the estimate makes of them, and the change of exit waves they ask for.

    Args:
        patterns: measured.
        waves: (B, M, N, N) shifted probes S_f P_m with the pattern's intensity.
        ramp: (B, 1, N, N) the shift, in Fourier space.
        index: (B, N, N) the windows in the flat object.
        windows: (B, N, N) O[n].
        change: (B, M, N, N) χ.
        rate: (B, N, N) λ.
    """

    patterns: Patterns
    waves: Tensor
    ramp: Tensor
    index: Tensor
    windows: Tensor
    change: Tensor
    rate: Tensor

    def residual(self) -> tuple[Tensor, Tensor]:
        """Σ w|√I − √λ| and Σ w√I."""
        amplitude, valid = self.patterns.amplitude, self.patterns.valid
        error = tf.reduce_sum(tf.abs(amplitude - tf.sqrt(self.rate)) * valid)
        return error, tf.reduce_sum(amplitude * valid)


class Sums(NamedTuple):
    """Gradients of a batch and their preconditioners."""

    obj: Tensor  # (H, W) complex
    light: Tensor  # (H, W) Σ|S_f P|²
    probe: Tensor | None = None  # (M, N, N) complex, in Fourier space
    power: Tensor | None = None  # (N, N) Σ|O|²
    variable: Tensor | None = None  # (K, N, N) complex, in Fourier space
    weight_power: Tensor | None = None  # (K, N, N) Σ w²|O|²

    @classmethod
    def of(cls, seen: Visit, shape: tuple[int, int]) -> "Sums":
        """What the patterns say of the object, whose shape is (H, W)."""
        gradient = tf.reduce_sum(tf.math.conj(seen.waves) * seen.change, 1)
        light = physics.coverage(seen.waves)
        return cls(*(physics.scatter(part, seen.index, shape) for part in (gradient, light)))

    def with_probe(self, seen: Visit) -> "Sums":
        """The same with what the patterns say of the probe and of its variation."""
        gain, weights = seen.patterns.gain, seen.patterns.weights
        back = tf.signal.fft2d(tf.math.conj(seen.windows)[:, None] * seen.change)
        back *= tf.math.conj(seen.ramp) * _complex(gain)[:, None, None, None]
        power = physics.coverage(seen.windows[:, None]) * tf.square(gain)[:, None, None]
        sums = self._replace(probe=tf.reduce_sum(back, 0), power=tf.reduce_sum(power, 0))
        if weights is None:
            return sums
        return sums._replace(
            variable=tf.einsum("bk,byx->kyx", _complex(weights), back[:, 0]),
            weight_power=tf.einsum("bk,byx->kyx", tf.square(weights), power),
        )


def visit(unknowns: Unknowns, patterns: Patterns, likelihood: str) -> Visit:
    """Model some patterns and compare.

    Args:
        unknowns: object, probe and the rest.
        patterns: the patterns.
        likelihood: ``amplitude`` or ``poisson``.
    """
    obj, side = unknowns.obj, unknowns.probe.shape[-1]
    index = physics.window_index(patterns.pixel, side, (obj.shape[0], obj.shape[1]))
    ramp = physics.outer(patterns.ramps)
    waves = tf.signal.ifft2d(_transforms(unknowns, patterns) * ramp)
    waves *= _complex(patterns.gain)[:, None, None, None]
    windows = physics.gather(obj, index)
    far = physics.far_field(physics.exit_waves(waves, windows), corner=True)
    rate = physics.intensity(far, unknowns.background)
    factor = _factor(patterns.amplitude, rate, likelihood) * patterns.valid
    change = physics.inverse_far_field(far * _complex(factor)[:, None], corner=True)
    return Visit(patterns, waves, ramp, index, windows, change, rate)


def _transforms(unknowns: Unknowns, patterns: Patterns) -> Tensor:
    """Transforms of the probe at each pattern: (1 or B, M, N, N)."""
    transformed = tf.signal.fft2d(unknowns.probe)[None]
    if unknowns.variable is None or patterns.weights is None:
        return transformed
    varied = tf.signal.fft2d(unknowns.variable)
    change = tf.einsum("bk,kyx->byx", _complex(patterns.weights), varied)
    first = transformed[:, :1] + change[:, None]
    rest = tf.repeat(transformed[:, 1:], len(change), 0)
    return tf.concat([first, rest], 1)


def _factor(amplitude: Tensor, rate: Tensor, likelihood: str) -> Tensor:
    """What to multiply the far field by, less 1: the negative slope of the misfit."""
    if likelihood == "poisson":
        return tf.square(amplitude) / (rate + physics.EPSILON) - 1
    return amplitude * tf.math.rsqrt(rate + physics.EPSILON) - 1


def object_step(
    obj: Tensor, momentum: Tensor, sums: Sums, length: Tensor, likelihood: str, prior: Tensor
) -> tuple[Tensor, Tensor]:
    """Step the object along its preconditioned gradient, with momentum.

    Args:
        obj: (H, W).
        momentum: (H, W) the last step.
        sums: of the batch.
        length: of the step.
        likelihood: ``amplitude`` or ``poisson``.
        prior: photons by which a unit step between neighbours is penalised, the batch's share.

    Returns:
        Object and momentum after the step.
    """
    scale = _POISSON_LENGTH if likelihood == "poisson" else 1.0
    share, brightest = _FLOOR["object"], tf.reduce_max(sums.light)
    curvature = (1 - share) * sums.light + share * brightest
    gradient, curvature = tf.cond(
        prior > 1e-4 * brightest,
        lambda: (
            sums.obj + _complex(prior) * physics.laplacian(obj[None])[0],
            curvature + 8 * prior,
        ),
        lambda: (sums.obj, curvature),
    )
    lit = sums.light / curvature  # what the batch does not light neither moves nor forgets
    step = gradient / _complex(curvature) + _complex(MOMENTUM * lit) * momentum
    return obj + _complex(scale * length) * step, momentum * _complex(1 - lit) + step


def probe_step(unknowns: Unknowns, sums: Sums, length: Tensor, likelihood: str) -> Unknowns:
    """Step the probe, and its variation, along their preconditioned gradients."""
    scale = _complex(length * (_POISSON_LENGTH if likelihood == "poisson" else 1.0))
    step = tf.signal.ifft2d(sums.probe) / _complex(_floored(sums.power))
    unknowns = unknowns._replace(probe=unknowns.probe + scale * step)
    if unknowns.variable is None or sums.variable is None:
        return unknowns
    step = tf.signal.ifft2d(sums.variable) / _complex(_floored(sums.weight_power))
    return unknowns._replace(variable=unknowns.variable + scale * step)


def _floored(power: Tensor) -> Tensor:
    share = _FLOOR["probe"]
    return (1 - share) * power + share * tf.reduce_max(power, (-2, -1), keepdims=True)


def _complex(real: Tensor) -> Tensor:
    return tf.complex(real, tf.zeros_like(real))
