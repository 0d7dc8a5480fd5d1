"""``unrolled``: a few update steps, each corrected by a small U-Net in real space.

Step k is fed, for each pattern, the object update g that pattern and probe imply
(``physics.object_update``), the current estimate O and the modulus of the probe, and returns

    O ← O + g + U_k(Re g, Im g, Re O − 1, Im O, √Σ|P|² / max √Σ|P|²).

Between steps the overlapping patches are merged by the caller.  The Fourier transform, the probe
and the overlap are given, not learned, so that one set of weights serves any probe, any number of
modes and any N divisible by 2^(levels+1).  The last layer starts at zero: an untrained network is
the classical update.

After: K. Monakhova et al., Opt. Express 27, 28075 (2019) for unrolled reconstruction;
O. Ronneberger et al., MICCAI (2015) for the U-Net; B. Zhang & R. Sennrich, NeurIPS (2019) for
normalisation by the root mean square.
"""

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the framework's own custom
from torch import Tensor, nn

from ptychoconfig.errors import ConfigError
from ptychoconfig.schema import ModelConfig
from ptychotorch import physics
from ptychotorch.batches import Batch

from ._base import Network

__all__ = ["SUMMARY", "Unrolled", "build"]

SUMMARY = "unrolled update steps, given the probe and the Fourier transform"

_FED = 5  # channels: Re g, Im g, Re O − 1, Im O, √Σ|P|²
_FOLD = 2  # space-to-depth: pixels folded into channels before the first convolution


def build(model: ModelConfig) -> "Unrolled":
    """Build ``unrolled`` for ``model``.

    Raises:
        ConfigError: N is not divisible by the coarsest level's pixel.
    """
    coarsest = _FOLD * 2**model.unrolled_levels
    if model.N % coarsest:
        raise ConfigError(
            f"--unrolled-levels {model.unrolled_levels}: expected patterns of a side divisible by "
            f"{coarsest}, found N = {model.N}; crop the patterns or use fewer levels"
        )
    return Unrolled(model.unrolled_steps, model.unrolled_width, model.unrolled_levels)


class Unrolled(Network):
    """``steps`` update steps with a U-Net of its own each."""

    def __init__(self, steps: int, width: int, levels: int) -> None:
        super().__init__()
        self.unets = nn.ModuleList(_UNet(width, levels) for _ in range(steps))
        self.steps = steps
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # undeclared

    def forward(self, step: int, patches: Tensor, shifted_probe: Tensor, batch: Batch) -> Tensor:
        """Improve the patches of a batch: (B, N, N) complex64 → (B, N, N) complex64."""
        update = physics.object_update(
            patches, shifted_probe, batch.counts, batch.valid, batch.background, corner=True
        )
        modulus = physics.coverage(shifted_probe.detach()).sqrt()  # its slope at 0 is infinite
        modulus = modulus / modulus.amax((-2, -1), keepdim=True)
        fed = torch.stack([update.real, update.imag, patches.real - 1, patches.imag, modulus], 1)
        fed = fed.contiguous(memory_format=torch.channels_last)
        narrow = self.compute_dtype != torch.float32
        with torch.autocast(fed.device.type, self.compute_dtype, enabled=narrow):
            correction = self.unets[step](fed).float()
        return patches + update + torch.complex(correction[:, 0], correction[:, 1])


class _UNet(nn.Module):
    """(B, 5, N, N) → (B, 2, N, N), computed at N/2 and coarser."""

    def __init__(self, width: int, levels: int) -> None:
        super().__init__()
        channels = [width * 2**i for i in range(levels + 1)]
        self.stem = _Block(_FED * _FOLD**2, channels[0])
        self.down = nn.ModuleList(_Block(channels[i], channels[i + 1]) for i in range(levels))
        self.up = nn.ModuleList(
            _Block(channels[i + 1] + channels[i], channels[i]) for i in reversed(range(levels))
        )
        self.head = nn.Conv2d(channels[0], 2 * _FOLD**2, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]  # a head has a bias

    def forward(self, fed: Tensor) -> Tensor:
        x = self.stem(F.pixel_unshuffle(fed, _FOLD))
        skips = [x]
        for block in self.down:
            skips.append(block(F.avg_pool2d(skips[-1], 2)))
        x = skips.pop()
        for block in self.up:
            finer = F.interpolate(x, scale_factor=2.0, mode="nearest")
            x = block(torch.cat([finer, skips.pop()], 1))
        return F.pixel_shuffle(self.head(x), _FOLD)


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.norm1 = RmsNormSiLU(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = RmsNormSiLU(outputs)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm2(self.conv2(self.norm1(self.conv1(x))))
        return y


class RmsNormSiLU(nn.Module):
    """y = SiLU(gain · x / rms(x) + bias), the rms over channels and pixels of each sample.

    One function with its own gradient: on a CPU the norm is bound by memory, and this passes over
    the tensor half as often as separate operations do (see ``docs/performance.md``).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = _RmsNormSiLU.apply(x, self.gain, self.bias)  # type: ignore[no-untyped-call]
        return result


class _RmsNormSiLU(torch.autograd.Function):
    """With z = s·gain·x + bias and s = 1/rms(x): y = z·σ(z)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
        wide = torch.float64 if x.dtype == torch.float64 else torch.float32
        norm = torch.linalg.vector_norm(x, dim=(1, 2, 3), keepdim=True, dtype=wide)
        s = x[0].numel() ** 0.5 / norm.clamp_min(1e-6)
        z = torch.addcmul(_per_channel(bias).to(x.dtype), x, (s * _per_channel(gain)).to(x.dtype))
        ctx.save_for_backward(x, z, s, gain)
        return F.silu(z)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, z, s, gain = ctx.saved_tensors
        dz = torch.ops.aten.silu_backward(grads[0], z)
        dz_x = (dz * x).sum((2, 3), keepdim=True, dtype=s.dtype)  # (B, C, 1, 1)
        mean = (dz_x * _per_channel(gain)).sum(1, keepdim=True) / x[0].numel()
        dx = torch.addcmul(
            dz * (s * _per_channel(gain)).to(x.dtype), x, (-(s**3) * mean).to(x.dtype)
        )
        return dx, (dz_x * s).sum((0, 2, 3)), dz.sum((0, 2, 3), dtype=s.dtype)


def _per_channel(vector: Tensor) -> Tensor:
    return vector[:, None, None]
