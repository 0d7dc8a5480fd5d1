"""A training that is killed or told to stop can be taken up again."""

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ptychodata.bundle import read_bundle

pytestmark = [pytest.mark.integration, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
SMALL = "--gridsize 1 --unrolled-steps 1 --unrolled-width 8 --unrolled-levels 1 --batch-size 6"


def test_killed_at_random_and_resumed_is_never_killed() -> None:
    script = [sys.executable, ROOT / "benchmarks" / "resume.py", "--kills", "3", "--epochs", "4"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(script, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the same, bit for bit" in done.stdout


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="limits of another process: Linux")
def test_a_full_disk_ends_the_command_and_leaves_the_last_good_checkpoint(
    tmp_path: Path, ptycho: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """The limit on the size of files stands for the disk; the command has begun before it falls."""
    scan, run = tmp_path / "scan.npz", tmp_path / "run"
    ptycho("simulate", scan, "--N", 32, "--n-patterns", 40)
    train = ["train", scan, *SMALL.split(), "--epochs", 30, "--accelerator", "cpu"]
    train += ["--probe", "file", "--checkpoint-interval", 0.01, "--preview-every", 0]
    command = [sys.executable, "-m", "ptychocli", *map(str, train), "--output-dir", run]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    last = run / "checkpoints" / "last.ckpt"
    while process.poll() is None and not last.exists():
        time.sleep(0.02)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (50, 50))
    _, told = process.communicate(timeout=120)
    assert process.returncode == 3, told
    assert "File too large" in told and "Traceback" not in told
    assert [path.name for path in last.parent.iterdir() if path.suffix == ".ckpt"] == [last.name]
    again = ptycho(*train, "--output-dir", run, "--resume", "auto")
    assert "continuing from" in again.stderr
    assert len(read_bundle(run).history["train_loss"]) == 30


@pytest.mark.parametrize("backend", ["torch", "tf"])
def test_sigterm_saves_ends_with_130_and_is_taken_up(
    backend: str, tmp_path: Path, ptycho: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    scan, run = tmp_path / "scan.npz", tmp_path / "run"
    ptycho("simulate", scan, "--N", 32, "--n-patterns", 40)
    train = ["train", scan, *SMALL.split(), "--epochs", 12, "--accelerator", "cpu"]
    train += ["--backend", backend, "--probe", "file"]  # so that the first event is one of training
    command = [sys.executable, "-m", "ptychocli", *map(str, train), "--output-dir", run]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    events = run / "events.jsonl"
    while process.poll() is None and not (events.exists() and events.stat().st_size):
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=120)
    assert process.returncode == 130, told
    assert "saving" in told
    seen = len(read_bundle(run).history["train_loss"])
    assert seen < 12
    again = ptycho(*train, "--output-dir", run, "--resume", "auto")
    assert "continuing from" in again.stderr
    assert len(read_bundle(run).history["train_loss"]) == 12
    finished = ptycho(*train, "--output-dir", run, "--resume", "auto")
    assert "already finished" in finished.stdout
