"""Patterns per second of CPU time, training and inference, in fp32 and bf16, one thread.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive python benchmarks/throughput.py [--profile] [CASE …]

A case is a network and a side, such as `unrolled-64` or `cnn-64`; the default is all.  Prints JSON.
The runs of a case take turns, so the ratios hold where the times drift, and so does the speed of a
bare convolution, 64 to 64 channels of 64×64 pixels, which is measured beside them; a pattern that
is used in several groups of an epoch counts each time.
"""

import argparse
import json
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import median

import torch

from ptychoconfig.payloads import create_inference_payload, create_training_payload
from ptychoconfig.schema import SimulationConfig
from ptychodata.backends import Progress
from ptychodata.bundle import Bundle
from ptychodata.contracts import Scan
from ptychodata.simulate import simulate
from ptychotorch.inference import infer
from ptychotorch.networks import build_network
from ptychotorch.training import train

CASES = {"unrolled-64": 64, "unrolled-128": 128, "cnn-64": 64}
PRECISIONS, STEPS, TURNS = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16}, 6, 2


def main() -> None:
    """Measure every side in every precision, or show where the time of a side goes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", default=list(CASES), choices=CASES, metavar="CASE")
    parser.add_argument("--profile", action="store_true", help="Print the slowest operations.")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.profile:
        for case in arguments.cases:
            profile(case, "bf16-mixed")
        return
    found = {}
    for case in arguments.cases:
        scan = scan_of(case)
        runs = [measure(case, scan, precision) for _ in range(TURNS) for precision in PRECISIONS]
        for i, precision in enumerate(PRECISIONS):
            best = [
                round(max(speeds), 1) for speeds in zip(*runs[i :: len(PRECISIONS)], strict=True)
            ]
            found[f"{case} {precision}"] = dict(
                zip(("train", "infer", "conv_gflop"), best, strict=True)
            )
    print(json.dumps({"per_s_of_cpu": found, "threads": 1}, indent=1))


def scan_of(case: str) -> Scan:
    """A simulated scan of the case's side."""
    return simulate(SimulationConfig(N=CASES[case], n_patterns=200, overlap=0.8))


def measure(case: str, scan: Scan, precision: str) -> tuple[float, float, float]:
    """Median speed of training and of inference, patterns/s, and GFLOP/s of a convolution."""
    bundle, training = run_training(case, scan, precision)
    ticks: list[tuple[float, int]] = []
    payload = create_inference_payload(
        bundle_config=bundle.config, flags={"precision": precision}, environment={}
    )
    steps = build_network(payload.model).steps
    infer(bundle, scan, payload, lambda p: ticks.append((time.process_time(), p.done)))
    return speed(training), speed(ticks) / steps, convolution_gflop(PRECISIONS[precision])


@torch.inference_mode()
def convolution_gflop(dtype: torch.dtype, runs: int = 5) -> float:
    """What this processor does at best at this moment."""
    layer = torch.nn.Conv2d(64, 64, 3, padding=1).to(dtype, memory_format=torch.channels_last)
    x = torch.rand(16, 64, 64, 64).to(dtype, memory_format=torch.channels_last)
    ticks: list[tuple[float, int]] = []
    for i in range(runs + 1):
        layer(x)
        ticks.append((time.process_time(), i * 2 * 9 * 64 * x.numel()))
    return speed(ticks) / 1e9


def run_training(case: str, scan: Scan, precision: str) -> tuple[Bundle, list[tuple[float, int]]]:
    """A few optimiser steps, and when each ended."""
    network = case.rpartition("-")[0]
    batch_size = {"cnn": 16}.get(network, 6)
    flags = {
        "architecture": network,
        "precision": precision,
        "epochs": 1,
        "batch_size": batch_size,
        "n_groups": batch_size * STEPS,
        "val_fraction": 0.0,
        "probe_trainable": network == "unrolled",
        "enable_checkpointing": False,
        "logger": "none",
    }
    payload = create_training_payload(N=scan.N, flags=flags, environment={})
    per_step = payload.training.batch_size * payload.model.C
    ticks: list[tuple[float, int]] = []

    def report(progress: Progress) -> None:
        if progress.phase == "train":
            ticks.append((time.process_time(), progress.done * per_step))

    with tempfile.TemporaryDirectory() as folder:
        bundle = train([scan], payload, Path(folder), report)
    return bundle, ticks


def speed(ticks: list[tuple[float, int]]) -> float:
    """Median patterns/s between ticks."""
    return median((n1 - n0) / (t1 - t0) for (t0, n0), (t1, n1) in pairwise(ticks))


def profile(case: str, precision: str) -> None:
    """Where the time of training goes, by operation."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    scan = scan_of(case)
    with profiler(activities=[ProfilerActivity.CPU]) as recorded:
        run_training(case, scan, precision)
    print(recorded.key_averages().table(sort_by="self_cpu_time_total", row_limit=15))


if __name__ == "__main__":
    main()
