"""Scans, a backend without a framework, and ways to call the command."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptychocli.main import main

STUB = Path(__file__).parent / "stub"
N, SIDE = 32, 5


@pytest.fixture(autouse=True)
def stub_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    """Install the stub backend, and no settings from this machine's environment."""
    monkeypatch.syspath_prepend(str(STUB))
    for name in [name for name in os.environ if name.startswith("PTYCHO_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PTYCHO_REPORT", "false")  # drawing takes longer than all the rest
    monkeypatch.setenv("PTYCHO_PREVIEW_EVERY", "0")


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Ptycho = Callable[..., Outcome]


@pytest.fixture
def ptycho(capsys: pytest.CaptureFixture[str]) -> Ptycho:
    """Call the command in this process."""

    def call(*argv: object) -> Outcome:
        capsys.readouterr()
        code = main([str(argument) for argument in argv])
        return Outcome(code, *capsys.readouterr())

    return call


@pytest.fixture
def shell(tmp_path: Path) -> Ptycho:
    """Call the command as its own process, in an empty folder."""
    cwd = tmp_path / "cwd"
    cwd.mkdir()
    path = os.pathsep.join([str(STUB), *filter(None, sys.path)])

    def call(*argv: object, **environment: str) -> Outcome:
        run = subprocess.run(
            [sys.executable, "-m", "ptychocli", *map(str, argv)],
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": path, **environment},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return Outcome(run.returncode, run.stdout, run.stderr)

    return call


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    """A scan of a weak random object: canonical keys, amplitude, with truth and dose."""
    rng = np.random.default_rng(7)
    y, x = np.mgrid[:N, :N] - N // 2
    probe = np.where(np.hypot(y, x) < 8, 20.0, 0).astype(np.complex64)
    steps = N // 2 + 5 * np.arange(SIDE)
    rows, columns = (grid.ravel() for grid in np.meshgrid(steps, steps, indexing="ij"))
    side = int(steps.max()) + N // 2 + 1
    truth = np.exp((-0.1 + 0.3j) * rng.standard_normal((side, side))).astype(np.complex64)
    corners = zip(rows - N // 2, columns - N // 2, strict=True)
    waves = np.stack([probe * truth[r : r + N, c : c + N] for r, c in corners])
    far = np.fft.fftshift(np.fft.fft2(waves, norm="ortho"), axes=(1, 2))
    counts = rng.poisson(np.abs(far) ** 2)
    return {
        "diffraction": np.sqrt(counts).astype(np.float32),
        "intensity_scale": np.array(1.0),
        "probeGuess": probe,
        "objectGuess": truth,
        "xcoords": columns.astype(np.float64),
        "ycoords": rows.astype(np.float64),
        "object_pixel_m": np.array(2e-8),
    }


@pytest.fixture
def write_scan(tmp_path: Path, arrays: dict[str, np.ndarray]) -> Callable[..., Path]:
    """Write the scan with some keys replaced, or left out if None."""

    def write(name: str = "scan.npz", **changed: Any) -> Path:
        written = {key: value for key, value in (arrays | changed).items() if value is not None}
        np.savez(tmp_path / name, **written)
        return tmp_path / name

    return write


@pytest.fixture
def scan(write_scan: Callable[..., Path]) -> Path:
    return write_scan()


@pytest.fixture
def trained(scan: Path, tmp_path: Path, ptycho: Ptycho) -> Path:
    """A run directory with a bundle."""
    folder = tmp_path / "run"
    outcome = ptycho("train", scan, "--backend", "stub", "--epochs", 2, "--output-dir", folder)
    assert outcome.code == 0, outcome.err
    return folder
