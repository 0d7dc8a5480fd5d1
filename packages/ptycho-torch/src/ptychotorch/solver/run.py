"""The run: epochs of steps, corrections in between, the best estimate at the end."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptychoconfig.errors import NumericalError
from ptychoconfig.payloads import SolverPayload
from ptychodata.backends import Progress, Report, ShouldStop
from ptychodata.contracts import Reconstruction, Scan, Solution
from ptychodata.residuals import residuals
from ptychodata.solving import Schedule, SolverPlan, plan_solution
from ptychotorch.device import choose_device

from .amplitudes import Amplitudes
from .corrections import Corrections
from .estimate import Estimate, begin, illumination
from .steps import Sums, Visit, object_step, probe_step, visit

__all__ = ["solve"]

_CACHE_PIXELS = 2**17
"""Pixels of the waves that are computed together: they stay in the processor's cache."""

_RETRIES = 3
"""Times that a diverging run is taken up again with half the step."""

_GOOD_R = 0.02
"""Residual below which a trusted probe is left alone, whatever the noise."""


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
    return _Run(scan, plan, payload, start, device).run(report, should_stop)


class _Run:
    """One run of the solver on a scan."""

    def __init__(
        self,
        scan: Scan,
        plan: SolverPlan,
        payload: SolverPayload,
        start: Solution | None,
        device: torch.device,
    ) -> None:
        self.scan, self.plan, self.config = scan, plan, payload.solver
        self.estimate = begin(scan, plan, payload.solver, start, device)
        self.momentum = torch.zeros_like(self.estimate.obj)
        self.corrections = Corrections(self.config, self.estimate)
        self.measured = Amplitudes(scan, device)
        self.power = float(np.sum(np.abs(plan.probe.astype(np.complex128)) ** 2))
        self.refines_probe = plan.refine_probe == "now"
        self.schedule = Schedule(payload.solver, 0 if start is None else start.epochs)
        self.history: dict[str, list[float]] = {
            name: list(values) for name, values in (start.history if start else {}).items()
        }
        self.seconds_before = self.history.get("seconds", [0.0])[-1]
        self.best = self.estimate.copy()
        self.reduced, self.retries = 1.0, 0

    def run(self, report: Report, should_stop: ShouldStop) -> Solution:
        """Epochs until the schedule, or the user, ends them."""
        if self.schedule.epoch >= self.schedule.epochs:
            self.schedule.stopped = "epochs"
        while not self.schedule.stopped:
            r_factor = self._epoch(should_stop)
            if should_stop():
                self.schedule.stopped = "interrupted"
                break
            r_free = self._held_out()
            self._correct()
            misfit = r_free if math.isfinite(r_free) else r_factor
            if self._diverged(r_factor):
                continue
            if self.schedule.record(misfit):
                self.best = self.estimate.copy()
            self._note(r_factor, r_free)
            if self.schedule.settled and not self._begin_probe():
                self.schedule.cool()
            report(self._progress(r_factor, r_free))
        if self.schedule.epoch == 0:
            self.best = self.estimate
        return self._solution()

    def _epoch(self, should_stop: ShouldStop) -> float:
        """One pass over the patterns that are learned from; the residual R met on the way."""
        order = np.random.default_rng([self.config.seed, self.schedule.epoch, self.retries])
        kept = order.permutation(self.plan.kept)
        length = self.schedule.length() * self.reduced
        refines_probe = self.refines_probe and self.schedule.epoch > 0
        error = total = 0.0
        for first in range(0, len(kept), self.plan.batch_size):
            batch = kept[first : first + self.plan.batch_size]
            sums = Sums.of(self.estimate)
            for seen, chosen in self._visits(batch):
                sums.add_object(seen, self.estimate.shape)
                if refines_probe:
                    sums.add_probe(seen, self.estimate, chosen)
                part, whole = _residual(seen.amplitude, seen.rate, seen.valid)
                error, total = error + part, total + whole
            prior = self._prior * len(batch) / len(kept)
            object_step(self.estimate, self.momentum, sums, length, self.plan.likelihood, prior)
            if refines_probe:
                probe_step(self.estimate, sums, length, self.plan.likelihood)
            if should_stop():
                break
        return error / max(total, 1e-30)

    @property
    def _prior(self) -> float:
        """Photons of the smoothness prior; the amplitudes' misfit is half the deviance."""
        if not self.scan.has_dose:
            return 0.0
        return self.config.smoothness * (1.0 if self.plan.likelihood == "poisson" else 0.5)

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
                self.plan.likelihood,
            )
            if self.corrections.wanted:
                self.corrections.collect(estimate, seen, chosen, varied)
            yield seen, chosen

    def _held_out(self) -> float:
        """R_free; NaN without held-out patterns, whose corrections are collected on the way."""
        error = total = 0.0
        for seen, _ in self._visits(self.plan.held_out):
            part, whole = _residual(seen.amplitude, seen.rate, seen.valid)
            error, total = error + part, total + whole
        return error / total if total > 0 else math.nan

    def _correct(self) -> None:
        """At the end of an epoch: the corrections that it has collected, then the gauge."""
        if self.corrections.wanted and self.schedule.epoch > 0:
            self.corrections.apply(self.estimate)
        if self.refines_probe:
            self.estimate.fix_gauge(self.power)

    def _diverged(self, r_factor: float) -> bool:
        """Go back to the best estimate with half the step if the residual runs away.

        Raises:
            NumericalError: it did so too often.
        """
        first = self.history.get("r_factor", [1.0])[0]
        if math.isfinite(r_factor) and r_factor <= 2 * max(1.0, first):
            return False
        self.retries += 1
        if self.retries > _RETRIES:
            raise NumericalError(
                f"{self.scan.name}: expected the residual to fall, found R = {r_factor:.3g} after "
                f"{self.schedule.epoch + 1} epochs, {_RETRIES} times with ever shorter steps; "
                "check the scan with `ptycho inspect`: positions in pixels, probe, orientation"
            )
        self.reduced /= 2
        self.estimate = self.best.copy()
        self.momentum.zero_()
        return True

    def _begin_probe(self) -> bool:
        """Whether to solve for a trusted probe too, now that the object alone no longer helps."""
        if self.plan.refine_probe != "later" or self.refines_probe or not len(self.plan.held_out):
            return False
        found = residuals(
            self._object(self.estimate),
            self.plan.origin_yx_px,
            self.scan.subset(self.plan.held_out),
            self.estimate.probe.cpu().numpy(),
        )
        if found["r_factor"] <= max(2 * found.get("poisson_floor", 0.0), _GOOD_R):
            return False
        self.refines_probe = True
        self.schedule.go_on()
        return True

    def _note(self, r_factor: float, r_free: float) -> None:
        row = {"r_factor": r_factor, "r_free": r_free}
        row["seconds"] = self.seconds_before + self.schedule.seconds
        for name, value in row.items():
            self.history.setdefault(name, []).append(value)

    def _progress(self, r_factor: float, r_free: float) -> Progress:
        done, schedule = self.schedule.epoch, self.schedule
        made = max(1, len(self.history["r_factor"]))
        rate = len(self.scan) * made / max(self.history["seconds"][-1], 1e-9)
        left = (schedule.epochs - done) * len(self.scan) / rate if self.config.epochs else math.nan
        if self.config.max_time is not None:
            left = min(x for x in (left, self.config.max_time - schedule.seconds) if x == x)
        metrics = {"r_factor": r_factor} | ({"r_free": r_free} if r_free == r_free else {})
        count = len(self.scan)
        return Progress("solve", count, count, done, schedule.epochs, metrics, rate, left)

    def _object(self, estimate: Estimate) -> NDArray[np.complex64]:
        return estimate.obj.view(estimate.shape).cpu().numpy()

    def _solution(self) -> Solution:
        final = self.best
        if self.refines_probe:
            final = final.without_ramp()
        obj = self._object(final)
        if not np.isfinite(obj).all():
            raise NumericalError(
                f"{self.scan.name}: expected a finite object, found NaN or infinity; check the "
                "scan with `ptycho inspect`"
            )
        light = illumination(final).view(final.shape).cpu().numpy()
        drift = final.drift.cpu().numpy()
        positions = final.positions.cpu().numpy() + self.plan.origin_yx_px - drift
        source = "solved" if self.refines_probe else self.plan.probe_source
        return Solution(
            reconstruction=Reconstruction(
                obj=obj,
                coverage=(light / light.max()).astype(np.float32),
                origin_yx_px=self.plan.origin_yx_px - drift,
                positions_px=positions,
                probe=final.probe.cpu().numpy(),
                pixel_size_m=self.scan.object_pixel_m,
                probe_source=source,
            ),
            background=_centred(final.background),
            intensity=_array(final.intensity),
            variable_modes=_array(final.variable),
            variable_weights=_array(final.weights),
            held_out=self.plan.held_out,
            history=self.history,
            epochs=self.schedule.epoch,
            stopped=self.schedule.stopped,
        )


def _residual(amplitude: Tensor, rate: Tensor, valid: Tensor | None) -> tuple[float, float]:
    """Σ w|√I − √λ| and Σ w√I."""
    error = (amplitude - rate.sqrt()).abs_()
    if valid is not None:
        error, amplitude = error * valid, amplitude * valid
    return float(error.sum()), float(amplitude.sum())


def _array(tensor: Tensor | None) -> NDArray[Any] | None:
    return None if tensor is None else tensor.cpu().numpy()


def _centred(background: Tensor | None) -> NDArray[np.float32] | None:
    return None if background is None else np.fft.fftshift(background.cpu().numpy())
