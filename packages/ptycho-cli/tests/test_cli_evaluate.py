"""``evaluate``: one table of images from any package."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

FIGURES = {
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
    "resolution_px": "FRC ½ bit / px",
}


@pytest.fixture
def result(trained, scan, tmp_path, ptycho):
    """A result folder of ``infer``."""
    folder = tmp_path / "recon"
    assert ptycho("infer", trained, scan, "--output-dir", folder).code == 0
    return folder


@pytest.fixture
def other(arrays, tmp_path):
    """The object as another package may give it: padded, turned, bent, shifted."""
    path = tmp_path / "other.npz"
    obj = np.roll(arrays["objectGuess"], 1, axis=0)
    y, x = np.indices(obj.shape)
    np.savez(path, object=(2j * obj * np.exp(0.03j * y - 0.01j * x))[None])
    return path


def test_the_truth_is_perfect_and_a_constant_is_not(result, other, scan, tmp_path, ptycho):
    folder = tmp_path / "table"
    outcome = ptycho(
        *("evaluate", scan, result, other, "--truth", scan, "--output-dir", folder, "--json")
    )
    assert outcome.code == 0, outcome.err
    same, blind, bent = outcome.json["compared"]
    assert same["amplitude_ssim"] == pytest.approx(1)
    assert same["amplitude_mae"] < 1e-6
    assert same["frc"]["one_half_px"] == pytest.approx(2.1)
    assert blind["amplitude_ssim"] < 0.3
    assert blind["frc"]["resolution_px"] is None
    assert bent["scale"] == pytest.approx(0.5, rel=0.01)
    assert bent["shift_y_px"] == pytest.approx(-1, abs=0.01)
    assert bent["ramp_y_rad_per_px"] == pytest.approx(-0.03, abs=1e-3)
    assert bent["amplitude_ssim"] > 0.95
    assert all(one["reference"] == str(scan) for one in (same, blind, bent))
    assert json.loads((folder / "comparison.json").read_text()) == outcome.json
    with (folder / "comparison.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == [str(scan), str(result), str(other)]
    for name in FIGURES:
        assert float(rows[2][name]) == pytest.approx({**bent, **bent["frc"]}[name]), name
    assert rows[1]["resolution_px"] == "nan"
    with Image.open(folder / "comparison.png") as picture:
        assert min(picture.size) > 600
        assert np.ptp(np.asarray(picture)) > 100


def test_the_table_says_what_was_fitted(result, other, scan, arrays, ptycho):
    outcome = ptycho("evaluate", result, other, "--truth", scan)
    assert outcome.code == 0, outcome.err
    lines = {line.split("  ")[0]: line.split()[-2:] for line in outcome.out.splitlines() if line}
    assert float(lines["SSIM amp"][1]) > 0.95
    assert set(FIGURES.values()) <= set(lines)
    peak = np.ptp(np.abs(arrays["objectGuess"][16:37, 16:37]))
    assert f"amplitude {peak:.4g}; phase / rad" in outcome.out
    assert float(lines["shift y / px"][1]) == pytest.approx(-1, abs=0.01)
    assert "not reached" in outcome.out
    assert "compared over rows 16 to 36 and columns 16 to 36" in outcome.out
    assert "note:" in outcome.out


def test_without_truth_the_first_is_the_reference(result, other, scan, ptycho):
    outcome = ptycho("evaluate", scan, other, result, "--json")
    assert outcome.code == 0, outcome.err
    assert [one["name"] for one in outcome.json["compared"]] == [str(other), str(result)]
    assert {one["reference"] for one in outcome.json["compared"]} == {str(scan)}


def test_what_cannot_be_compared_is_told(result, scan, write_scan, tmp_path, ptycho):
    for argv, code, told in (
        (("evaluate", result), 2, "--truth"),
        (("evaluate", result, result, result, "--truth", scan, "--truth", scan), 2, "for each"),
        (("evaluate", result, "--truth", tmp_path / "none.npz"), 4, "nothing there"),
        (("evaluate", result, "--truth", write_scan("p.npz", objectGuess=None)), 4, "objectGuess"),
    ):
        outcome = ptycho(*argv)
        assert outcome.code == code, outcome.err
        assert told in outcome.err


def test_a_comparison_is_not_overwritten_unless_forced(result, scan, ptycho):
    argv = ("evaluate", result, "--truth", scan, "--output-dir", result)
    assert ptycho(*argv).code == 0
    outcome = ptycho(*argv)
    assert outcome.code == 3
    assert "--force" in outcome.err
    assert ptycho(*argv, "--force").code == 0
