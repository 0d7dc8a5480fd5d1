"""Every network of the backend trains, is bundled, reloaded and applied by the real command."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptychocli.main import main
from ptychodata.bundle import read_bundle

pytestmark = pytest.mark.integration

FOURIER = ("--fno-width", 8, "--fno-modes", 4)
SIZES = {
    "cnn": ("--n-filters-scale", 1),
    "fno": FOURIER,
    "ffno": FOURIER,
    "hybrid-resnet": (*FOURIER, "--resnet-blocks", 1),
}
LENGTH = ("--epochs", 2, "--n-groups", 24, "--batch-size", 6, "--precision", "32-true")
SIMULATION = ("--N", 32, "--n-patterns", 49, "--nphotons", 1e6)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to call the command in, without settings from this machine."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("PTYCHO_")]:
        monkeypatch.delenv(name)
    return tmp_path


def _check(folder: Path, network: str, gridsize: int) -> None:
    bundle = read_bundle(folder / "run")
    model = bundle.config["model"]
    assert (model["architecture"], model["gridsize"]) == (network, gridsize)
    losses = bundle.history["train_loss"]
    assert len(losses) == 2 and losses[1] < losses[0]
    with np.load(folder / "recon" / "reconstruction.npz", allow_pickle=False) as file:
        assert np.isfinite(file["object"]).all() and np.ptp(np.abs(file["object"])) > 0
    residuals = json.loads((folder / "recon" / "metrics.json").read_text())["residuals"]
    assert 0 < residuals["r_factor"] < 1


def test_cnn_as_a_process(ptycho: Callable[..., object], tmp_path: Path) -> None:
    network = ("--architecture", "cnn", "--gridsize", 2)
    ptycho("simulate", "scan.npz", *SIMULATION)
    ptycho("train", "scan.npz", *network, *SIZES["cnn"], *LENGTH, "--output-dir", "run")
    ptycho("infer", "run", "scan.npz", "--output-dir", "recon")
    _check(tmp_path, "cnn", 2)


def test_supervised_training_as_a_process(ptycho: Callable[..., object], tmp_path: Path) -> None:
    """From the patches of the file, or windows of its object; refused where it has neither."""
    network = ("--architecture", "cnn", *SIZES["cnn"], *LENGTH, "--probe", "file")
    ptycho("simulate", "scan.npz", *SIMULATION)
    train = ("train", "scan.npz", *network, "--model-type", "supervised", "--output-dir", "run")
    ptycho(*train)
    ptycho("infer", "run", "scan.npz", "--output-dir", "recon")
    _check(tmp_path, "cnn", 1)
    first = read_bundle(tmp_path / "run")
    assert first.config["training"]["model_type"] == "supervised"
    with np.load(tmp_path / "scan.npz") as file:
        members = {key: file[key] for key in file.files if key != "objectGuess"}
        shape, object_ = members["diffraction"].shape, file["objectGuess"]
    np.savez(tmp_path / "scan.npz", **members)
    refused: Any = ptycho(*train, "--force", expect=4)
    assert "'Y'" in refused.stderr and "'objectGuess'" in refused.stderr
    patches = np.full(shape, object_.mean(), np.complex64)
    np.savez(tmp_path / "scan.npz", **members, Y=patches)
    ptycho(*train, "--force")
    flat, real = (run.history["train_loss"][-1] for run in (read_bundle(tmp_path / "run"), first))
    assert flat < real  # one patch is learned sooner than many


@pytest.mark.parametrize("name", ["cnn", "fno", "ffno", "hybrid-resnet"])
def test_networks_that_see_patterns(name: str, here: Path) -> None:
    size = SIZES[name]
    train = ("train", "scan.npz", "--architecture", name, *size, *LENGTH, "--output-dir", "run")
    for command in (
        ("simulate", "scan.npz", *SIMULATION),
        train,
        ("infer", "run", "scan.npz", "--output-dir", "recon"),
    ):
        assert main([str(word) for word in command]) == 0
    _check(here, name, 1)


def test_the_command_lists_every_network(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listing = ["train", "none.npz", "--architecture", "help", "--output-dir", "run", "--json"]
    assert main(listing) == 0
    listed = json.loads(capsys.readouterr().out)["networks"]
    assert set(listed) == {"cnn", "ffno", "fno", "hybrid-resnet", "unrolled"}


@pytest.mark.parametrize(("action", "code"), [("warn", 0), ("stop", 7)])
def test_a_collapse_is_told_by_the_command(
    action: str,
    code: int,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With a bound that no network keeps."""
    monkeypatch.setattr("ptychodata.training.health.MIN_VARIATION", 1e9)
    assert main(["simulate", "scan.npz", *map(str, SIMULATION)]) == 0
    train = (
        "train",
        "scan.npz",
        "--architecture",
        "ffno",
        *SIZES["ffno"],
        *LENGTH,
        "--output-dir",
        "run",
    )
    assert main([*map(str, train), "--on-collapse", action]) == code
    told = capsys.readouterr().err
    assert "the object is the same for every pattern" in told and "epoch 1" in told
    assert (here / "run" / "wts.h5.zip").exists() == (code == 0)
    assert "the object is the same" in (here / "run" / "run.log").read_text()
