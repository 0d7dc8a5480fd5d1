"""Kill a training at random moments, resume it each time, and compare with one never killed.

    python benchmarks/resume.py --kills 20

The network has BatchNorm and dropout added, gradients are accumulated over two batches, and the
learning rate changes with every step.  Each life of the run is a process that ends by SIGKILL;
most are killed while training, some while starting.  Exit code 1 if a single bit differs.
"""

import argparse
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

import lightning  # noqa: F401 - imported once here, and not in every life
import numpy as np
import torch
from torch import nn

import ptychotorch.training as training
from ptychocli.main import main as ptycho
from ptychodata.backends import LAST_CHECKPOINT
from ptychodata.bundle import read_bundle

SMALL = "--gridsize 2 --unrolled-steps 1 --unrolled-width 8 --unrolled-levels 1 --batch-size 6"
RUN = f"{SMALL} --accumulate-grad-batches 2 --scheduler warmup-cosine --early-stop-patience 999"
EXECUTION = "--accelerator cpu --precision 32-true --checkpoint-interval 0.1s --quiet"


def run() -> int:
    """Make the scan, train twice, compare; returns the exit code."""
    arguments = _arguments()
    kills, draw = arguments.kills, np.random.default_rng(arguments.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scan = folder / "scan.npz"
        _live(f"simulate {scan} --N 32 --n-patterns 64")
        command = f"train {scan} {RUN} {EXECUTION} --epochs {arguments.epochs} --resume auto"
        started = time.monotonic()
        _live(f"{command} --output-dir {folder / 'whole'}")
        print(f"never killed: {time.monotonic() - started:.1f} s", flush=True)
        killed = f"{command} --output-dir {folder / 'killed'}"
        died, within = 0, 0
        for _ in range(kills):
            died += _die(killed, folder / "killed" / "events.jsonl", draw)
            within += _is_within_an_epoch(folder / "killed")
        _live(killed)
        same = _compare(folder / "whole", folder / "killed")
    print(f"killed {died} times, {within} checkpoints lay within an epoch")
    print(f"weights and history are {'the same, bit for bit' if same else 'DIFFERENT'}")
    return 0 if same and died == kills else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def _spawn(command: str) -> int:
    """Start a life; a fork, because most of a start is importing."""
    if child := os.fork():
        return child
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - until the process ends
    training.build_network = _with_batch_statistics(training.build_network)
    os._exit(ptycho(command.split()))


def _live(command: str) -> None:
    status = os.waitpid(_spawn(command), 0)[1]
    if status:
        sys.exit(f"ptycho {command} ended with status {status}")


def _die(command: str, events: Path, draw: np.random.Generator) -> bool:
    """Let a life be killed: at a random moment of its training, one in five while it starts."""
    before = events.stat().st_size if events.exists() else 0
    child = _spawn(command)
    if draw.random() < 0.8:
        while not (events.exists() and events.stat().st_size > before):
            if os.waitpid(child, os.WNOHANG)[0]:
                return False  # it came to its end
            time.sleep(0.01)
    time.sleep(draw.uniform(0, 0.8))
    os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def _is_within_an_epoch(run_dir: Path) -> bool:
    last = run_dir / LAST_CHECKPOINT
    return last.exists() and bool(torch.load(last, weights_only=True)["ptycho"]["batch"])


def _with_batch_statistics(build):
    def wrapped(*arguments):
        network = build(*arguments)
        network.unet = nn.Sequential(nn.BatchNorm2d(8), network.unet, nn.Dropout2d(0.1))
        return network

    return wrapped


def _compare(one: Path, other: Path) -> bool:
    first, second = read_bundle(one), read_bundle(other)
    arrays = all(
        first.weights[key].tobytes() == second.weights[key].tobytes() for key in first.weights
    )
    return arrays and first.history == second.history


if __name__ == "__main__":
    sys.exit(run())
