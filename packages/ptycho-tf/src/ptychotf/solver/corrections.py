"""What else a scan may have wrong: positions, incoming intensities, background, a varying probe.

Each is corrected once per epoch, from sums over what every pattern, the held-out ones included,
asked for on its own.  With the change χ of an exit wave that a pattern asks for and a direction D
in which its model can move, the least-squares step is Re⟨D, χ⟩ / ⟨D, D⟩:

- position: D = (S_f P) ∂O/∂r, solved for y and x together (P. Dwivedi et al., Ultramicroscopy 192,
  29 (2018));
- weight of a varying mode: D = (S_f V_k) O (M. Odstrčil et al., Opt. Express 24, 8360 (2016));

an intensity is Σ√I√λ / Σλ squared, and the background, as for any Poisson mean,
is multiplied by the mean of I/λ (L. Shepp & Y. Vardi, IEEE Trans. Med. Imaging 1, 113 (1982)).
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow import Tensor

from ptychoconfig.schema import SolverConfig
from ptychotf import physics

from .estimate import Estimate
from .steps import Rules, Unknowns, Visit

__all__ = ["Corrections", "Wishes", "slopes", "wishes"]

Real = NDArray[np.float64]

MAX_STEP_PX, MAX_SHIFT_PX = 0.5, 5.0
"""Largest change of a position in an epoch, and in all."""

_AFFINE_EPOCHS = 5
"""Epochs in which positions move together before each moves alone."""


class Wishes(NamedTuple):
    """What some patterns ask for; None where it is not corrected.

    Args:
        shifts: (B, 2) of the positions, in pixels.
        gains: (B,) of the intensities, relative.
        ratio, valid: (N, N) Σ w I/λ and Σ w.
        weights: (B, K) of the varying modes.
    """

    shifts: Tensor | None = None
    gains: Tensor | None = None
    ratio: Tensor | None = None
    valid: Tensor | None = None
    weights: Tensor | None = None


def slopes(obj: Tensor) -> tuple[Tensor, Tensor]:
    """∂O/∂y and ∂O/∂x by central differences, one-sided at the edges: (H, W) each."""
    dy, dx = np.gradient(obj.numpy())
    return tf.constant(dy), tf.constant(dx)


def wishes(
    rules: Rules, unknowns: Unknowns, seen: Visit, gradient: tuple[Tensor, Tensor] | None
) -> Wishes:
    """What the settings want to know of some patterns.

    Args:
        rules: which corrections.
        unknowns: what is corrected.
        seen: the patterns.
        gradient: the object's ``slopes``, for positions.
    """
    asked, valid = Wishes(), seen.patterns.valid
    if gradient is not None:
        asked = asked._replace(shifts=_shift(seen, gradient))
    if rules.refine_intensity:
        light = tf.maximum(tf.reduce_sum(valid * seen.rate, (-2, -1)), 1e-12)
        root = tf.reduce_sum(valid * seen.patterns.amplitude * tf.sqrt(seen.rate), (-2, -1))
        asked = asked._replace(gains=tf.square(root / light))
    if rules.refine_background:
        ratio = tf.square(seen.patterns.amplitude) / (seen.rate + physics.EPSILON)
        weights = tf.broadcast_to(valid, tf.shape(ratio))
        asked = asked._replace(
            ratio=tf.reduce_sum(weights * ratio, 0), valid=tf.reduce_sum(weights, 0)
        )
    if unknowns.variable is not None:
        asked = asked._replace(weights=_weight_steps(seen, unknowns.variable))
    return asked


def _shift(seen: Visit, gradient: tuple[Tensor, Tensor]) -> Tensor:
    """The shift (B, 2) that brings each model nearest to its pattern; twice the projection's."""
    dy, dx = (
        physics.exit_waves(seen.waves, physics.gather(slope, seen.index)) for slope in gradient
    )
    yy, xx, yx = _inner(dy, dy), _inner(dx, dx), _inner(dy, dx)
    ry, rx = _inner(dy, seen.change), _inner(dx, seen.change)
    ridge = 1e-3 * (yy + xx) + 1e-30
    yy, xx = yy + ridge, xx + ridge
    determinant = yy * xx - tf.square(yx)
    return 2 * tf.stack([ry * xx - rx * yx, rx * yy - ry * yx], -1) / determinant[:, None]


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """Re⟨a, b⟩ of each pattern: (B, M, N, N) → (B,) float64."""
    products = tf.math.real(a) * tf.math.real(b) + tf.math.imag(a) * tf.math.imag(b)
    return tf.cast(tf.reduce_sum(products, (1, 2, 3)), tf.float64)


