"""Two processes train to what one does, and make the image of one."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ptychodata.bundle import read_bundle
from ptychodata.results import read_reconstruction

pytestmark = [pytest.mark.integration, pytest.mark.slow]

SMALL = "--gridsize 1 --unrolled-steps 1 --unrolled-width 8 --unrolled-levels 1 --batch-size 7"
CPU = "--accelerator cpu --precision 32-true --probe file"
RUN = f"{SMALL} --epochs 2 --ema-decay 0.9 {CPU} --probe-trainable"


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_ranks_train_to_what_one_does(
    strategy: str, ptycho: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    """29 patterns in batches of 7: neither the batches nor the last one are of even number."""
    ptycho("simulate", "scan.npz", "--N", 32, "--n-patterns", 31)
    ptycho("train", "scan.npz", *RUN.split(), "--output-dir", "one")
    shared = ("--devices", 2, "--strategy", strategy, "--output-dir", "two", "--json")
    told = ptycho("train", "scan.npz", *RUN.split(), *shared)
    assert json.loads(told.stdout)["bundle"] == "two/wts.h5.zip"  # one process spoke
    events = {run: (tmp_path / run / "events.jsonl").read_text() for run in ("one", "two")}
    assert len(events["one"].splitlines()) == len(events["two"].splitlines())
    one, two = read_bundle(tmp_path / "one"), read_bundle(tmp_path / "two")
    for name in ("train_loss", "val_loss"):
        assert two.history[name] == pytest.approx(one.history[name], rel=1e-4)
    assert set(one.weights) == set(two.weights)
    for name, weights in one.weights.items():
        np.testing.assert_allclose(two.weights[name], weights, atol=2e-4)
    np.testing.assert_allclose(two.probes[0], one.probes[0], atol=1e-3 * abs(one.probes[0]).max())


def test_two_ranks_make_the_image_of_one(
    ptycho: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    """The halves too, and only one process writes and speaks."""
    ptycho("simulate", "scan.npz", "--N", 32, "--n-patterns", 80)
    train = f"{SMALL} --epochs 2 {CPU}"
    ptycho("train", "scan.npz", *train.split(), "--output-dir", "run")
    told = {}
    for devices in (1, 2):
        flags = ("--devices", devices, "--accelerator", "cpu", "--precision", "32-true")
        argv = ("infer", "run", "scan.npz", *flags, "--split-half", "--probe", "file", "--json")
        told[devices] = json.loads(ptycho(*argv, "--output-dir", f"on{devices}").stdout)
    images = [read_reconstruction(tmp_path / f"on{devices}") for devices in (1, 2)]
    apart = np.linalg.norm(images[1].obj - images[0].obj) / np.linalg.norm(images[0].obj)
    assert apart <= 1e-6
    curves = [told[devices]["split_half_frc"]["correlation"] for devices in (1, 2)]
    np.testing.assert_allclose(curves[1], curves[0], atol=1e-3)
    assert told[2]["residuals"]["r_free"] == pytest.approx(told[1]["residuals"]["r_free"])
    logs = [(tmp_path / f"on{devices}" / "run.log").read_text() for devices in (1, 2)]
    assert len(logs[0].splitlines()) == len(logs[1].splitlines())
