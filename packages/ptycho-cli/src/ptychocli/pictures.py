"""Pictures of a reconstruction: amplitude and phase of the part that was illuminated."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ptychodata.contracts import Reconstruction
from ptychodata.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "MOST_POINTS",
    "Shown",
    "View",
    "covered_view",
    "flat_phase",
    "limits",
    "new_figure",
    "shown_images",
    "write_both",
    "write_convergence",
    "write_pictures",
]

MOST_POINTS = 50_000
"""Positions that are drawn of a scan."""

_COVERED = 0.1  # of the median illumination at the probe centres
_CONTRAST_PERCENTILES = (0.5, 99.5)
_LONG_IN = 7.0  # the longer side of an image
_LEFT_IN, _RIGHT_IN, _BOTTOM_IN, _TOP_IN = 0.75, 0.4, 0.6, 0.4  # margins for ticks and titles
_PREVIEW_DPI = 70
_LEAPS = 1e-3  # share of neighbours more than π apart that tells a wrapped phase


@dataclass(frozen=True, eq=False)
class View:
    """The illuminated part of an object.

    Args:
        obj: (h, w) complex64 crop of the object.
        covered: (h, w) bool, True where it was illuminated.
        extent_px: left, right, bottom, top in the scan's coordinates.
        pixel_size_m: object pixel in metres, NaN if unknown.
        zero: (h, w) bool, where the median of the phase is to be 0.
    """

    obj: NDArray[np.complex64]
    covered: NDArray[np.bool_]
    extent_px: tuple[float, float, float, float]
    pixel_size_m: float
    zero: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Shown:
    """A real image of the illuminated part, and how it is painted.

    Args:
        view: the part.
        values: (h, w).
        label: what they are, with the unit.
        cmap: name of the colour map.
        limits: values of its ends.
    """

    view: View
    values: NDArray[np.floating[Any]]
    label: str
    cmap: str
    limits: tuple[float, float]


def shown_images(
    reconstruction: Reconstruction, phase_zero: str | None = None
) -> tuple[Shown, Shown]:
    """Amplitude and phase of what was lit.

    The phase is without offset and ramp, in cyclic colours where it still wraps.

    Args:
        reconstruction: the image.
        phase_zero: as for ``covered_view``.
    """
    view = covered_view(reconstruction, phase_zero)
    amplitude = np.abs(view.obj)
    phase, wrapped = flat_phase(view)
    cmap, ends = "viridis", limits(phase[view.covered])
    if wrapped:
        cmap, ends = "twilight", (-np.pi, np.pi)
    return (
        Shown(view, amplitude, "amplitude", "gray", limits(amplitude[view.covered])),
        Shown(view, phase, "phase / rad", cmap, ends),
    )


def write_pictures(images: tuple[Shown, Shown], folder: Path) -> None:
    """Write ``amplitude.png`` and ``phase.png``, each whole or not at all."""
    dpi = max(110, min(400, max(images[0].values.shape) / _LONG_IN))
    for name, shown in zip(("amplitude", "phase"), images, strict=True):
        figure = _figure(shown.view, 1)
        _paint(figure.add_subplot(), shown)
        with atomic_path(folder / f"{name}.png") as temporary:
            figure.savefig(temporary, format="png", dpi=dpi)


def write_both(reconstruction: Reconstruction, title: str, path: Path) -> NDArray[np.uint8]:
    """Write amplitude and phase beside each other, whole or not at all.

    Returns:
        (h, w, 4) the picture.
    """
    from matplotlib.image import imsave

    images = shown_images(reconstruction)
    figure = _figure(images[0].view, 2)
    figure.suptitle(title)
    figure.set_dpi(_PREVIEW_DPI)
    for axes, shown in zip(figure.subplots(1, 2), images, strict=True):
        _paint(axes, shown)
    canvas: Any = figure.canvas  # whose methods declare no types
    canvas.draw()
    picture = np.array(canvas.buffer_rgba())
    with atomic_path(path) as temporary:
        imsave(temporary, picture, format="png")
    return picture


_FIGURES = {
    "r_factor": "R",
    "r_free": "R of patterns held out",
    "dm_error": "length of the steps",
}
"""What may be drawn over the epochs, and its name."""


def write_convergence(
    history: Mapping[str, Sequence[float]], poisson_floor: float | None, path: Path
) -> None:
    """Draw the residuals over the epochs, above the noise floor where it is known."""
    figure = new_figure(6.4, 4.0)
    axes = figure.add_subplot()
    for name, label in _FIGURES.items():
        values = np.asarray(history.get(name, ()), dtype=np.float64)
        if np.isfinite(values).any():
            axes.plot(np.arange(1, len(values) + 1), values, marker=".", label=label)
    if poisson_floor and "dm_error" not in history:  # which is no residual of amplitudes
        axes.axhline(poisson_floor, color="0.4", linestyle="--", label="photon noise alone")
    axes.set_yscale("log")
    axes.set_xlabel("epoch")
    axes.set_ylabel("error of the difference map" if "dm_error" in history else "residual")
    axes.legend()
    axes.grid(alpha=0.3, which="both")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def covered_view(reconstruction: Reconstruction, phase_zero: str | None = None) -> View:
    """Crop the object to what the probe lit.

    Covered is where the illumination exceeds a tenth of its median at the probe centres.

    Args:
        reconstruction: the image.
        phase_zero: region in which the phase is to be zero, ``y0:y1,x0:x1`` in the scan's
            coordinates; None, or one of which nothing was lit, for all that is covered.
    """
    coverage, origin = reconstruction.coverage, reconstruction.origin_yx_px
    centres = np.floor(reconstruction.positions_px - origin + 0.5).astype(int)
    inside = np.clip(centres, 0, np.array(coverage.shape) - 1)
    covered = coverage > _COVERED * float(np.median(coverage[inside[:, 0], inside[:, 1]]))
    rows, columns = np.flatnonzero(covered.any(axis=1)), np.flatnonzero(covered.any(axis=0))
    if rows.size == 0:  # nothing lit: show everything rather than nothing
        covered = np.ones_like(covered)
        rows, columns = np.arange(covered.shape[0]), np.arange(covered.shape[1])
    zero = covered & _region(reconstruction, phase_zero)
    part = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    top, left = origin + np.array([rows[0], columns[0]]) - 0.5
    height, width = covered[part].shape
    return View(
        obj=reconstruction.obj[part],
        covered=covered[part],
        extent_px=(float(left), float(left + width), float(top + height), float(top)),
        pixel_size_m=reconstruction.pixel_size_m,
        zero=(zero if zero.any() else covered)[part],
    )


def _region(reconstruction: Reconstruction, region: str | None) -> NDArray[np.bool_]:
    """(H, W) bool: the pixels of a region, all without one."""
    inside = np.ones(reconstruction.obj.shape, dtype=np.bool_)
    if region is not None:
        for axis, ends in enumerate(region.split(",")):
            first, last = sorted(map(int, ends.split(":")))
            at = np.arange(inside.shape[axis]) + reconstruction.origin_yx_px[axis]
            inside &= np.expand_dims((at >= first) & (at <= last), 1 - axis)
    return inside


def flat_phase(view: View) -> tuple[NDArray[np.float64], bool]:
    """The phase without what the data cannot tell: offset and linear ramp.

    Returns:
        (h, w) phase in radians, and whether it still wraps: then it lies in [−π, π], otherwise
        it is unwrapped. The median over ``view.zero`` is 0, nearly so where it wraps.
    """
    weighted = np.where(view.covered, view.obj, 0).astype(np.complex128)
    y, x = np.indices(weighted.shape)
    ramp = y * np.angle(np.vdot(weighted[:-1], weighted[1:]))
    ramp = ramp + x * np.angle(np.vdot(weighted[:, :-1], weighted[:, 1:]))
    level = weighted * np.exp(-1j * ramp)
    phase = np.angle(level * np.exp(-1j * np.angle(level.sum())))
    if _leaps(phase, view.covered) == 0:
        return _without_plane(phase, view), False
    from skimage.restoration import unwrap_phase

    masked = np.ma.array(phase, mask=~view.covered)
    unwrapped = np.ma.filled(unwrap_phase(masked), 0.0)
    if _leaps(unwrapped, view.covered) > _LEAPS:
        return np.angle(level * np.exp(-1j * np.angle(level[view.zero].sum()))), True
    return _without_plane(unwrapped, view), False


def _leaps(phase: NDArray[np.float64], covered: NDArray[np.bool_]) -> float:
    """Share of covered neighbours whose phases lie more than π apart."""
    down = np.abs(np.diff(phase, axis=0))[covered[1:] & covered[:-1]]
    across = np.abs(np.diff(phase, axis=1))[covered[:, 1:] & covered[:, :-1]]
    steps = np.concatenate([down, across])
    return float((steps > np.pi).mean()) if steps.size else 0.0


def _without_plane(phase: NDArray[np.float64], view: View) -> NDArray[np.float64]:
    """Subtract the least-squares plane over the covered pixels, and the median where it is zero."""
    y, x = np.indices(phase.shape)
    terms = np.stack([y, x, np.ones_like(y)], axis=-1).astype(np.float64)
    plane, *_ = np.linalg.lstsq(terms[view.covered], phase[view.covered], rcond=None)
    flat: NDArray[np.float64] = phase - terms @ plane
    return flat - np.median(flat[view.zero])


def new_figure(width_in: float, height_in: float, space: float = 0.25) -> "Figure":
    """An empty figure with fixed margins, which draws twice as fast as one that finds its own.

    Args:
        width_in: width in inches.
        height_in: height in inches.
        space: between panels, as a fraction of their size.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_in, height_in))
    FigureCanvasAgg(figure)
    figure.subplots_adjust(
        left=_LEFT_IN / width_in,
        right=1 - _RIGHT_IN / width_in,
        bottom=_BOTTOM_IN / height_in,
        top=1 - _TOP_IN / height_in,
        wspace=space,
        hspace=space,
    )
    return figure


