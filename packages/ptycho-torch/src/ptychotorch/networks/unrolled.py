"""``unrolled``: accelerated gradient steps of the whole object, corrected by one small U-Net.

A step is a pass over the patterns, in rounds.  In a round every pattern of its part says by how
much its exit wave should change, χ = F⁻¹{ψ a}, and the sums over the part move the object by

    V ← D + μ V,   D = (Σ_j Σ_m (S_f P_m)* χ_m + κ'/2 ∇²O) / (W + β W̄ + 4κ'),   O ← O + V,

    W = Σ_j Σ_m |S_f P_m|²,   W̄ = Σ W² / Σ W,   β = 0.02

(A. Maiden, D. Johnson & P. Li, Optica 4, 736 (2017), for many patterns at once and with momentum);
κ' is the part's share of the photons κ by which a unit step between neighbours is penalised, as in
the solver.  What a pattern asks for is

    a = (I − λ) / (λ + √(λ (λ + t (I − λ)))),   t = (I − λ)² / ((I − λ)² + 9λ),

with 0.1 added to λ there.  Where I and λ differ by no more than noise, this is half of Poisson's
gradient, (I − λ)/2λ, which is 0 on average where the object is right.  Where they differ by far
more, the model is wrong, and it is that of amplitudes, √I/√λ − 1, which does not run away.  Of
amplitudes alone few photons make too little: E√I < √λ.  Patterns of ten counts a pixel and more are
taken by their amplitudes, as the solver takes them, unless ``unrolled_likelihood`` says otherwise:
their dim pixels tell more of what the model leaves out, such as partial coherence, than of the
object.

Of ρ probes that light a pixel on average, a part has about three, so that a pass makes 4 to 8
rounds with μ = 0.75 ρ/(ρ + 1); the last two passes average the noise of all patterns, in one round
and with μ = 0.

After each pass the U-Net corrects the object, once, by what it sees of it:

    O ← O + s U(Re ΔO/s, Im ΔO/s, Re O − 1, Im O, √(W/W̄), lg s, lg(e + 0.1), k/K),
    s² = Σ W|ΔO|² / Σ W + 1 / 4(W + β W̄),

where ΔO is what the pass changed; s is the size of an error that is still there: by how much the
object moves, and what photon noise leaves, W, of all patterns, being the photons on a pixel of the
object; e is the mean misfit of the patterns that lit the pixel, (4/N²) Σ(√λ − √I)², which is 1
where noise alone is left; and k/K is how far the passes are.  In training the dark frame of a
canvas is left out: no pattern tells of it.  The Fourier transform, the probe and the overlap are
given, not learned, and nothing is computed per pattern but the physics: one set of weights serves
any probe, any number of modes, any N, any overlap and any number of passes.  The
last layer starts at zero: an untrained network solves without corrections.

Each pass is trained to do the best it can with the object that it is given: gradients do not pass
from one to the one before, which would cost the backward pass of the physics in each.

After: J. Adler & O. Öktem, IEEE Trans. Med. Imaging 37, 1322 (2018) for learned steps that see the
gradient; O. Ronneberger et al., MICCAI (2015) for the U-Net; B. Zhang & R. Sennrich, NeurIPS (2019)
for normalisation by the root mean square.
"""

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the framework's own custom
from torch import Tensor, nn

from ptychoconfig.schema import ModelConfig
from ptychodata import unrolled
from ptychodata.solving import FEW_PHOTONS
from ptychotorch import physics
from ptychotorch.batches import Batch

from ._base import Network, State, Sums

__all__ = ["SUMMARY", "Unrolled", "build", "typical"]

SUMMARY = "unrolled update steps, given the probe and the Fourier transform"


def build(model: ModelConfig) -> "Unrolled":
    """Build ``unrolled`` for ``model``, whatever its N."""
    return Unrolled(model)


