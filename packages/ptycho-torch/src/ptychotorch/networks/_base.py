"""What training and inference know of a network: it sees patterns, and it changes the object.

A step is a pass over the patterns, in one round or in several that see a part each.  ``see`` looks
at patterns, each alone, and says what they ask of the object, as fields over their windows; the
caller sums the fields of a round on a canvas.  ``advance`` changes the object by what a round asked
for, ``correct`` by what the whole pass did.  Sums do not depend on the chunks, the workers or the
ranks that made them, and what is computed of them is paid for per pixel of the object, not per
pixel of every pattern.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ptychotorch import physics
from ptychotorch.batches import Batch

__all__ = ["FIELDS", "Network", "PatternNetwork", "State", "Sums", "fields_of", "merge_weight"]

FIELDS = 5
"""Re and Im of w·p, w, w·|p|² and w·e: see ``Sums``."""


@dataclass(frozen=True, eq=False)
class State:
    """The object between two rounds, on G canvases.

    Args:
        obj: (G, H, W) complex64.
        change: (G, H, W) complex64 by how much the last round changed it.
        passed: (G, H, W) complex64 by how much the rounds of this pass did.
        redundancy: how many probes light a pixel of a canvas, on average.
    """

    obj: Tensor
    change: Tensor
    passed: Tensor
    redundancy: float

    @classmethod
    def free_space(
        cls, shape: tuple[int, int, int], device: torch.device, redundancy: float
    ) -> "State":
        """Nothing in the beam."""
        obj = torch.ones(shape, dtype=torch.complex64, device=device)
        return cls(obj, torch.zeros_like(obj), torch.zeros_like(obj), redundancy)

    def moved(self, change: Tensor) -> "State":
        """After a round that changed the object."""
        return replace(self, obj=self.obj + change, change=change, passed=self.passed + change)

    def corrected(self, correction: Tensor) -> "State":
        """After a pass, with a correction."""
        return replace(self, obj=self.obj + correction, passed=torch.zeros_like(self.passed))


class Sums:
    """Fields summed over patterns, on canvases: (…, H, W, 5) real.

    A pattern speaks for each pixel r of its window with a weight w(r), its illumination, and says
    p(r), a value of the object or a change of it; e is how far it is from being explained.

    Attributes:
        numerator: Σ w·p, complex.
        weight: Σ w, photons.
        squares: Σ w·|p|².
        misfit: Σ w·e.
    """

    def __init__(self, fields: Tensor) -> None:
        self.numerator = torch.view_as_complex(fields[..., :2].contiguous())
        self.weight, self.squares, self.misfit = fields[..., 2], fields[..., 3], fields[..., 4]

    def mean(self) -> Tensor:
        """Σ w·p / Σ w; 0 where no pattern speaks."""
        return self.numerator / self.weight.clamp_min(torch.finfo(torch.float32).tiny)

    def disagreement(self) -> Tensor:
        """By how much patterns differ in p, weighted root mean square."""
        weight = self.weight.clamp_min(torch.finfo(torch.float32).tiny)
        return (self.squares / weight - self.mean().abs().square()).clamp_min(0).sqrt()


def fields_of(patches: Tensor, weight: Tensor) -> Tensor:
    """Fields of patterns that say complex ``patches`` with ``weight`` ≥ 0, each (B, N, N).

    Returns:
        (B, N, N, 5), with a misfit of 0.
    """
    said = patches * weight
    squares = said.real * patches.real + said.imag * patches.imag
    return torch.stack([said.real, said.imag, weight, squares, torch.zeros_like(weight)], -1)


class Network(nn.Module):
    """A network that improves an object in a number of steps.

    Attributes:
        steps: number of passes over the patterns.
        group_size: patterns that must stand together in a batch; 1 = it looks at each alone.
        free_phase: whether its objects have a global phase that nothing fixes.
        compute_dtype: arithmetic of the layers; the physics stays in float32.
    """

    steps: int
    group_size: int = 1
    free_phase: bool = True

    def __init__(self) -> None:
        super().__init__()
        self.compute_dtype = torch.float32

    def scale_object(self, factor: float) -> None:
        """Multiply the object of fresh weights; nothing for a network without a scale."""

    def see(self, step: int, patches: Tensor, shifted_probe: Tensor, batch: Batch) -> Tensor:
        """What patterns say, to be summed.

        Args:
            step: from 0.
            patches: (B, N, N) complex64 windows O[n] of the current object.
            shifted_probe: (B, M, N, N) complex64 probe at each position.
            batch: the patterns.

        Returns:
            (B, N, N, 5) fields, as ``Sums`` has them.
        """
        raise NotImplementedError

    def rounds(self, step: int, redundancy: float) -> int:
        """In how many rounds, each of a part of the patterns, a pass is made at most."""
        return 1

    def advance(self, step: int, state: State, sums: Sums, share: float = 1.0) -> State:
        """The object after a round, of what its patterns say, which are a share of all."""
        raise NotImplementedError

    def correct(self, step: int, state: State, sums: Sums) -> State:
        """The object after a pass, of what all patterns said."""
        return state


class PatternNetwork(Network):
    """A network that makes patches out of the patterns of a group in one step.

    It centres each patch on the exact position of its pattern, which it need not know for that;
    the patch is then brought into its window by a bilinear shift of the fraction.  Where it
    returns one patch for the whole group, that patch is centred on the mean position.

    Args:
        generator: (G, C, N, N) float amplitudes, DC in the centre, to complex64 patches,
            (G, C, N, N) or (G, 1, N, N).
        group_size: C.
    """

    steps = 1
    free_phase = False

    def __init__(self, generator: nn.Module, group_size: int) -> None:
        super().__init__()
        self.generator = generator
        self.group_size = group_size
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.no_grad()
    def scale_object(self, factor: float) -> None:
        """Add log ``factor`` to the α of a generator that has one."""
        scale = getattr(self.generator, "log_scale", None)
        if scale is not None:
            scale.add_(math.log(factor))

    def forward(self, shifted_probe: Tensor, batch: Batch) -> Tensor:
        """Predict the windows of a batch: (B, N, N) complex64."""
        amplitude = physics.network_input(batch.counts, shifted_probe[0].detach())
        if batch.valid is not None:
            amplitude = amplitude * batch.valid
        amplitude = torch.fft.fftshift(amplitude, dim=(-2, -1))
        groups = amplitude.unflatten(0, (-1, self.group_size))
        narrow = self.compute_dtype != torch.float32
        with torch.autocast(groups.device.type, self.compute_dtype, enabled=narrow):
            made: Tensor = self.generator(groups)
        shift = batch.fraction
        if made.shape[1] < self.group_size:
            made, shift = made.expand_as(groups), self._to_mean(batch)
        return physics.shift_object(made.flatten(0, 1), shift)

    def see(self, step: int, patches: Tensor, shifted_probe: Tensor, batch: Batch) -> Tensor:
        """The predicted windows, whatever the current ``patches`` are."""
        return fields_of(self(shifted_probe, batch), merge_weight(shifted_probe))

    def advance(self, step: int, state: State, sums: Sums, share: float = 1.0) -> State:
        """The mean of the predicted windows; the last object where there are none."""
        obj = torch.where(sums.weight > 0, sums.mean().to(state.obj), state.obj)
        return state.moved(obj - state.obj)

    def _to_mean(self, batch: Batch) -> Tensor:
        """From the centre of each window to the mean position of its group: (B, 2)."""
        own = batch.pixel.unflatten(0, (-1, self.group_size))
        exact = own + batch.fraction.unflatten(0, (-1, self.group_size))
        return (exact.mean(1, keepdim=True) - own).flatten(0, 1).to(batch.fraction.dtype)


_WEIGHT_FLOOR = 1e-4  # relative illumination below which a patch hardly speaks for a pixel


def merge_weight(shifted_probe: Tensor) -> Tensor:
    """How much a patch speaks for each of its pixels: (B, M, N, N) → (B, N, N) in (0, 1]."""
    power = physics.coverage(shifted_probe)
    return power / power.amax((-2, -1), keepdim=True) + _WEIGHT_FLOOR
