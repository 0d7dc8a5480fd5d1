"""The shipped network doubts a scan that is not what it is taken for, and no good one."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ptychocli.main import main
from ptychoconfig.schema import SimulationConfig
from ptychodata.contracts import Scan
from ptychodata.formats import write
from ptychodata.simulate import simulate

pytestmark = pytest.mark.integration

DONUT = {"probe_kind": "zone-plate", "probe_diameter_px": 30.0}
GOOD: dict[str, dict[str, object]] = {
    "lines": {"object_kind": "lines", "overlap": 0.7, "nphotons": 1e6},
    "photographs": {**DONUT, "object_kind": "natural-held-out", "overlap": 0.8, "nphotons": 1e6},
    "leaves": {"object_kind": "dead-leaves", "probe_kind": "gaussian", "nphotons": 1e5},
    "star": {"object_kind": "siemens-star", "overlap": 0.7, "nphotons": 1e5},
    "fields": {"object_kind": "random-field", "overlap": 0.75, "nphotons": 1e5},
    "few photons": {**DONUT, "object_kind": "lines", "overlap": 0.8, "nphotons": 1e4},
    "three modes": {"object_kind": "natural", "probe_modes": 3, "nphotons": 1e6},
    "N = 128": {"object_kind": "lines", "N": 128, "n_patterns": 50, "nphotons": 1e6},
    "hardly a photon": {"object_kind": "lines", "overlap": 0.6, "nphotons": 1e3},
    "spiral": {**DONUT, "object_kind": "siemens-star", "positions_kind": "spiral"},
}


def made(**settings: object) -> Scan:
    base = {"n_patterns": 100, "overlap": 0.75, "positions_kind": "jittered", "seed": 7}
    return simulate(SimulationConfig.model_validate({**base, **settings}))


def defocused(scan: Scan) -> Scan:
    """With the probe of a beam that is 20 % further out of focus."""
    other = made(**GOOD["photographs"], defocus_rad=1.2 * 9.0)
    return replace(scan, probe=other.probe)


def rooted(scan: Scan) -> Scan:
    """With amplitudes in place of counts."""
    root = np.sqrt(np.asarray(scan.diffraction, np.float32))
    return replace(scan, diffraction=root)


def shuffled(scan: Scan) -> Scan:
    positions = np.random.default_rng(0).permutation(scan.positions_px)
    return replace(scan, positions_px=positions, truth=None)


def dark(scan: Scan) -> Scan:
    """With the noise of a detector that no beam reaches."""
    counts = np.random.default_rng(0).poisson(0.05, scan.diffraction.shape)
    return replace(scan, diffraction=counts.astype(np.float32))


def found(scan: Scan, folder: Path) -> tuple[int, list[str]]:
    """Exit code of ``ptycho infer``, and the reasons for doubt that it gives."""
    write(scan, folder / "scan.npz")
    command = ["infer", str(folder / "scan.npz"), "--probe", "file", "--quiet"]
    code = main([*command, "--output-dir", str(folder / "run")])
    path = folder / "run" / "metrics.json"
    metrics = json.loads(path.read_text()) if path.exists() else {}
    return code, metrics.get("doubts", []) + metrics.get("unlike_training", [])


@pytest.mark.parametrize("name", GOOD)
def test_a_good_scan_is_not_doubted(name: str, tmp_path: Path) -> None:
    assert found(made(**GOOD[name]), tmp_path) == (0, [])


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (defocused, "does not explain the patterns"),
        (rooted, "their squares are whole multiples"),
        (shuffled, "does not explain the patterns"),
        (dark, "the patterns are even"),
    ],
)
def test_a_spoiled_scan_is_doubted(
    spoil: Callable[[Scan], Scan], reason: str, tmp_path: Path
) -> None:
    scan = made(**GOOD["photographs"], defocus_rad=9.0)
    code, doubts = found(spoil(scan), tmp_path)
    assert code == 0 and any(reason in doubt for doubt in doubts), doubts


def test_an_empty_scan_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scan = made(**GOOD["lines"])
    empty = replace(scan, diffraction=np.zeros(scan.diffraction.shape, np.float32))
    assert found(empty, tmp_path) == (4, [])
    assert "photon" in capsys.readouterr().err
