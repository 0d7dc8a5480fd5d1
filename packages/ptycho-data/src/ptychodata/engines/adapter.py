"""pty-chi as a solver: the settings and the outcome of ``Backend.reconstruct``."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from ptychoconfig.errors import ConfigError, UsageError
from ptychoconfig.payloads import SolverPayload
from ptychodata.backends import Progress, Report, ShouldStop
from ptychodata.contracts import Scan, Solution
from ptychodata.engines.process import Epoch, find_python
from ptychodata.engines.ptychi import PtychiResult, PtychiSettings, run_ptychi
from ptychodata.solving import SolverPlan, plan_solution

__all__ = ["ALGORITHMS", "PtychiEngine"]

Algorithm = Literal["lsqml", "rpie", "epie", "dm"]

ALGORITHMS: dict[Algorithm, int] = {"lsqml": 16, "rpie": 10, "epie": 5, "dm": 64}
"""Algorithm → patterns per update by default: few, for the PIE family sums the updates of a batch
and diverges where many of them overlap; all at once in ``dm``, computed so many at a time."""

MAX_EPOCHS = 500
"""Most epochs where only the loss says when to end."""

_WINDOW, _GAIN = 10, 0.01
_DEVICES: dict[str, Literal["auto", "cpu", "gpu"]] = {
    "auto": "auto",
    "cpu": "cpu",
    "gpu": "gpu",
    "cuda": "gpu",
}


class PtychiEngine:
    """Solves scans with pty-chi, as a backend does.

    Args:
        algorithm: ``lsqml``, ``rpie``, ``epie`` or ``dm``.
        python: interpreter that has pty-chi; default the one that the environment names.
        note: told what had to be changed for pty-chi.

    Attributes:
        name: of engine and algorithm, and once it has run, its version.

    Raises:
        UsageError: no algorithm of this name is known.
        BackendError: there is no interpreter.
    """

    def __init__(
        self,
        algorithm: str = "lsqml",
        python: str | None = None,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        known = [name for name in ALGORITHMS if name == algorithm]
        if not known:
            raise UsageError(
                f"--engine-algorithm: expected one of {', '.join(ALGORITHMS)}, found {algorithm!r}"
            )
        self.algorithm, self.note = known[0], note
        self.python = find_python(python)
        self.name = f"pty-chi {self.algorithm}"

    def reconstruct(
        self,
        scan: Scan,
        payload: SolverPayload,
        report: Report,
        should_stop: ShouldStop,
        start: Solution | None = None,
    ) -> Solution:
        """Solve a scan; see ``ptychodata.backends.Backend.reconstruct``.

        Raises:
            BackendError: pty-chi is not there, or failed.
            ConfigError: a setting that pty-chi cannot honour.
        """
        _refuse(payload, self.algorithm)
        plan = plan_solution(scan, payload.solver, start)
        settings = self._settings(plan, payload, start.epochs if start else 0)
        figure = "dm_error" if self.algorithm == "dm" else "r_factor"
        course = _Course(
            figure=figure,
            patterns=len(plan.kept),
            settings=settings,
            by_loss=payload.solver.epochs is None,
            report=report,
            asked=should_stop,
        )
        result = run_ptychi(
            scan,
            plan,
            settings,
            python=self.python,
            report=course.add,
            should_stop=course.should_stop,
        )
        self.name = f"pty-chi {result.versions['ptychi']} {self.algorithm}"
        for text in result.notes:
            self.note(text)
        return _solution(result, plan, settings, course, start)

    def _settings(self, plan: SolverPlan, payload: SolverPayload, done: int) -> PtychiSettings:
        solver, algorithm = payload.solver, self.algorithm
        poisson = {"reconstructor_options.noise_model": "poisson"}
        return PtychiSettings(
            algorithm=algorithm,
            epochs=max(1, solver.epochs - done) if solver.epochs else MAX_EPOCHS,
            batch_size=solver.batch_size or ALGORITHMS[algorithm],
            opr_modes=1 + solver.variable_modes,
            refine_probe=plan.refine_probe == "now",
            refine_positions=solver.refine_positions,
            max_time_s=solver.max_time,
            seed=solver.seed,
            device=_DEVICES[payload.execution.accelerator],
            options=poisson if algorithm == "lsqml" and plan.likelihood == "poisson" else {},
        )


def _refuse(payload: SolverPayload, algorithm: Algorithm) -> None:
    """Refuse what pty-chi has no counterpart of, before anything is computed."""
    solver, accelerator = payload.solver, payload.execution.accelerator
    unfit = {
        "--refine-background": solver.refine_background,
        "--refine-intensity": solver.refine_intensity,
        f"--accelerator {accelerator}": accelerator not in _DEVICES,
        f"--likelihood poisson with {algorithm}": solver.likelihood == "poisson"
        and algorithm != "lsqml",
    }
    for flag in (flag for flag, given in unfit.items() if given):
        raise ConfigError(
            f"--engine pty-chi: expected settings that pty-chi has, found {flag}; leave it out, or "
            "use --engine ptycho"
        )


@dataclass(eq=False)
class _Course:
    """How the run goes: what is shown of it, and whether to end it.

    Args:
        figure: name of the loss.
        patterns: how many are in an epoch.
        settings: bounds of the run.
        by_loss: whether it ends when the loss no longer falls.
        report, asked: of the caller.
        loss: after each epoch.
    """

    figure: str
    patterns: int
    settings: PtychiSettings
    by_loss: bool
    report: Report
    asked: ShouldStop
    loss: list[float] = field(default_factory=list)

    def add(self, epoch: Epoch) -> None:
        """Take an epoch in, and show it."""
        loss = float("nan") if epoch["loss"] is None else float(epoch["loss"])
        self.loss.append(loss)
        done, most = len(self.loss), self.settings.epochs
        left = epoch["wall_s"] * (most - done) / done
        if self.settings.max_time_s is not None:
            left = min(left, max(0.0, self.settings.max_time_s - epoch["wall_s"]))
        self.report(
            Progress(
                phase="solve",
                done=done * self.patterns,
                total=most * self.patterns,
                epoch=done,
                epochs=most,
                metrics={self.figure: loss},
                patterns_per_s=done * self.patterns / epoch["wall_s"],
                seconds_left=left,
            )
        )

    def should_stop(self) -> bool:
        """The user asks for it, or the loss no longer falls and no epochs were asked for."""
        return self.asked() or (self.by_loss and self.level())

    def level(self) -> bool:
        """Whether ten epochs have lowered the loss by less than a hundredth."""
        if len(self.loss) <= 2 * _WINDOW:
            return False
        recent, before = (min(part) for part in (self.loss[-_WINDOW:], self.loss[:-_WINDOW]))
        return not recent < (1 - _GAIN) * before

    def ended_by(self, result: PtychiResult) -> str:
        """Why the run ended, as ``Solution.stopped``."""
        limit = self.settings.max_time_s
        if self.asked():
            return "interrupted"
        if limit is not None and result.wall_s[-1] >= limit:
            return "max_time"
        return "converged" if self.by_loss and self.level() else "epochs"


def _solution(
    result: PtychiResult,
    plan: SolverPlan,
    settings: PtychiSettings,
    course: _Course,
    start: Solution | None,
) -> Solution:
    varied = settings.opr_modes > 1
    weights = np.zeros((len(plan.positions_px), settings.opr_modes - 1), np.float32)
    weights[plan.kept] = result.opr_weights[:, 1:]
    found = {course.figure: result.loss.tolist(), "seconds": result.wall_s.tolist()}
    return Solution(
        result.reconstruction,
        variable_modes=result.opr_modes if varied else None,
        variable_weights=weights if varied else None,
        held_out=plan.held_out,
        history=_joined(start.history if start else {}, found),
        epochs=(start.epochs if start else 0) + len(result.loss),
        stopped=course.ended_by(result),
    )


def _joined(
    before: Mapping[str, Sequence[float]], after: Mapping[str, list[float]]
) -> dict[str, Sequence[float]]:
    """The course of this run after that of the earlier ones, if those have the same figures."""
    if set(before) != set(after):
        return dict(after)
    last = before["seconds"][-1] if before["seconds"] else 0.0
    after = dict(after) | {"seconds": [last + value for value in after["seconds"]]}
    return {name: [*values, *after[name]] for name, values in before.items()}
