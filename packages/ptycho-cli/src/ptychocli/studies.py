"""What each study varies, and what its rows come to; running it is in ``study_run``.

A study is a list of trials.  A trial trains a network on simulated scans, applies it to another
one, and sets beside it what it must beat.  Trials with the same training share the network.  All
numbers are functions of the seed alone, but for the times.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from itertools import pairwise
from math import exp, log
from statistics import fmean, stdev
from typing import Any

__all__ = [
    "METHODS",
    "SCORES",
    "STUDIES",
    "Study",
    "Trial",
    "below_bounds",
    "dose_ratio",
    "shortened",
    "summarised",
]

METHODS = ("network", "solver, same time", "solver, time of inference", "zero")
"""Rows of a trial. The solver has the same probe, and the time of training and inference together,
or that of inference alone; the zero is the first ePIE step of each pattern, stitched."""

SCORES = ("amplitude_ssim", "phase_ssim")

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Trial:
    """One row of a table, for each method and seed.

    Args:
        name: unique in the study.
        test: settings of the simulated scan that is reconstructed; its seed is the study's.
        train: settings of those that the network learns from.
        training, inference: settings of either, as flags give them.
        value: place along the axis of the figure; None where trials are categories.
        series: line of the figure that the network's score belongs to.
    """

    name: str
    test: Settings
    train: tuple[Settings, ...]
    training: Settings = field(default_factory=dict)
    inference: Settings = field(default_factory=dict)
    value: float | None = None
    series: str = "network"

    @property
    def in_generator(self) -> bool:
        """Whether the network learned from objects of the kind that it is tested on."""
        return self.test["object_kind"] in {scan["object_kind"] for scan in self.train}

    def network_key(self) -> str:
        """The same for trials that the same network serves."""
        content = json.dumps([self.train, self.training], sort_keys=True)
        return sha256(content.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Study:
    """A question, and the trials that answer it.

    Args:
        title: the question.
        trials: rows.
        axis: label of the figure's axis; empty for categories.
        logarithmic: whether that axis is.
        about_training: whether it asks how to train, so that a given bundle answers nothing.
        bounds: trial → (amplitude, phase) SSIM that the network of the short form must reach.
    """

    title: str
    trials: tuple[Trial, ...]
    axis: str = ""
    logarithmic: bool = False
    about_training: bool = False
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict)


_LINES = {"object_kind": "lines", "n_patterns": 400, "overlap": 0.7, "nphotons": 1e6}
_DONUT = {"probe_kind": "zone-plate"}
_DENSE = {**_LINES, "n_patterns": 800, "overlap": 0.8, "nphotons": 1e9}
_CURVED = {"defocus_rad": 6.0}
"""The same light, whose curved phase leaves no twin."""
_SINGLE = {
    "model_type": "supervised",
    "gridsize": 1,
    "neighbor_count": 1,
    "unrolled_steps": 3,
    "batch_size": 8,
    "learning_rate": 1e-3,
    "epochs": 16,
}
"""A pattern alone has the phase up to a twin, and a prior decides: known objects teach it best."""


def _lines() -> Study:
    alone = {"merge": "none"}
    donut, curved = {**_LINES, **_DONUT}, {**_DENSE, **_CURVED}
    return Study(
        "Lines: overlapping patterns, and single shots",
        (
            Trial("overlap 0.7, disk", _LINES, (_LINES, _LINES)),
            Trial("overlap 0.7, donut", donut, (donut, donut)),
            Trial("single shot, disk", _DENSE, (_DENSE, _DENSE), _SINGLE, alone),
            Trial("single shot, curved phase", curved, (curved, curved), _SINGLE, alone),
        ),
    )


def _dose() -> Study:
    losses: dict[str, Settings] = {
        "Poisson": {
            "poisson_weight": 1.0,
            "amplitude_weight": 0.0,
            "unrolled_likelihood": "poisson",
        },
        "amplitude": {
            "poisson_weight": 0.0,
            "amplitude_weight": 1.0,
            "unrolled_likelihood": "amplitude",
        },
    }
    trials = []
    for photons in (1e3, 3e3, 1e4, 2e4, 1e5, 1e6):
        scan = {**_LINES, "nphotons": photons}
        for series, training in losses.items():
            name = f"{series} loss, {photons:.0e} photons"
            trials.append(Trial(name, scan, (scan, scan), training, value=photons, series=series))
    return Study(
        "Dose: which likelihood, of the steps and of the loss, needs how many photons",
        tuple(trials), "photons per pattern", logarithmic=True, about_training=True,
    )  # fmt: skip


def _overlap() -> Study:
    trials = [
        Trial(f"overlap {share:g}", {**_LINES, "overlap": share}, (_LINES, _LINES), value=share)
        for share in (0.0, 0.3, 0.5, 0.7, 0.85)
    ]
    return Study("Overlap: how far apart patterns may lie", tuple(trials), "overlap")


def _transfer() -> Study:
    tests: dict[str, Settings] = {
        "lines": {},
        "lines, donut": _DONUT,
        "lines, N = 128": {"N": 128, "n_patterns": 200},
        "lines, 3 modes": {"probe_modes": 3},
        "lines, 1e4 photons": {"nphotons": 1e4},
        "dead leaves": {"object_kind": "dead-leaves"},
        "natural": {"object_kind": "natural"},
        "held-out photographs": {"object_kind": "natural-held-out"},
        "held-out photographs, donut": {"object_kind": "natural-held-out", **_DONUT},
        "Siemens star": {"object_kind": "siemens-star"},
        "Siemens star, donut": {"object_kind": "siemens-star", **_DONUT},
    }
    return Study(
        "Transfer: one network, trained on lines under a disk, on what it has not seen",
        tuple(
            Trial(name, {**_LINES, **change}, (_LINES, _LINES)) for name, change in tests.items()
        ),
    )


def _data_efficiency() -> Study:
    trials = [
        Trial(f"{n} patterns", _LINES, ({**_LINES, "n_patterns": n},), value=float(n))
        for n in (50, 100, 200, 400, 800)
    ]
    return Study(
        "Data efficiency: how many patterns a network needs to learn from, at equal steps",
        tuple(trials), "training patterns", logarithmic=True, about_training=True,
    )  # fmt: skip


STUDIES = {
    "lines": _lines(),
    "dose": _dose(),
    "overlap": _overlap(),
    "transfer": _transfer(),
    "data-efficiency": _data_efficiency(),
}
"""Name → study."""

_SHORT: dict[str, dict[str, tuple[float, float] | None]] = {
    "lines": {"overlap 0.7, disk": (0.85, 0.88)},
    "dose": {
        "Poisson loss, 1e+04 photons": None, "amplitude loss, 1e+04 photons": None,
    },
    "overlap": {"overlap 0.3": (0.6, 0.65), "overlap 0.7": (0.85, 0.88)},
    "transfer": {"lines, donut": (0.8, 0.75), "dead leaves": (0.85, 0.9)},
    "data-efficiency": {"50 patterns": None, "100 patterns": (0.85, 0.88)},
}  # fmt: skip
"""Study → trials of its short form, with bounds of their network's scores, if there are any."""

