"""One bundle and one answer: what one backend trained, applied by both; and both learning alike.

    python benchmarks/parity.py            # every shared network, N = 64 and 128, C = 1 and 4
    python benchmarks/parity.py --short    # as `nox -s parity`

Each backend computes in processes of its own, the bundles through the command.  Exit code 1 if two
objects differ by more than 1e-4 (relative L2) or two losses by more than 1e-3 over 20 steps.
"""

import argparse
import importlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

OBJECT_TOLERANCE, LOSS_TOLERANCE, STEPS = 1e-4, 1e-3, 20
RATE = 2e-4
"""Learning rate of the curves that are held to it.  At the default of `cnn`, 1e-3, two runs of one
backend part as far, whose weights differ by 1e-7 at the start: the full form measures that."""

DEFAULT_RATES = {"cnn": 1e-3, "unrolled": 5e-4}
PERTURBATION = 1e-7  # of weights, relative: the last digit of float32

BACKENDS = {"torch": "ptychotorch", "tf": "ptychotf"}
COMMON = "--precision 32-true --accelerator cpu --quiet --force"
SHORT = {
    "cnn": "--n-filters-scale 1",
    "unrolled": "--unrolled-steps 3 --unrolled-width 8 --unrolled-levels 1",
}


def main() -> int:
    """Compare objects and losses; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--short", action="store_true", help="one small case of each network")
    parser.add_argument("--networks", nargs="+", default=list(SHORT))
    parser.add_argument("--curve", nargs=5, help=argparse.SUPPRESS)
    parser.add_argument("--curves-only", action="store_true", help="no bundles")
    arguments = parser.parse_args()
    if arguments.curve:
        return curve(*arguments.curve)
    sides, grids = ([64], [2]) if arguments.short else ([64, 128], [1, 2])
    worst = 0.0
    for network in [] if arguments.curves_only else arguments.networks:
        small = SHORT.get(network, "") if arguments.short else ""
        for side in sides:
            for grid in grids:
                with tempfile.TemporaryDirectory() as folder:
                    worst = max(worst, objects(Path(folder), network, side, grid, small))
    apart = max(losses(network, RATE) for network in arguments.networks)
    if not arguments.short:
        for network in arguments.networks:
            losses(network, DEFAULT_RATES[network])
    return 0 if worst <= OBJECT_TOLERANCE and apart <= LOSS_TOLERANCE else 1


def objects(folder: Path, network: str, side: int, grid: int, small: str) -> float:
    """Train with each backend and infer with both: the greatest relative difference."""
    scan = folder / "scan.npz"
    _ptycho(f"simulate {scan} --N {side} --n-patterns 36 --nphotons 1e6 --force")
    worst = 0.0
    for trainer in BACKENDS:
        run = folder / trainer
        settings = f"--architecture {network} --gridsize {grid} --epochs 1 --n-groups 32 {small}"
        _ptycho(
            f"train {scan} --backend {trainer} {settings} {COMMON} --probe file --output-dir {run}"
        )
        made = {}
        for backend in BACKENDS:
            out = folder / f"{trainer}-{backend}"
            own = "" if backend == trainer else f"--backend {backend}"
            _ptycho(
                f"infer {run} {scan} {own} --no-report {COMMON} --probe file --output-dir {out}"
            )
            assert json.loads((out / "provenance.json").read_text())["backend"] == backend
            with np.load(out / "reconstruction.npz", allow_pickle=False) as file:
                made[backend] = file["object"]
        error = np.linalg.norm(made["tf"] - made["torch"]) / np.linalg.norm(made[trainer])
        print(
            f"{network:9} N {side:3}  C {grid**2}  trained by {trainer:5}  {error:.1e}", flush=True
        )
        worst = max(worst, float(error) if np.isfinite(error) else float("inf"))
    return worst


def _ptycho(arguments: str) -> None:
    command = [sys.executable, "-m", "ptychocli", *arguments.split()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}: {done.stderr}")


def losses(network: str, rate: float) -> float:
    """Let both learn from the same weights and batches: the greatest relative difference.

    Beside it stands how far Torch parts from itself, begun with weights that differ in the last
    digit: what differs more than that is not the same computation.
    """
    with tempfile.TemporaryDirectory() as name:
        weights, found = Path(name, "weights.npz"), {}
        for run in ("torch", "tf", "torch-perturbed"):
            out = Path(name, f"{run}.json")
            if run == "torch-perturbed":
                perturb(weights)
            backend = run.partition("-")[0]
            script = [sys.executable, __file__, "--curve", backend, network, weights, out, rate]
            subprocess.run([*map(str, script)], check=True)
            found[run] = np.array(json.loads(out.read_text()))
    apart, own = (
        float(np.max(np.abs(found[run] / found["torch"] - 1))) for run in ("tf", "torch-perturbed")
    )
    fallen = found["torch"][-1] / found["torch"][0]
    print(
        f"{network:9} {STEPS} steps at {rate:g}, loss to {fallen:.2g} of the first: {apart:.1e} "
        f"apart; Torch from itself {own:.1e}",
        flush=True,
    )
    return apart if np.isfinite(apart) else float("inf")


def perturb(weights: Path) -> None:
    """Change weights in their last digit."""
    draw = np.random.default_rng(0)
    with np.load(weights) as file:
        changed = {
            name: (file[name] * (1 + PERTURBATION * draw.standard_normal(file[name].shape)))
            for name in file.files
        }
    np.savez(weights, **{name: array.astype(np.float32) for name, array in changed.items()})


def curve(backend: str, network: str, weights: str, out: str, rate: str) -> int:
    """Write the losses of the first steps; the weights are read, or drawn and written."""
    from ptychoconfig.payloads import create_training_payload
    from ptychoconfig.schema import SimulationConfig
    from ptychodata.simulate import simulate

    if backend == "tf":
        importlib.import_module("ptychotf._start").start_tensorflow()
    training = importlib.import_module(f"{BACKENDS[backend]}.training")
    convert = importlib.import_module(f"{BACKENDS[backend]}.weights")
    build = training.build_network

    def build_from_file(*arguments):
        made = build(*arguments)
        if Path(weights).exists():
            convert.from_arrays(made, dict(np.load(weights)))
        else:
            np.savez(weights, **convert.to_arrays(made))
        return made

    training.build_network = build_from_file
    scan = simulate(SimulationConfig(N=32, n_patterns=STEPS * 4, overlap=0.7, nphotons=1e6))
    small = {"cnn": {"n_filters_scale": 1}, "unrolled": {"unrolled_width": 16}}
    flags = {"architecture": network, "gridsize": 2, "batch_size": 4, **small.get(network, {})}
    flags |= {"epochs": 1, "val_fraction": 0.0, "precision": "32-true", "probe_trainable": True}
    flags |= {
        "learning_rate": float(rate),
        "enable_checkpointing": False,
        "logger": "none",
        "neighbor_count": 4,
    }
    payload = create_training_payload(N=scan.N, flags=flags, environment={})
    found: list[float] = []

    def report(progress):
        if progress.phase == "train":
            found.append(progress.metrics["loss"])

    with tempfile.TemporaryDirectory() as folder:
        training.train([scan], payload, Path(folder), report)
    Path(out).write_text(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
