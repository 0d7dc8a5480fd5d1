"""A probe that may be learned along with a network."""

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow import Tensor

from . import physics

__all__ = ["LearnedProbe", "modes_of"]


def modes_of(field: Tensor, rms: float | Tensor) -> Tensor:
    """Modes in √photons, (M, N, N) complex64, of their real and imaginary parts over ``rms``."""
    return tf.complex(field[..., 0], field[..., 1]) * tf.cast(rms, tf.complex64)


class LearnedProbe:
    """A probe in √photons that may be learned, at constant power and centred.

    What is learned is the probe over its root-mean-square modulus, so that one step length fits any
    dose.

    Attributes:
        field: (M, N, N, 2) real and imaginary parts.
        rms: root of the mean over the pixels of Σ|P|².
    """

    def __init__(self, probe: NDArray[np.complex64]) -> None:
        self.rms = float(np.sqrt(np.mean(np.sum(np.abs(probe) ** 2, axis=0))))
        parts = np.stack([probe.real, probe.imag], axis=-1) / np.float32(self.rms)
        self.field = tf.constant(parts, tf.float32)
        self._first = self.field
        self._gradient: Tensor | None = None

    def modes(self) -> NDArray[np.complex64]:
        """The modes in √photons: (M, N, N) complex64."""
        array: NDArray[np.complex64] = modes_of(self.field, self.rms).numpy()
        return array

    def begin_anew(self) -> None:
        """Take the first probe again."""
        self.field = self._first

    def add(self, gradient: Tensor) -> None:
        """Sum gradients with respect to ``field``, until the next step."""
        self._gradient = gradient if self._gradient is None else self._gradient + gradient

    def descend(self, step_length: float) -> None:
        """Take a gradient step of the given length, 1 being the classical step, and fix the gauge.

        With |O| near 1 the Hessian of the amplitude loss with respect to the normalised probe is
        2/N² on every pixel, which makes N²/2 the natural rate (A. Maiden & J. Rodenburg,
        Ultramicroscopy 109, 1256 (2009), eq. 7, with |O| = 1).  Unlike a step of Adam it leaves
        alone what the patterns say nothing about.
        """
        if self._gradient is not None:
            natural = self.field.shape[-2] ** 2 / 2
            self.field = _in_gauge(self.field - step_length * natural * self._gradient)
            self._gradient = None


def _in_gauge(field: Tensor) -> Tensor:
    """Restore the power, and move the centre of mass of Σ|P|² back to the middle.

    Both trade against the object, so the data do not determine them.
    """
    modes = modes_of(field, 1.0)
    power = physics.coverage(modes[None])[0]
    r = tf.range(power.shape[-1], dtype=tf.float32) - power.shape[-1] // 2
    rows, columns = tf.reduce_sum(power, 1), tf.reduce_sum(power, 0)
    centre = tf.stack([tf.reduce_sum(rows * r), tf.reduce_sum(columns * r)]) / tf.reduce_sum(power)
    centred = physics.shift_probe(modes, -centre[None])[0]
    scale = tf.sqrt(tf.reduce_mean(power))
    return tf.stack([tf.math.real(centred), tf.math.imag(centred)], -1) / scale