_SMALL = {"N": 32, "n_patterns": 100}
_BRIEF = {"epochs": 5, "unrolled_width": 8}


def shortened(name: str) -> Study:
    """The short form of a study: small scans, few steps, a few of its trials, and bounds."""
    study, bounds = STUDIES[name], _SHORT[name]

    def small(scan: Settings) -> Settings:
        return {**scan, **_SMALL, "n_patterns": min(scan["n_patterns"], _SMALL["n_patterns"])}

    trials = tuple(
        replace(
            trial,
            test=small(trial.test),
            train=(small(trial.train[0]),),
            training={**_BRIEF, **trial.training},
        )
        for trial in study.trials
        if trial.name in bounds
    )
    held = {trial: bound for trial, bound in bounds.items() if bound is not None}
    return replace(study, trials=trials, bounds=held)


def summarised(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Mean and standard deviation over the seeds, for each trial and method."""
    found: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["trial"], row["method"]), []).append(row)
    told = []
    for (_, method), some in found.items():
        one = {name: some[0][name] for name in ("trial", "value", "series", "in_generator")}
        one |= {"method": method, "seeds": len(some)}
        for name in (*SCORES, "r_factor", "seconds"):
            values = [row[name] for row in some if row.get(name) is not None]
            one[name] = fmean(values) if values else None
            one[f"{name}_sd"] = stdev(values) if len(values) > 1 else None
        told.append(one)
    return told


def dose_ratio(summary: Sequence[Mapping[str, Any]], photons: float = 1e4) -> float | None:
    """Dose at which the amplitude loss reaches the phase SSIM of Poisson's, over ``photons``.

    Linear between the doses in their logarithm; None where the amplitude loss does not reach it.
    """
    lines: dict[str, list[tuple[float, float]]] = {}
    for row in summary:
        if row["method"] == "network" and row["phase_ssim"] is not None:
            lines.setdefault(row["series"], []).append((row["value"], row["phase_ssim"]))
    wanted = dict(lines.get("Poisson", ())).get(photons)
    points = sorted(lines.get("amplitude", ()))
    if wanted is None:
        return None
    for (dose, score), (more, better) in pairwise(points):
        if score <= wanted <= better and better > score:
            share = (wanted - score) / (better - score)
            return exp(log(dose) + share * log(more / dose)) / photons
    return None


def below_bounds(study: Study, summary: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the network of a short form should reach and does not, one sentence each."""
    failed = []
    for row in summary:
        if row["method"] != "network" or row["trial"] not in study.bounds:
            continue
        for name, bound in zip(SCORES, study.bounds[row["trial"]], strict=True):
            if not (row[name] or 0) >= bound:
                failed.append(f"{row['trial']}: expected {name} of {bound}, found {row[name]:.3f}")
    return failed
