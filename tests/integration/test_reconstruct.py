"""The solver by the real command: alone, resumed, interrupted, and after a network."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptychodata.results import read_solution

COMMAND = Path(sys.executable).with_name("ptycho")

pytestmark = pytest.mark.integration

SIMULATION = ("--object-kind", "lines", "--n-patterns", 144, "--overlap", 0.6, "--nphotons", 1e6)


@pytest.fixture
def scan(ptycho: Callable[..., object], tmp_path: Path) -> Path:
    ptycho("simulate", "scan.npz", *SIMULATION, "--seed", 1)
    return tmp_path / "scan.npz"


def _metrics(folder: Path) -> dict[str, Any]:
    metrics: dict[str, Any] = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return metrics


def test_a_scan_is_solved_and_the_run_goes_on(
    scan: Path, ptycho: Callable[..., object], tmp_path: Path
) -> None:
    ptycho("reconstruct", scan, "--epochs", 10, "--output-dir", "solved")
    first = _metrics(tmp_path / "solved")
    assert first["scores"]["amplitude_ssim"] > 0.8  # a flat image has 0.26
    assert first["scores"]["phase_ssim"] > 0.8
    assert first["residuals"]["r_free"] < 2 * first["residuals"]["poisson_floor"]
    ptycho("reconstruct", scan, "--epochs", 30, "--resume", "--output-dir", "solved")
    second, solution = _metrics(tmp_path / "solved"), read_solution(tmp_path / "solved")
    assert second["epochs"] == solution.epochs > first["epochs"] == 10
    assert second["scores"]["phase_ssim"] > first["scores"]["phase_ssim"]
    with (tmp_path / "solved" / "metrics.csv").open() as table:
        assert [int(row["epoch"]) for row in csv.DictReader(table)] == [
            *range(1, solution.epochs + 1)
        ]
    assert np.isfinite(solution.reconstruction.obj).all()


def test_an_interrupted_run_keeps_the_best(scan: Path, tmp_path: Path) -> None:
    folder = tmp_path / "solved"
    command = [COMMAND, "reconstruct", str(scan), "--epochs", "100000", "--output-dir", str(folder)]
    with subprocess.Popen(command, cwd=tmp_path, env=os.environ | {"OMP_NUM_THREADS": "1"}) as run:
        _wait_for(folder / "events.jsonl", run)
        run.send_signal(signal.SIGINT)
        assert run.wait(timeout=60) == 130
    metrics = _metrics(folder)
    assert metrics["stopped"] == "interrupted"
    assert 0 < metrics["epochs"] < 100000
    assert read_solution(folder).epochs == metrics["epochs"]


def _wait_for(path: Path, run: "subprocess.Popen[bytes]") -> None:
    until = time.monotonic() + 60
    while not path.exists():
        assert run.poll() is None, "ended before it could be interrupted"
        assert time.monotonic() < until
        time.sleep(0.1)


def test_the_solver_serves_a_network_before_and_after(
    scan: Path, ptycho: Callable[..., object], tmp_path: Path
) -> None:
    with np.load(scan) as file:
        arrays = dict(file)
    probe = arrays["probeGuess"]
    y, x = np.mgrid[: len(probe), : len(probe)] - len(probe) // 2
    arrays["probeGuess"] = (probe * np.exp(0.01j * (y**2 + x**2))).astype(np.complex64)
    np.savez(tmp_path / "defocused.npz", **arrays)
    network = ("--unrolled-steps", 1, "--unrolled-width", 8, "--gridsize", 1, "--epochs", 1)
    ptycho(
        *("train", "defocused.npz", *network, "--batch-size", 16, "--probe-power", "relative"),
        *("--output-dir", "run"),
    )
    [chosen] = json.loads((tmp_path / "run" / "provenance.json").read_text())["probes"]
    assert chosen["source"] == "solved"
    assert chosen["r_solved"] < chosen["r_file"]
    ptycho("infer", "run", "defocused.npz", "--refine", 5, "--output-dir", "image")
    metrics = _metrics(tmp_path / "image")
    assert metrics["probe"] in ("bundle", "solved")
    assert metrics["residuals"]["r_factor"] < 0.8 * metrics["network"]["residuals"]["r_factor"]
    assert metrics["residuals"]["r_factor"] < 1.2 * metrics["residuals"]["poisson_floor"]
    assert metrics["scores"]["phase_ssim"] > metrics["network"]["scores"]["phase_ssim"]


def test_flipped_patterns_are_told_with_the_evidence(
    ptycho: Callable[..., Any], tmp_path: Path
) -> None:
    ptycho("simulate", "right.npz", "--n-patterns", 400, "--nphotons", 1e6, "--seed", 3)
    with np.load(tmp_path / "right.npz") as file:
        arrays = dict(file)
    arrays["diffraction"] = np.roll(arrays["diffraction"][:, ::-1], 1, axis=1)
    np.savez(tmp_path / "flipped.npz", **arrays)
    options = ("--epochs", 15, "--no-report", "--output-dir")
    told = ptycho("reconstruct", "flipped.npz", *options, "flipped").stderr
    assert "warning: flipped.npz: patterns lie mirrored to their positions: residual" in told
    assert "--flip-y" in told