def _weight_steps(seen: Visit, variable: Tensor) -> Tensor:
    """Least-squares steps of the weights of each varying mode: (B, K)."""
    shifted = tf.signal.ifft2d(tf.signal.fft2d(variable)[None] * seen.ramp)
    steps = []
    for mode in range(variable.shape[0]):
        direction = physics.exit_waves(shifted[:, mode, None], seen.windows)
        power = tf.maximum(_inner(direction, direction), 1e-12)
        steps.append(_inner(direction, seen.change[:, :1]) / power)
    return tf.stack(steps, -1)


class Corrections:
    """The corrections that the settings ask for, collected over an epoch and then applied.

    Args:
        config: which.
        estimate: what they correct.
    """

    def __init__(self, config: SolverConfig, estimate: Estimate) -> None:
        self.config = config
        self.given = estimate.positions - estimate.drift
        self.epochs = 0
        self._start_epoch(estimate)

    def collect(self, asked: Wishes, chosen: NDArray[np.int64]) -> None:
        """Take note of what some patterns ask for, the first of a batch that may be filled up."""
        size = len(chosen)
        if asked.shifts is not None:
            self._shifts[chosen] = asked.shifts[:size]
        if asked.gains is not None:
            self._gains[chosen] = asked.gains[:size]
        if asked.ratio is not None and asked.valid is not None:
            self._ratio += asked.ratio
            self._count += asked.valid
        if asked.weights is not None:
            self._weight_steps[chosen] = asked.weights[:size]

    def apply(self, estimate: Estimate) -> None:
        """Correct the estimate, at the end of an epoch."""
        if self.config.refine_positions:
            self._move(estimate)
        if estimate.intensity is not None and self.config.refine_intensity:
            gain = estimate.intensity * np.sqrt(self._gains)  # half a step: the object follows late
            estimate.intensity = (gain / gain.mean()).astype(np.float32)
        if estimate.background is not None and self.config.refine_background:
            ratio = np.where(self._count > 0, self._ratio / np.maximum(self._count, 1), 1.0)
            estimate.background *= tf.constant(ratio, tf.float32)
        if estimate.weights is not None and estimate.variable is not None:
            _vary(estimate, self._weight_steps)
        self.epochs += 1
        self._start_epoch(estimate)

    def _start_epoch(self, estimate: Estimate) -> None:
        count = len(estimate.positions)
        self._shifts = np.zeros((count, 2))
        self._gains = np.ones(count)
        self._ratio = np.zeros((estimate.side, estimate.side))
        self._count = np.zeros_like(self._ratio)
        self._weight_steps = np.zeros((count, self.config.variable_modes))

    def _move(self, estimate: Estimate) -> None:
        """Move the positions: first all by an affine map, then each alone, within bounds."""
        step = np.clip(self._shifts, -MAX_STEP_PX, MAX_STEP_PX)
        if self.epochs < _AFFINE_EPOCHS:
            step = _affine(estimate.positions, step)
        step = step - step.mean(0)  # a common shift is the object's
        given = self.given + estimate.drift
        moved = estimate.positions + step
        estimate.positions = given + np.clip(moved - given, -MAX_SHIFT_PX, MAX_SHIFT_PX)


def _affine(positions: Real, step: Real) -> Real:
    """The affine map of the positions nearest to their steps."""
    centred = positions - positions.mean(0)
    design = np.column_stack([centred, np.ones(len(centred))])
    return np.asarray(design @ np.linalg.lstsq(design, step)[0])


def _vary(estimate: Estimate, steps: Real) -> None:
    """Step the weights, take their mean into the mode itself, and make the modes orthogonal."""
    assert estimate.weights is not None and estimate.variable is not None
    variable = estimate.variable.numpy().astype(np.complex128)
    power = np.sum(np.abs(variable) ** 2, axis=(1, 2))
    weights = estimate.weights + np.clip(np.where(power > 0, steps, 0.0), -1.0, 1.0)
    mean = weights.mean(0)
    weights = weights - mean
    change = tf.constant(np.tensordot(mean, variable, 1)[None], tf.complex64)
    estimate.probe = tf.concat([estimate.probe[:1] + change, estimate.probe[1:]], 0)
    # The change of pattern j is Σ_k w_jk V_k = (W V)_j; its singular vectors are the modes.
    flat = variable.reshape(len(variable), -1)
    left, size, right = np.linalg.svd(flat, full_matrices=False)
    mixed = (weights @ left) * size
    spread = np.maximum(np.sqrt(np.mean(np.abs(mixed) ** 2, axis=0)), 1e-12)
    # Weights are real: a common phase of each column goes to its mode.
    phase = np.exp(0.5j * np.angle(np.sum(mixed**2, axis=0)))
    estimate.weights = ((mixed / phase).real / spread).astype(np.float32)
    modes = (right * (spread * phase)[:, None]).reshape(variable.shape)
    estimate.variable = tf.constant(modes, tf.complex64)
