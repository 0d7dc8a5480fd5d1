"""How far a reconstruction is to be trusted where no known object tells.

Two questions that a residual does not answer: whether the image would come out the same from other
patterns of the same thing, and whether a network has seen the like of this scan.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from ptychoconfig.errors import DataError

from .contracts import Reconstruction, Scan
from .frc import FRC, frc_of
from .grouping import deal

__all__ = [
    "Unlike",
    "doubts",
    "halves",
    "scan_statistics",
    "split_half",
    "training_statistics",
    "unlike_training",
]

_SAMPLE = 512
"""Patterns that statistics are taken from."""

_FACTORS = {
    "mean_photons": 10.0,
    "pattern_width": 1.5,
    "pattern_contrast": 2.0,
    "probe_width": 1.5,
    "step_per_probe": 2.0,
}
"""By how much a figure may leave the range of the training scans; of a single scan the range is
a point, so these say what counts as the like of it."""


_EXCESS, _GOOD_R = 4.0, 0.02
"""Deviance over its expectation above which an image does not explain the patterns, unless R is
small: ten good scans and the measured star have up to 3.1, wrong probes and positions above 6
(docs/quality.md)."""

_EVEN = 2.0
"""Variance over mean of the pixels' counts, summed over a scan, below which no beam shows: photon
noise has 1, to 0.02 of a few thousand pixels."""


def doubts(scan: Scan, residuals: Mapping[str, float]) -> list[str]:
    """Reasons not to believe an image, a sentence each; none for a good one.

    Args:
        scan: what it was made from.
        residuals: its figures, as ``ptychodata.residuals.residuals`` returns them.
    """
    from .inspection.domain import domain_evidence
    from .inspection.findings import domain_findings

    excess, found = residuals.get("deviance_ratio", 1.0), []
    if excess > _EXCESS and residuals["r_factor"] > _GOOD_R:
        found.append(
            f"the image does not explain the patterns: their deviance is {excess:.3g} times what "
            f"photon noise leaves, above {_EXCESS:g}; see whether probe (--probe solve), positions "
            "and counts are right (ptycho inspect)"
        )
    if scan.has_dose and (spread := _spread(scan)) < _EVEN:
        found.append(
            f"the patterns are even: over the detector their sum varies by {spread:.3g} times what "
            f"photon noise does, below {_EVEN:g}, so that no beam shows; see whether these are "
            "dark frames, and whether the shutter was open"
        )
    findings = domain_findings(scan, domain_evidence(scan), whole=False)
    return found + [f"{f.message}; {f.hint}" for f in findings if f.name == "domain"]


def _spread(scan: Scan) -> float:
    """Variance over mean of the pixels' summed counts; 1 where light is even."""
    index = _sample(scan)
    valid, counts = scan.valid(index), scan.amplitude(index).astype(np.float64) ** 2
    shown = np.ones(counts.shape) if valid is None else np.broadcast_to(valid, counts.shape)
    total, seen = (counts * shown).sum(0), shown.sum(0)
    pixels = total[seen == seen.max()]
    return float(pixels.var() / max(pixels.mean(), 1e-30))


