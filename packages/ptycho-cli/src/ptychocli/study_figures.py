"""The figure of a study: scores against what was varied, or side by side."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ptychocli.pictures import limits, new_figure
from ptychocli.studies import METHODS, Study
from ptychodata.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ptychodata.metrics import Comparison

__all__ = ["write_figure", "write_images"]

_LABELS = {"amplitude_ssim": "SSIM of the amplitude", "phase_ssim": "SSIM of the phase"}
_STYLES = {"network": "o-", METHODS[1]: "s--", METHODS[2]: "^--", "zero": "x:"}
_DPI = 110


def write_figure(study: Study, summary: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw the scores of every method, and their spread over the seeds, whole or not at all."""
    categories = list(dict.fromkeys(row["trial"] for row in summary))
    width = 11.0 if study.axis else max(11.0, 1.6 * len(categories))
    figure = new_figure(width, 5.4)
    figure.subplots_adjust(bottom=0.22 if study.axis else 0.36, top=0.87)
    for axes, (name, label) in zip(figure.subplots(1, 2), _LABELS.items(), strict=True):
        if study.axis:
            _draw_curves(axes, summary, name)
            axes.set_xlabel(study.axis)
            axes.set_xscale("log" if study.logarithmic else "linear")
        else:
            _draw_bars(axes, summary, name, categories)
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=4, fontsize="small", frameon=False)
    figure.suptitle(study.title, fontsize="medium", y=0.98)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=_DPI)


def write_images(title: str, compared: "Mapping[str, Comparison]", path: Path) -> None:
    """Draw the known object and each method's image, in its gauge, whole or not at all."""
    truth = next(iter(compared.values())).truth
    images = {"known": truth} | {method: found.obj for method, found in compared.items()}
    figure = new_figure(2.6 * len(images) + 1, 5.8, space=0.05)
    figure.subplots_adjust(left=0.02, bottom=0.02, top=0.88)
    panels = figure.subplots(2, len(images))
    known = np.angle(truth)
    ends = limits(np.abs(truth)), limits(known)
    for column, (method, obj) in zip(panels.T, images.items(), strict=True):
        phase = known + np.angle(obj * truth.conj())
        for axes, image, (low, high), cmap in zip(
            column, (np.abs(obj), phase), ends, ("gray", "viridis"), strict=True
        ):
            axes.imshow(image, cmap=cmap, vmin=low, vmax=high)
            axes.set_axis_off()
        column[0].set_title(method, fontsize="small")
    figure.suptitle(f"{title}: amplitude and phase", fontsize="medium", y=0.98)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=_DPI)


def _draw_curves(axes: "Axes", summary: Sequence[Mapping[str, Any]], score: str) -> None:
    lines: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
    for row in summary:
        if row[score] is not None:
            point = (row["value"], row[score], row[f"{score}_sd"] or 0.0)
            lines.setdefault((row["method"], row["series"]), []).append(point)
    several = len({series for _, series in lines}) > 1
    for (method, series), points in lines.items():
        x, y, spread = np.array(sorted(points)).T
        label = f"{method}, {series}" if several else method
        axes.errorbar(x, y, spread, fmt=_STYLES[method], capsize=3, label=label)


def _draw_bars(
    axes: "Axes", summary: Sequence[Mapping[str, Any]], score: str, categories: Sequence[str]
) -> None:
    width = 0.8 / len(METHODS)
    for number, method in enumerate(METHODS):
        rows = {row["trial"]: row for row in summary if row["method"] == method}
        value = [rows[name][score] or 0.0 if name in rows else 0.0 for name in categories]
        spread = [rows[name][f"{score}_sd"] or 0.0 if name in rows else 0.0 for name in categories]
        place = np.arange(len(categories)) + (number - (len(METHODS) - 1) / 2) * width
        axes.bar(place, value, width, yerr=spread, capsize=2, label=method)
    outside = {row["trial"] for row in summary if not row["in_generator"]}
    labels = [f"{name}{' *' if name in outside else ''}" for name in categories]
    axes.set_xticks(np.arange(len(categories)), labels, rotation=35, ha="right", fontsize="small")
    if outside:
        axes.set_title("* an object of a kind that was not trained on", fontsize="x-small")
