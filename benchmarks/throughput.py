"""Patterns per second of `unrolled`, training and inference, in fp32 and bf16, one thread.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive python benchmarks/throughput.py [--profile]

Prints JSON.  The four runs of a side take turns, so the ratios hold where the times drift; a
pattern that is used in several groups of an epoch counts each time.
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
from ptychotorch.training import train

SIDES, PRECISIONS, STEPS, TURNS = (64, 128), ("32-true", "bf16-mixed"), 6, 2


def main() -> None:
    """Measure every side in every precision, or show where the time of a side goes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", action="store_true", help="Print the slowest operations.")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.profile:
        profile(128, "bf16-mixed")
        return
    found = {}
    for side in SIDES:
        scan = simulate(SimulationConfig(N=side, n_patterns=200, overlap=0.8))
        runs = [measure(scan, precision) for _ in range(TURNS) for precision in PRECISIONS]
        for i, precision in enumerate(PRECISIONS):
            best = [max(speeds) for speeds in zip(*runs[i :: len(PRECISIONS)], strict=True)]
            found[f"N={side} {precision}"] = {"train": round(best[0]), "infer": round(best[1])}
    print(json.dumps({"patterns_per_s": found, "threads": 1}, indent=1))


def measure(scan: Scan, precision: str) -> tuple[float, float]:
    """Median speed of training and of inference, patterns/s, the first step left out."""
    bundle, training = run_training(scan, precision)
    ticks: list[tuple[float, int]] = []
    payload = create_inference_payload(
        bundle_config=bundle.config, flags={"precision": precision}, environment={}
    )
    steps = payload.model.unrolled_steps
    infer(bundle, scan, payload, lambda p: ticks.append((time.perf_counter(), p.done)))
    return speed(training), speed(ticks) / steps


def run_training(scan: Scan, precision: str) -> tuple[Bundle, list[tuple[float, int]]]:
    """A few optimiser steps, and when each ended."""
    flags = {
        "precision": precision,
        "epochs": 1,
        "n_groups": 6 * STEPS,
        "val_fraction": 0.0,
        "probe_trainable": True,
        "enable_checkpointing": False,
        "logger": "none",
    }
    payload = create_training_payload(N=scan.N, flags=flags, environment={})
    per_step = payload.training.batch_size * payload.model.C
    ticks: list[tuple[float, int]] = []

    def report(progress: Progress) -> None:
        if progress.phase == "train":
            ticks.append((time.perf_counter(), progress.done * per_step))

    with tempfile.TemporaryDirectory() as folder:
        bundle = train([scan], payload, Path(folder), report)
    return bundle, ticks


def speed(ticks: list[tuple[float, int]]) -> float:
    """Median patterns/s between ticks."""
    return median((n1 - n0) / (t1 - t0) for (t0, n0), (t1, n1) in pairwise(ticks))


def profile(side: int, precision: str) -> None:
    """Where the time of training goes, by operation."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    scan = simulate(SimulationConfig(N=side, n_patterns=100, overlap=0.8))
    with profiler(activities=[ProfilerActivity.CPU]) as recorded:
        run_training(scan, precision)
    print(recorded.key_averages().table(sort_by="self_cpu_time_total", row_limit=15))


if __name__ == "__main__":
    main()
