"""``fno``: a Fourier neural operator from patterns to a complex object.

Blocks x + GELU(spectral convolution + 3×3 convolution) see the whole pattern at once; a few
plain convolutions refine what they made.
"""

from torch import Tensor, nn

from ptychoconfig.schema import ModelConfig

from ._base import PatternNetwork
from ._spectral import Generator, SpectralConv, check_modes, conv3, lifter

__all__ = ["SUMMARY", "build"]

SUMMARY = "Fourier neural operator: spectral convolutions over the whole pattern"


def build(model: ModelConfig) -> PatternNetwork:
    """Build ``fno`` for ``model``.

    Raises:
        ConfigError: the patterns do not hold the modes.
    """
    check_modes(model)
    width = model.fno_width
    body = nn.Sequential(
        lifter(model.C, width),
        *(Block(width, model.fno_modes) for _ in range(model.fno_blocks)),
        *(layer for _ in range(model.fno_cnn_blocks) for layer in (conv3(width, width), nn.GELU())),
        nn.Conv2d(width, width, 1),
    )
    return PatternNetwork(Generator(model, body, width), model.C)


class Block(nn.Module):
    """x + GELU(spectral + local)."""

    def __init__(self, width: int, modes: int) -> None:
        super().__init__()
        self.spectral = SpectralConv(width, modes)
        self.local = conv3(width, width)
        self.activation = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.activation(self.spectral(x) + self.local(x))
        return y
