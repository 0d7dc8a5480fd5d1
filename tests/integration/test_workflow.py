"""Simulate, train, infer with the real command; the artefacts are the proof."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ptychodata.bundle import read_bundle

pytestmark = pytest.mark.integration

LIMIT_S = 90
"""For the whole of one test; on two idle cores it takes half of that."""

SIMULATION = ("--object-kind", "lines", "--n-patterns", 225, "--nphotons", "1e6")
TRAINING = ("--unrolled-steps", 2, "--unrolled-width", 16, "--max-time", "12s", "--epochs", 1000)
STAR = Path(__file__).parents[3] / "shared" / "data" / "siemens-star-small.npz.bz2"


def _files(folder: Path) -> set[Path]:
    return {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("gridsize", [1, 2])
def test_a_scan_becomes_an_image_of_its_object(
    gridsize: int, ptycho: Callable[..., object], tmp_path: Path
) -> None:
    started = time.monotonic()
    ptycho("simulate", "train.npz", *SIMULATION, "--seed", 1)
    ptycho("simulate", "test.npz", *SIMULATION, "--seed", 2)
    ptycho("train", "train.npz", "--gridsize", gridsize, "--output-dir", "run", *TRAINING)
    ptycho("infer", "run", "test.npz", "--output-dir", "recon")
    elapsed = time.monotonic() - started

    _check_bundle(tmp_path / "run", gridsize)
    _check_reconstruction(tmp_path / "recon", tmp_path / "test.npz")
    written = {path.parts[0] for path in _files(tmp_path)}
    assert written == {"train.npz", "test.npz", "run", "recon"}
    assert elapsed < LIMIT_S


def _check_bundle(run: Path, gridsize: int) -> None:
    bundle = read_bundle(run)
    assert bundle.backend == "torch"
    assert bundle.config["model"]["gridsize"] == gridsize
    assert bundle.config["model"]["N"] == 64
    # The last layer of each step starts at zero, so what is there now was learned.
    learned = [w for name, w in bundle.weights.items() if "head" in name]
    assert len(learned) >= 2
    assert all(np.abs(weight).max() > 0 for weight in learned)
    assert all(np.isfinite(weight).all() for weight in bundle.weights.values())
    losses = bundle.history["train_loss"]
    assert losses[-1] < 0.5 * losses[0]
    for record in ("config.resolved.yaml", "provenance.json", "events.jsonl", "run.log"):
        assert (run / record).stat().st_size > 0


def _check_reconstruction(folder: Path, scan: Path) -> None:
    with np.load(folder / "reconstruction.npz", allow_pickle=False) as file:
        found = {name: file[name] for name in file.files}
    with np.load(scan, allow_pickle=False) as file:
        truth = file["objectGuess"]
    obj, covered = found["object"], found["coverage"] > 0.1
    assert obj.dtype == np.complex64
    assert np.isfinite(obj).all()
    # A window of the truth under the reconstruction; a flat image would correlate at 0.
    row, column = np.rint(found["origin_yx_px"]).astype(int)
    window = np.pad(np.abs(truth), 64, mode="edge")[
        row + 64 : row + 64 + obj.shape[0], column + 64 : column + 64 + obj.shape[1]
    ]
    correlation = np.corrcoef(np.abs(obj)[covered], window[covered])[0, 1]
    assert correlation > 0.8
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["scores"]["amplitude_ssim"] > 0.5  # a flat one has 0.26
    for picture in ("amplitude.png", "phase.png"):
        assert (folder / picture).read_bytes().startswith(b"\x89PNG")


@pytest.mark.skipif(not STAR.exists(), reason=f"the measured scan {STAR.name} is not here")
def test_a_measured_scan_is_converted_and_inspected(
    ptycho: Callable[..., object], tmp_path: Path
) -> None:
    ptycho("convert", STAR, "star.npz")
    found = json.loads(ptycho("inspect", "star.npz", "--json").stdout)
    with np.load(tmp_path / "star.npz", allow_pickle=False) as file:
        assert file["diffraction"].shape == (516, 128, 128)
    assert found["n_patterns"] == 516
    assert found["N"] == 128
    assert 4e5 < found["photons_mean"] < 5e5
    assert 0.8 < found["median_overlap"] < 0.9
    assert _files(tmp_path) == {Path("star.npz")}