def _figure(view: View, panels: int) -> "Figure":
    """An empty figure for images of the view's shape side by side."""
    height, width = view.obj.shape
    size = (_LONG_IN * min(1, width / height) + 2.2, _LONG_IN * min(1, height / width) + 1)
    return new_figure(panels * size[0], size[1])


def _paint(axes: "Axes", shown: Shown) -> None:
    view, (low, high) = shown.view, shown.limits
    axes.set_facecolor("0.8")
    image = axes.imshow(
        np.ma.array(shown.values, mask=~view.covered),
        cmap=shown.cmap,
        vmin=low,
        vmax=high,
        extent=view.extent_px,
        interpolation="nearest",
    )
    axes.figure.colorbar(image, ax=axes, label=shown.label, shrink=0.85, pad=0.03)
    axes.set_xlabel("x / px")
    axes.set_ylabel("y / px")
    if np.isfinite(view.pixel_size_m):
        _add_scale_bar(axes, view)


def limits(values: NDArray[np.floating[Any]]) -> tuple[float, float]:
    """Contrast that a few wild pixels cannot spoil; a flat image stays flat."""
    low, high = np.percentile(values, _CONTRAST_PERCENTILES)
    margin = max(0.0, 1e-3 - (high - low)) / 2
    return float(low - margin), float(high + margin)


