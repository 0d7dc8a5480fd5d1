"""What is solved for: object, probe, positions and the rest, and the gauge that data leave open."""

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptychoconfig.schema import SolverConfig
from ptychodata.contracts import Scan, Solution
from ptychodata.descent import Fitted
from ptychodata.solving import SolverPlan
from ptychotorch import physics

__all__ = ["Estimate", "begin"]

_MAX_DRIFT_PX = 4.0
"""How far centring may move the positions in all: within the margin of the canvas."""


@dataclass(eq=False)
class Estimate:
    """The unknowns of a scan.

    Args:
        obj: (H·W,) complex64 object, flat.
        shape: (H, W).
        probe: (M, N, N) complex64 modes in √photons.
        positions: (P, 2) float64 on the canvas.
        drift: (2,) float64 by which centring has moved all positions.
        background: (N, N) float32 counts, DC at ``[0, 0]``; None = none.
        intensity: (P,) float32 relative to the mean; None = all 1.
        variable: (K, N, N) complex64 modes by which the first one varies; None = none.
        weights: (P, K) float32 of them.
    """

    obj: Tensor
    shape: tuple[int, int]
    probe: Tensor
    positions: Tensor
    drift: Tensor
    background: Tensor | None = None
    intensity: Tensor | None = None
    variable: Tensor | None = None
    weights: Tensor | None = None

    def copy(self) -> "Estimate":
        """An independent copy."""
        tensors = {
            field.name: value.clone()
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return replace(self, **tensors)  # type: ignore[arg-type]  # tensors alone

    @property
    def side(self) -> int:
        """N."""
        return int(self.probe.shape[-1])

    def fix_gauge(self, power: float) -> None:
        """Give the probe its power, centre it, and make its modes orthogonal, strongest first.

        No pattern tells a stronger probe from a stronger object, nor a shifted probe from shifted
        positions, nor one set of incoherent modes from its unitary mixtures.
        """
        factor = (power / float(_power(self.probe).sum())) ** 0.5
        self.probe *= factor
        self.obj /= factor
        if self.variable is not None:
            self.variable *= factor
        self._centre()
        if len(self.probe) > 1:
            self.probe = orthogonal(self.probe)

    def _centre(self) -> None:
        """Move the centre of mass of Σ|P|² to the middle, and the positions along."""
        intensity = _power(self.probe).sum(0)
        r = torch.arange(self.side, device=intensity.device) - self.side // 2
        off = torch.stack([(intensity.sum(1) * r).sum(), (intensity.sum(0) * r).sum()])
        off = off / intensity.sum()
        allowed = (self.drift.to(off) + off).clamp(-_MAX_DRIFT_PX, _MAX_DRIFT_PX)
        off = allowed - self.drift.to(off)
        self.probe = physics.shift_probe(self.probe, -off[None])[0]
        if self.variable is not None:
            self.variable = physics.shift_probe(self.variable, -off[None])[0]
        self.positions += off
        self.drift += off

    def without_ramp(self) -> "Estimate":
        """The same with the object's linear phase ramp given to the probe.

        O·e^{−ig·r} under P·e^{ig·u} makes the same patterns; the ramp is the mean phase step
        between neighbouring pixels, weighted by the illumination that both have.
        """
        obj = self.obj.view(self.shape)
        light = illumination(self).view(self.shape)
        steps = []
        for axis, size in enumerate(self.shape):
            near, far = obj.narrow(axis, 0, size - 1), obj.narrow(axis, 1, size - 1)
            lit = torch.minimum(light.narrow(axis, 0, size - 1), light.narrow(axis, 1, size - 1))
            steps.append(torch.angle((near.conj() * far * lit).sum()))
        ramp = torch.stack(steps)
        return replace(
            self,
            obj=(obj * _phase(ramp, obj.shape, -1.0)).reshape(-1),
            probe=self.probe * _phase(ramp, self.probe.shape[-2:], 1.0),
            variable=None
            if self.variable is None
            else self.variable * _phase(ramp, self.probe.shape[-2:], 1.0),
        )

    def fitted(self) -> Fitted:
        """The same as arrays."""
        return Fitted(
            obj=self.obj.view(self.shape).cpu().numpy(),
            light=illumination(self).view(self.shape).cpu().numpy(),
            probe=self.probe.cpu().numpy(),
            positions_px=self.positions.cpu().numpy(),
            drift_px=self.drift.cpu().numpy(),
            background=_array(self.background),
            intensity=_array(self.intensity),
            variable_modes=_array(self.variable),
            variable_weights=_array(self.weights),
        )


def begin(
    scan: Scan, plan: SolverPlan, config: SolverConfig, start: Solution | None, device: torch.device
) -> Estimate:
    """The estimate before the first step."""
    shape = (plan.obj.shape[0], plan.obj.shape[1])
    estimate = Estimate(
        obj=torch.from_numpy(plan.obj.reshape(-1).copy()),
        shape=shape,
        probe=torch.from_numpy(plan.probe.copy()),
        positions=torch.from_numpy(plan.positions_px.copy()),
        drift=torch.zeros(2, dtype=torch.float64),
    )
    background = scan.background
    if start is not None and start.background is not None:
        background = start.background
    if background is not None or config.refine_background:
        flat = np.full((scan.N, scan.N), 1e-3 * scan.mean_photons / scan.N**2, np.float32)
        known = flat if background is None else background
        estimate.background = torch.from_numpy(np.fft.ifftshift(known).astype(np.float32))
    if config.refine_intensity:
        estimate.intensity = torch.ones(len(scan))
        if start is not None and start.intensity is not None:
            estimate.intensity = torch.from_numpy(start.intensity.copy())
    if config.variable_modes:
        _begin_variation(estimate, config, start, len(scan))
    moved = {
        field.name: value.to(device)
        for field in fields(estimate)
        if isinstance(value := getattr(estimate, field.name), Tensor)
    }
    return replace(estimate, **moved)  # type: ignore[arg-type]  # tensors alone


def _begin_variation(
    estimate: Estimate, config: SolverConfig, start: Solution | None, count: int
) -> None:
    if start is not None and start.variable_modes is not None:
        assert start.variable_weights is not None
        estimate.variable = torch.from_numpy(start.variable_modes.copy())
        estimate.weights = torch.from_numpy(start.variable_weights.copy())
        return
    drawn = torch.Generator().manual_seed(config.seed)
    estimate.variable = torch.zeros(config.variable_modes, *estimate.probe.shape[1:]).to(
        torch.complex64
    )
    estimate.weights = torch.randn(count, config.variable_modes, generator=drawn)


def orthogonal(modes: Tensor) -> Tensor:
    """The orthogonal modes, strongest first, that make the same incoherent sum: (M, N, N)."""
    flat = modes.reshape(len(modes), -1).to(torch.complex128)
    _, vectors = torch.linalg.eigh(flat @ flat.mH)
    mixed = vectors.flip(-1).mH @ flat
    return mixed.to(modes.dtype).view_as(modes)


def illumination(estimate: Estimate, chunk: int = 256) -> Tensor:
    """Σ_j Σ_m |P_m|² around every (rounded) position: (H·W,) photons."""
    light = torch.zeros_like(estimate.obj.real)
    pixel, _ = physics.split_positions(estimate.positions)
    power = _power(estimate.probe).sum(0)
    for part in pixel.split(chunk):
        index = physics.window_index(part, estimate.side, estimate.shape)
        light.index_add_(0, index.reshape(-1), power.expand(len(part), -1, -1).reshape(-1))
    return light


def _array(tensor: Tensor | None) -> NDArray[Any] | None:
    return None if tensor is None else tensor.cpu().numpy()


def _power(field: Tensor) -> Tensor:
    return torch.view_as_real(field).square().sum(-1)


def _phase(ramp: Tensor, shape: torch.Size, sign: float) -> Tensor:
    """e^{i sign g·r} with r from the middle: (H, W)."""
    y, x = (torch.arange(n, device=ramp.device) - n // 2 for n in shape)
    angle = sign * (ramp[0] * y[:, None] + ramp[1] * x)
    return torch.polar(torch.ones_like(angle), angle)
