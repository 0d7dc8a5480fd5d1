"""The figures of a report: each a heading, a PNG as data, and what it shows."""

import base64
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ptychocli.pictures import MOST_POINTS, covered_view, new_figure
from ptychodata.residuals import solution_counts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ptychocli.results import Assessment

__all__ = ["data_uri", "draw_figures"]

_DPI = 110
_WORST = 4
_MODES = 4


def draw_figures(
    found: "Assessment", history: Mapping[str, Sequence[float]]
) -> Iterator[tuple[str, str, str]]:
    """Draw what there is to draw.

    Yields:
        Heading, picture as a data URI, caption.
    """
    residual = found.metrics["residuals"]["r_factor"]
    yield (
        "Probe",
        _drawn((9, 3), lambda figure: _probe(figure, found)),
        f"Modulus of the probe's modes in √photons, at most {_MODES}, and the phase of the first.",
    )
    curves = {k: values for k, values in history.items() if len(values) > 1 and k != "seconds"}
    if curves:
        caption = "The course of training or solving; each curve on its own axis, over the epochs."
        yield "Course", _drawn((9, 3), lambda figure: _course(figure, curves)), caption
    yield (
        "Positions and residuals",
        _drawn((11, 3.4), lambda figure: _scan(figure, found)),
        "Left: illumination relative to its maximum, and the probe centres. Middle: R of each "
        f"pattern where it was taken; R of all is {residual:.4g}. Right: mean of |√I − √λ| on the "
        "detector.",
    )
    if found.reconstruction.disagreement is not None:
        yield (
            "Disagreement of patches",
            _drawn((7, 4), lambda figure: _disagreement(figure, found)),
            "By how much the patches that overlap in a pixel differ, root mean square, in units of "
            "transmission; up to the 99th percentile.",
        )
    if found.frc is not None:
        yield (
            "Correlation of the two halves",
            _drawn((9, 3.4), lambda figure: _rings(figure, found)),
            f"Fourier ring correlation of two images, each from half of the patterns alone: "
            f"{found.frc.describe()} by half a bit. It tells consistency, not accuracy.",
        )
    yield (
        "Worst patterns",
        _drawn((9, 4.4), lambda figure: _worst(figure, found)),
        "The patterns with the greatest R: measured above, predicted from object and probe below, "
        "log₁₀(1 + counts) on one scale.",
    )


def data_uri(pixels: NDArray[np.uint8]) -> str:
    """An (h, w, 4) picture as ``data:image/png;base64,…``."""
    from matplotlib.image import imsave

    stream = io.BytesIO()
    imsave(stream, pixels, format="png")
    return _encoded(stream)


def _drawn(size: tuple[float, float], draw: "Callable[[Figure], None]") -> str:
    figure = new_figure(*size)
    draw(figure)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=_DPI)
    return _encoded(stream)


def _encoded(stream: io.BytesIO) -> str:
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def _image(axes: "Axes", values: NDArray[Any], title: str, cmap: str, **more: Any) -> None:
    shown = axes.imshow(values, cmap=cmap, **more)
    axes.figure.colorbar(shown, ax=axes, shrink=0.75)
    axes.set_title(title, fontsize="small", y=1)  # a given place is not searched for


def _probe(figure: "Figure", found: "Assessment") -> None:
    probe = found.reconstruction.probe[:_MODES]
    figure.subplots_adjust(bottom=0.02)
    panels = np.atleast_1d(figure.subplots(1, len(probe) + 1))
    for number, (axes, mode) in enumerate(zip(panels, probe, strict=False)):
        _image(axes, np.abs(mode), f"mode {number}", "magma")
    _image(panels[-1], np.angle(probe[0]), "phase / rad", "twilight", vmin=-np.pi, vmax=np.pi)
    for axes in panels:
        axes.set_axis_off()


def _course(figure: "Figure", curves: Mapping[str, Sequence[float]]) -> None:
    known = {name: values for name, values in curves.items() if np.isfinite(values).any()}
    panels = np.atleast_1d(figure.subplots(1, max(1, min(4, len(known)))))
    for axes, (name, values) in zip(panels, known.items(), strict=False):
        axes.plot(range(1, len(values) + 1), values)
        axes.set_title(name, y=1)
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        if np.nanmin(values) > 0:
            axes.set_yscale("log")


