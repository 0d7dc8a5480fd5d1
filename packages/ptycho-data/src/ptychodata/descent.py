"""The course of a solver's run: epochs, the way back from divergence, the best at the end.

Every backend runs this; the arithmetic of a step, which is a framework's, comes in as a ``Fit``.
"""

import math
import os
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ptychoconfig.errors import NumericalError
from ptychoconfig.schema import SolverConfig

from .backends import Progress, Report, ShouldStop
from .contracts import Reconstruction, Scan, Solution
from .residuals import residuals
from .solving import Schedule, SolverPlan

__all__ = ["Amplitudes", "Descent", "Fit", "Fitted"]

Ints = NDArray[np.int64]

_RETRIES = 3
"""Times that a diverging run is taken up again with half the step."""

_GOOD_R = 0.02
"""Residual below which a trusted probe is left alone, whatever the noise."""

_SHARE = 0.4
"""Largest share of the free memory that the amplitudes of a scan may take."""

_CHUNK = 64


class Amplitudes:
    """√counts of a scan with DC at ``[0, 0]``, a batch at a time.

    Args:
        scan: where they come from.

    Attributes:
        kept: (P, N, N) float32, all of them where they fit into memory, otherwise None.
    """

    def __init__(self, scan: Scan) -> None:
        self._scan = scan
        self.kept: NDArray[np.float32] | None = None
        if len(scan) * scan.N**2 * 4 <= _SHARE * _free_bytes():
            self.kept = np.empty((len(scan), scan.N, scan.N), np.float32)
            for begin in range(0, len(scan), _CHUNK):
                index = np.arange(begin, min(begin + _CHUNK, len(scan)))
                self.kept[begin : begin + len(index)] = self._read(index)
        mask = scan.mask
        self._shared_mask = None if mask is None or mask.ndim == 3 else _corner(mask)

    def root(self, index: Ints) -> NDArray[np.float32]:
        """√counts of some patterns: (B, N, N)."""
        return self._read(index) if self.kept is None else self.kept[index]

    def valid(self, index: Ints) -> NDArray[np.float32] | None:
        """Weights of their pixels, (N, N) or (B, N, N); None where all are valid."""
        if self._scan.mask is None or self._shared_mask is not None:
            return self._shared_mask
        return _corner(self._scan.mask[index])

    def _read(self, index: Ints) -> NDArray[np.float32]:
        return np.fft.ifftshift(self._scan.amplitude(index), axes=(-2, -1))


def _corner(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    return np.fft.ifftshift(mask.astype(np.float32), axes=(-2, -1))


def _free_bytes() -> float:
    """Memory that the system has free; unbounded where it does not say."""
    try:
        return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):  # not a POSIX system
        return float("inf")


@dataclass(frozen=True, eq=False)
class Fitted:
    """The unknowns of a scan as arrays.

    Args:
        obj: (H, W) complex64 object.
        light: (H, W) illumination Σ_j Σ_m |P_m|² around every position, photons.
        probe: (M, N, N) complex64 modes in √photons.
        positions_px: (P, 2) float64 on the canvas.
        drift_px: (2,) float64 by which centring has moved all positions.
        background: (N, N) float32 counts, DC at ``[0, 0]``; None = none.
        intensity: (P,) float32 relative to the mean; None = all 1.
        variable_modes: (K, N, N) complex64 by which the first mode varies; None = none.
        variable_weights: (P, K) float32 of them.
    """

    obj: NDArray[np.complex64]
    light: NDArray[np.float32]
    probe: NDArray[np.complex64]
    positions_px: NDArray[np.float64]
    drift_px: NDArray[np.float64]
    background: NDArray[np.float32] | None
    intensity: NDArray[np.float32] | None
    variable_modes: NDArray[np.complex64] | None
    variable_weights: NDArray[np.float32] | None


class Fit(Protocol):
    """A backend's estimate of the unknowns, and the steps that better it."""

    def learn(
        self, batch: Ints, length: float, prior: float, refine_probe: bool
    ) -> tuple[float, float]:
        """Take a step along the misfit of a batch, and note the corrections it asks for.

        Args:
            batch: numbers of the patterns.
            length: of the step.
            prior: photons by which a unit step between neighbouring object pixels is penalised.
            refine_probe: whether the probe steps too.

        Returns:
            Σ w|√I − √λ| and Σ w√I of the batch, before the step.
        """

    def look(self, index: Ints) -> tuple[float, float]:
        """The same sums of patterns not to be learned from; their corrections are noted."""

    def correct(self) -> None:
        """Apply the corrections noted during an epoch."""

    def fix_gauge(self, power: float) -> None:
        """Give the probe its power, centre it, and make its modes orthogonal."""

    def keep(self) -> None:
        """Remember the estimate as the best."""

    def go_back(self) -> None:
        """Return to the best estimate, without momentum."""

    def fitted(self, best: bool, level: bool) -> Fitted:
        """The unknowns, of the best estimate or the present one.

        Args:
            best: which.
            level: whether to give the object's linear phase ramp to the probe.
        """


