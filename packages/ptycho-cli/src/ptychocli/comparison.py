"""The picture of a comparison: images in one gauge, their correlations, their figures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ptychocli.pictures import View, flat_phase, limits
from ptychodata.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ptychodata.comparison import Compared

__all__ = ["write_comparison"]


def write_comparison(
    compared: "Sequence[Compared]", figures: Mapping[str, Sequence[str]], path: Path
) -> None:
    """Draw images beside what they were compared with, on one scale, and how alike they are.

    Each reference stands left of the first image that was compared with it.

    Args:
        compared: the images.
        figures: what is told of them: label → one cell for each.
        path: a PNG, written whole or not at all.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns: list[tuple[str, tuple[NDArray[Any], NDArray[Any]]]] = []  # title, amplitude and phase
    for one in compared:
        known, found = one.comparison.truth, one.comparison.obj
        phase = flat_phase(_whole(known))[0]
        if one.reference not in [title for title, *_ in columns]:
            columns.append((one.reference, (np.abs(known), phase)))
        if one.image.name != one.reference:
            offset = np.angle(found * known.conj())
            columns.append((one.image.name, (np.abs(found), phase + offset)))
    figure = Figure(figsize=(max(9.0, 2.7 * len(columns)), 9.0), layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = np.asarray(figure.subfigures(2, 1, height_ratios=(5, 3.5)), dtype=object)
    panels = upper.subplots(2, len(columns), squeeze=False)
    for row, (label, cmap) in enumerate((("amplitude", "gray"), ("phase / rad", "viridis"))):
        low, high = limits(columns[0][1][row])
        for axes, (title, images) in zip(panels[row], columns, strict=True):
            image = axes.imshow(images[row], cmap=cmap, vmin=low, vmax=high)
            axes.set_axis_off()
            if row == 0:
                axes.set_title(_short(title), fontsize="small")
        upper.colorbar(image, ax=panels[row].tolist(), label=label, shrink=0.8)
    rings, table = lower.subplots(1, 2)
    _draw_correlations(rings, compared)
    _draw_figures(table, compared, figures)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def _draw_correlations(axes: "Axes", compared: "Sequence[Compared]") -> None:
    for one in compared:
        axes.plot(one.frc.frequency, one.frc.correlation, label=_short(one.image.name))
    first = compared[0].frc
    axes.plot(first.frequency, first.half_bit, color="0.5", ls="--", label="half a bit")
    axes.axhline(1 / 7, color="0.5", ls=":", label="1/7")
    axes.set(xlim=(0, 0.5), ylim=(-0.1, 1.05), xlabel="frequency / (1/px)", ylabel="FRC")
    axes.legend(fontsize="small")


def _draw_figures(
    axes: "Axes", compared: "Sequence[Compared]", figures: Mapping[str, Sequence[str]]
) -> None:
    from matplotlib.transforms import Bbox

    axes.set_axis_off()
    table = axes.table(
        [list(cells) for cells in figures.values()],
        rowLabels=list(figures),
        colLabels=[_short(one.image.name, 18) for one in compared],
        bbox=Bbox.from_bounds(0.32, 0, 0.68, 1),
    )
    table.auto_set_font_size(False)
    table.set_fontsize(7)


def _whole(obj: NDArray[Any]) -> View:
    height, width = obj.shape
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    whole = np.ones(obj.shape, np.bool_)
    return View(obj.astype(np.complex64), whole, extent, float("nan"), whole)


def _short(name: str, most: int = 32) -> str:
    return name if len(name) <= most else f"…{name[1 - most :]}"