def _add_scale_bar(axes: "Axes", view: View) -> None:
    """Draw a bar of a round length, about a quarter of the width."""
    from matplotlib.patches import Rectangle

    left, right, bottom, top = view.extent_px
    length_m, text = _round_length((right - left) * view.pixel_size_m / 4)
    bar_px = length_m / view.pixel_size_m
    margin, thick = 0.04 * (right - left), 0.012 * (bottom - top)
    corner = (left + margin, bottom - margin - thick)
    axes.add_patch(Rectangle(corner, bar_px, thick, facecolor="white", edgecolor="black", lw=0.6))
    axes.text(
        corner[0] + bar_px / 2,
        corner[1] - thick,
        text,
        color="white",
        ha="center",
        va="bottom",
        bbox={"facecolor": "black", "alpha": 0.5, "edgecolor": "none", "pad": 1.5},
    )


def _round_length(about_m: float) -> tuple[float, str]:
    """The largest 1, 2 or 5 times a power of ten up to ``about_m``, and its name."""
    power = 10.0 ** np.floor(np.log10(about_m))
    length_m = float(power * max(step for step in (1, 2, 5) if step * power <= about_m * 1.0001))
    for unit, size_m in (("mm", 1e-3), ("µm", 1e-6), ("nm", 1e-9), ("pm", 1e-12)):
        if length_m >= size_m * 0.999:
            return length_m, f"{length_m / size_m:.4g} {unit}"
    return length_m, f"{length_m:.3g} m"
