"""Variables under the names that a bundle gives them, and the convolutions made of them."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow import Tensor

from ._winograd import conv3x3, pays

__all__ = ["Conv", "Variables", "doubled", "fan_in", "glorot", "ones", "silu", "zeros"]

Draw = Callable[[np.random.Generator, tuple[int, ...]], NDArray[np.float32]]


class Variables:
    """The variables of a network, each under its name in a bundle, drawn in the order of making.

    Args:
        seed: of the draws.

    Attributes:
        named: neutral name → variable.
        listens: whether to tell which units are silent.
    """

    def __init__(self, seed: int) -> None:
        self.named: dict[str, tf.Variable] = {}
        self.listens, self._told = False, list[Tensor]()
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
        """The same activation, (B, H, W, C); who listens is told of it."""
        if self.listens:
            low, high = (f(activation, (0, 1, 2)) for f in (tf.reduce_min, tf.reduce_max))
            silent = high - low <= 1e-6 * tf.cast(tf.reduce_max(tf.abs(high)), high.dtype)
            both = tf.stack([tf.ones_like(silent, tf.float32), tf.cast(silent, tf.float32)])
            self._told.append(tf.reduce_sum(both, 1))
        return activation

    def told(self) -> Tensor:
        """Channels heard since this was asked last, and how many were the same everywhere: (2,)."""
        told, self._told = self._told, []
        return tf.add_n([tf.zeros(2), *told])


def zeros(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Start at zero."""
    return np.zeros(shape, np.float32)


def ones(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Start at one."""
    return np.ones(shape, np.float32)


def fan_in(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Kernel (h, w, in, out), uniform within 1 / √(fan in), as Torch draws by default."""
    bound = float(np.prod(shape[:3])) ** -0.5
    return rng.uniform(-bound, bound, shape).astype(np.float32)


def glorot(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Kernel (h, w, in, out), uniform within √(6 / (fan in + fan out))."""
    bound = (6 / (shape[0] * shape[1] * (shape[2] + shape[3]))) ** 0.5
    return rng.uniform(-bound, bound, shape).astype(np.float32)


class Conv:
    """A convolution with zeros around the image: (B, H, W, in) → (B, H, W, out).

    It computes in the dtype of the image; its variables stay in float32.

    Args:
        variables: take its kernel and bias.
        name: of it among them.
        inputs: channels.
        outputs: channels.
        side: of the kernel.
        draw: first values of the kernel.
        bias: whether it has one.
        folded: of how many pixels each input channel is made by ``space_to_depth``, which has the
            pixel first where the kernel has the channel first.
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
        folded: int = 1,
    ) -> None:
        self.folded = folded
        self.kernel = variables.add(f"{name}/kernel", (side, side, inputs, outputs), draw)
        self.bias = variables.add(f"{name}/bias", (outputs,), zeros) if bias else None

    def __call__(self, x: Tensor) -> Tensor:
        kernel = tf.cast(self.kernel, x.dtype)
        if self.folded > 1:
            side, _, inputs, outputs = kernel.shape
            apart = tf.reshape(kernel, [side, side, inputs // self.folded, self.folded, outputs])
            kernel = tf.reshape(tf.transpose(apart, [0, 1, 3, 2, 4]), kernel.shape)
        y = conv3x3(x, kernel) if pays(x, kernel) else tf.nn.conv2d(x, kernel, 1, "SAME")
        return y if self.bias is None else y + tf.cast(self.bias, x.dtype)


def doubled(x: Tensor) -> Tensor:
    """Each pixel twice along both axes: (B, H, W, C) → (B, 2H, 2W, C)."""
    return tf.repeat(tf.repeat(x, 2, axis=1), 2, axis=2)


def silu(x: Tensor) -> Tensor:
    """SiLU, x σ(x); TensorFlow's own keeps the graph of every training that uses it for ever."""
    return x * tf.math.sigmoid(x)
