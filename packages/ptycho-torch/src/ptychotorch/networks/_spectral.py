"""What the Fourier networks share: spectral convolutions, and a complex image at the end.

After: Z. Li et al., ICLR (2021) for the Fourier neural operator; A. Tran et al., ICLR (2023) for
its factorised form.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ptychoconfig.errors import ConfigError
from ptychoconfig.schema import ModelConfig

__all__ = ["Generator", "SpectralConv", "SpectralConv1d", "check_modes", "conv3", "lifter"]

_TRANSFORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "sqrt": torch.sqrt,
    "log1p": torch.log1p,
    "instancenorm": torch.nn.functional.instance_norm,
}


def check_modes(model: ModelConfig, coarsest: int = 1, divisor: int = 2) -> None:
    """See that a grid ``coarsest`` times coarser than the pattern holds the modes.

    Raises:
        ConfigError: it does not, or N is not a multiple of ``divisor``.
    """
    side, least = model.N, 2 * coarsest * model.fno_modes
    if side % divisor or side < least:
        raise ConfigError(
            f"--architecture {model.architecture}: expected a side N divisible by {divisor} and "
            f"of at least {least} pixels for {model.fno_modes} modes (--fno-modes), found N = "
            f"{side}; use fewer modes, or crop or pad the patterns"
        )


def conv3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """A 3×3 convolution that keeps the side, or halves it with ``stride`` 2."""
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1)


def lifter(inputs: int, width: int) -> nn.Sequential:
    """Patterns → features."""
    return nn.Sequential(conv3(inputs, width), nn.GELU(), conv3(width, width))


class Generator(nn.Module):
    """(G, C, N, N) amplitudes → (G, C, N, N) complex64, free space before it learns.

    Args:
        model: N, C and how the patterns are transformed first.
        body: (G, C, N, N) → (G, ``features``, N, N).
        features: channels that the real and imaginary parts are made of.
    """

    def __init__(self, model: ModelConfig, body: nn.Module, features: int) -> None:
        super().__init__()
        self.transform = _TRANSFORMS[model.fno_input_transform]
        self.body = body
        self.head = nn.Conv2d(features, 2 * model.C, 1)
        bias = torch.tensor([1.0, 0.0]).repeat_interleave(model.C)
        self.head.bias = nn.Parameter(bias)

    def forward(self, amplitude: Tensor) -> Tensor:
        x = self.transform(amplitude).contiguous(memory_format=torch.channels_last)
        real, imaginary = self.head(self.body(x)).float().chunk(2, dim=1)
        return torch.complex(real.contiguous(), imaginary.contiguous())


class SpectralConv(nn.Module):
    """Mixes the channels of each low frequency with weights of its own, at any side.

    Rows have frequencies of both signs; of columns the transform of a real image has one.
    """

    def __init__(self, width: int, modes: int) -> None:
        super().__init__()
        shape = (2, width, width, modes, modes, 2)  # sign of the row frequency, in, out, …, re/im
        self.modes = modes
        self.spectrum = nn.Parameter(torch.rand(shape) / width**2)

    def forward(self, x: Tensor) -> Tensor:
        m, weight = self.modes, torch.view_as_complex(self.spectrum)
        with torch.autocast(x.device.type, enabled=False):
            known = torch.fft.rfft2(x.float(), norm="ortho")
            made = torch.zeros_like(known)
            for sign, rows in enumerate((slice(0, m), slice(-m, None))):
                made[..., rows, :m] = _mix(known[..., rows, :m], weight[sign])
            return torch.fft.irfft2(made, s=x.shape[-2:], norm="ortho")


class SpectralConv1d(nn.Module):
    """The same along each axis apart, the two summed."""

    def __init__(self, width: int, modes: int) -> None:
        super().__init__()
        self.modes = modes
        self.spectrum = nn.Parameter(torch.rand(2, width, width, modes, 2) / width**2)

    def forward(self, x: Tensor) -> Tensor:
        weight = torch.view_as_complex(self.spectrum)
        with torch.autocast(x.device.type, enabled=False):
            rows, columns = (
                self._along(image, kernel[:, :, None])
                for image, kernel in zip((x.float().mT, x.float()), weight, strict=True)
            )
            return rows.mT + columns

    def _along(self, x: Tensor, weight: Tensor) -> Tensor:
        known = torch.fft.rfft(x, norm="ortho")[..., : self.modes]
        return torch.fft.irfft(_mix(known, weight), n=x.shape[-1], norm="ortho")


def _mix(known: Tensor, weight: Tensor) -> Tensor:
    """(G, in, y, x) with (in, out, y, x), either side 1 where shared → (G, out, y, x)."""
    return torch.einsum("giyx,ioyx->goyx", known, weight.expand(-1, -1, known.shape[2], -1))