def halves(
    positions_px: NDArray[np.float64], seed: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split a scan so that both halves cover it alike: sorted indices of each."""
    first, second = deal(positions_px, 2, seed)
    return first, second


def split_half(scan: Scan, reconstruct: Callable[[Scan], Reconstruction], seed: int = 0) -> FRC:
    """Reconstruct two halves of a scan, each alone from start to end, and correlate them.

    Raises:
        DataError: the scan has fewer than 4 patterns.
    """
    if len(scan) < 4:
        raise DataError(
            f"{scan.name}: expected at least 4 patterns to halve, found {len(scan)}; "
            "leave out --split-half and --min-frc-px"
        )
    first, second = (reconstruct(scan.subset(index)) for index in halves(scan.positions_px, seed))
    return frc_of(first, second)


def scan_statistics(scan: Scan) -> dict[str, float]:
    """Figures by which scans differ for a network; NaN where unknown.

    Returns:
        ``mean_photons``; ``pattern_width`` and ``probe_width``, radii of gyration over N of the
        mean pattern and of the probe; ``pattern_contrast``, by how much amplitudes differ from
        their mean over the scan, Σ|√I − ⟨√I⟩| / Σ√I; ``step_per_probe``, the median distance to
        the nearest position over the probe's radius of gyration.
    """
    index = _sample(scan)
    valid = scan.valid(index)
    amplitude = scan.amplitude(index) * (1.0 if valid is None else valid)
    mean, total = amplitude.mean(axis=0), float(amplitude.sum(dtype=np.float64))
    contrast = np.abs(amplitude - mean).sum(dtype=np.float64) / total if total > 0 else np.nan
    probe_px = float("nan")
    if scan.probe is not None:
        probe_px = _gyration_px(np.sum(np.abs(scan.probe) ** 2, axis=0))
    return {
        "mean_photons": scan.mean_photons if scan.has_dose else float("nan"),
        "pattern_width": _gyration_px(np.mean(amplitude.astype(np.float64) ** 2, axis=0)) / scan.N,
        "pattern_contrast": float(contrast),
        "probe_width": probe_px / scan.N,
        "step_per_probe": _step_px(scan.positions_px) / probe_px,
    }


def _sample(scan: Scan) -> NDArray[np.int64]:
    """Patterns that stand for a scan, from all over it."""
    return np.unique(np.linspace(0, len(scan) - 1, _SAMPLE).astype(np.int64))


def _gyration_px(density: NDArray[np.floating]) -> float:
    """Root of the mean squared distance from the centre of mass."""
    total = density.sum(dtype=np.float64)
    if not total > 0:
        return float("nan")
    grid = np.indices(density.shape, dtype=np.float64)
    centre = (grid * density).sum(axis=(1, 2)) / total
    squared = ((grid - centre[:, None, None]) ** 2).sum(axis=0)
    return float(np.sqrt((squared * density).sum() / total))


def _step_px(positions_px: NDArray[np.float64]) -> float:
    if len(positions_px) < 2:
        return float("nan")
    return float(np.median(cKDTree(positions_px).query(positions_px, k=2)[0][:, 1]))


def training_statistics(scans: Sequence[Scan]) -> dict[str, float]:
    """Ranges of the figures over the training scans, for a bundle: ``…_low``, ``…_high``."""
    each = [scan_statistics(scan) for scan in scans]
    found: dict[str, float] = {}
    for name in _FACTORS:
        known = [one[name] for one in each if np.isfinite(one[name])]
        found[f"{name}_low"] = min(known, default=float("nan"))
        found[f"{name}_high"] = max(known, default=float("nan"))
    return found


@dataclass(frozen=True)
class Unlike:
    """A figure of a scan that is far from the training's.

    Args:
        name: as in ``scan_statistics``.
        found: its value.
        low: least value in training.
        high: greatest value in training.
    """

    name: str
    found: float
    low: float
    high: float

    def __str__(self) -> str:
        seen = f"{self.low:.3g}"
        seen += "" if self.low == self.high else f" … {self.high:.3g}"
        return f"{self.name} is {self.found:.3g}, and was {seen} in training"


def unlike_training(scan: Scan, trained: Mapping[str, float]) -> list[Unlike] | None:
    """Figures in which a scan is unlike those that a network was trained on.

    Args:
        scan: what it is to be applied to.
        trained: statistics of its bundle.

    Returns:
        The figures that are out of range; None if the bundle has none to compare with.
    """
    if not any(f"{name}_low" in trained for name in _FACTORS):
        return None
    far = []
    for name, found in scan_statistics(scan).items():
        low, high = (trained.get(f"{name}_{end}", float("nan")) for end in ("low", "high"))
        factor = _FACTORS[name]
        if found < low / factor or found > high * factor:  # never for NaN
            far.append(Unlike(name, found, low, high))
    return far
