"""Patterns per second of CPU time, training and inference, in fp32 and bf16, one thread.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive python benchmarks/throughput.py [CASE …]
        [--precision 32-true bf16-mixed] [--turns 2] [--profile] [--against SKETCH]

A case is a network and a side, such as `unrolled-64` or `cnn-64`; the default is all.  Prints JSON.
The runs of a case take turns, so the ratios hold where the times drift, and so does the speed of a
bare convolution, 64 to 64 channels of 64×64 pixels, which is measured beside them; a pattern that
is used in several groups of an epoch counts each time.  Inference is the whole of it, every pass.

`--against` names a script that trains and applies a network of its own, `SKETCH TRAIN.npz TEST.npz
--minutes M --group G --steps S --out OUT.npz`, in steps of 64 patterns, as the sketch of `unrolled`
did.  It runs in turn with each case of a side 64, in the case's precision and on the case's scan,
and the medians over the turns of ours over its speed are printed too.
"""

import argparse
import json
import runpy
import sys
import tempfile
import time
from contextlib import redirect_stdout
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from unittest import mock

import numpy as np
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from ptychoconfig.payloads import create_inference_payload, create_training_payload
from ptychoconfig.schema import SimulationConfig
from ptychodata.backends import Progress
from ptychodata.bundle import Bundle
from ptychodata.contracts import Scan
from ptychodata.simulate import simulate
from ptychotorch.inference import infer
from ptychotorch.training import train

CASES = {"unrolled-64": 64, "unrolled-128": 128, "cnn-64": 64}
PRECISIONS, STEPS = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16}, 30
SKETCH = {"batch": 64, "options": "--minutes 1.5 --group 8 --steps 2 --width 16"}


def main() -> None:
    """Measure every side in every precision, or show where the time of a side goes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", default=list(CASES), choices=CASES, metavar="CASE")
    parser.add_argument("--precision", nargs="+", default=list(PRECISIONS), choices=PRECISIONS)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--profile", action="store_true", help="Print the slowest operations.")
    parser.add_argument("--against", type=Path, metavar="SKETCH")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.profile:
        for case in arguments.cases:
            profile(case, arguments.precision[-1])
        return
    found = {}
    for case in arguments.cases:
        scan, sketch = scan_of(case), arguments.against if CASES[case] == 64 else None
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in arguments.precision}
        for _ in range(arguments.turns):
            for precision in runs:
                runs[precision].append(measure(case, scan, precision, sketch))
        for precision, turns in runs.items():
            best = {key: round(max(turn[key] for turn in turns), 1) for key in turns[0]}
            for key in ("train", "infer") if sketch else ():
                ratios = (turn[key] / turn[f"sketch_{key}"] for turn in turns)
                best[f"{key}_ratio"] = round(median(ratios), 2)
            found[f"{case} {precision}"] = best
    print(json.dumps({"per_s_of_cpu": found, "threads": 1}, indent=1))


def scan_of(case: str) -> Scan:
    """A simulated scan of the case's side."""
    return simulate(SimulationConfig(N=CASES[case], n_patterns=200, overlap=0.8))


def measure(case: str, scan: Scan, precision: str, sketch: Path | None) -> dict[str, float]:
    """Speed of training and of inference, patterns/s, and GFLOP/s of a convolution."""
    bundle, training = run_training(case, scan, precision)
    payload = create_inference_payload(
        bundle_config=bundle.config, flags={"precision": precision}, environment={}
    )
    infer(bundle, scan, payload, lambda _: None)  # which reads the patterns for the first time
    started = time.process_time()
    infer(bundle, scan, payload, lambda _: None)
    found = {"train": speed(training), "infer": len(scan) / (time.process_time() - started)}
    if sketch:
        found |= measure_sketch(sketch, scan, precision)
    return found | {"conv_gflop": convolution_gflop(PRECISIONS[precision])}


def measure_sketch(script: Path, scan: Scan, precision: str) -> dict[str, float]:
    """The same of a script: its optimiser's steps, and all that comes after the last one."""
    ticks: list[tuple[float, int]] = []
    hook = register_optimizer_step_post_hook(
        lambda *_: ticks.append((time.process_time(), SKETCH["batch"] * len(ticks)))
    )
    autocast = partial(torch.autocast, enabled=precision != "32-true")
    with tempfile.TemporaryDirectory() as folder:
        path, out = f"{folder}/scan.npz", f"{folder}/out.npz"
        np.savez(path, **sketch_keys(scan))
        argv = [str(script), path, path, *SKETCH["options"].split(), "--out", out]
        with (
            mock.patch.object(sys, "argv", argv),
            mock.patch.object(torch, "autocast", autocast),
            redirect_stdout(sys.stderr),
        ):
            runpy.run_path(str(script), run_name="__main__")
    hook.remove()
    seconds = time.process_time() - ticks[-1][0]
    return {"sketch_train": speed(ticks), "sketch_infer": len(scan) / seconds}


def sketch_keys(scan: Scan) -> dict[str, np.ndarray]:
    """Single-precision amplitudes, probe, centres and an object that holds their windows."""
    centres = scan.positions_px - scan.positions_px.min(0) + scan.N // 2 + 1
    height, width = np.ceil(centres.max(0)).astype(int) + scan.N // 2 + 2
    y, x = centres.T
    return {
        "diffraction": scan.amplitude(),
        "intensity_scale": np.float32(1),
        "probeGuess": scan.photon_probe[0],
        "ycoords": y,
        "xcoords": x,
        "objectGuess": np.ones((height, width), np.complex64),
    }


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
