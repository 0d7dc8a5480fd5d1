"""What a collapse shows in TensorFlow's tensors; ``ptychodata.training`` decides what it means."""

from typing import Any

import tensorflow as tf
from numpy.typing import NDArray
from tensorflow import Tensor

from ptychodata.training import batches
from ptychodata.training.health import Figures

from . import physics
from .batches import Batch, batch_of, tensors_of
from .merging import Passes, rounds_of, unseen
from .networks import Network
from .networks._base import PatternNetwork

__all__ = ["Look", "figures"]

_FEWEST = 4  # groups that have a variation to speak of
_TINY = 1e-30


class Look:
    """Looks into a network: applies it to a batch, by one graph, and takes the figures.

    Args:
        network: what is looked into.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self._graph = tf.function(self._seen, autograph=False, reduce_retracing=True)

    def __call__(
        self, modes: Tensor, batch: batches.Batch[NDArray[Any]], redundancy: float = 1.0
    ) -> Figures | None:
        """The figures of a batch; None where it has too few patterns.

        Args:
            modes: (M, N, N) the probe.
            batch: patterns.
            redundancy: how many probes of a group light a pixel.
        """
        if len(batch) < _FEWEST * batch.per_group:
            return None
        given = tensors_of(batch) | {
            "redundancy": tf.constant(redundancy, tf.float32),
            "rounds": tf.constant(rounds_of(self.network, redundancy)),
            "shape": tf.constant(batch.shape, tf.int64),
        }
        found = self._graph(batch.per_group, modes, given)
        return Figures(*found.numpy().tolist())

    def _seen(self, per_group: int, modes: Tensor, given: dict[str, Tensor]) -> Tensor:
        """The figures of a batch: (4,)."""
        network, batch = self.network, batch_of(given, tuple(tf.unstack(given["shape"])), per_group)
        shifted, hidden = physics.shift_probe(modes, batch.fraction), unseen(network, batch)
        passes = Passes(network, shifted, batch, given["redundancy"], given["rounds"], hidden)
        network.variables.listens = True
        try:
            state, told = passes.run(
                lambda step, state, told: (
                    passes.take(step, state),
                    told + network.variables.told(),
                ),
                tf.zeros(2),
            )
        finally:
            network.variables.listens = False
        answers = None
        if isinstance(network, PatternNetwork):
            made = network.answers(shifted, batch)
            answers = tf.reshape(made, [-1, *made.shape[2:]])
        channels, dead = tf.unstack(told)
        share = dead / tf.maximum(channels, 1)
        return figures(passes.windows(state), shifted, batch, share, answers)


def figures(
    patches: Tensor,
    shifted_probe: Tensor,
    batch: Batch,
    dead: Tensor,
    answers: Tensor | None = None,
) -> Tensor:
    """Take the figures where the probe shines, those of ``Figures`` in its order: (4,).

    Args:
        patches: (B, N, N) complex object patches.
        shifted_probe: (B, M, N, N) modes in √photons.
        batch: their patterns.
        dead: share of dead channels.
        answers: (G, N, N) what the network said before it was moved by fractions of a pixel,
            which alone makes patches differ; None = ``patches``.
    """
    power = physics.coverage(shifted_probe)
    mean_power = tf.reduce_mean(power, 0)
    weight = mean_power / tf.reduce_sum(mean_power)  # (N, N)
    modulus = tf.abs(patches)
    mean = tf.reduce_sum(weight * modulus, (1, 2), keepdims=True)
    deviation = tf.sqrt(tf.reduce_sum(weight * tf.square(modulus - mean), (1, 2)))
    varied = _variance(patches if answers is None else answers, weight)
    photons = tf.maximum(tf.reduce_sum(batch.counts), _TINY)
    variation = tf.sqrt(varied / _data_variance(batch))
    contrast = tf.reduce_mean(deviation / tf.maximum(mean[:, 0, 0], _TINY))
    light = tf.reduce_sum(power * tf.square(modulus)) / photons
    return tf.stack([variation, contrast, dead, light])


def _square(images: Tensor) -> Tensor:
    return tf.square(tf.abs(images))


def _variance(images: Tensor, weight: Tensor) -> Tensor:
    """Mean square of what sets images (B, N, N) apart, over their mean square."""
    spread = tf.reduce_mean(_square(images - tf.reduce_mean(images, 0)), 0)
    size = tf.reduce_mean(tf.reduce_sum(weight * _square(images), (1, 2)))
    return tf.reduce_sum(weight * spread) / size


def _data_variance(batch: Batch) -> Tensor:
    """The same of the measured amplitudes, less what photon noise adds to it.

    Amplitudes differ no more than the waves do, | |a| − |b| | ≤ |a − b|, so an object that
    explains the patterns varies at least as much.  The root of a Poisson count has the variance
    1/4, and less below one photon.
    """
    amplitude, total = tf.sqrt(batch.counts), tf.maximum(tf.reduce_sum(batch.counts), _TINY)
    noise = tf.reduce_sum(tf.minimum(batch.counts, 1.0)) / (4 * total)
    return tf.maximum(_variance(amplitude, tf.ones_like(amplitude[0])) - noise, _TINY)
