"""What the figures of a scan mean: one rule after another."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ptychodata.contracts import Scan

from .domain import DomainEvidence
from .report import Finding

__all__ = ["domain_findings", "geometry_findings", "value_findings"]

_FIRST = 5
"""How many pixels or patterns a message names."""


def value_findings(scan: Scan, figures: Mapping[str, Any]) -> Iterator[Finding]:
    """Values that cannot be, or that a detector spoiled; where the patterns' centre is."""
    for name, what, hint in (
        ("nan", "NaN or infinite", "mark them 0 in a --mask-file, or repair the file"),
        ("negative", "negative", "undo the dark subtraction, or give a --mask-file"),
    ):
        count = figures[f"{name}_values"]
        if count:
            yield Finding(
                name, "error", f"{count} valid values are {what}", hint, {"values": count}
            )
    if not figures["photons_max"] > 0:
        yield Finding("dark", "error", "no pattern holds a photon", "check the file")
    elif figures["empty_patterns"]:
        empty = figures["empty_patterns"]
        yield Finding(
            "empty-patterns",
            "warning",
            f"{empty} of {len(scan)} patterns hold no photon",
            "leave them out with --exclude: the shutter was closed, or frames were lost",
            {"empty_patterns": empty},
        )
    for kind, why in (("dead", "they count as dark otherwise"), ("hot", "they draw the fit")):
        count, at = figures[f"{kind}_pixels"], figures[f"{kind}_pixels_yx"]
        if count:
            where = ", ".join(str(tuple(pixel)) for pixel in at[:_FIRST])
            message = f"{count} {kind} pixels, first at (y, x) = {where}"
            hint = f"mark them 0 in a --mask-file: {why}"
            flags = ("--mask-file",)
            yield Finding(f"{kind}-pixels", "warning", message, hint, {"pixels_yx": at}, flags)
    if figures["saturated_values"]:
        yield Finding(
            "saturated",
            "warning",
            f"{figures['saturated_values']} values stand at the largest, "
            f"{figures['largest_value']:g}: the detector was saturated",
            "mark them False in a mask of shape (P, N, N) in the file, or lower the dose",
            {"values": figures["saturated_values"], "largest": figures["largest_value"]},
        )
    yield from _centre_findings(scan, figures)


def _centre_findings(scan: Scan, figures: Mapping[str, Any]) -> Iterator[Finding]:
    y, x = figures["dc_offset_px"]
    offset = float(np.hypot(y, x))
    where = f"the patterns' power is centred ({y:+.1f}, {x:+.1f}) px from [N//2, N//2]"
    evidence = {"dc_offset_px": [y, x], "N": scan.N}
    if offset > scan.N / 4:
        hint = "DC seems to lie in the corner: apply numpy.fft.fftshift to the patterns"
        yield Finding("dc-not-centred", "error", where, hint, evidence)
    elif offset > max(2.0, scan.N / 32):
        hint = "crop the patterns around the direct beam with --crop-px"
        yield Finding("dc-not-centred", "warning", where, hint, evidence, ("--crop-px",))


def geometry_findings(scan: Scan, figures: Mapping[str, Any]) -> Iterator[Finding]:
    """The probe, the overlap, the positions, and the pixel that the optics imply."""
    border, overlap = figures["probe_border_power"], figures["median_overlap"]
    if not figures["probe_diameter_px"] > 0:
        yield Finding(
            "no-probe",
            "error",
            "the scan has no probe" if scan.probe is None else "the probe has no power",
            "give one under the key probeGuess, with --probe-trainable if it is only a guess",
            flags=("--probe-trainable",),
        )
    if scan.near_field:
        yield Finding(
            "near-field",
            "error",
            "the detector was in the near field of the object",
            "only far-field patterns can be reconstructed; the scan can still be converted",
        )
    if border > 0.01:
        yield Finding(
            "probe-at-border",
            "warning",
            f"{border:.1%} of the probe's power lies on the border of its {scan.N} pixels, where "
            "sub-pixel shifts wrap around",
            "use larger patterns, or a probe cut to its support",
            {"border_power": border},
        )
    if overlap < 0.5:
        step, diameter = figures["median_step_px"], figures["probe_diameter_px"]
        yield Finding(
            "low-overlap",
            "warning",
            f"neighbouring probes overlap by {overlap:.0%} (step {step:.1f} px, probe "
            f"{diameter:.1f} px)",
            "60 % or more makes the object well determined; check the unit of the positions",
            {"median_overlap": overlap, "median_step_px": step, "probe_diameter_px": diameter},
        )
    yield from _position_findings(figures)
    yield from _pixel_findings(scan, figures)


