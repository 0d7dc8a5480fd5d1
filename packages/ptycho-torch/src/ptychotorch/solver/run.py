"""A run on Torch: steps of an estimate, a batch at a time."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptychoconfig.payloads import SolverPayload
from ptychodata.backends import Report, ShouldStop
from ptychodata.contracts import Scan, Solution
from ptychodata.descent import Descent, Fitted
from ptychodata.solving import SolverPlan, plan_solution
from ptychotorch.device import choose_device

from .amplitudes import Amplitudes
from .corrections import Corrections
from .estimate import begin
from .steps import Sums, Visit, object_step, probe_step, visit

__all__ = ["solve"]

_CACHE_PIXELS = 2**17
"""Pixels of the waves that are computed together: they stay in the processor's cache."""


@torch.inference_mode()
def solve(
    scan: Scan,
    payload: SolverPayload,
    report: Report,
    should_stop: ShouldStop = lambda: False,
    start: Solution | None = None,
) -> Solution:
    """Solve a scan; see ``ptychodata.backends.Backend.reconstruct``."""
    device = choose_device(payload.execution)
    plan = plan_solution(scan, payload.solver, start)
    fit = _TorchFit(scan, plan, payload, start, device)
    return Descent(scan, plan, payload.solver, start, fit).run(report, should_stop)


class _TorchFit:
    """The estimate on a device; see ``ptychodata.descent.Fit``."""

    def __init__(
        self,
        scan: Scan,
        plan: SolverPlan,
        payload: SolverPayload,
        start: Solution | None,
        device: torch.device,
    ) -> None:
        self.likelihood = plan.likelihood
        self.estimate = self.best = begin(scan, plan, payload.solver, start, device)
        self.momentum = torch.zeros_like(self.estimate.obj)
        self.corrections = Corrections(payload.solver, self.estimate)
        self.measured = Amplitudes(scan, device)

    def learn(
        self, batch: NDArray[np.int64], length: float, prior: float, refine_probe: bool
    ) -> tuple[float, float]:
        """Step object and probe."""
        estimate, sums = self.estimate, Sums.of(self.estimate)
        error = total = 0.0
        for seen, chosen in self._visits(batch):
            sums.add_object(seen, estimate.shape)
            if refine_probe:
                sums.add_probe(seen, estimate, chosen)
            part, whole = _residual(seen.amplitude, seen.rate, seen.valid)
            error, total = error + part, total + whole
        object_step(estimate, self.momentum, sums, length, self.likelihood, prior)
        if refine_probe:
            probe_step(estimate, sums, length, self.likelihood)
        return error, total

    def look(self, index: NDArray[np.int64]) -> tuple[float, float]:
        """Sums of the residual."""
        error = total = 0.0
        for seen, _ in self._visits(index):
            part, whole = _residual(seen.amplitude, seen.rate, seen.valid)
            error, total = error + part, total + whole
        return error, total

    def _visits(self, batch: NDArray[np.int64]) -> Iterator[tuple["Visit", Tensor]]:
        """The patterns of a batch, as many at a time as stay in the cache."""
        estimate = self.estimate
        transformed = torch.fft.fft2(estimate.probe)
        varied = None if estimate.variable is None else torch.fft.fft2(estimate.variable)
        size = max(1, _CACHE_PIXELS // (estimate.side**2 * len(estimate.probe)))
        for first in range(0, len(batch), size):
            index = batch[first : first + size]
            chosen = torch.from_numpy(index).to(estimate.obj.device)
            seen = visit(
                estimate,
                transformed,
                varied,
                chosen,
                self.measured.root(index),
                self.measured.valid(index),
                self.likelihood,
            )
            if self.corrections.wanted:
                self.corrections.collect(estimate, seen, chosen, varied)
            yield seen, chosen

    def correct(self) -> None:
        """Apply what was noted."""
        if self.corrections.wanted:
            self.corrections.apply(self.estimate)

    def fix_gauge(self, power: float) -> None:
        """Settle what the data leave open."""
        self.estimate.fix_gauge(power)

    def keep(self) -> None:
        """Remember the estimate."""
        self.best = self.estimate.copy()

    def go_back(self) -> None:
        """Return to the one remembered."""
        self.estimate = self.best.copy()
        self.momentum.zero_()

    def fitted(self, best: bool, level: bool) -> Fitted:
        """The unknowns as arrays."""
        chosen = self.best if best else self.estimate
        return (chosen.without_ramp() if level else chosen).fitted()


def _residual(amplitude: Tensor, rate: Tensor, valid: Tensor | None) -> tuple[float, float]:
    """Σ w|√I − √λ| and Σ w√I."""
    error = (amplitude - rate.sqrt()).abs_()
    if valid is not None:
        error, amplitude = error * valid, amplitude * valid
    return float(error.sum()), float(amplitude.sum())
