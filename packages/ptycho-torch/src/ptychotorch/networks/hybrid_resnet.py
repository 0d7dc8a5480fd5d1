"""``hybrid-resnet``: a spectral encoder, a residual bottleneck, and a decoder.

Two spectral blocks, each followed by a halving, whatever the N; in the bottleneck residual blocks
x + conv(GELU(norm(conv(x)))), which carry the signal past any layer that dies; two doublings.  Of
the original's networks this kind is the one that trains N = 128 reliably.
"""

from torch import Tensor, nn

from ptychoconfig.schema import ModelConfig

from ._base import PatternNetwork
from ._spectral import Generator, check_modes, conv3, lifter
from .fno import Block

__all__ = ["SUMMARY", "build"]

SUMMARY = "spectral encoder, residual bottleneck at a quarter of the side, decoder"


def build(model: ModelConfig) -> PatternNetwork:
    """Build ``hybrid-resnet`` for ``model``.

    Raises:
        ConfigError: the halved patterns do not hold the modes, or N is not divisible by 4.
    """
    check_modes(model, coarsest=2, divisor=4)
    width, deep = model.fno_width, 4 * model.fno_width
    body = nn.Sequential(
        lifter(model.C, width),
        Block(width, model.fno_modes),
        conv3(width, 2 * width, stride=2),
        Block(2 * width, model.fno_modes),
        conv3(2 * width, deep, stride=2),
        *(_Residual(deep) for _ in range(model.resnet_blocks)),
        _up(deep, 2 * width),
        _up(2 * width, width),
    )
    return PatternNetwork(Generator(model, body, width), model.C)


def _up(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Upsample(scale_factor=2.0), conv3(inputs, outputs), nn.GELU())


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            conv3(width, width),
            nn.InstanceNorm2d(width, affine=True),
            nn.GELU(),
            conv3(width, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.branch(x)
        return y