def _scan(figure: "Figure", found: "Assessment") -> None:
    every = -(-len(found.scan) // MOST_POINTS)
    image, positions = found.reconstruction, found.reconstruction.positions_px[::every]
    lit, r, detector = figure.subplots(1, 3, width_ratios=(5, 5, 4))
    top, left = image.origin_yx_px - 0.5
    height, width = image.coverage.shape
    extent = (left, left + width, top + height, top)
    _image(lit, image.coverage, "coverage", "gray", extent=extent)
    lit.plot(positions[:, 1], positions[:, 0], ".", color="tab:orange", ms=1.5)
    size = float(np.clip(4e3 / len(positions), 1, 60))
    r_factors = found.misfit.r_factors[::every]
    points = r.scatter(positions[:, 1], positions[:, 0], c=r_factors, s=size, cmap="magma")
    figure.colorbar(points, ax=r, shrink=0.75)
    r.set_title("R by pattern", fontsize="small", y=1)
    r.set(aspect="equal", xlim=lit.get_xlim(), ylim=lit.get_ylim())
    for axes in (lit, r):
        axes.set(xlabel="x / px", ylabel="y / px")
    _image(detector, found.misfit.detector, "detector", "magma")


def _disagreement(figure: "Figure", found: "Assessment") -> None:
    spread = found.reconstruction.disagreement
    assert spread is not None
    view = covered_view(found.reconstruction)
    left, right, bottom, top = view.extent_px
    row, column = np.round(np.array([top, left]) + 0.5 - found.reconstruction.origin_yx_px)
    height, width = view.covered.shape
    part = spread[int(row) : int(row) + height, int(column) : int(column) + width]
    shown = np.ma.array(part, mask=~view.covered)
    bound = max(float(np.percentile(part[view.covered], 99)), 1e-9)
    axes = figure.subplots()
    _image(axes, shown, "", "magma", vmin=0, vmax=bound, extent=(left, right, bottom, top))
    axes.set(xlabel="x / px", ylabel="y / px")


def _rings(figure: "Figure", found: "Assessment") -> None:
    assert found.frc is not None
    axes = figure.subplots()
    axes.plot(found.frc.frequency, found.frc.correlation, label="FRC")
    axes.plot(found.frc.frequency, found.frc.half_bit, color="0.5", ls="--", label="half a bit")
    axes.axhline(1 / 7, color="0.5", ls=":", label="1/7")
    if np.isfinite(found.frc.resolution_px):
        axes.axvline(1 / found.frc.resolution_px, color="tab:red", lw=1)
    axes.set(xlim=(0, 0.5), ylim=(-0.2, 1.05), xlabel="frequency / (1/px)", ylabel="FRC")
    axes.legend(fontsize="small")


def _worst(figure: "Figure", found: "Assessment") -> None:
    scan, held_out = found.scan, set(found.solution.held_out.tolist())
    worst = np.argsort(-found.misfit.r_factors)[:_WORST]
    rate = solution_counts(found.solution, scan, worst)
    valid = scan.valid(worst)
    counts = scan.counts(worst) * (1.0 if valid is None else valid)
    measured, predicted = np.log10(1 + counts), np.log10(1 + rate)
    figure.subplots_adjust(left=0.02, bottom=0.02, wspace=0.05, hspace=0.05)
    panels = figure.subplots(2, len(worst), squeeze=False)
    top = float(max(measured.max(), 1e-6))
    for row, patterns in zip(panels, (measured, predicted), strict=True):
        for axes, pattern in zip(row, patterns, strict=True):
            shown = axes.imshow(pattern, cmap="magma", vmin=0, vmax=top)
            axes.set_axis_off()
    for axes, index in zip(panels[0], worst, strict=True):
        free = ", held out" if index in held_out else ""
        title = f"{index}: R {found.misfit.r_factors[index]:.3g}{free}"
        axes.set_title(title, fontsize="small", y=1)
    figure.colorbar(shown, ax=panels.ravel().tolist(), shrink=0.7)
