"""Update steps with a merge of overlapping patches between them."""

from collections.abc import Iterator

import tensorflow as tf
from tensorflow import Tensor

from . import physics
from .batches import Batch
from .networks import Network

__all__ = ["merge_weight", "refine"]

_WEIGHT_FLOOR = 1e-4  # relative illumination below which a patch hardly speaks for a pixel


def merge_weight(shifted_probe: Tensor) -> Tensor:
    """How much a patch speaks for each of its pixels: (B, M, N, N) → (B, N, N) in (0, 1]."""
    power = physics.coverage(shifted_probe)
    return power / tf.reduce_max(power, (-2, -1), keepdims=True) + _WEIGHT_FLOOR


def refine(network: Network, shifted_probe: Tensor, batch: Batch) -> Iterator[Tensor]:
    """Start from free space, and after each step of the network merge within the batch's canvas.

    Yields:
        (B, N, N) merged patches after each step.
    """
    index = physics.window_index(batch.pixel, shifted_probe.shape[-1], batch.shape)
    weight = merge_weight(shifted_probe)
    total = tf.maximum(physics.scatter(weight, index, batch.shape), _WEIGHT_FLOOR)
    patches = tf.ones_like(shifted_probe[:, 0])
    for step in range(network.steps):
        patches = network(step, patches, shifted_probe, batch)
        weighted = patches * tf.cast(weight, patches.dtype)
        summed = physics.scatter(weighted, index, batch.shape)
        patches = physics.gather(summed / tf.cast(total, summed.dtype), index)
        yield patches
