"""``cnn``: the network of PtychoPINN, parameter for parameter.

A convolutional encoder sees the amplitudes of a group of C patterns and halves them to a
bottleneck of 8×8 pixels; two decoders, without skips, make the amplitude A and the phase φ of the
patches, and the object is O = e^α · A · e^{iφ} with one trainable α, which begins where the photons
say (``ptychodata.training.strength``).  The decoders speak for the central half of a patch
(``pad_object``); what surrounds it comes from four channels kept apart (``probe_big``).  There is
no attention.

After: O. Hoidn, A. Mishra & A. Mehta, Sci. Rep. 13, 22789 (2023).  Widths and depths follow the
published network; weights start as there, Glorot uniform with zero bias.
"""

import math
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from tensorflow import Tensor

from ptychoconfig.errors import ConfigError
from ptychoconfig.schema import ModelConfig

from ._base import PatternNetwork
from ._layers import Conv, Variables, doubled, silu, zeros

__all__ = ["SUMMARY", "Generator", "build"]

SUMMARY = "encoder and two decoders from patterns to amplitude and phase, as in PtychoPINN"

_BOTTLENECK = 8  # pixels
_DEEPEST = 128  # channels at the bottleneck, over the scale of filters
_OUTER = 4  # channels of a decoder's end that are kept for the border


_AMPLITUDES: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": tf.math.sigmoid,
    "swish": silu,
    "softplus": tf.nn.softplus,
    "relu": tf.nn.relu,
}


def build(model: ModelConfig, seed: int) -> PatternNetwork:
    """Build ``cnn`` for ``model``.

    Raises:
        ConfigError: N is no power of two.
    """
    if model.N & (model.N - 1):
        raise ConfigError(
            f"--architecture cnn: expected patterns whose side N is a power of two, found "
            f"{model.N}; crop or pad the patterns"
        )
    variables = Variables(seed)
    return PatternNetwork(variables, Generator(variables, model), model.C)


class Generator:
    """(G, C, N, N) amplitudes → (G, C, N, N) complex64 patches, or (G, 1, N, N) for all."""

    def __init__(self, variables: Variables, model: ModelConfig) -> None:
        ladder = _doubling(_DEEPEST * _BOTTLENECK * 2 // model.N, _DEEPEST)
        widths = [model.n_filters_scale * width for width in ladder]
        inputs = [model.C, *widths[:-1]]
        self.encoder = [
            _Convolutions(variables, f"generator/encoder/{k}", i, o)
            for k, (i, o) in enumerate(zip(inputs, widths, strict=True))
        ]
        self.amplitude = _Decoder(
            variables, "generator/amplitude", model, _AMPLITUDES[model.amp_activation]
        )
        self.phase = _Decoder(variables, "generator/phase", model, lambda x: math.pi * tf.tanh(x))
        self.log_scale = variables.add(
            "generator/log_scale", (1,), zeros, model.intensity_scale_trainable
        )

    def __call__(self, amplitude: Tensor) -> Tensor:
        """Patches of the object: O = e^α · A · e^{iφ}."""
        x = tf.transpose(amplitude, [0, 2, 3, 1])
        for convolutions in self.encoder:
            x = tf.nn.max_pool2d(convolutions(x), 2, 2, "VALID")
        modulus = tf.exp(self.log_scale) * tf.cast(self.amplitude(x), tf.float32)
        phase = tf.cast(self.phase(x), tf.float32)
        patches = tf.complex(modulus * tf.cos(phase), modulus * tf.sin(phase))
        return tf.transpose(patches, [0, 3, 1, 2])


def _doubling(first: int, last: int) -> list[int]:
    """first, 2 first, 4 first … last."""
    return [first << i for i in range((last // first).bit_length())]


class _Convolutions:
    """Two 3×3 convolutions, each rectified."""

    def __init__(self, variables: Variables, name: str, inputs: int, outputs: int) -> None:
        self.conv1 = Conv(variables, f"{name}/conv1", inputs, outputs)
        self.conv2 = Conv(variables, f"{name}/conv2", outputs, outputs)
        self.heard = variables.heard

    def __call__(self, x: Tensor) -> Tensor:
        x = self.heard(tf.nn.relu(self.conv1(x)))
        return self.heard(tf.nn.relu(self.conv2(x)))


_TAPS = np.array([[[1, 0, 0], [0, 1, 1], [0, 0, 0]], [[0, 0, 0], [1, 1, 0], [0, 0, 1]]], np.float32)
"""(pixel of a pair, tap before doubling, tap after): which taps of a kernel fall on one pixel."""


def conv_of_doubled(x: Tensor, layer: Conv) -> Tensor:
    """``layer`` of the doubled image, computed before doubling: (G, H, W, C) → (G, 2H, 2W, O).

    A convolution to one channel costs as much as one to sixteen, and doubling many channels as
    much as a convolution; here there are four outputs at a quarter of the pixels.
    """
    taps, after = tf.constant(_TAPS), tf.convert_to_tensor(layer.kernel)
    kernel = tf.einsum("pik,qjl,klco->ijcpqo", taps, taps, after)
    kernel = tf.reshape(kernel, [3, 3, after.shape[2], 4 * after.shape[3]])
    four = tf.nn.conv2d(x, tf.cast(kernel, x.dtype), 1, "SAME")
    image = tf.nn.depth_to_space(four, 2)
    return image if layer.bias is None else image + tf.cast(layer.bias, x.dtype)


class _Decoder:
    """Features at the bottleneck → one real image per patch, its centre through ``activation``."""

    def __init__(
        self,
        variables: Variables,
        name: str,
        model: ModelConfig,
        activation: Callable[[Tensor], Tensor],
    ) -> None:
        scale, patches = model.n_filters_scale, model.C if model.object_big else 1
        widths = [scale * width for width in reversed(_doubling(_OUTER * 8, model.N))]
        inputs = [scale * _DEEPEST, *widths[:-1]]
        self.up = [
            _Convolutions(variables, f"{name}/up/{k}", i, o)
            for k, (i, o) in enumerate(zip(inputs, widths, strict=True))
        ]
        self.head = Conv(variables, f"{name}/head", widths[-1] - _OUTER, patches)
        self.activation, self.padded = activation, model.pad_object
        self.border: tuple[_Convolutions, Conv] | None = None
        if model.probe_big and model.pad_object:
            width = scale * 2048 // model.N
            self.border = (
                _Convolutions(variables, f"{name}/border/0", _OUTER, width),
                Conv(variables, f"{name}/border/1", width, patches),
            )

    def __call__(self, features: Tensor) -> Tensor:
        x = self.up[0](features)
        for block in self.up[1:]:
            x = block(doubled(x))
        inner, outer = tf.split(x, [x.shape[-1] - _OUTER, _OUTER], -1)
        inner = inner if self.padded else doubled(inner)
        image = self.activation(conv_of_doubled(inner, self.head))
        if not self.padded:
            return image
        quarter = image.shape[1] // 2
        around = [[0, 0], [quarter, quarter], [quarter, quarter], [0, 0]]
        image, inside = tf.pad(image, around), tf.pad(tf.ones_like(image[:1, :, :, :1]), around)
        if self.border is None:
            return image
        convolutions, head = self.border
        border = conv_of_doubled(convolutions(doubled(outer)), head)
        return image + silu(border) * (1 - inside)