class Descent:
    """One run of a solver on a scan.

    Args:
        scan: patterns.
        plan: where the run starts.
        config: settings.
        start: an earlier run, whose epochs and history go on.
        fit: a backend's estimate at the start of the plan.
    """

    def __init__(
        self, scan: Scan, plan: SolverPlan, config: SolverConfig, start: Solution | None, fit: Fit
    ) -> None:
        self.scan, self.plan, self.config, self.fit = scan, plan, config, fit
        self.power = float(np.sum(np.abs(plan.probe.astype(np.complex128)) ** 2))
        self.refines_probe = plan.refine_probe == "now"
        begun = 0 if start is None else start.epochs
        self.schedule = Schedule(config, begun, started=plan.started)
        self.history: dict[str, list[float]] = {
            name: list(values) for name, values in (start.history if start else {}).items()
        }
        self.seconds_before = self.history.get("seconds", [0.0])[-1]
        self.reduced, self.retries = 1.0, 0
        fit.keep()

    def run(self, report: Report, should_stop: ShouldStop) -> Solution:
        """Epochs until the schedule, or the user, ends them.

        Raises:
            NumericalError: the residual diverges.
        """
        if self.schedule.epoch >= self.schedule.epochs:
            self.schedule.stopped = "epochs"
        while not self.schedule.stopped:
            r_factor = self._epoch(should_stop)
            if should_stop():
                self.schedule.stopped = "interrupted"
                break
            error, total = self.fit.look(self.plan.held_out)
            r_free = error / total if total > 0 else math.nan
            if self.schedule.epoch > 0:
                self.fit.correct()
            if self.refines_probe:
                self.fit.fix_gauge(self.power)
            misfit = r_free if math.isfinite(r_free) else r_factor
            if self._diverged(r_factor):
                continue
            if self.schedule.record(misfit):
                self.fit.keep()
            self._note(r_factor, r_free)
            if self.schedule.settled and not self._begin_probe():
                self.schedule.cool()
            report(self._progress(r_factor, r_free))
        if self.schedule.epoch == 0:
            self.fit.keep()
        return self._solution()

    def _epoch(self, should_stop: ShouldStop) -> float:
        """One pass over the patterns that are learned from; the residual R met on the way."""
        order = np.random.default_rng([self.config.seed, self.schedule.epoch, self.retries])
        kept = order.permutation(self.plan.kept)
        length = self.schedule.length() * self.reduced
        refine_probe = self.refines_probe and self.schedule.epoch > 0
        error = total = 0.0
        for first in range(0, len(kept), self.plan.batch_size):
            batch = kept[first : first + self.plan.batch_size]
            prior = self._prior * len(batch) / len(kept)
            part, whole = self.fit.learn(batch, length, prior, refine_probe)
            error, total = error + part, total + whole
            if should_stop():
                break
        return error / max(total, 1e-30)

    @property
    def _prior(self) -> float:
        """Photons of the smoothness prior; the amplitudes' misfit is half the deviance."""
        if not self.scan.has_dose:
            return 0.0
        return self.config.smoothness * (1.0 if self.plan.likelihood == "poisson" else 0.5)

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
        self.fit.go_back()
        return True

    def _begin_probe(self) -> bool:
        """Whether to solve for a trusted probe too, now that the object alone no longer helps."""
        if self.plan.refine_probe != "later" or self.refines_probe or not len(self.plan.held_out):
            return False
        held_out, now = self.scan.subset(self.plan.held_out), self.fit.fitted(False, False)
        found = residuals(now.obj, self.plan.origin_yx_px, held_out, now.probe)
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
            until = max(0.0, self.config.max_time - schedule.seconds)
            left = min(x for x in (left, until) if x == x)
        metrics = {"r_factor": r_factor} | ({"r_free": r_free} if r_free == r_free else {})
        count = len(self.scan)
        return Progress("solve", count, count, done, schedule.epochs, metrics, rate, left)

    def _solution(self) -> Solution:
        final = self.fit.fitted(True, level=self.refines_probe)
        if not np.isfinite(final.obj).all():
            raise NumericalError(
                f"{self.scan.name}: expected a finite object, found NaN or infinity; check the "
                "scan with `ptycho inspect`"
            )
        return Solution(
            reconstruction=Reconstruction(
                obj=final.obj,
                coverage=(final.light / final.light.max()).astype(np.float32),
                origin_yx_px=self.plan.origin_yx_px - final.drift_px,
                positions_px=final.positions_px + self.plan.origin_yx_px - final.drift_px,
                probe=final.probe,
                pixel_size_m=self.scan.object_pixel_m,
                probe_source="solved" if self.refines_probe else self.plan.probe_source,
            ),
            background=_centred(final.background),
            intensity=final.intensity,
            variable_modes=final.variable_modes,
            variable_weights=final.variable_weights,
            held_out=self.plan.held_out,
            history=self.history,
            epochs=self.schedule.epoch,
            stopped=self.schedule.stopped,
        )


def _centred(background: NDArray[Any] | None) -> NDArray[np.float32] | None:
    return None if background is None else np.fft.fftshift(background)