class Unrolled(Network):
    """``steps`` passes, all corrected by the same U-Net."""

    def __init__(self, model: ModelConfig) -> None:
        super().__init__()
        self.unet = _UNet(model.unrolled_width, model.unrolled_levels)
        self.steps, self.smoothness = model.unrolled_steps, model.unrolled_smoothness
        self.factor = _FACTORS[model.unrolled_likelihood]
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # undeclared

    @torch.no_grad()
    def see(self, step: int, patches: Tensor, shifted_probe: Tensor, batch: Batch) -> Tensor:
        """The changes of exit waves that the patterns ask for, on the object: (B, N, N, 5)."""
        waves = physics.far_field(physics.exit_waves(shifted_probe, patches), corner=True)
        rate = physics.intensity(waves, batch.background)
        root, valid = batch.counts.sqrt(), batch.valid
        factor = self.factor(batch.counts, root, rate)
        missed = (torch.sqrt(rate + physics.EPSILON) - root).square()
        if valid is not None:
            factor, missed = factor * valid, missed * valid
        change = physics.inverse_far_field(waves * factor[:, None], corner=True)
        light = physics.coverage(shifted_probe)
        asked = (shifted_probe.conj() * change).sum(1)
        misfit = 4 * missed.mean((-2, -1))
        fields = [asked.real, asked.imag, light, physics.coverage(change)]
        return torch.stack([*fields, light * misfit[:, None, None]], -1)

    def rounds(self, step: int, redundancy: float) -> int:
        """As many as leave each part enough overlap, and one in the last passes."""
        return unrolled.rounds(step, self.steps, redundancy)

    @torch.no_grad()
    def advance(self, step: int, state: State, sums: Sums, share: float = 1.0) -> State:
        """Take a gradient step with momentum."""
        gradient, curvature = sums.numerator, _floored(sums.weight, unrolled.FLOOR)
        if prior := 0.5 * share * self.smoothness:
            gradient = gradient + prior * physics.laplacian(state.obj)
            curvature = curvature + 8 * prior
        direction = gradient / curvature
        momentum = unrolled.momentum(step, self.steps, state.redundancy)
        return state.moved(direction.to(state.obj) + momentum * state.change)

    def correct(self, step: int, state: State, sums: Sums) -> State:
        """Correct the object after a pass; the gradient ends here."""
        obj, passed, light = state.obj.detach(), state.passed.detach(), sums.weight
        moved = (light * passed.abs().square()).sum((-2, -1), keepdim=True)
        moved = moved / _floored(light, 0).sum((-2, -1), keepdim=True)
        scale = torch.sqrt(moved + 0.25 / _floored(light, unrolled.FLOOR)).to(obj.real)
        known = [
            (light / _floored(typical(light), 0)).sqrt(),
            torch.log10(scale),
            torch.log10(sums.misfit / _floored(light, 1e-6) + unrolled.LEAST_MISFIT),
            torch.full_like(light, step / self.steps),
        ]
        fed = [passed / scale, obj - 1]
        fed = [part for field in fed for part in (field.real, field.imag)]
        # Where nothing is learned, what else is in a batch makes no difference.
        lit = (..., *_lit(light)) if torch.is_grad_enabled() else ...
        made = self._corrected(torch.stack([*fed, *(k.to(scale) for k in known)], 1)[lit])
        correction = torch.zeros_like(obj)
        correction[lit] = scale[lit] * torch.complex(made[:, 0], made[:, 1])
        return replace(state, obj=obj).corrected(correction)

    def _corrected(self, fed: Tensor) -> Tensor:
        narrow = self.compute_dtype != torch.float32
        with torch.autocast(fed.device.type, self.compute_dtype, enabled=narrow):
            if torch.is_grad_enabled() or max(fed.shape[-2:]) <= unrolled.TILE:
                return self.unet(fed).float()
            correction = fed.new_empty(len(fed), 2, *fed.shape[-2:])
            height, width = fed.shape[-2:]
            for tile, around, inner in unrolled.tiles(height, width, self.unet.levels):
                correction[..., *tile] = self.unet(fed[..., *around])[..., *inner].float()
        return correction


def _of_amplitudes(counts: Tensor, root: Tensor, rate: Tensor) -> Tensor:
    """√I/√λ − 1."""
    return root * torch.rsqrt(rate + physics.EPSILON) - 1


def _of_photons(counts: Tensor, root: Tensor, rate: Tensor) -> Tensor:
    """(I − λ)/2λ where the difference may be noise, √I/√λ − 1 where it is far more."""
    expected = rate + unrolled.COUNT
    missed = counts - rate
    square = missed.square()
    certain = square / (square + unrolled.NOISE * expected)
    return missed / (expected + torch.sqrt(expected * (expected + certain * missed)))


def _of_few_photons(counts: Tensor, root: Tensor, rate: Tensor) -> Tensor:
    """The second for patterns of few photons, the first for others."""
    few = counts.mean((-2, -1), keepdim=True) < FEW_PHOTONS
    made = _of_amplitudes(counts, root, rate)
    return torch.where(few, _of_photons(counts, root, rate), made) if few.any() else made


_FACTORS = {
    "amplitude": _of_amplitudes,
    "poisson": _of_photons,
    "auto": _of_few_photons,
}
"""What to multiply the far field by, less 1: likelihood → function of I, √I and λ."""


