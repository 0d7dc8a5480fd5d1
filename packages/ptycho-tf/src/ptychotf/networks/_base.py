"""What training and inference know of a network."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import tensorflow as tf
from tensorflow import Tensor

from ptychotf import physics
from ptychotf.batches import Batch

from ._layers import Variables

__all__ = ["Network", "PatternNetwork"]


class Network(ABC):
    """A network that improves object patches in a number of steps.

    Calling it with (step, patches, shifted_probe, batch) takes the current patches, (B, N, N)
    complex64 windows O[n], the shifted probe, (B, M, N, N), and the batch of patterns that they
    belong to, and returns better windows of the same shape; the caller merges them between steps.

    Attributes:
        variables: of its layers, which tell what their units say.
        weights: name in a bundle → variable.
        steps: number of update steps, each followed by a merge.
        group_size: patterns that must stand together in a batch; 1 = it looks at each alone.
        compute_dtype: arithmetic of the layers; the physics stays in float32.
    """

    steps: int
    group_size: int = 1

    def __init__(self, variables: Variables) -> None:
        self.variables = variables
        self.weights: dict[str, tf.Variable] = variables.named
        self.compute_dtype = tf.float32

    @abstractmethod
    def __call__(self, step: int, patches: Tensor, shifted_probe: Tensor, batch: Batch) -> Tensor:
        """Improve the patches of a batch: (B, N, N) complex64 → (B, N, N) complex64."""


class PatternNetwork(Network):
    """A network that makes patches out of the patterns of a group in one step.

    It centres each patch on the exact position of its pattern, which it need not know for that;
    the patch is then brought into its window by a bilinear shift of the fraction.  Where it
    returns one patch for the whole group, that patch is centred on the mean position.

    Attributes:
        answers: (G, C, N, N) or (G, 1, N, N) what the generator said while someone listened,
            not moved yet.

    Args:
        variables: of the generator.
        generator: (G, C, N, N) amplitudes, DC in the centre, to complex64 patches, (G, C, N, N)
            or (G, 1, N, N).
        group_size: C.
    """

    steps = 1

    def __init__(
        self, variables: Variables, generator: Callable[[Tensor], Tensor], group_size: int
    ) -> None:
        super().__init__(variables)
        self.generator, self.group_size = generator, group_size

    def __call__(self, step: int, patches: Tensor, shifted_probe: Tensor, batch: Batch) -> Tensor:
        """Predict the windows of a batch, whatever the current ``patches`` are."""
        amplitude = physics.network_input(batch.counts, tf.stop_gradient(shifted_probe[0]))
        if batch.valid is not None:
            amplitude = amplitude * batch.valid
        side = amplitude.shape[-1]
        centred = tf.signal.fftshift(amplitude, axes=(-2, -1))
        groups = tf.reshape(centred, [-1, self.group_size, side, side])
        made = self.generator(tf.cast(groups, self.compute_dtype))
        if self.variables.activations is not None:
            self.answers = made
        shift = batch.fraction
        if made.shape[1] < self.group_size:
            made, shift = tf.repeat(made, self.group_size, axis=1), self._to_mean(batch)
        return physics.shift_object(tf.reshape(made, [-1, side, side]), shift)

    def _to_mean(self, batch: Batch) -> Tensor:
        """From the centre of each window to the mean position of its group: (B, 2)."""
        own = tf.reshape(tf.cast(batch.pixel, tf.float32), [-1, self.group_size, 2])
        exact = own + tf.reshape(batch.fraction, [-1, self.group_size, 2])
        return tf.reshape(tf.reduce_mean(exact, 1, keepdims=True) - own, [-1, 2])
