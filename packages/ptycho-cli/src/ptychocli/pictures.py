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

__all__ = [
    "View",
    "covered_view",
    "flat_phase",
    "limits",
    "write_convergence",
    "write_pictures",
]

_COVERED = 0.1  # of the median illumination at the probe centres
_CONTRAST_PERCENTILES = (0.5, 99.5)
_LEAPS = 1e-3  # share of neighbours more than π apart that tells a wrapped phase


@dataclass(frozen=True, eq=False)
class View:
    """The illuminated part of an object.

    Args:
        obj: (h, w) complex64 crop of the object.
        covered: (h, w) bool, True where it was illuminated.
        extent_px: left, right, bottom, top in the scan's coordinates.
        pixel_size_m: object pixel in metres, NaN if unknown.
    """

    obj: NDArray[np.complex64]
    covered: NDArray[np.bool_]
    extent_px: tuple[float, float, float, float]
    pixel_size_m: float


def write_pictures(reconstruction: Reconstruction, folder: Path) -> None:
    """Write ``amplitude.png`` and ``phase.png``, each whole or not at all."""
    view = covered_view(reconstruction)
    _draw(view, np.abs(view.obj), "amplitude", "gray", folder / "amplitude.png")
    phase, wrapped = flat_phase(view)
    cmap = "twilight" if wrapped else "viridis"
    _draw(view, phase, "phase / rad", cmap, folder / "phase.png", wrapped=wrapped)


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
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
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


def covered_view(reconstruction: Reconstruction) -> View:
    """Crop the object to what the probe lit.

    Covered is where the illumination exceeds a tenth of its median at the probe centres.
    """
    coverage, origin = reconstruction.coverage, reconstruction.origin_yx_px
    centres = np.floor(reconstruction.positions_px - origin + 0.5).astype(int)
    inside = np.clip(centres, 0, np.array(coverage.shape) - 1)
    covered = coverage > _COVERED * float(np.median(coverage[inside[:, 0], inside[:, 1]]))
    rows, columns = np.flatnonzero(covered.any(axis=1)), np.flatnonzero(covered.any(axis=0))
    if rows.size == 0:  # nothing lit: show everything rather than nothing
        covered = np.ones_like(covered)
        rows, columns = np.arange(covered.shape[0]), np.arange(covered.shape[1])
    part = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    top, left = origin + np.array([rows[0], columns[0]]) - 0.5
    height, width = covered[part].shape
    return View(
        obj=reconstruction.obj[part],
        covered=covered[part],
        extent_px=(float(left), float(left + width), float(top + height), float(top)),
        pixel_size_m=reconstruction.pixel_size_m,
    )


def flat_phase(view: View) -> tuple[NDArray[np.float64], bool]:
    """The phase without what the data cannot tell: offset and linear ramp.

    Returns:
        (h, w) phase in radians, and whether it still wraps: then it lies in [−π, π], otherwise
        it is unwrapped and centred on its median.
    """
    weighted = np.where(view.covered, view.obj, 0).astype(np.complex128)
    y, x = np.indices(weighted.shape)
    ramp = y * np.angle(np.vdot(weighted[:-1], weighted[1:]))
    ramp = ramp + x * np.angle(np.vdot(weighted[:, :-1], weighted[:, 1:]))
    level = weighted * np.exp(-1j * ramp)
    phase = np.angle(level * np.exp(-1j * np.angle(level.sum())))
    if _leaps(phase, view.covered) == 0:
        return _without_plane(phase, view.covered), False
    from skimage.restoration import unwrap_phase

    masked = np.ma.array(phase, mask=~view.covered)
    unwrapped = np.ma.filled(unwrap_phase(masked), 0.0)
    if _leaps(unwrapped, view.covered) > _LEAPS:
        return phase, True
    return _without_plane(unwrapped, view.covered), False


def _leaps(phase: NDArray[np.float64], covered: NDArray[np.bool_]) -> float:
    """Share of covered neighbours whose phases lie more than π apart."""
    down = np.abs(np.diff(phase, axis=0))[covered[1:] & covered[:-1]]
    across = np.abs(np.diff(phase, axis=1))[covered[:, 1:] & covered[:, :-1]]
    steps = np.concatenate([down, across])
    return float((steps > np.pi).mean()) if steps.size else 0.0


def _without_plane(phase: NDArray[np.float64], covered: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Subtract the least-squares plane over the covered pixels, and centre on the median."""
    y, x = np.indices(phase.shape)
    terms = np.stack([y, x, np.ones_like(y)], axis=-1).astype(np.float64)
    plane, *_ = np.linalg.lstsq(terms[covered], phase[covered], rcond=None)
    flat: NDArray[np.float64] = phase - terms @ plane
    return flat - np.median(flat[covered])


def _draw(
    view: View,
    values: NDArray[np.floating[Any]],
    label: str,
    cmap: str,
    path: Path,
    *,
    wrapped: bool = False,
) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    height, width = values.shape
    long_in = 7.0
    size = (long_in * min(1, width / height) + 1.6, long_in * min(1, height / width) + 0.8)
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_facecolor("0.8")
    low, high = limits(values[view.covered]) if not wrapped else (-np.pi, np.pi)
    image = axes.imshow(
        np.ma.array(values, mask=~view.covered),
        cmap=cmap,
        vmin=low,
        vmax=high,
        extent=view.extent_px,
        interpolation="nearest",
    )
    figure.colorbar(image, ax=axes, label=label, shrink=0.85)
    axes.set_xlabel("x / px")
    axes.set_ylabel("y / px")
    if np.isfinite(view.pixel_size_m):
        _add_scale_bar(axes, view)
    with atomic_path(path) as temporary:
        figure.savefig(
            temporary, format="png", dpi=max(110, min(400, max(height, width) / long_in))
        )


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
