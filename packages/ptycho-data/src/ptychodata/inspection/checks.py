"""Checks of what ruins a reconstruction without a sound: power, units, orientation.

``inspect`` makes them, and whatever reconstructs or trains can.
"""

from collections.abc import Iterator

import numpy as np

from ptychodata.contracts import Scan

from .geometry import nearest_px, probe_diameter_px, probe_intensity
from .orientation import CLASSES, DECISIVE, Orientation, find_orientation
from .report import Finding, Severity

__all__ = ["check_orientation", "check_position_unit", "check_power", "orientation_findings"]

_ABSURD_POWER = 0.02
"""Ratio, either way round, of a probe's power to the patterns' that no object explains."""


def check_power(scan: Scan) -> Finding | None:
    """Compare the probe's power with the patterns'."""
    if scan.probe is None:
        return None
    mean = scan.mean_photons
    power = float(probe_intensity(scan.probe).sum())
    if not (mean > 0 and power > 0):
        return None
    ratio = power / mean
    evidence = {"power_ratio": ratio, "probe_power": scan.probe_power, "mean_photons": mean}
    holds = f"the probe holds {ratio:.3g} of the photons that the patterns hold on average"
    flags = ("--probe-power relative",)
    if scan.probe_power == "relative":
        if abs(ratio - 1) <= 0.01:
            return None
        return Finding(
            "power-mismatch",
            "info",
            f"{holds}; it is scaled to match",
            "nothing to do; the object's modulus is relative",
            evidence,
        )
    if ratio < 0.95:
        severity: Severity = "error" if ratio <= _ABSURD_POWER else "warning"
        hint = "give --probe-power relative, or the right dose with --nphotons"
        text = f"{holds}: no object can amplify"
        return Finding("power-mismatch", severity, text, hint, evidence, flags)
    if ratio > 1 / _ABSURD_POWER:
        hint = "give --probe-power relative unless the object absorbs that much"
        text = f"{holds}: the object would let {1 / ratio:.2%} through"
        return Finding("power-mismatch", "error", text, hint, evidence, flags)
    return None


def check_position_unit(scan: Scan) -> Finding | None:
    """Tell positions in metres, or in another unit, that are taken as object pixels."""
    if len(scan) < 2 or len(np.unique(scan.positions_px, axis=0)) < 2:
        return _one_position(scan, 0.0) if len(scan) > 1 else None
    extent = float(np.ptp(scan.positions_px, axis=0).max())
    if extent < 1:
        return _one_position(scan, extent)
    diameter = float("nan") if scan.probe is None else probe_diameter_px(scan.probe)
    step = float(np.median(nearest_px(np.unique(scan.positions_px, axis=0))))
    evidence = {"extent_px": extent, "step_px": step, "probe_diameter_px": diameter}
    spans = f"the positions span {extent:.3g} px in steps of {step:.3g} px under a probe of "
    spans += f"{diameter:.3g} px"
    if len(scan) >= 16 and extent < 0.25 * diameter:
        hint = "check that they are in object pixels and not in micrometres or steps of a motor"
        return Finding("position-unit", "warning", spans, hint, evidence)
    if step > 3 * diameter:
        hint = "check that they are in object pixels and not in nanometres: no two probes overlap"
        return Finding("position-unit", "warning", spans, hint, evidence)
    return None


def _one_position(scan: Scan, extent: float) -> Finding:
    message = f"all positions lie within {extent:.2g} px"
    if np.isfinite(scan.object_pixel_m) and extent > 0:
        message += f"; taken as metres they span {extent / scan.object_pixel_m:.4g} object pixels"
    return Finding(
        "one-position",
        "error",
        message,
        "check that the positions are in object pixels and not in metres",
        {"extent_px": extent, "object_pixel_m": scan.object_pixel_m},
    )


def check_orientation(scan: Scan) -> tuple[Finding, ...]:
    """Find patterns or axes that are flipped or swapped, and positions of other patterns.

    Takes a few seconds.
    """
    return tuple(orientation_findings(find_orientation(scan)))


