"""Two processes train to what one does."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ptychodata.bundle import read_bundle

pytestmark = [pytest.mark.integration, pytest.mark.slow]

SMALL = "--gridsize 1 --unrolled-steps 1 --unrolled-width 8 --unrolled-levels 1 --batch-size 7"
RUN = f"{SMALL} --epochs 2 --accelerator cpu --precision 32-true --probe file --probe-trainable"


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
