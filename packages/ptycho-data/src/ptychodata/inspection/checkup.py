"""The check-up: figures, then findings, errors first."""

from collections.abc import Iterable
from typing import Any

from ptychodata.contracts import Scan

from .checks import check_position_unit, check_power, orientation_findings
from .domain import domain_evidence
from .figures import figures_of
from .findings import domain_findings, geometry_findings, value_findings
from .orientation import Orientation, find_orientation
from .report import Finding, Inspection

__all__ = ["inspect_scan"]

_BLINDING = {"dark", "dc-not-centred", "one-position", "no-probe"}
"""Errors that leave the orientation test nothing to work with."""


def inspect_scan(scan: Scan, *, orientation: bool = True) -> Inspection:
    """Measure a scan and say what is wrong with it.

    Definitions are in ``ptychodata.inspection``.

    Args:
        scan: any scan.
        orientation: whether to test how patterns and positions lie to each other, which takes a
            few seconds.
    """
    survey = scan.survey
    figures = figures_of(scan)
    marks = domain_evidence(scan)
    figures["quantised"] = marks.quantised or "none"
    figures["quantum"] = marks.unit
    found = [*value_findings(scan, figures), *geometry_findings(scan, figures)]
    found += domain_findings(scan, marks, whole=survey.whole)
    found += _given(check_power(scan), check_position_unit(scan))
    if orientation:
        blind = [item.name for item in found if item.severity == "error" and item.name in _BLINDING]
        tested = Orientation(reason=f"after {blind[0]}") if blind else find_orientation(scan)
        figures |= _orientation_figures(tested)
        found += orientation_findings(tested)
    order = {"error": 0, "warning": 1, "info": 2}
    return Inspection(
        scan.name,
        figures,
        tuple(sorted(found, key=lambda item: order[item.severity])),
        survey.mean_pattern * (scan.intensity_scale or 1.0) ** 2,
        scan.photons,
    )


def _given(*findings: Finding | None) -> Iterable[Finding]:
    return (finding for finding in findings if finding is not None)


def _orientation_figures(tested: Orientation) -> dict[str, Any]:
    untold = f"not tested: {tested.reason}" if tested.reason else tested.likely
    half = "undetermined" if tested.chosen is None else " ".join(tested.chosen) or "as recorded"
    return {
        "orientation": untold,
        "orientation_margin": tested.margin,
        "orientation_residuals": dict(tested.residuals),
        "drawn_residual": tested.drawn_residual,
        "frame_lag": tested.lag,
        "circulation": dict(tested.circulation),
        "half_turn": half,
    }
