"""`ptycho reconstruct` with either backend, each in a process of its own."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(find_spec("torch") is None, reason="there is no Torch to compare with"),
]

SIMULATION = ("--object-kind", "lines", "--n-patterns", 144, "--overlap", 0.6, "--nphotons", 1e6)


def ptycho(folder: Path, *arguments: object) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PTYCHO_")}
    done = subprocess.run(
        [sys.executable, "-m", "ptychocli", *map(str, arguments)],
        cwd=folder,
        env=environment | {"OMP_NUM_THREADS": "1", "TMPDIR": str(folder)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"{done.args}\n{done.stdout}\n{done.stderr}"


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scan")
    ptycho(folder, "simulate", "scan.npz", *SIMULATION, "--seed", 1)
    return folder / "scan.npz"


SETTINGS = {
    "known probe": (),
    "probe, modes and positions": ("--refine-probe", "on", "--modes", 2, "--refine-positions"),
    "few photons": ("--likelihood", "poisson"),
    "intensities and a background": ("--refine-intensity", "--refine-background"),
}


@pytest.mark.parametrize("settings", SETTINGS)
def test_both_backends_leave_the_same_residual(scan: Path, tmp_path: Path, settings: str) -> None:
    found: dict[str, tuple[dict[str, Any], np.ndarray]] = {}
    for backend in ("torch", "tf"):
        flags = ("--backend", backend, "--epochs", 20, *SETTINGS[settings])
        ptycho(tmp_path, "reconstruct", scan, *flags, "--output-dir", backend)
        metrics = json.loads((tmp_path / backend / "metrics.json").read_text())
        with np.load(tmp_path / backend / "reconstruction.npz") as file:
            found[backend] = metrics, file["object"] * (file["coverage"] > 0.1)
    (torch, theirs), (tf, ours) = found["torch"], found["tf"]
    for name in ("r_factor", "r_free"):
        assert tf["residuals"][name] == pytest.approx(torch["residuals"][name], rel=0.02)
    assert tf["residuals"]["r_free"] < 2 * tf["residuals"]["poisson_floor"]
    overlap = abs(np.vdot(theirs, ours)) / np.linalg.norm(theirs) / np.linalg.norm(ours)
    assert overlap > 0.99
