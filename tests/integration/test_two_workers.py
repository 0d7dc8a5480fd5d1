"""TensorFlow: two workers on the loopback, or two devices, train to what one does."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ptychodata.bundle import Bundle, read_bundle

pytestmark = [pytest.mark.integration, pytest.mark.slow]

NETWORK = "--architecture cnn --gridsize 1 --n-filters-scale 1 --batch-size 7 --epochs 2"
RUN = f"{NETWORK} --optimizer sgd --backend tf --accelerator cpu --precision 32-true --probe file"
TRAIN = ("train", "scan.npz", *RUN.split(), "--probe-trainable", "--output-dir")


@pytest.fixture
def one(ptycho: Callable[..., object], tmp_path: Path) -> Bundle:
    """29 patterns in batches of 7: neither the batches nor the last one are of even number."""
    ptycho("simulate", "scan.npz", "--N", 32, "--n-patterns", 31)
    ptycho(*TRAIN, "one")
    return read_bundle(tmp_path / "one")


def _check(one: Bundle, two: Bundle) -> None:
    for name in ("train_loss", "val_loss"):
        assert two.history[name] == pytest.approx(one.history[name], rel=1e-4)
    for name, weights in one.weights.items():
        np.testing.assert_allclose(two.weights[name], weights, atol=1e-5)
    np.testing.assert_allclose(two.probes[0], one.probes[0], atol=1e-3 * abs(one.probes[0]).max())


def test_two_devices(one: Bundle, ptycho: Callable[..., object], tmp_path: Path) -> None:
    ptycho(*TRAIN, "two", "--strategy", "mirrored", "--devices", 2)
    _check(one, read_bundle(tmp_path / "two"))


def test_two_workers(one: Bundle, tmp_path: Path) -> None:
    ports = []
    for _ in range(2):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            ports.append(free.getsockname()[1])
    cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
    processes = []
    for index in range(2):
        task = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}})
        command = [sys.executable, "-m", "ptychocli", *TRAIN, "two"]
        command += ["--strategy", "multi-worker", "--num-nodes", "2"]
        processes.append(
            subprocess.Popen(
                command,
                cwd=tmp_path,
                env=os.environ | {"TF_CONFIG": task},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    told = [process.communicate(timeout=280) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(map(str, told))
    assert "bundle:" in told[0][0] and not told[1][0]  # one process spoke
    _check(one, read_bundle(tmp_path / "two"))
