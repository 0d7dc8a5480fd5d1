"""One page that shows a scan: mean pattern, probe, positions, counts, and what was found."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ptychocli.pictures import MOST_POINTS
from ptychodata.contracts import Scan
from ptychodata.files import atomic_path
from ptychodata.inspection import Inspection, probe_diameter_px

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

__all__ = ["write_preview"]

_PAGE_INCHES = (11.0, 11.5)
_DPI = 110
_FINDINGS = 6
_LINE = 125  # characters
_DECADES = 6  # of the mean pattern


def write_preview(scan: Scan, inspection: Inspection, path: Path) -> None:
    """Draw a scan and its inspection on one page and write it as a PNG, whole or not at all."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=_PAGE_INCHES, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(
        f"{scan.name}: {len(scan)} patterns of {scan.N}×{scan.N}, taken as {scan.domain}"
    )
    parts = figure.subfigures(2, 1, height_ratios=(9, 1.6), squeeze=False)
    drawn, told = parts[0, 0], parts[1, 0]
    axes = drawn.subplots(2, 2)
    _draw_pattern(drawn, axes[0, 0], inspection.mean_pattern)
    _draw_probe(axes[0, 1], scan)
    _draw_positions(drawn, axes[1, 0], scan, inspection)
    _draw_counts(axes[1, 1], inspection.photons, has_dose=scan.has_dose)
    told.text(0.03, 0.97, _report(inspection), va="top", family="monospace", fontsize=8)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=_DPI)


def _draw_pattern(figure: "SubFigure", axes: "Axes", mean: NDArray[np.float64]) -> None:
    from matplotlib.colors import LogNorm

    peak = max(float(mean.max()), 1e-30)
    lit = mean[mean > 0]
    low = max(float(lit.min()) if lit.size else 0.0, peak * 10.0**-_DECADES)
    axes.set_facecolor("0.8")
    image = axes.imshow(
        np.ma.masked_less_equal(mean, 0),
        norm=LogNorm(min(low, peak / 10), peak),
        cmap="magma",
        interpolation="nearest",
    )
    centre = mean.shape[-1] // 2
    axes.plot(centre, centre, "+", color="cyan", ms=14, mew=1)
    axes.set(title="mean pattern; + = [N//2, N//2]", xlabel="x / px", ylabel="y / px")
    figure.colorbar(image, ax=axes, label="counts", shrink=0.85)


def _draw_probe(axes: "Axes", scan: Scan) -> None:
    from matplotlib.colors import hsv_to_rgb
    from matplotlib.patches import Circle

    axes.set(title="probe", xlabel="x / px", ylabel="y / px")
    if scan.probe is None:
        axes.text(0.5, 0.5, "the scan has no probe", ha="center", transform=axes.transAxes)
        return
    power = np.abs(scan.probe) ** 2
    strongest = scan.probe[int(power.sum(axis=(1, 2)).argmax())]
    modulus = np.abs(strongest)
    hue = np.angle(strongest) / (2 * np.pi) % 1
    value = modulus / max(float(modulus.max()), 1e-30)
    axes.imshow(hsv_to_rgb(np.stack([hue, 0.8 * np.ones_like(hue), value], axis=-1)))
    diameter = probe_diameter_px(scan.probe)
    if np.isfinite(diameter):
        y, x = (float((axis * power.sum(0)).sum() / power.sum()) for axis in np.indices(hue.shape))
        ring = Circle((x, y), diameter / 2, fill=False, ec="white", ls="--", lw=1)
        axes.add_patch(ring)
        modes = f", first of {len(scan.probe)} modes" if len(scan.probe) > 1 else ""
        axes.set_title(f"probe, phase as hue{modes}; 90 % within {diameter:.1f} px")


def _draw_positions(figure: "SubFigure", axes: "Axes", scan: Scan, inspection: Inspection) -> None:
    from matplotlib.patches import Circle

    positions = scan.positions_px
    every = max(1, -(-len(positions) // MOST_POINTS))
    shown = np.arange(len(positions))[::every]
    found: Any = inspection.figures["outlier_indices"]
    lone = np.array(found, dtype=np.int64)
    size = float(np.clip(4000 / len(shown), 1, 25))
    points = axes.scatter(
        positions[shown, 1], positions[shown, 0], c=shown, s=size, cmap="viridis", linewidths=0
    )
    axes.scatter(positions[lone, 1], positions[lone, 0], marker="x", color="red", s=60)
    diameter: Any = inspection.figures["probe_diameter_px"]
    if np.isfinite(diameter) and not lone.size:
        corner = positions.min(axis=0) + 0.5 * np.ptp(positions, axis=0)
        ring = Circle((corner[1], corner[0]), diameter / 2, fill=False, ec="0.3", ls="--")
        axes.add_patch(ring)
    axes.set_aspect("equal")
    axes.invert_yaxis()
    overlap: Any = inspection.figures["median_overlap"]
    title = "positions, outliers ×"
    axes.set(
        title=f"{title}; probe dashed, overlap {overlap:.0%}" if np.isfinite(overlap) else title
    )
    axes.set(xlabel="x / object px", ylabel="y / object px")
    figure.colorbar(points, ax=axes, label="pattern", shrink=0.85)


def _draw_counts(axes: "Axes", photons: NDArray[np.float64], *, has_dose: bool) -> None:
    axes.hist(photons, bins=int(np.clip(np.sqrt(len(photons)), 5, 60)), color="tab:blue")
    unit = "photons" if has_dose else "intensity in the file's unit"
    axes.axvline(float(photons.mean()), color="black", ls="--", lw=1, label="mean")
    axes.legend(frameon=False)
    axes.ticklabel_format(axis="x", scilimits=(-3, 4))
    axes.set(title="counts of the patterns", xlabel=f"{unit} per pattern", ylabel="patterns")


def _report(inspection: Inspection) -> str:
    from textwrap import wrap

    tested = inspection.figures.get("orientation")
    lines = [] if tested is None else [f"orientation: {tested}"]
    for finding in inspection.findings[:_FINDINGS]:
        told = f"{finding.severity}: {finding.message}; {finding.hint}"
        lines += wrap(told, _LINE, subsequent_indent="  ", max_lines=2)
    rest = len(inspection.findings) - _FINDINGS
    if rest > 0:
        lines.append(f"and {rest} more")
    return "\n".join(lines if inspection.findings else [*lines, "nothing to worry about was found"])
