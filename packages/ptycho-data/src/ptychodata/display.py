"""How scans, images and bundles show themselves in a session or a notebook."""

import base64
import html
import io
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from .bundle import Bundle
    from .contracts import Reconstruction, Scan, Solution

__all__ = ["bundle_text", "image_html", "image_text", "scan_line", "scan_text", "solution_text"]

_LIT = 0.05  # of the most illuminated pixel: less is not shown
_SIDE = 384  # pixels of a picture


def scan_line(scan: "Scan") -> str:
    """One line: how many patterns of what."""
    photons = f"{scan.mean_photons:.3g} photons per pattern" if scan.has_dose else "no dose"
    modes = 0 if scan.probe is None else len(scan.probe)
    probe = {0: "no probe", 1: "1 probe mode"}.get(modes, f"{modes} probe modes")
    return f"{len(scan)} patterns of {scan.N}×{scan.N}, {photons}, {probe}"


def scan_text(scan: "Scan") -> str:
    """The scan with its extent, its pixel, what else it holds, and its notes."""
    height, width = np.ptp(scan.positions_px, axis=0)
    known = {
        "a mask": scan.mask,
        "a background": scan.background,
        "the known object": scan.truth,
        "labels": scan.labels,
    }
    there = [what for what, value in known.items() if value is not None]
    lines = [
        f"Scan {scan.name!r}: {scan_line(scan)}",
        f"over {height:.4g} × {width:.4g} px, object pixel {_metres(scan.object_pixel_m)}",
        *([f"with {', '.join(there)}"] if there else []),
        *scan.notes,
    ]
    return "\n  ".join(lines)


def image_text(image: "Reconstruction") -> str:
    """The image's size, pixel and probe."""
    height, width = image.obj.shape
    return "\n  ".join(
        [
            f"Reconstruction of {len(image.positions_px)} patterns: {height}×{width} px of "
            f"{_metres(image.pixel_size_m)}",
            f"|object| {_range(np.abs(image.obj[_lit(image)]))}, probe of {len(image.probe)} "
            f"mode{'s' * (len(image.probe) > 1)} from the {image.probe_source}",
        ]
    )


def image_html(image: "Reconstruction") -> str:
    """The same with amplitude and phase as pictures, black to white over what is illuminated.

    The phase is shown without its mean; the full picture, with axes, is the command's.
    """
    lit, obj = _lit(image), image.obj
    turned = obj * np.exp(-1j * np.angle(obj[lit].sum()))
    pictures = {"amplitude": np.abs(obj), "phase": np.angle(turned)}
    shown = "".join(
        f'<figure style="display:inline-block;margin:4px"><img alt="{name}" '
        f'src="data:image/png;base64,{_png(values, lit)}"><figcaption>{name}, '
        f"{_range(values[lit])}</figcaption></figure>"
        for name, values in pictures.items()
    )
    return f"<pre>{html.escape(image_text(image))}</pre>{shown}"


def solution_text(solution: "Solution") -> str:
    """How the solver ended, and its image."""
    last = {name: values[-1] for name, values in solution.history.items() if len(values)}
    figures = "".join(f", {name} {value:.4g}" for name, value in last.items())
    ended = f" ({solution.stopped})" if solution.stopped else ""
    lines = image_text(solution.reconstruction).splitlines()
    return "\n".join([f"Solution after {solution.epochs} passes{ended}{figures}", *lines])


def bundle_text(bundle: "Bundle") -> str:
    """Which network, how large, what it learned from, and how well."""
    model = bundle.config.get("model", {})
    count = sum(np.size(weight) for weight in bundle.weights.values())
    last = {name: values[-1] for name, values in bundle.history.items() if len(values)}
    figures = ", ".join(f"{name} {value:.4g}" for name, value in last.items())
    return "\n  ".join(
        [
            f"Bundle: {model.get('architecture')} by {bundle.backend}, {count} parameters, "
            f"gridsize {model.get('gridsize')}",
            f"trained on {bundle.statistics.get('n_patterns', float('nan')):.0f} patterns"
            + (f": {figures}" if figures else ""),
        ]
    )


def _lit(image: "Reconstruction") -> NDArray[np.bool_]:
    lit: NDArray[np.bool_] = image.coverage > _LIT * image.coverage.max()
    return lit


def _png(values: NDArray[np.floating], lit: NDArray[np.bool_]) -> str:
    """Base64 of a grey picture of the illuminated part, between its 1st and 99th percentile."""
    from PIL import Image

    rows, columns = (np.flatnonzero(lit.any(axis)) for axis in (1, 0))
    part = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    low, high = np.percentile(values[lit], (1, 99))
    grey = np.clip((values[part] - low) / max(high - low, 1e-9), 0, 1) * lit[part]
    picture = Image.fromarray((255 * grey).astype(np.uint8))
    picture.thumbnail((_SIDE, _SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def _range(values: NDArray[np.floating]) -> str:
    low, high = np.percentile(values, (1, 99))
    return f"{low:.3g} to {high:.3g}"


def _metres(length_m: float) -> str:
    return f"{length_m * 1e9:.4g} nm" if np.isfinite(length_m) else "unknown"
