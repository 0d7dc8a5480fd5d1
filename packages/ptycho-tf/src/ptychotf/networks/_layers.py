"""Variables under the names that a bundle gives them, and the convolutions made of them."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow import Tensor

__all__ = ["Conv", "Variables", "doubled", "glorot"]

Draw = Callable[[np.random.Generator, tuple[int, ...]], NDArray[np.float32]]


class Variables:
    """The variables of a network, each under its name in a bundle, drawn in the order of making.

    Args:
        seed: of the draws.

    Attributes:
        named: neutral name → variable.
        activations: what the units said, (B, H, W, C) each, while someone listens; else None.
    """

    def __init__(self, seed: int) -> None:
        self.named: dict[str, tf.Variable] = {}
        self.activations: list[Tensor] | None = None
        self._rng = np.random.default_rng(seed)

    def add(
        self, name: str, shape: tuple[int, ...], draw: Draw, trainable: bool = True
    ) -> tf.Variable:
        """Make a variable."""
        one = tf.VariableAggregation.ONLY_FIRST_REPLICA  # all replicas compute the same update
        self.named[name] = tf.Variable(
            draw(self._rng, shape), trainable, name=name, aggregation=one
        )
        return self.named[name]

    def heard(self, activation: Tensor) -> Tensor:
        """The same activation; who listens hears it."""
        if self.activations is not None:
            self.activations.append(activation)
        return activation


def zeros(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Start at zero."""
    return np.zeros(shape, np.float32)


def glorot(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Kernel (h, w, in, out), uniform within √(6 / (fan in + fan out))."""
    bound = (6 / (shape[0] * shape[1] * (shape[2] + shape[3]))) ** 0.5
    return rng.uniform(-bound, bound, shape).astype(np.float32)


class Conv:
    """A convolution with zeros around the image: (B, H, W, in) → (B, H, W, out).

    It computes in the dtype of the image; its variables stay in float32.
    """

    def __init__(
        self,
        variables: Variables,
        name: str,
        inputs: int,
        outputs: int,
        side: int = 3,
        draw: Draw = glorot,
        bias: bool = True,
    ) -> None:
        self.kernel = variables.add(f"{name}/kernel", (side, side, inputs, outputs), draw)
        self.bias = variables.add(f"{name}/bias", (outputs,), zeros) if bias else None

    def __call__(self, x: Tensor) -> Tensor:
        y = tf.nn.conv2d(x, tf.cast(self.kernel, x.dtype), 1, "SAME")
        return y if self.bias is None else y + tf.cast(self.bias, x.dtype)


def doubled(x: Tensor) -> Tensor:
    """Each pixel twice along both axes: (B, H, W, C) → (B, 2H, 2W, C)."""
    return tf.repeat(tf.repeat(x, 2, axis=1), 2, axis=2)
