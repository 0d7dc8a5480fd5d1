"""``ptycho evaluate``: images of one thing compared, whoever made them."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ptychocli.console import Console, text
from ptychocli.options import ForceOption, JsonOption
from ptychoconfig.errors import UsageError

if TYPE_CHECKING:
    from ptychocli.rundir import RunDir
    from ptychodata.comparison import Compared

app = typer.Typer(add_completion=False)

_NAME = "comparison"
_SCORES = {
    "amplitude_ssim": "SSIM amp",
    "phase_ssim": "SSIM phase",
    "amplitude_ms_ssim": "MS-SSIM amp",
    "phase_ms_ssim": "MS-SSIM phase",
    "amplitude_psnr_db": "PSNR amp / dB",
    "phase_psnr_db": "PSNR phase / dB",
    "amplitude_mae": "MAE amp",
    "phase_mae_rad": "MAE phase / rad",
    "amplitude_correlation": "Pearson amp",
    "phase_correlation": "Pearson phase",
    "complex_correlation": "complex",
}
_PEAKS = {"amplitude_psnr_peak": "amplitude", "phase_psnr_peak_rad": "phase / rad"}
_RINGS = {"resolution_px": "FRC ½ bit / px", "one_half_px": "FRC ½ / px"}
_GAUGE = {
    "scale": "scale",
    "phase_offset_rad": "phase / rad",
    "shift_y_px": "shift y / px",
    "shift_x_px": "shift x / px",
    "ramp_y_rad_per_px": "ramp y / (rad/px)",
    "ramp_x_rad_per_px": "ramp x / (rad/px)",
}


@app.command()
def evaluate(
    results: Annotated[
        list[Path],
        typer.Argument(
            metavar="RESULT",
            help="Result folders, reconstruction.npz, Ptychodus products, or NPZ files with a key "
            "`object`.",
            show_default=False,
        ),
    ],
    truth: Annotated[
        list[Path] | None,
        typer.Option(
            help="The known object: a scan that holds it, or any image; once for all results, or "
            "once for each. Without it, the first result is what the others are compared with.",
            show_default=False,
        ),
    ] = None,
    output_dir: Annotated[
        Path | None,
        typer.Option(
            help="Folder for comparison.csv, comparison.json and comparison.png; default none.",
            show_default=False,
        ),
    ] = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Compare images with a known object, or with each other.

    Each is brought into the gauge of what it is compared with (scale, phase, ramp and shift, which
    are printed), and all are scored over one box, between the probe centres. The peak of PSNR is
    max − min of the known image over that box.
    """
    from ptychocli.rundir import open_run_dir, refuse_existing
    from ptychodata.comparison import compare_images, read_image

    if not truth and len(results) < 2:
        raise UsageError(
            "expected --truth, or at least two results to compare with each other, found one result"
        )
    with Console(quiet=True, as_json=as_json) as console:
        images = [read_image(path) for path in results]
        references = [read_image(path) for path in truth] if truth else images[:1]
        compared = compare_images(images if truth else images[1:], references)
        found = [one.as_dict() for one in compared]
        _print(found, console)
        if output_dir is not None:
            with open_run_dir(output_dir, force=True) as run:
                refuse_existing(output_dir / f"{_NAME}.json", force=force)
                _write(compared, found, run, console)
        console.finish({"compared": found})


def _print(found: Sequence[dict[str, Any]], console: Console) -> None:
    rows = _rows(found)
    (top, left), (bottom, right) = found[0]["box_yx_px"]
    console.result(
        f"compared over rows {top:.0f} to {bottom:.0f} and columns {left:.0f} to {right:.0f}, with "
        + ", ".join(dict.fromkeys(one["reference"] for one in found))
    )
    console.result(_table(rows, _SCORES | _RINGS))
    console.result("what was fitted to bring them into one gauge:")
    console.result(_table(rows, _GAUGE))
    peaks = [
        f"{label} {', '.join(dict.fromkeys(text(one[name]) for one in found))}"
        for name, label in _PEAKS.items()
    ]
    console.result(f"the peak of PSNR is max − min of the reference: {'; '.join(peaks)}")
    for one in found:
        for note in one["notes"]:
            console.result(f"note: {one['name']} {note}")


def _rows(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [one | {name: one["frc"][name] for name in _RINGS} for one in found]


def _table(rows: Sequence[dict[str, Any]], columns: dict[str, str]) -> str:
    """Figures as a table, one image a column: it fits any terminal as long as images are few."""
    from rich.console import Console as RichConsole
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for row in rows:
        table.add_column(row["name"], justify="right", overflow="fold")
    for name, label in columns.items():
        table.add_row(label, *(_cell(name, row) for row in rows))
    stream = io.StringIO()
    RichConsole(file=stream, width=max(80, 24 * (1 + len(rows)))).print(table, markup=False)
    return stream.getvalue().rstrip("\n")


def _cell(name: str, row: dict[str, Any]) -> str:
    if name not in row:
        return "undefined"
    value = row[name]
    return "not reached" if name in _RINGS and value != value else text(value)


def _write(
    compared: "Sequence[Compared]", found: Sequence[dict[str, Any]], run: "RunDir", console: Console
) -> None:
    from ptychocli.comparison import write_comparison
    from ptychodata.files import atomic_path

    columns = ["name", "reference", *_SCORES, *_PEAKS, *_RINGS, "one_seventh_px"]
    columns += _GAUGE
    with (
        atomic_path(run.path / f"{_NAME}.csv") as temporary,
        temporary.open("w", encoding="utf-8", newline="") as file,
    ):
        table = csv.DictWriter(file, columns, extrasaction="ignore")
        table.writeheader()
        table.writerows({**one, **one["frc"]} for one in found)
    figures = {
        label: [_cell(name, row) for row in _rows(found)]
        for name, label in (_SCORES | _RINGS).items()
    }
    write_comparison(compared, figures, run.path / f"{_NAME}.png")
    run.write_json(f"{_NAME}.json", {"compared": list(found)})
    console.result(f"written: {run.path / _NAME}.csv, .json, .png")
