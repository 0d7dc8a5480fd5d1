"""What else a scan may have wrong: positions, incoming intensities, background, a varying probe.

Each is corrected once per epoch, from sums over what every pattern, the held-out ones included,
asked for on its own.  With the change χ of an exit wave that a pattern asks for and a direction D
in which its model can move, the least-squares step is Re⟨D, χ⟩ / ⟨D, D⟩:

- position: D = (S_f P) ∂O/∂r, solved for y and x together (P. Dwivedi et al., Ultramicroscopy 192,
  29 (2018));
- weight of a varying mode: D = (S_f V_k) O (M. Odstrčil et al., Opt. Express 24, 8360 (2016));

an intensity is Σ√I√λ / Σλ squared, and the background, as for any Poisson mean,
is multiplied by the mean of I/λ (L. Shepp & Y. Vardi, IEEE Trans. Med. Imaging 1, 113 (1982)).
"""

import torch
from torch import Tensor

from ptychoconfig.schema import SolverConfig
from ptychotorch import physics

from .estimate import Estimate
from .steps import Visit

__all__ = ["Corrections"]

MAX_STEP_PX, MAX_SHIFT_PX = 0.5, 5.0
"""Largest change of a position in an epoch, and in all."""

_AFFINE_EPOCHS = 5
"""Epochs in which positions move together before each moves alone."""


class Corrections:
    """The corrections that the settings ask for, collected over an epoch and then applied.

    Args:
        config: which.
        estimate: what they correct.
    """

    def __init__(self, config: SolverConfig, estimate: Estimate) -> None:
        self.config = config
        self.given = estimate.positions - estimate.drift
        self.epochs = 0
        self._start_epoch(estimate)

    @property
    def wanted(self) -> bool:
        """Whether there is anything to correct."""
        config = self.config
        return bool(
            config.refine_positions
            or config.refine_intensity
            or config.refine_background
            or config.variable_modes
        )

    def collect(
        self, estimate: Estimate, seen: Visit, chosen: Tensor, varied: Tensor | None
    ) -> None:
        """Take note of what some patterns ask for."""
        if self.config.refine_positions:
            self._shifts[chosen] = _shift(seen, self._slopes(estimate)).to(self._shifts)
        if self.config.refine_intensity:
            weight = 1.0 if seen.valid is None else seen.valid
            light = (weight * seen.rate).sum((-2, -1)).clamp_min(1e-12)
            root = (weight * seen.amplitude * seen.rate.sqrt()).sum((-2, -1)) / light
            self._gains[chosen] = root.square()
        if self.config.refine_background:
            valid = torch.ones_like(seen.rate) if seen.valid is None else seen.valid
            ratio = seen.amplitude.square() / (seen.rate + physics.EPSILON)
            self._ratio += (valid * ratio).sum(0)
            self._count += valid.expand_as(ratio).sum(0)
        if varied is not None and estimate.weights is not None:
            self._weight_steps[chosen] = _weight_steps(seen, varied).to(self._weight_steps)

    def apply(self, estimate: Estimate) -> None:
        """Correct the estimate, at the end of an epoch."""
        if self.config.refine_positions:
            self._move(estimate)
        if estimate.intensity is not None and self.config.refine_intensity:
            gain = estimate.intensity * self._gains.sqrt()  # half a step: the object follows late
            estimate.intensity = gain / gain.mean()
        if estimate.background is not None and self.config.refine_background:
            seen = self._count > 0
            ratio = torch.where(seen, self._ratio / self._count.clamp_min(1), 1.0)
            estimate.background = estimate.background * ratio
        if estimate.weights is not None and estimate.variable is not None:
            _vary(estimate, self._weight_steps)
        self.epochs += 1
        self._start_epoch(estimate)

    def _start_epoch(self, estimate: Estimate) -> None:
        count, device = len(estimate.positions), estimate.obj.device
        self._shifts = torch.zeros(count, 2, device=device)
        self._gains = torch.ones(count, device=device)
        self._ratio = torch.zeros(estimate.side, estimate.side, device=device)
        self._count = torch.zeros_like(self._ratio)
        self._weight_steps = torch.zeros(count, self.config.variable_modes, device=device)
        self._gradient: tuple[Tensor, Tensor] | None = None

    def _slopes(self, estimate: Estimate) -> tuple[Tensor, Tensor]:
        """∂O/∂y and ∂O/∂x by central differences, flat; once per epoch."""
        if self._gradient is None:
            dy, dx = torch.gradient(
                torch.view_as_real(estimate.obj.view(estimate.shape)), dim=(0, 1)
            )
            self._gradient = (
                torch.view_as_complex(dy.contiguous()).reshape(-1),
                torch.view_as_complex(dx.contiguous()).reshape(-1),
            )
        return self._gradient

    def _move(self, estimate: Estimate) -> None:
        """Move the positions: first all by an affine map, then each alone, within bounds."""
        step = self._shifts.double().clamp(-MAX_STEP_PX, MAX_STEP_PX)
        if self.epochs < _AFFINE_EPOCHS:
            step = _affine(estimate.positions, step)
        step = step - step.mean(0)  # a common shift is the object's
        given = self.given + estimate.drift
        moved = estimate.positions + step
        estimate.positions = given + (moved - given).clamp(-MAX_SHIFT_PX, MAX_SHIFT_PX)


def _shift(seen: Visit, slopes: tuple[Tensor, Tensor]) -> Tensor:
    """The shift (B, 2) that brings each model nearest to its pattern; twice the projection's."""
    light = seen.waves
    dy, dx = (light * physics.gather(slope, seen.index)[:, None] for slope in slopes)
    yy, xx, yx = _inner(dy, dy), _inner(dx, dx), _inner(dy, dx)
    ry, rx = _inner(dy, seen.change), _inner(dx, seen.change)
    ridge = 1e-3 * (yy + xx) + 1e-30
    yy, xx = yy + ridge, xx + ridge
    determinant = yy * xx - yx.square()
    return 2 * torch.stack([ry * xx - rx * yx, rx * yy - ry * yx], -1) / determinant[:, None]


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """Re⟨a, b⟩ of each pattern: (B, M, N, N) → (B,) float64."""
    return (torch.view_as_real(a) * torch.view_as_real(b)).sum((1, 2, 3, 4)).double()


def _affine(positions: Tensor, step: Tensor) -> Tensor:
    """The affine map of the positions nearest to their steps."""
    centred = positions - positions.mean(0)
    design = torch.cat([centred, torch.ones_like(centred[:, :1])], 1)
    return design @ torch.linalg.lstsq(design.cpu(), step.cpu()).solution.to(design)


def _weight_steps(seen: Visit, varied: Tensor) -> Tensor:
    """Least-squares steps of the weights of each varying mode: (B, K)."""
    steps = []
    for mode in varied:
        direction = torch.fft.ifft2(mode[None, None] * seen.ramp) * seen.windows[:, None]
        power = _inner(direction, direction)
        steps.append(_inner(direction, seen.change[:, :1]) / power.clamp_min(1e-12))
    return torch.stack(steps, -1)


def _vary(estimate: Estimate, steps: Tensor) -> None:
    """Step the weights, take their mean into the mode itself, and make the modes orthogonal."""
    assert estimate.weights is not None and estimate.variable is not None
    power = estimate.variable.abs().square().sum((-2, -1))
    weights = estimate.weights + torch.where(power > 0, steps, 0.0).clamp(-1.0, 1.0)
    mean = weights.mean(0)
    weights = weights - mean
    change = (mean.to(estimate.variable)[:, None, None] * estimate.variable).sum(0)
    estimate.probe = torch.cat([estimate.probe[:1] + change, estimate.probe[1:]])
    flat = estimate.variable.reshape(len(estimate.variable), -1)
    # The change of pattern j is Σ_k w_jk V_k = (W V)_j; its singular vectors are the modes.
    left, size, right = torch.linalg.svd(flat.to(torch.complex128), full_matrices=False)
    mixed = (weights.to(torch.complex128) @ left) * size
    spread = mixed.abs().square().mean(0).sqrt().clamp_min(1e-12)
    # Weights are real: a common phase of each column goes to its mode.
    phase = torch.exp(0.5j * torch.angle((mixed * mixed).sum(0)))
    estimate.weights = ((mixed / phase).real / spread).to(estimate.weights)
    modes = (right * (spread * phase)[:, None]).to(estimate.variable)
    estimate.variable = modes.view_as(estimate.variable)
