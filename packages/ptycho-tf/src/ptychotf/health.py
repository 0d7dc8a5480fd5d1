"""What a collapse shows in TensorFlow's tensors; ``ptychodata.training`` decides what it means."""

from typing import Any

import tensorflow as tf
from tensorflow import Tensor

from ptychodata.training.health import Figures

from . import physics
from .batches import Batch
from .merging import refine
from .networks import Network
from .networks._base import PatternNetwork

__all__ = ["figures", "look"]

_FEWEST = 4  # groups that have a variation to speak of
_TINY = 1e-30


def look(network: Network, modes: Tensor, batch: Batch) -> Figures | None:
    """Apply a network to a batch and take the figures; None where it has too few patterns."""
    if len(batch) < _FEWEST * batch.per_group:
        return None
    shifted = physics.shift_probe(modes, batch.fraction)
    listener = _Listener(network)
    heard: list[Tensor] = []
    network.variables.activations = heard
    try:
        for _ in refine(listener, shifted, batch):
            pass
    finally:
        network.variables.activations = None
    answers = None
    if isinstance(network, PatternNetwork):
        answers = tf.reshape(network.answers, [-1, *network.answers.shape[2:]])
    return figures(listener.last, shifted, batch, _dead(heard), answers)


class _Listener(Network):
    """A network that keeps what it said last."""

    def __init__(self, network: Network) -> None:
        super().__init__(network.variables)
        self.network, self.steps, self.group_size = network, network.steps, network.group_size
        self.last: Tensor = None

    def __call__(self, step: int, patches: Tensor, shifted_probe: Tensor, batch: Batch) -> Tensor:
        self.last = self.network(step, patches, shifted_probe, batch)
        return self.last


def _dead(activations: list[Any]) -> float:
    """Share of the channels that are the same everywhere."""
    channels = dead = 0
    for activation in activations:
        low = tf.reduce_min(activation, (0, 1, 2))
        high = tf.reduce_max(activation, (0, 1, 2))
        silent = high - low <= 1e-6 * tf.cast(tf.reduce_max(tf.abs(high)), high.dtype)
        channels += len(low)
        dead += int(tf.math.count_nonzero(silent))
    return dead / max(1, channels)


def figures(
    patches: Tensor,
    shifted_probe: Tensor,
    batch: Batch,
    dead: float,
    answers: Tensor | None = None,
) -> Figures:
    """Take the figures where the probe shines.

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
    return Figures(
        variation=float(tf.sqrt(varied / _data_variance(batch))),
        contrast=float(tf.reduce_mean(deviation / tf.maximum(mean[:, 0, 0], _TINY))),
        dead=dead,
        light=float(tf.reduce_sum(power * tf.square(modulus)) / photons),
    )


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
