"""A run on TensorFlow: each batch is one program, compiled by XLA."""

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow import Tensor

from ptychoconfig.payloads import SolverPayload
from ptychoconfig.schema import SolverConfig
from ptychodata.backends import Report, ShouldStop
from ptychodata.contracts import Scan, Solution
from ptychodata.descent import Descent, Fitted
from ptychodata.solving import SolverPlan, plan_solution
from ptychotf import physics
from ptychotf.device import choose_device

from .amplitudes import Amplitudes
from .corrections import Corrections, Wishes, slopes, wishes
from .estimate import begin
from .steps import Patterns, Rules, Sums, Unknowns, object_step, probe_step, visit

__all__ = ["solve"]

Slopes = tuple[Tensor, Tensor] | None


def solve(
    scan: Scan,
    payload: SolverPayload,
    report: Report,
    should_stop: ShouldStop = lambda: False,
    start: Solution | None = None,
) -> Solution:
    """Solve a scan; see ``ptychodata.backends.Backend.reconstruct``."""
    with tf.device(choose_device(payload.execution)):
        plan = plan_solution(scan, payload.solver, start)
        fit = _TensorFlowFit(scan, plan, payload.solver, start)
        return Descent(scan, plan, payload.solver, start, fit).run(report, should_stop)


class _TensorFlowFit:
    """The estimate on a device; see ``ptychodata.descent.Fit``."""

    def __init__(
        self, scan: Scan, plan: SolverPlan, config: SolverConfig, start: Solution | None
    ) -> None:
        self.config = config
        self.rules = Rules(plan.likelihood, config.refine_intensity, config.refine_background)
        self.estimate = self.best = begin(scan, plan, config, start)
        self.momentum = tf.zeros_like(self.estimate.obj)
        self.corrections = Corrections(config, self.estimate)
        self.measured = Amplitudes(scan, plan.batch_size)
        self.slopes: Slopes = None
        # Each program runs once for nothing: compiling takes seconds, which are not the run's.
        self._look_at(plan.kept[:1])
        for refine_probe in {False, plan.refine_probe == "now"}:
            self._step(plan.kept[:1], 0.0, 0.0, refine_probe)

    def learn(
        self, batch: NDArray[np.int64], length: float, prior: float, refine_probe: bool
    ) -> tuple[float, float]:
        """Step object and probe."""
        after, self.momentum, residual, asked = self._step(batch, length, prior, refine_probe)
        estimate = self.estimate
        estimate.obj, estimate.probe, estimate.variable = after.obj, after.probe, after.variable
        self.corrections.collect(asked, batch)
        return float(residual[0]), float(residual[1])

    def _step(
        self, batch: NDArray[np.int64], length: float, prior: float, refine_probe: bool
    ) -> tuple[Unknowns, Tensor, tuple[Tensor, Tensor], Wishes]:
        """What ``_learn`` makes of a batch."""
        return _learn(
            self._unknowns(),
            self.momentum,
            self._patterns(batch),
            tf.constant(length),
            tf.constant(prior),
            self._slopes(),
            rules=self.rules,
            refine_probe=refine_probe,
        )

    def look(self, index: NDArray[np.int64]) -> tuple[float, float]:
        """Sums of the residual."""
        error = total = 0.0
        for first in range(0, len(index), self.measured.size):
            part = index[first : first + self.measured.size]
            residual, asked = self._look_at(part)
            self.corrections.collect(asked, part)
            error, total = error + float(residual[0]), total + float(residual[1])
        return error, total

    def _look_at(self, batch: NDArray[np.int64]) -> tuple[tuple[Tensor, Tensor], Wishes]:
        """What ``_look`` makes of a batch."""
        return _look(self._unknowns(), self._patterns(batch), self._slopes(), rules=self.rules)

    def _unknowns(self) -> Unknowns:
        estimate = self.estimate
        return Unknowns(estimate.obj, estimate.probe, estimate.background, estimate.variable)

    def _patterns(self, index: NDArray[np.int64]) -> Patterns:
        """The patterns of a batch, filled up to its size."""
        estimate, chosen = self.estimate, self.measured.chosen(index)
        gain = (np.arange(len(chosen)) < len(index)).astype(np.float32)
        if estimate.intensity is not None:
            gain *= np.sqrt(estimate.intensity[chosen])
        pixel, fraction = physics.split_positions(tf.constant(estimate.positions[chosen]))
        return Patterns(
            pixel,
            physics.axis_ramps(tf.cast(fraction, tf.float32), estimate.side),
            tf.constant(gain),
            None if estimate.weights is None else tf.constant(estimate.weights[chosen]),
            tf.constant(self.measured.root(index)),
            tf.constant(self.measured.weight(index)),
        )

    def _slopes(self) -> Slopes:
        """Those of the object at the beginning of the epoch, where positions are corrected."""
        if self.config.refine_positions and self.slopes is None:
            self.slopes = slopes(self.estimate.obj)
        return self.slopes

    def correct(self) -> None:
        """Apply what was noted."""
        self.corrections.apply(self.estimate)
        self.slopes = None

    def fix_gauge(self, power: float) -> None:
        """Settle what the data leave open."""
        self.estimate.fix_gauge(power)

    def keep(self) -> None:
        """Remember the estimate."""
        self.best = self.estimate.copy()

    def go_back(self) -> None:
        """Return to the one remembered."""
        self.estimate = self.best.copy()
        self.momentum = tf.zeros_like(self.momentum)

    def fitted(self, best: bool, level: bool) -> Fitted:
        """The unknowns as arrays."""
        chosen = self.best if best else self.estimate
        return (chosen.without_ramp() if level else chosen).fitted()


@tf.function(jit_compile=True)
def _learn(
    unknowns: Unknowns,
    momentum: Tensor,
    patterns: Patterns,
    length: Tensor,
    prior: Tensor,
    gradient: Slopes,
    *,
    rules: Rules,
    refine_probe: bool,
) -> tuple[Unknowns, Tensor, tuple[Tensor, Tensor], Wishes]:
    """A step along the misfit of a batch; what was found on the way."""
    seen = visit(unknowns, patterns, rules.likelihood)
    sums = Sums.of(seen, tuple(unknowns.obj.shape))
    obj, momentum = object_step(unknowns.obj, momentum, sums, length, rules.likelihood, prior)
    after = unknowns._replace(obj=obj)
    if refine_probe:
        after = probe_step(after, sums.with_probe(seen), length, rules.likelihood)
    return after, momentum, seen.residual(), wishes(rules, unknowns, seen, gradient)


@tf.function(jit_compile=True)
def _look(
    unknowns: Unknowns, patterns: Patterns, gradient: Slopes, *, rules: Rules
) -> tuple[tuple[Tensor, Tensor], Wishes]:
    """The misfit of a batch that teaches nothing, and what it asks for."""
    seen = visit(unknowns, patterns, rules.likelihood)
    return seen.residual(), wishes(rules, unknowns, seen, gradient)