def orientation_findings(found: Orientation) -> Iterator[Finding]:
    """Say what the orientation test of ``find_orientation`` means."""
    if found.reason:
        return
    evidence = _evidence(found)
    if found.lag:
        which, ends = (
            ("after", ("first", "last")) if found.lag > 0 else ("before", ("last", "first"))
        )
        yield Finding(
            "frame-lag",
            "error",
            f"the pattern {which} each explains its position better: residual "
            f"{found.lag_residuals[found.lag]:.3f} so, {min(found.residuals.values()):.3f} as "
            "recorded",
            f"frames and positions were saved one apart: leave out the {ends[0]} pattern and the "
            f"{ends[1]} position",
            evidence,
        )
    elif found.belongs is False:
        yield Finding(
            "shuffled-positions",
            "error",
            "the patterns are explained no better by their positions (residual "
            f"{min(found.residuals.values()):.3f}) than by positions drawn at random "
            f"({found.drawn_residual:.3f}), and their deflections circulate "
            f"{min(found.circulation.values()):.2f} times as much",
            "pattern i does not belong to position i, or the probe is far off: check the order in "
            "which frames and positions were saved",
            evidence,
        )
    elif found.likely == "undetermined":
        yield Finding(
            "orientation",
            "info",
            f"the orientation is undetermined: the two best of four differ by {found.margin:.3f} "
            f"times in residual, less than {DECISIVE:g}",
            "more overlap, dose or contrast would tell; compare a reconstruction with what is "
            "known of the object",
            evidence,
        )
    else:
        yield from _of_class(found, evidence)


def _evidence(found: Orientation) -> dict[str, object]:
    return {
        "margin": found.margin,
        "residuals": found.residuals,
        "drawn_residual": found.drawn_residual,
        "circulation": found.circulation,
        "circulation_sd": found.circulation_sd,
        "fixed_residuals": found.fixed_residuals,
        "nearer": " ".join(found.nearer) or "as recorded",
        "nearer_margin": found.nearer_margin,
        "lag_residuals": {str(lag): value for lag, value in found.lag_residuals.items()},
        "n_patterns": found.n_patterns,
    }


def _of_class(found: Orientation, evidence: dict[str, object]) -> Iterator[Finding]:
    ways = sorted(CLASSES[found.likely], key=lambda way: way != found.nearer)
    ways = ways if found.chosen is None else [found.chosen]
    flags = tuple(" ".join(way) for way in ways if way)
    if found.likely != "as recorded":
        yield Finding(
            "orientation",
            "error",
            f"patterns lie {found.likely} to their positions: residual "
            f"{found.residuals[found.likely]:.3f} so, "
            f"{found.residuals['as recorded']:.3f} as recorded",
            f"give {' or '.join(flags)}"
            + (
                ""
                if found.chosen
                else "; they differ by mirroring and a twin, which is undetermined"
            ),
            evidence,
            flags,
        )
    elif found.chosen:  # a way other than the one that was recorded
        yield Finding(
            "half-turn",
            "error",
            "patterns and positions fit the probe, which is trusted, better when turned: residual "
            f"{found.fixed_residuals[' '.join(found.chosen)]:.3f}, "
            f"{found.fixed_residuals['as recorded']:.3f} as recorded",
            f"give {flags[0]}, or --probe-power relative if the probe is only a guess",
            evidence,
            flags,
        )
    elif found.chosen is None and found.nearer and found.nearer_margin >= DECISIVE:
        yield Finding(
            "half-turn",
            "warning",
            "whether the patterns are turned by 180° is undetermined, but from the file's probe "
            f"the fit gets {found.nearer_margin:.2f} times closer if they are",
            f"give {' '.join(found.nearer)}, or the conjugate of the probe",
            evidence,
            (" ".join(found.nearer),),
        )