def _position_findings(figures: Mapping[str, Any]) -> Iterator[Finding]:
    repeated, lone = figures["repeated_positions"], figures["outlier_indices"]
    if repeated and max(figures["scan_extent_px"]) >= 1:
        yield Finding(
            "repeated-positions",
            "info",
            f"{repeated} patterns repeat the position of another",
            "fine for repeated exposures; otherwise check the encoder",
            {"repeated_positions": repeated},
        )
    if lone:
        first = ", ".join(map(str, lone[:_FIRST]))
        exclude = f"--exclude {','.join(map(str, lone))}"
        yield Finding(
            "outlier-positions",
            "warning",
            f"{figures['outlier_positions']} positions lie far from the others (patterns {first})",
            f"leave these patterns out with {exclude}: the object grows to hold them",
            {"count": figures["outlier_positions"], "patterns": lone},
            (exclude,),
        )


def _pixel_findings(scan: Scan, figures: Mapping[str, Any]) -> Iterator[Finding]:
    expected_m = figures["expected_pixel_m"]
    if abs(scan.object_pixel_m - expected_m) > 0.01 * expected_m:
        yield Finding(
            "geometry",
            "warning",
            f"the object pixel is {scan.object_pixel_m:.4g} m, but energy, distance and detector "
            f"pixel give λz/(N·Δ) = {expected_m:.4g} m",
            "correct whichever is wrong, --object-pixel-m, --photon-energy-ev, "
            "--detector-distance-m or --detector-pixel-m: positions in metres are scaled by it",
            {"object_pixel_m": scan.object_pixel_m, "expected_pixel_m": expected_m},
            (f"--object-pixel-m {expected_m:.4g}",),
        )


def domain_findings(scan: Scan, evidence: DomainEvidence, *, whole: bool) -> Iterator[Finding]:
    """Whether values are what they are taken for, and whether a photon counts as one.

    Args:
        scan: the scan.
        evidence: marks of counts and amplitudes.
        whole: whether all values are whole numbers.
    """
    if not scan.has_dose:
        yield Finding(
            "no-dose",
            "warning",
            "no dose is recorded, so only the amplitude loss has a meaning",
            "give --nphotons, the mean number of photons per pattern",
            flags=("--nphotons",),
        )
    marks = {
        "quantised": evidence.quantised,
        "unit": evidence.unit,
        "whole_numbers": whole,
        "outer_power": dict(evidence.outer_power),
    }
    other = "counts" if scan.domain == "amplitude" else "amplitude"
    quantised = evidence.quantised or ("counts" if whole else None)
    if quantised == other:
        what = "they are" if other == "counts" else "their squares are"
        yield Finding(
            "domain",
            "error",
            f"the patterns are taken as {scan.domain}, yet {what} whole multiples of "
            f"{evidence.unit if evidence.quantised else 1:.4g}, as {other} are",
            f"give --domain {other}",
            marks,
            (f"--domain {other}",),
        )
    elif quantised is None and evidence.supported == other:
        ours, theirs = (evidence.outer_power[name] for name in (scan.domain, other))
        yield Finding(
            "domain",
            "warning",
            f"the patterns are taken as {scan.domain}, yet as {other} they would be smoother, as "
            f"the intensity of a small probe is: {theirs:.2g} instead of {ours:.2g} of their "
            "Fourier power beyond 0.45 N",
            f"give --domain {other} if that is what they are",
            marks,
            (f"--domain {other}",),
        )
    yield from _quantum_findings(scan, evidence)


def _quantum_findings(scan: Scan, evidence: DomainEvidence) -> Iterator[Finding]:
    """A photon that does not count as one: the dose is off, and Poisson noise with it."""
    if scan.intensity_scale is None or evidence.quantised != scan.domain:
        return
    step = evidence.unit if scan.domain == "counts" else evidence.unit**2
    photon = step * scan.intensity_scale**2
    if abs(photon - 1) > 0.05:
        yield Finding(
            "quantum",
            "warning",
            f"counts come in steps of {photon:.4g} photons, not of 1: the dose is off by that "
            "factor if the detector counts single photons",
            "give the mean photons per pattern with --nphotons",
            {"step_photons": photon, "intensity_scale": scan.intensity_scale},
            ("--nphotons",),
        )
