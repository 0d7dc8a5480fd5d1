"""``ffno``: a factorised Fourier neural operator, small enough for a quick try.

Spectral convolutions along each axis apart, shared by all blocks and let in through one gate,
beside a local convolution; then normalisation and a pointwise perceptron.
"""

import torch
from torch import Tensor, nn

from ptychoconfig.schema import ModelConfig

from ._base import PatternNetwork
from ._spectral import Generator, SpectralConv1d, check_modes, conv3, lifter

__all__ = ["SUMMARY", "build"]

SUMMARY = "factorised Fourier neural operator: spectral convolutions along each axis"

_GATE = 0.1  # of the spectral path when fresh
_EXPANSION = 2  # of the perceptron


def build(model: ModelConfig) -> PatternNetwork:
    """Build ``ffno`` for ``model``.

    Raises:
        ConfigError: the patterns do not hold the modes.
    """
    check_modes(model)
    return PatternNetwork(Generator(model, _Body(model), model.fno_width), model.C)


class _Body(nn.Module):
    def __init__(self, model: ModelConfig) -> None:
        super().__init__()
        width = model.fno_width
        self.lifter = lifter(model.C, width)
        self.spectral = SpectralConv1d(width, model.fno_modes)
        self.gate = nn.Parameter(torch.full((1,), _GATE))
        self.blocks = nn.ModuleList(_Block(width) for _ in range(model.fno_blocks))

    def forward(self, x: Tensor) -> Tensor:
        x = self.lifter(x)
        for block in self.blocks:
            x = block(x, self.gate * self.spectral(x))
        return x


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.local = conv3(width, width)
        self.norm = nn.InstanceNorm2d(width, affine=True)
        self.mlp = nn.Sequential(
            nn.Conv2d(width, _EXPANSION * width, 1),
            nn.GELU(),
            nn.Conv2d(_EXPANSION * width, width, 1),
        )

    def forward(self, x: Tensor, spectral: Tensor) -> Tensor:
        y: Tensor = x + self.mlp(self.norm(spectral + self.local(x)))
        return y
