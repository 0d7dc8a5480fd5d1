"""The misfit of a batch, and the steps of object and probe that it implies.

With the exit waves χ that the patterns ask for, gradients and illumination are sums over a batch of

    object:  Σ_m (S_f P_m)* χ_m   over   Σ_m |S_f P_m|²,
    probe:   S_{−f} (O[n]* χ_m)   over   |O[n]|²,

which is what ePIE does one pattern at a time (A. Maiden & J. Rodenburg, Ultramicroscopy 109, 1256
(2009)) with the denominators of rPIE (A. Maiden, D. Johnson & P. Li, Optica 4, 736 (2017)).  The
object's steps have momentum, as in mPIE.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ptychotorch import physics

from .estimate import Estimate

__all__ = ["Sums", "Visit", "object_step", "probe_step", "visit"]

MOMENTUM = 0.75
"""Share of the last object step that is taken again."""

_FLOOR = {"object": 0.05, "probe": 0.5}
"""Part of the largest illumination in a denominator: weakly lit pixels move less."""

_POISSON_LENGTH = 0.25
"""Length of a step for Poisson noise: its gradient is twice that of amplitudes, and noisier."""


@dataclass(eq=False)
class Visit:
    """Some patterns, what the estimate makes of them, and the change of exit waves they ask for.

    Args:
        waves: (B, M, N, N) shifted probes S_f P_m with the pattern's intensity.
        ramp: (B, 1, N, N) the shift, in Fourier space.
        pixel: (B, 2) the windows' centres in the object.
        index: (B, N, N) the windows in the flat object.
        windows: (B, N, N) O[n].
        change: (B, M, N, N) χ.
        amplitude, rate: (B, N, N) √I and λ.
        valid: weights, or None.
    """

    waves: Tensor
    ramp: Tensor
    pixel: Tensor
    index: Tensor
    windows: Tensor
    change: Tensor
    amplitude: Tensor
    rate: Tensor
    valid: Tensor | None


@dataclass(eq=False)
class Sums:
    """Gradients of a batch and their preconditioners."""

    obj: Tensor  # (H·W,) complex
    light: Tensor  # (H·W,) Σ|S_f P|²
    probe: Tensor  # (M, N, N) complex, in Fourier space
    power: Tensor  # (N, N) Σ|O|²
    variable: Tensor | None = field(default=None)  # (K, N, N) complex, in Fourier space
    weight_power: Tensor | None = field(default=None)  # (K, N, N) Σ w²|O|²

    @classmethod
    def of(cls, estimate: Estimate) -> "Sums":
        """Zeros for an estimate."""
        sums = cls(
            torch.zeros_like(estimate.obj),
            torch.zeros_like(estimate.obj.real),
            torch.zeros_like(estimate.probe),
            torch.zeros_like(estimate.probe[0].real),
        )
        if estimate.variable is not None:
            sums.variable = torch.zeros_like(estimate.variable)
            sums.weight_power = torch.zeros_like(estimate.variable.real)
        return sums

    def add_object(self, seen: Visit, shape: tuple[int, int]) -> None:
        """Add what the patterns say of the object, whose shape is (H, W)."""
        gradient = (seen.waves.conj() * seen.change).sum(1)
        for total, part in ((self.obj, gradient), (self.light, physics.coverage(seen.waves))):
            physics.add_windows(total.view(shape), part, seen.index, seen.pixel)

    def add_probe(self, seen: Visit, estimate: Estimate, chosen: Tensor) -> None:
        """Add what the patterns say of the probe and of its variation."""
        back = torch.fft.fft2(seen.windows.conj()[:, None] * seen.change) * seen.ramp.conj()
        power = torch.view_as_real(seen.windows).square().sum(-1)
        if estimate.intensity is not None:
            share = estimate.intensity[chosen][:, None, None]
            back, power = back * share.sqrt()[:, None], power * share
        self.probe += back.sum(0)
        self.power += power.sum(0)
        if (
            estimate.weights is not None
            and self.variable is not None
            and self.weight_power is not None
        ):
            weight = estimate.weights[chosen]
            self.variable += torch.einsum("bk,byx->kyx", weight.to(back), back[:, 0])
            self.weight_power += torch.einsum("bk,byx->kyx", weight.square(), power)


def visit(
    estimate: Estimate,
    transformed: Tensor,
    varied: Tensor | None,
    chosen: Tensor,
    amplitude: Tensor,
    valid: Tensor | None,
    likelihood: str,
) -> Visit:
    """Model some patterns and compare.

    Args:
        estimate: object, probe and the rest.
        transformed: (M, N, N) Fourier transform of the probe.
        varied: (K, N, N) that of its variation, or None.
        chosen: (B,) numbers of the patterns.
        amplitude: (B, N, N) √I.
        valid: weights, (N, N) or (B, N, N), or None.
        likelihood: ``amplitude`` or ``poisson``.
    """
    pixel, fraction = physics.split_positions(estimate.positions[chosen])
    index = physics.window_index(pixel, estimate.side, estimate.shape)
    ramp = physics.shift_ramp(fraction.float(), estimate.side)
    waves = torch.fft.ifft2(_transforms(estimate, transformed, varied, chosen) * ramp)
    if estimate.intensity is not None:
        waves = waves * estimate.intensity[chosen].sqrt()[:, None, None, None]
    windows = physics.gather(estimate.obj, index)
    far = physics.far_field(waves * windows[:, None], corner=True)
    rate = physics.intensity(far, estimate.background)
    factor = _factor(amplitude, rate, likelihood)
    if valid is not None:
        factor = factor * valid
    change = physics.inverse_far_field(far * factor[:, None], corner=True)
    return Visit(waves, ramp, pixel, index, windows, change, amplitude, rate, valid)


def _transforms(
    estimate: Estimate, transformed: Tensor, varied: Tensor | None, chosen: Tensor
) -> Tensor:
    """Transforms of the probe at each pattern: (1 or B, M, N, N)."""
    if varied is None or estimate.weights is None:
        return transformed[None]
    change = torch.einsum("bk,kyx->byx", estimate.weights[chosen].to(varied), varied)
    first = transformed[None, :1] + change[:, None]
    return torch.cat([first, transformed[None, 1:].expand(len(chosen), -1, -1, -1)], 1)


def _factor(amplitude: Tensor, rate: Tensor, likelihood: str) -> Tensor:
    """What to multiply the far field by, less 1: the negative slope of the misfit."""
    if likelihood == "poisson":
        return amplitude.square() / (rate + physics.EPSILON) - 1
    return amplitude * torch.rsqrt(rate + physics.EPSILON) - 1


def object_step(
    estimate: Estimate,
    momentum: Tensor,
    sums: Sums,
    length: float,
    likelihood: str,
    prior: float,
) -> None:
    """Step the object along its preconditioned gradient, with momentum.

    Args:
        estimate: its object changes.
        momentum: (H·W,) the last step; changes.
        sums: of the batch.
        length: of the step.
        likelihood: ``amplitude`` or ``poisson``.
        prior: photons by which a unit step between neighbours is penalised, the batch's share.
    """
    scale = _POISSON_LENGTH if likelihood == "poisson" else 1.0
    share, brightest = _FLOOR["object"], sums.light.max()
    gradient, curvature = sums.obj, (1 - share) * sums.light + share * brightest
    if prior > 1e-4 * float(brightest):
        gradient = gradient + prior * physics.laplacian(estimate.obj.view(estimate.shape)).reshape(
            -1
        )
        curvature = curvature + 8 * prior
    lit = sums.light / curvature  # what the batch does not light neither moves nor forgets
    step = gradient / curvature + MOMENTUM * lit * momentum
    momentum.mul_(1 - lit).add_(step)
    estimate.obj.add_(step, alpha=scale * length)


def probe_step(estimate: Estimate, sums: Sums, length: float, likelihood: str) -> None:
    """Step the probe, and its variation, along their preconditioned gradients."""
    scale = length * (_POISSON_LENGTH if likelihood == "poisson" else 1.0)
    estimate.probe += scale * torch.fft.ifft2(sums.probe) / _floored(sums.power)
    if sums.variable is not None and sums.weight_power is not None:
        assert estimate.variable is not None
        step = torch.fft.ifft2(sums.variable) / _floored(sums.weight_power)
        estimate.variable = estimate.variable + scale * step


def _floored(power: Tensor) -> Tensor:
    share = _FLOOR["probe"]
    return (1 - share) * power + share * power.amax((-2, -1), keepdim=True)
