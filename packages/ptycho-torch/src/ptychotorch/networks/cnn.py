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

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812 - the framework's own custom
from torch import Tensor, nn

from ptychoconfig.errors import ConfigError
from ptychoconfig.schema import ModelConfig

from ._base import PatternNetwork
from ._winograd import conv3x3

__all__ = ["SUMMARY", "Generator", "build"]

SUMMARY = "encoder and two decoders from patterns to amplitude and phase, as in PtychoPINN"

_BOTTLENECK = 8  # pixels
_DEEPEST = 128  # channels at the bottleneck, over the scale of filters
_OUTER = 4  # channels of a decoder's end that are kept for the border

_AMPLITUDES: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "swish": F.silu,
    "softplus": F.softplus,
    "relu": F.relu,
}


def build(model: ModelConfig) -> PatternNetwork:
    """Build ``cnn`` for ``model``.

    Raises:
        ConfigError: N is no power of two.
    """
    if model.N & (model.N - 1):
        raise ConfigError(
            f"--architecture cnn: expected patterns whose side N is a power of two, found "
            f"{model.N}; crop or pad the patterns"
        )
    return PatternNetwork(Generator(model), model.C)


class Generator(nn.Module):
    """(G, C, N, N) amplitudes → (G, C, N, N) complex64 patches, or (G, 1, N, N) for all."""

    def __init__(self, model: ModelConfig) -> None:
        super().__init__()
        ladder = _doubling(_DEEPEST * _BOTTLENECK * 2 // model.N, _DEEPEST)
        widths = [model.n_filters_scale * width for width in ladder]
        inputs = [model.C, *widths[:-1]]
        self.encoder = nn.Sequential(*(_Down(i, o) for i, o in zip(inputs, widths, strict=True)))
        self.amplitude = _Decoder(model, _AMPLITUDES[model.amp_activation])
        self.phase = _Decoder(model, lambda x: torch.pi * torch.tanh(x))
        self.log_scale = nn.Parameter(torch.zeros(1), requires_grad=model.intensity_scale_trainable)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]  # all have a bias

    def forward(self, amplitude: Tensor) -> Tensor:
        """Patches of the object: O = e^α · A · e^{iφ}."""
        features = self.encoder(amplitude.contiguous(memory_format=torch.channels_last))
        modulus = self.log_scale.exp()[:, None, None] * self.amplitude(features).float()
        phase = self.phase(features).float()
        return torch.complex(modulus * phase.cos(), modulus * phase.sin())


def _doubling(first: int, last: int) -> list[int]:
    """first, 2 first, 4 first … last."""
    return [first << i for i in range((last // first).bit_length())]


class _Convolutions(nn.Module):
    """Two 3×3 convolutions, each rectified."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.relu1, self.relu2 = nn.ReLU(inplace=True), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.relu2(conv3x3(self.relu1(conv3x3(x, self.conv1)), self.conv2))
        return y


class _Down(_Convolutions):
    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(super().forward(x), 2)


def _doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


_TAPS = torch.tensor([[[1.0, 0, 0], [0, 1, 1], [0, 0, 0]], [[0, 0, 0], [1, 1, 0], [0, 0, 1]]])
"""(pixel of a pair, tap before doubling, tap after): which taps of a kernel fall on one pixel."""


def conv_of_doubled(x: Tensor, layer: nn.Conv2d) -> Tensor:
    """``layer`` of the doubled image, computed before doubling: (G, C, H, W) → (G, O, 2H, 2W).

    A convolution to one channel costs as much as one to sixteen, and doubling many channels as
    much as a convolution; here there are four outputs at a quarter of the pixels.
    """
    taps = _TAPS.to(layer.weight)
    kernel = torch.einsum("pik,qjl,ockl->opqcij", taps, taps, layer.weight).flatten(0, 2)
    bias = layer.bias.repeat_interleave(4) if layer.bias is not None else None
    return F.pixel_shuffle(F.conv2d(x, kernel, bias, padding=1), 2)


class _Decoder(nn.Module):
    """Features at the bottleneck → one real image per patch, its centre through ``activation``."""

    def __init__(self, model: ModelConfig, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        scale, patches = model.n_filters_scale, model.C if model.object_big else 1
        widths = [scale * width for width in reversed(_doubling(_OUTER * 8, model.N))]
        inputs = [scale * _DEEPEST, *widths[:-1]]
        self.up = nn.ModuleList(_Convolutions(i, o) for i, o in zip(inputs, widths, strict=True))
        self.head = nn.Conv2d(widths[-1] - _OUTER, patches, 3, padding=1)
        self.activation, self.padded = activation, model.pad_object
        self.border: nn.ModuleList | None = None
        if model.probe_big and model.pad_object:
            width = scale * 2048 // model.N
            self.border = nn.ModuleList(
                [_Convolutions(_OUTER, width), nn.Conv2d(width, patches, 3, padding=1)]
            )

    def forward(self, features: Tensor) -> Tensor:
        x = self.up[0](features)
        for block in list(self.up)[1:]:
            x = block(_doubled(x))
        inner, outer = x[:, :-_OUTER], x[:, -_OUTER:]
        inner = inner if self.padded else _doubled(inner)
        image = self.activation(conv_of_doubled(inner, self.head))
        if not self.padded:
            return image
        quarter = (image.shape[-1] // 2,) * 4
        image, inside = F.pad(image, quarter), F.pad(torch.ones_like(image[:1, :1]), quarter)
        if self.border is None:
            return image
        convolutions, head = self.border
        border = conv_of_doubled(convolutions(_doubled(outer)), head)  # type: ignore[arg-type]
        return image + F.silu(border) * (1 - inside)
