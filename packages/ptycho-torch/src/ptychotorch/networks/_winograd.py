"""3×3 convolutions by Winograd's minimal filtering, which saves three of four multiplications.

A tile of 4×4 outputs is a product of 36 numbers per pair of channels instead of 144: with d a 6×6
tile of inputs and g a kernel, both transformed along rows and columns,

    y = Aᵀ [ (G g Gᵀ) ⊙ (Bᵀ d B) ] A ,

summed over input channels between the brackets, which makes it 36 matrix products.  The gradient of
the kernel is Gᵀ [ Σ (Bᵀ d B) ⊙ (A dy Aᵀ) ] G, that of the input a convolution with the turned
kernel.  Samples are taken a few at a time, so that their tiles stay in the cache.

After: A. Lavin & S. Gray, "Fast algorithms for convolutional neural networks", CVPR (2016),
F(4×4, 3×3).

On a CPU this pays where channels are many (``docs/performance.md``); elsewhere, in 16-bit
arithmetic and on other devices, ``conv3x3`` is the framework's convolution.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the framework's own custom
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ptychodata import winograd
from ptychodata.winograd import TILE, WINDOW

__all__ = ["conv3x3"]

_BLOCK = 2**20  # numbers that a transformed block may have: it should stay in the cache
_FEWEST_TO_LEARN = 32 * 32  # input times output channels from which the kernel's gradient gains
_FEWEST_TO_APPLY = 64 * 128  # and from which the convolution itself does

_INPUT, _KERNEL, _OUTPUT = (
    torch.from_numpy(matrix) for matrix in (winograd.INPUT, winograd.KERNEL, winograd.OUTPUT)
)


def conv3x3(x: Tensor, layer: nn.Conv2d) -> Tensor:
    """``layer(x)`` for a 3×3 convolution that keeps the size: (B, I, H, W) → (B, O, H, W)."""
    weight = layer.weight
    narrow = torch.is_autocast_enabled("cpu") or weight.dtype.itemsize < 4
    tiled = x.shape[-2] % TILE == 0 and x.shape[-1] % TILE == 0
    few = weight.shape[0] * weight.shape[1] < _FEWEST_TO_LEARN
    if x.device.type != "cpu" or narrow or few or not tiled or torch.compiler.is_compiling():
        found: Tensor = layer(x)
        return found
    made: Tensor = _Conv3x3.apply(x, weight, layer.bias)  # type: ignore[no-untyped-call]
    return made


class _Conv3x3(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _convolved(x, weight, bias)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        turned = weight.flip(2, 3).transpose(0, 1).contiguous(memory_format=torch.channels_last)
        dx = _convolved(grad, turned, None) if ctx.needs_input_grad[0] else None
        return dx, _kernel_gradient(x, grad), grad.sum((0, 2, 3))


def _convolved(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    outputs, inputs = weight.shape[:2]
    if outputs * inputs < _FEWEST_TO_APPLY:
        return F.conv2d(x, weight, bias, padding=1)
    kernel = _transform(_KERNEL, weight.permute(2, 3, 1, 0)).view(-1, inputs, outputs)
    made = torch.empty_like(x[:, :1].expand(-1, outputs, -1, -1), memory_format=torch.channels_last)
    channels_last = made.permute(0, 2, 3, 1)
    for part, tiles in _blocks(x, outputs):
        products = torch.bmm(tiles, kernel)  # (36, T, O)
        y = _transform(_OUTPUT, products.unflatten(0, (WINDOW, WINDOW)))
        y = y if bias is None else y.add_(bias)
        place = _tiles(channels_last[part], TILE)
        place.copy_(y.view(place.shape))
    return made


def _kernel_gradient(x: Tensor, grad: Tensor) -> Tensor:
    inputs, outputs = x.shape[1], grad.shape[1]
    channels_last = grad.permute(0, 2, 3, 1)
    total = x.new_zeros(WINDOW**2, inputs, outputs)
    for part, tiles in _blocks(x, outputs):
        spread = _transform(_OUTPUT.T, _tiles(channels_last[part], TILE))
        total.baddbmm_(tiles.mT, spread.view(WINDOW**2, -1, outputs))
    found = _transform(_KERNEL.T, total.unflatten(0, (WINDOW, WINDOW)))
    return found.permute(3, 2, 0, 1)


def _blocks(x: Tensor, outputs: int) -> Iterator[tuple[slice, Tensor]]:
    """Samples that go together, and their transformed tiles, (36, T, I)."""
    count, inputs, height, width = x.shape
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
    numbers = WINDOW**2 * (height // TILE) * (width // TILE) * max(inputs, outputs)
    together = max(1, _BLOCK // numbers)
    for start in range(0, count, together):
        part = slice(start, start + together)
        tiles = _transform(_INPUT, _tiles(padded[part], WINDOW))
        yield part, tiles.view(WINDOW**2, -1, inputs)


def _tiles(x: Tensor, side: int) -> Tensor:
    """Every 4th window of ``side`` pixels: (B, H, W, C) → (side, side, B, H/4, W/4, C), a view."""
    rows = x.unfold(1, side, TILE).unfold(2, side, TILE)  # (B, H/4, W/4, C, side, side)
    return rows.permute(4, 5, 0, 1, 2, 3)


def _transform(matrix: Tensor, tiles: Tensor) -> Tensor:
    """M t Mᵀ of tiles t along the first two axes: (i, i, …, C) → (o, o, …, C)."""
    matrix, inner = matrix.to(tiles), tiles.shape[2:]
    rows = (matrix @ tiles.reshape(len(tiles), -1)).view(len(matrix), len(tiles), -1)
    return (matrix @ rows).view(len(matrix), len(matrix), *inner)
