"""Which probe a scan is reconstructed with, and solving for it where the file's does not do."""

import time
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ptychoconfig.errors import ConfigError
from ptychoconfig.payloads import SolverPayload

from .backends import Backend, Report, ShouldStop
from .bundle import Bundle
from .contracts import Scan, Solution
from .grouping import middle_patterns
from .residuals import solution_misfit

__all__ = ["ChosenProbe", "choose_probe", "learned_probe", "probe_for", "probe_to_choose"]

EXCESS = 2.0
"""The file's probe explains patterns whose residual is below so many times the noise floor."""
GAIN = 0.9
"""A solved probe is better if it lowers the residual of held-out patterns to less than this."""

CHECK_PATTERNS, CHECK_EPOCHS, CHECK_S = 128, 20, 10.0
"""Enough to tell (docs/solver.md): a right probe leaves up to 1.5 floors, a wrong one above 2.6."""
SOLVE_PATTERNS, SOLVE_S = 256, 30.0
"""More patterns take longer, and find no better probe in that time."""
_HELD_OUT = 0.1


@dataclass(frozen=True, eq=False)
class ChosenProbe:
    """The probe to work with, and why.

    Args:
        source: ``file`` or ``solved``.
        scan: the scan with that probe.
        seconds: what it cost to find out.
        r_file: residual of a short solution with the file's probe; None if that was not tried.
        r_solved: the same with the probe solved for.
        poisson_floor: what noise alone would leave; None without a dose.
    """

    source: Literal["file", "solved"]
    scan: Scan
    seconds: float = 0.0
    r_file: float | None = None
    r_solved: float | None = None
    poisson_floor: float | None = None

    def figures(self) -> dict[str, object]:
        """All but the scan, for a record."""
        names = ("source", "seconds", "r_file", "r_solved", "poisson_floor")
        return {name: getattr(self, name) for name in names}


def probe_to_choose(
    scan: Scan, bundle: Bundle, choice: Literal["auto", "file", "bundle", "solve"]
) -> Literal["auto", "file", "solve"] | None:
    """What ``choose_probe`` is to choose; None where a network is applied with its bundle's."""
    if choice == "bundle" or (choice == "auto" and learned_probe(scan, bundle) is not None):
        return None
    return choice


def probe_for(
    scan: Scan, bundle: Bundle, choice: Literal["auto", "file", "bundle", "solve"]
) -> tuple[NDArray[np.complex64], str]:
    """The probe to apply a network with, and where it came from.

    A learned probe was refined by the patterns, so ``auto`` prefers it to the file's, which is
    often a guess.  ``choose_probe`` goes before: here ``solve`` means the scan's own.

    Returns:
        (M, N, N) complex64 in √photons, and ``file`` or ``bundle``.

    Raises:
        ConfigError: ``bundle`` was asked for and the bundle has no learned probe for this N.
        DataError: the file's probe is needed and there is none.
    """
    learned = learned_probe(scan, bundle) if choice in ("auto", "bundle") else None
    if learned is not None:
        return learned, "bundle"
    if choice == "bundle":
        raise ConfigError(
            f"--probe bundle: expected one probe of {scan.N}×{scan.N} pixels learned in training, "
            "found none or several; use --probe file, or train on one scan with --probe-trainable"
        )
    return scan.photon_probe, "file"


def learned_probe(scan: Scan, bundle: Bundle) -> NDArray[np.complex64] | None:
    """The probe that training learned for patterns of this N, if there is just one.

    Its power is set to that of the scan unless the scan's own is absolute.

    Returns:
        (M, N, N) complex64 in √photons.
    """
    fits = [p for p in bundle.probes if bundle.probe_learned and p.shape[-1] == scan.N]
    if len(fits) != 1:
        return None
    return scan.with_probe(fits[0].astype(np.complex64)).photon_probe


def choose_probe(
    backend: Backend,
    scan: Scan,
    choice: Literal["auto", "file", "solve"],
    payload: SolverPayload,
    report: Report,
    should_stop: ShouldStop,
) -> ChosenProbe:
    """Take the file's probe, or solve for one on the middle of the scan.

    ``auto`` solves a few patterns with the file's probe held fixed.  Where this leaves a residual
    above twice the noise floor, or above the middle between floor and 1, the worst that a residual
    can be, it solves for the probe too, and takes the outcome if it explains
    patterns that neither has seen clearly better.  Without a dose there is no floor to hold the
    residual against: then the file's is taken.

    Args:
        backend: what solves.
        scan: the whole scan.
        choice: ``--probe``.
        payload: settings of the solver; length and corrections are set here.
        report: called as the solver proceeds.
        should_stop: True ends it early with the best so far.
    """
    if choice == "file" or (choice == "auto" and scan.probe is not None and not scan.has_dose):
        return ChosenProbe("file", scan)
    started = time.monotonic()
    tried: dict[str, float] = {}
    if choice == "auto" and scan.probe is not None:
        part = scan.subset(middle_patterns(scan.positions_px, CHECK_PATTERNS))
        limits = {"refine_probe": "off", "epochs": CHECK_EPOCHS, "max_time": CHECK_S}
        fixed = _solve(backend, part, payload, limits, report, should_stop)
        tried = _tried("r_file", fixed, part)
        if tried["r_file"] <= _limit(tried["poisson_floor"]) or should_stop():
            return ChosenProbe("file", scan, time.monotonic() - started, **tried)
    part = scan.subset(middle_patterns(scan.positions_px, SOLVE_PATTERNS))
    limits = {"refine_probe": "on", "max_time": SOLVE_S}
    solved = _solve(backend, part, payload, limits, report, should_stop)
    tried = _tried("r_solved", solved, part) | tried
    seconds = time.monotonic() - started
    if tried["r_solved"] > GAIN * tried.get("r_file", np.inf):
        return ChosenProbe("file", scan, seconds, **tried)
    found = scan.with_probe(solved.reconstruction.probe)
    return ChosenProbe("solved", found, seconds, **tried)


def _limit(poisson_floor: float) -> float:
    """The residual that a right probe stays below; at few photons the floor is near 1 itself."""
    return min(EXCESS * poisson_floor, (1 + poisson_floor) / 2)


def _solve(
    backend: Backend,
    scan: Scan,
    payload: SolverPayload,
    limits: dict[str, object],
    report: Report,
    should_stop: ShouldStop,
) -> Solution:
    solver = payload.solver.model_copy(
        update={"epochs": None, "held_out_fraction": _HELD_OUT, **limits}
    )
    return backend.reconstruct(scan, replace(payload, solver=solver), report, should_stop)


def _tried(name: str, solution: Solution, scan: Scan) -> dict[str, float]:
    """The residual of patterns held out, of all where there are none; and the noise floor."""
    found = solution_misfit(solution, scan).residuals
    figures = {name: found.get("r_free", found["r_factor"])}
    return figures | {k: v for k, v in found.items() if k == "poisson_floor"}
