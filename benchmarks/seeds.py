"""How many seeds of a network train on N = 128 to an image, and how many stay flat.

    OMP_NUM_THREADS=1 python benchmarks/seeds.py seeds.json --network unrolled
    OMP_NUM_THREADS=1 python benchmarks/seeds.py seeds.json --network cnn --max-time 2h

Each seed draws weights, groups and batches anew and trains on one simulated scan, as long as the
network is trained by default or for --steps; its object is scored on another scan, over the box of
the probe centres.  Two successes are counted.  ``succeeded``: the amplitude's correlation with the
truth's is at least 0.5 (collapsed runs of the original stayed below 0.13, the others rose above
0.5), which a network after one step may reach.  ``beat_zero``: the amplitude's SSIM is above those
of an even object and of the first ePIE steps of the patterns, stitched.  Every seed is kept in the
file as soon as it is done, whatever it reached, and one that is there is not run again: after
--max-time no other seed is begun, and the next call goes on.  Prints what the file holds.
"""

import argparse
import json
import logging
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from ptychoconfig.errors import NumericalError
from ptychoconfig.payloads import create_inference_payload, create_training_payload
from ptychoconfig.schema import Duration, SimulationConfig
from ptychodata.backends import Backend, load_backend
from ptychodata.baselines import first_step
from ptychodata.contracts import Scan
from ptychodata.files import atomic_path, dump_json
from ptychodata.metrics import score
from ptychodata.simulate import simulate

SUCCESS = 0.5


def main() -> None:
    """Run the seeds that the file lacks, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, help="JSON file, made if absent and added to.")
    parser.add_argument("--network", default="unrolled")
    parser.add_argument("--backend", default="torch")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--steps", type=int, help="Optimiser steps of each seed.")
    parser.add_argument("--precision", default="auto", help="As of `ptycho train` and `infer`.")
    parser.add_argument("--max-time", default="1h", help="Begin no seed after this: 90s, 2h.")
    parser.add_argument("--N", type=int, default=128)
    parser.add_argument("--n-patterns", type=int, default=400)
    parser.add_argument("--n-photons", type=float, default=1.77e6)
    arguments = parser.parse_args()
    limit = time.monotonic() + TypeAdapter(Duration).validate_python(arguments.max_time)
    logging.basicConfig(level=logging.WARNING)
    common = {"N": arguments.N, "n_patterns": arguments.n_patterns, "overlap": 0.8}
    known, other = (
        simulate(SimulationConfig(**common, nphotons=arguments.n_photons, seed=seed))
        for seed in (1, 2)
    )
    results = json.loads(arguments.results.read_text()) if arguments.results.exists() else {}
    steps = arguments.steps or "default"
    backend = load_backend(arguments.backend)
    name = arguments.network + (" on tf" if arguments.backend == "tf" else "")
    case = f"{name} N={arguments.N} patterns={arguments.n_patterns} "
    case += f"photons={arguments.n_photons:.3g} steps={steps}"
    case += "" if arguments.precision == "auto" else f" {arguments.precision}"
    mine = results.setdefault(case, {"seeds": {}, "untrained": untrained(other)})
    for seed in range(arguments.seeds):
        if str(seed) in mine["seeds"]:
            continue
        if time.monotonic() > limit:
            break
        flags: dict[str, Any] = {
            "architecture": arguments.network,
            "precision": arguments.precision,
            "seed": seed,
        }
        if arguments.steps:
            flags |= _exactly(arguments.steps, arguments)
        mine["seeds"][str(seed)] = one_seed(backend, known, other, flags)
        mine |= counted(mine)
        with atomic_path(arguments.results) as path:
            path.write_text(dump_json(results))
    print(dump_json({case: mine}))


def _exactly(steps: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Settings that make so many steps, or few more, in epochs of as many groups each."""
    payload = create_training_payload(
        N=arguments.N, flags={"architecture": arguments.network}, environment={}
    )
    per_epoch = max(1, int(0.9 * arguments.n_patterns) // payload.training.batch_size)
    epochs = -(-steps // per_epoch)
    groups = -(-steps // epochs) * payload.training.batch_size
    return {"epochs": epochs, "n_groups": groups}


def untrained(other: Scan) -> dict[str, float]:
    """Amplitude SSIM of what needs no network: an even object, and the zero of ``studies``."""
    zero = first_step(other)
    found = {"even object": np.ones_like(zero.obj), "zero": zero.obj}
    origin, positions = zero.origin_yx_px, other.positions_px
    return {
        name: score(obj, origin, other.truth, positions)["amplitude_ssim"]
        for name, obj in found.items()
    }


def counted(case: Mapping[str, Any]) -> dict[str, int]:
    """How many seeds reached either success, of how many; one that diverged reached none."""
    runs = [run for run in case["seeds"].values() if run["amplitude_correlation"] is not None]
    bound = max(case["untrained"].values())
    return {
        "succeeded": sum(run["amplitude_correlation"] >= SUCCESS for run in runs),
        "beat_zero": sum(run["amplitude_ssim"] > bound for run in runs),
        "of": len(case["seeds"]),
    }


def one_seed(backend: Backend, known: Scan, other: Scan, flags: dict[str, Any]) -> dict[str, Any]:
    """Train on one scan and score on another; null figures where training diverged."""
    quiet = {"enable_checkpointing": False, "logger": "none"}
    payload = create_training_payload(N=known.N, flags=flags | quiet, environment={})
    steps = [0]

    def report(progress: Any) -> None:
        steps[0] += progress.phase == "train"

    try:
        with tempfile.TemporaryDirectory() as folder:
            bundle = backend.train([known], payload, Path(folder), report, lambda: False)
        applied = create_inference_payload(
            bundle_config=bundle.config,
            flags={"precision": flags["precision"]},
            environment={},
        )
        result = backend.infer(bundle, other, applied, lambda progress: None)
        scores = score(result.obj, result.origin_yx_px, other.truth, other.positions_px)
    except NumericalError as error:
        return {"amplitude_correlation": None, "steps": steps[0], "error": str(error)}
    names = ("amplitude_correlation", "amplitude_ssim", "phase_ssim")
    return {name: scores[name] for name in names} | {"steps": steps[0]}


if __name__ == "__main__":
    main()
