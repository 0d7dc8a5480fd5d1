"""``report.html``: one file that shows a result and all that speaks for and against it.

It needs no network and no other file: pictures stand in it as data, and its policy forbids a
browser to fetch anything.  It is readable when printed, and without scripts.
"""

import re
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np

from ptychocli.console import text
from ptychocli.report_figures import data_uri, draw_figures

if TYPE_CHECKING:
    from pathlib import Path

    from ptychocli.pictures import Shown
    from ptychocli.results import Assessment, Records

__all__ = ["REPORT", "write_report"]

REPORT = "report.html"
_LARGEST_PX = 2048
_STOPS = 9


def write_report(
    found: "Assessment",
    images: "tuple[Shown, Shown]",
    records: "Records",
    warnings: Sequence[str],
    folder: "Path",
) -> None:
    """Write ``report.html``, whole or not at all.

    Args:
        found: the image and its figures.
        images: amplitude and phase, as ``pictures.shown_images`` gives them.
        records: settings, provenance, history.
        warnings: what gives reason for doubt, a sentence each.
        folder: where to.
    """
    from ptychodata.files import atomic_path

    page = files("ptychocli").joinpath("templates", REPORT).read_text(encoding="utf-8")
    parts = _parts(found, images, records, warnings)
    page = re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], page)
    with atomic_path(folder / REPORT) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _parts(
    found: "Assessment",
    images: "tuple[Shown, Shown]",
    records: "Records",
    warnings: Sequence[str],
) -> dict[str, str]:
    """Placeholder → what it stands for, as HTML."""
    image, scan = found.reconstruction, found.scan
    reduced = -(-max(images[0].values.shape) // _LARGEST_PX)
    amplitude, amplitude_legend = _picture(images[0], reduced)
    phase, phase_legend = _picture(images[1], reduced, " rad")
    height, width = image.obj.shape
    dose = f", {scan.mean_photons:.3g} photons each" if scan.has_dose else ", dose unknown"
    pixel_nm = image.pixel_size_m * 1e9
    size = f"pixels of {pixel_nm:.4g} nm" if np.isfinite(pixel_nm) else "pixels of unknown size"
    return {
        "title": escape(f"Reconstruction of {scan.name}"),
        "summary": escape(
            f"{len(scan)} patterns of {scan.N} × {scan.N} pixels{dose}; an object of {height} × "
            f"{width} {size}; probe from {image.probe_source}. Shown is what the probe lit; the "
            "phase is without offset and linear ramp, which the data leave free."
        ),
        "warnings": _warnings(warnings),
        "pixel_nm": f"{pixel_nm:.6g}" if np.isfinite(pixel_nm) else "0",
        "reduced": str(reduced),
        "amplitude": amplitude,
        "amplitude_legend": amplitude_legend,
        "phase": phase,
        "phase_legend": phase_legend,
        "figures_table": _table(_figures(found)),
        "figures": "".join(_figure(*one) for one in draw_figures(found, records.history)),
        "settings": _settings(records),
        "provenance": _table(_flat(records.provenance)),
    }


def _picture(shown: "Shown", reduced: int, unit: str = "") -> tuple[str, str]:
    """A picture with one pixel per object pixel, clear where nothing is known, and its legend."""
    from matplotlib import colormaps

    colour, (low, high) = colormaps[shown.cmap], shown.limits
    values, covered = (it[::reduced, ::reduced] for it in (shown.values, shown.view.covered))
    pixels = colour(np.clip((values - low) / (high - low), 0, 1), bytes=True)
    pixels[..., 3] = np.where(covered, 255, 0)
    stops = (colour(np.linspace(0, 1, _STOPS), bytes=True)[:, :3]).tolist()
    ramp = ", ".join(f"rgb({red} {green} {blue})" for red, green, blue in stops)
    bar = f'<span class="ramp" style="background: linear-gradient(to right, {ramp})"></span>'
    return data_uri(pixels), f"{low:.3g}{unit} {bar} {high:.3g}{unit}"


def _figures(found: "Assessment") -> dict[str, str]:
    """The figures of a result by name, for people."""
    metrics = found.metrics
    rows: dict[str, str] = {}
    for group in ("residuals", "disagreement", "scores"):
        rows |= {name: text(value) for name, value in metrics.get(group, {}).items()}
    if found.frc is not None:
        rows["split-half resolution"] = found.frc.describe()
    unlike = metrics.get("unlike_training")
    if "unlike_training" in metrics:
        rows["unlike the training"] = "unknown" if unlike is None else "; ".join(unlike) or "no"
    rows["seconds"] = text(metrics["seconds"])
    return rows


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested mappings as one, with dots in the names."""
    rows: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            rows |= _flat(value, f"{prefix}{name}.")
        elif isinstance(value, list) and all(isinstance(item, Mapping) for item in value):
            for number, item in enumerate(value):
                rows |= _flat(item, f"{prefix}{name}.{number}.")
        else:
            rows[f"{prefix}{name}"] = text(value)
    return rows


def _settings(records: "Records") -> str:
    rows = []
    for section, model in records.resolved.sections.items():
        for name, value in model.model_dump(mode="json").items():
            key = f"{section}.{name}"
            shown = "not set" if value is None else text(value)
            rows.append((key, shown, records.resolved.sources[key]))
    return _rows(rows)


def _table(rows: Mapping[str, str]) -> str:
    return _rows(list(rows.items()))


def _rows(rows: Sequence[Sequence[str]]) -> str:
    lines = [
        f"<tr><th>{escape(name)}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
        for name, *cells in rows
    ]
    return f"<table>{''.join(lines)}</table>"


def _warnings(warnings: Sequence[str]) -> str:
    if not warnings:
        return ""
    items = "".join(f"<li>{escape(warning)}</li>" for warning in warnings)
    return f'<div class="warnings"><strong>Reasons for doubt</strong><ul>{items}</ul></div>'


def _figure(heading: str, picture: str, caption: str) -> str:
    return (
        f'<h2>{escape(heading)}</h2><figure><img alt="{escape(heading)}" src="{picture}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )
