"""Bounds on gradients."""

from collections.abc import Sequence

import tensorflow as tf
from tensorflow import Tensor

__all__ = ["clip_adaptively", "clip_gradients"]

_SMALLEST_NORM = 1e-3  # so that weights that start at zero can move


def clip_gradients(
    weights: Sequence[Tensor], gradients: Sequence[Tensor], algorithm: str, bound: float
) -> list[Tensor]:
    """Bounded gradients: ``norm`` the whole, ``value`` each entry, ``agc`` each unit."""
    if algorithm == "norm":
        factor = tf.minimum(1.0, bound / (tf.linalg.global_norm(gradients) + 1e-6))
        return [gradient * factor for gradient in gradients]
    if algorithm == "value":
        return [tf.clip_by_value(gradient, -bound, bound) for gradient in gradients]
    return clip_adaptively(weights, gradients, bound)


def clip_adaptively(
    weights: Sequence[Tensor], gradients: Sequence[Tensor], bound: float
) -> list[Tensor]:
    """Bound the gradient's norm of each output channel to ``bound`` times its weights' norm.

    A. Brock et al., "High-performance large-scale image recognition without normalization",
    ICML (2021), eq. 3.
    """
    clipped = []
    for weight, gradient in zip(weights, gradients, strict=True):
        allowed = bound * tf.maximum(_unit_norm(weight), _SMALLEST_NORM)
        found = tf.maximum(_unit_norm(gradient), gradient.dtype.as_numpy_dtype(1e-37))
        clipped.append(gradient * tf.minimum(allowed / found, 1.0))
    return clipped


def _unit_norm(tensor: Tensor) -> Tensor:
    """Norm over all axes but the last, the output channels; of each entry by itself in a vector."""
    axes = list(range(len(tensor.shape) - 1))
    return tf.sqrt(tf.reduce_sum(tf.square(tensor), axes, keepdims=True))
