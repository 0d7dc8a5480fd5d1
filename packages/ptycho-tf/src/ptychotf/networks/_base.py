"""What training and inference know of a network: it sees patterns, and it changes the object.

A step is a pass over the patterns, in one round or in several that see a part each.  ``see`` looks
at patterns, each alone, and says what they ask of the object, as fields over their windows; the
caller sums the fields of a round on a canvas.  ``advance`` changes the object by what a round asked
for, ``correct`` by what the whole pass did.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow import Tensor

from ptychotf import physics
from ptychotf.batches import Batch

from ._layers import Variables

__all__ = [
    "FIELDS",
    "Network",
    "PatternNetwork",
    "State",
    "Sums",
    "fields_of",
    "merge_weight",
    "stacked",
]

FIELDS = 5
"""Re and Im of w·p, w, w·|p|² and w·e: see ``Sums``."""

_TINY = float(np.finfo(np.float32).tiny)


class State(NamedTuple):
    """The object between two rounds, on G canvases.

    Args:
        obj: (G, H, W) complex64.
        change: (G, H, W) complex64 by how much the last round changed it.
        passed: (G, H, W) complex64 by how much the rounds of this pass did.
        redundancy: how many probes light a pixel of a canvas, on average.
    """

    obj: Tensor
    change: Tensor
    passed: Tensor
    redundancy: float | Tensor

    @classmethod
    def free_space(cls, shape: tuple[int | Tensor, ...], redundancy: float | Tensor) -> "State":
        """Nothing in the beam."""
        obj = tf.ones(shape, tf.complex64)
        return cls(obj, tf.zeros_like(obj), tf.zeros_like(obj), redundancy)

    def moved(self, change: Tensor) -> "State":
        """After a round that changed the object."""
        return self._replace(obj=self.obj + change, change=change, passed=self.passed + change)

    def corrected(self, correction: Tensor) -> "State":
        """After a pass, with a correction."""
        return self._replace(obj=self.obj + correction, passed=tf.zeros_like(self.passed))


class Sums:
    """Fields summed over patterns, on canvases: (…, H, W, 5) real.

    A pattern speaks for each pixel r of its window with a weight w(r), its illumination, and says
    p(r), a value of the object or a change of it; e is how far it is from being explained.

    Attributes:
        numerator: Σ w·p, complex.
        weight: Σ w, photons.
        squares: Σ w·|p|².
        misfit: Σ w·e.
    """

    def __init__(self, fields: Tensor) -> None:
        self.numerator = tf.complex(fields[..., 0], fields[..., 1])
        self.weight, self.squares, self.misfit = fields[..., 2], fields[..., 3], fields[..., 4]

    def mean(self) -> Tensor:
        """Σ w·p / Σ w; 0 where no pattern speaks."""
        return scaled(self.numerator, 1 / tf.maximum(self.weight, _TINY))

    def disagreement(self) -> Tensor:
        """By how much patterns differ in p, weighted root mean square."""
        spread = self.squares / tf.maximum(self.weight, _TINY) - square(self.mean())
        return tf.sqrt(tf.maximum(spread, 0))


def scaled(field: Tensor, factor: Tensor) -> Tensor:
    """A complex field times a real one: a complex product has gradients that overflow."""
    return tf.complex(tf.math.real(field) * factor, tf.math.imag(field) * factor)


def square(field: Tensor) -> Tensor:
    """|field|²."""
    return tf.square(tf.math.real(field)) + tf.square(tf.math.imag(field))


def fields_of(patches: Tensor, weight: Tensor) -> Tensor:
    """Fields of patterns that say complex ``patches`` with ``weight`` ≥ 0, each (B, N, N).

    Returns:
        (B, N, N, 5), with a misfit of 0.
    """
    real, imag = tf.math.real(patches), tf.math.imag(patches)
    said = [real * weight, imag * weight, weight, weight * square(patches), tf.zeros_like(weight)]
    return stacked(said)


def stacked(fields: list[Tensor]) -> Tensor:
    """Fields (B, H, W) → (B, H, W, n); ``tf.stack`` along a last axis takes thrice as long."""
    return tf.transpose(tf.stack(fields), [1, 2, 3, 0])


class Network(ABC):
    """A network that improves an object in a number of steps.

    Attributes:
        variables: of its layers, which tell what their units say.
        weights: name in a bundle → variable.
        steps: number of passes over the patterns.
        group_size: patterns that must stand together in a batch; 1 = it looks at each alone.
        free_phase: whether its objects have a global phase that nothing fixes.
        compute_dtype: arithmetic of the layers; the physics stays in float32.
    """

    steps: int
    group_size: int = 1
    free_phase: bool = True

    def __init__(self, variables: Variables) -> None:
        self.variables = variables
        self.weights: dict[str, tf.Variable] = variables.named
        self.compute_dtype = tf.float32

    def scale_object(self, factor: float) -> None:  # noqa: B027 - most have no scale
        """Multiply the object of fresh weights; nothing for a network without a scale."""

    @abstractmethod
    def see(
        self, step: int | Tensor, patches: Tensor, shifted_probe: Tensor, batch: Batch
    ) -> Tensor:
        """What patterns say, to be summed.

        Args:
            step: from 0; a number or a scalar, here and below.
            patches: (B, N, N) complex64 windows O[n] of the current object.
            shifted_probe: (B, M, N, N) complex64 probe at each position.
            batch: the patterns.

        Returns:
            (B, N, N, 5) fields, as ``Sums`` has them.
        """

    def rounds(self, step: int, redundancy: float) -> int:
        """In how many rounds, each of a part of the patterns, a pass is made at most.

        A network of one step makes one.
        """
        return 1

    @abstractmethod
    def advance(
        self, step: int | Tensor, state: State, sums: Sums, share: float | Tensor = 1.0
    ) -> State:
        """The object after a round, of what its patterns say, which are a share of all."""

    def correct(
        self, step: int | Tensor, state: State, sums: Sums, learning: bool = False
    ) -> State:
        """The object after a pass, of what all patterns said; ``learning`` if gradients follow."""
        return state


class PatternNetwork(Network):
    """A network that makes patches out of the patterns of a group in one step.

    It centres each patch on the exact position of its pattern, which it need not know for that;
    the patch is then brought into its window by a bilinear shift of the fraction.  Where it
    returns one patch for the whole group, that patch is centred on the mean position.

    Args:
        variables: of the generator.
        generator: (G, C, N, N) amplitudes, DC in the centre, to complex64 patches, (G, C, N, N)
            or (G, 1, N, N).
        group_size: C.
    """

    steps = 1
    free_phase = False

    def __init__(
        self, variables: Variables, generator: Callable[[Tensor], Tensor], group_size: int
    ) -> None:
        super().__init__(variables)
        self.generator, self.group_size = generator, group_size

    def scale_object(self, factor: float) -> None:
        """Add log ``factor`` to the α of a generator that has one."""
        scale = getattr(self.generator, "log_scale", None)
        if scale is not None:
            scale.assign_add([math.log(factor)])

    def __call__(self, shifted_probe: Tensor, batch: Batch) -> Tensor:
        """Predict the windows of a batch: (B, N, N) complex64."""
        made, shift = self.answers(shifted_probe, batch), batch.fraction
        if made.shape[1] < self.group_size:
            made, shift = tf.repeat(made, self.group_size, axis=1), self._to_mean(batch)
        return physics.shift_object(tf.reshape(made, [-1, *made.shape[2:]]), shift)

    def answers(self, shifted_probe: Tensor, batch: Batch) -> Tensor:
        """What the generator says, not moved yet: (G, C, N, N) or (G, 1, N, N)."""
        amplitude = physics.network_input(batch.counts, tf.stop_gradient(shifted_probe[0]))
        if batch.valid is not None:
            amplitude = amplitude * batch.valid
        side = amplitude.shape[-1]
        centred = tf.signal.fftshift(amplitude, axes=(-2, -1))
        groups = tf.reshape(centred, [-1, self.group_size, side, side])
        return self.generator(tf.cast(groups, self.compute_dtype))

    def see(
        self, step: int | Tensor, patches: Tensor, shifted_probe: Tensor, batch: Batch
    ) -> Tensor:
        """The predicted windows, whatever the current ``patches`` are."""
        return fields_of(self(shifted_probe, batch), merge_weight(shifted_probe))

    def advance(
        self, step: int | Tensor, state: State, sums: Sums, share: float | Tensor = 1.0
    ) -> State:
        """The mean of the predicted windows; the last object where there are none."""
        obj = tf.where(sums.weight > 0, tf.cast(sums.mean(), tf.complex64), state.obj)
        return state.moved(obj - state.obj)

    def _to_mean(self, batch: Batch) -> Tensor:
        """From the centre of each window to the mean position of its group: (B, 2)."""
        own = tf.reshape(tf.cast(batch.pixel, tf.float32), [-1, self.group_size, 2])
        exact = own + tf.reshape(batch.fraction, [-1, self.group_size, 2])
        return tf.reshape(tf.reduce_mean(exact, 1, keepdims=True) - own, [-1, 2])


_WEIGHT_FLOOR = 1e-4  # relative illumination below which a patch hardly speaks for a pixel


def merge_weight(shifted_probe: Tensor) -> Tensor:
    """How much a patch speaks for each of its pixels: (B, M, N, N) → (B, N, N) in (0, 1]."""
    power = physics.coverage(shifted_probe)
    return power / tf.reduce_max(power, (-2, -1), keepdims=True) + _WEIGHT_FLOOR