def typical(light: Tensor) -> Tensor:
    """W̄ = Σ W² / Σ W of each canvas: (G, H, W) → (G, 1, 1)."""
    total = light.sum((-2, -1), keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    return light.square().sum((-2, -1), keepdim=True) / total


def _floored(light: Tensor, share: float) -> Tensor:
    """W + β W̄, above 0 also where nothing was lit."""
    return (light + share * typical(light)).clamp_min(torch.finfo(torch.float32).tiny)


def _lit(light: Tensor) -> tuple[slice, slice]:
    """Rows and columns that hold all that is lit on any canvas: (G, H, W) → slices.

    Windows reach further than the probe, so that a square of a group is mostly a dark frame, of
    which no pattern tells anything.  The part begins and ends where folded pixels do.
    """
    lit = (light >= unrolled.DARK * typical(light)).any(0)
    return _span(lit.any(1)), _span(lit.any(0))


def _span(some: Tensor) -> slice:
    """From the first True to the last, outwards to even folded pixels."""
    found, even = some.nonzero(), unrolled.EVEN
    first, last = int(found[0]), int(found[-1])
    return slice(first // even * even, min(len(some), (last // even + 1) * even))


class _UNet(nn.Module):
    """(G, 8, H, W) → (G, 2, H, W), computed at H/4 × W/4 and coarser; any H and W.

    The finest level has even sides; a coarser one of an odd side ends in a half pixel, the mean of
    those that there are.
    """

    def __init__(self, width: int, levels: int) -> None:
        super().__init__()
        channels = [width * (1 + i) for i in range(levels + 1)]
        self.levels = levels
        self.stem = _Block(unrolled.FED * unrolled.FOLD**2, channels[0])
        self.down = nn.ModuleList(_Block(channels[i], channels[i + 1]) for i in range(levels))
        self.up = nn.ModuleList(
            _Block(channels[i + 1] + channels[i], channels[i]) for i in reversed(range(levels))
        )
        self.head = nn.Conv2d(channels[0], 2 * unrolled.FOLD**2, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]  # a head has a bias

    def forward(self, fed: Tensor) -> Tensor:
        height, width = fed.shape[-2:]
        fed = F.pad(fed, (0, -width % unrolled.EVEN, 0, -height % unrolled.EVEN))
        x = F.pixel_unshuffle(fed, unrolled.FOLD).contiguous(memory_format=torch.channels_last)
        x = self.stem(x)
        skips = [x]
        for block in self.down:
            skips.append(block(F.avg_pool2d(skips[-1], 2, ceil_mode=True)))
        x = skips.pop()
        for block in self.up:
            skip = skips.pop()
            finer = F.interpolate(x, scale_factor=2.0, mode="nearest")
            x = block(torch.cat([finer[..., : skip.shape[-2], : skip.shape[-1]], skip], 1))
        return F.pixel_shuffle(self.head(x), unrolled.FOLD)[..., :height, :width]


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
    """y = SiLU(gain · x / rms(x) + bias), the rms over the channels of each pixel.

    What it does at a pixel does not depend on how far the canvas reaches, so that an object may be
    corrected in tiles.  One function with its own gradient: on a CPU the norm is bound by memory,
    and this passes over the tensor half as often as separate operations do.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = _RmsNormSiLU.apply(x, self.gain, self.bias)  # type: ignore[no-untyped-call]
        return result


class _RmsNormSiLU(torch.autograd.Function):
    """With z = s·gain·x + bias and s = (mean x² + ε)^(−1/2) over the channels: y = z·σ(z)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
        wide = torch.float64 if x.dtype == torch.float64 else torch.float32
        square = torch.linalg.vector_norm(x, dim=1, keepdim=True, dtype=wide).square()
        s = (square / x.shape[1] + unrolled.NORM_EPSILON).rsqrt()
        z = torch.addcmul(
            _per_channel(bias).to(x.dtype), x * s.to(x.dtype), _per_channel(gain).to(x.dtype)
        )
        ctx.save_for_backward(x, z, s, gain)
        return F.silu(z)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, z, s, gain = ctx.saved_tensors
        narrow = s.to(x.dtype)
        dz = torch.ops.aten.silu_backward(grads[0], z)
        dz_x = dz * x
        scaled = _per_channel(gain).to(x.dtype)
        mean = (dz_x * scaled).sum(1, keepdim=True, dtype=s.dtype) / x.shape[1]
        dx = torch.addcmul(dz * scaled * narrow, x, (-(s**3) * mean).to(x.dtype))
        dgain = (dz_x * narrow).sum((0, 2, 3), dtype=s.dtype)
        return dx, dgain, dz.sum((0, 2, 3), dtype=s.dtype)


def _per_channel(vector: Tensor) -> Tensor:
    return vector[:, None, None]
