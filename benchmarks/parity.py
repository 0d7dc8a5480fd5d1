"""One bundle and one answer: what one backend trained, applied by both; and both learning alike.

    python benchmarks/parity.py --short    # as `nox -s parity`: small networks, by the command
    python benchmarks/parity.py --table    # every shared network, N = 64 and 128, C = 1 and 4
    python benchmarks/parity.py --curves   # losses, at the default learning rates too

Each backend computes in processes of its own.  Exit code 1 if two
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
    for form in ("short", "table", "curves"):
        parser.add_argument(f"--{form}", action="store_true")
    parser.add_argument("--networks", nargs="+", default=list(SHORT))
    parser.add_argument("--curve", nargs=5, help=argparse.SUPPRESS)
    parser.add_argument("--work", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.curve:
        return curve(*arguments.curve)
    if arguments.work:
        return work(*arguments.work, arguments.networks)
    worst = apart = 0.0
    with tempfile.TemporaryDirectory() as name:
        if arguments.short:
            worst = max(objects(Path(name, net), net, 64, 2) for net in arguments.networks)
        if arguments.table:
            worst = max(worst, table(Path(name), arguments.networks))
    if arguments.short or arguments.curves:
        apart = max(losses(network, RATE) for network in arguments.networks)
    if arguments.curves:
        for network in arguments.networks:
            losses(network, DEFAULT_RATES[network])
    return 0 if worst <= OBJECT_TOLERANCE and apart <= LOSS_TOLERANCE else 1


def objects(folder: Path, network: str, side: int, grid: int) -> float:
    """Train with each backend and infer with both: the greatest relative difference."""
    folder.mkdir()
    scan, small = folder / "scan.npz", SHORT[network]
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
        worst = max(worst, told(f"{network:9} N {side:3}  C {grid**2}", trainer, made))
    return worst


def told(case: str, trainer: str, made: dict[str, np.ndarray]) -> float:
    """Print how far two objects differ; infinity where that is no number."""
    error = float(np.linalg.norm(made["tf"] - made["torch"]) / np.linalg.norm(made[trainer]))
    print(f"{case}  trained by {trainer:5}  {error:.1e}", flush=True)
    return error if np.isfinite(error) else float("inf")


def table(folder: Path, networks: list[str]) -> float:
    """All cases, each backend training and applying all in one process of its own."""
    for task in ("train", "infer"):
        for backend in BACKENDS:
            script = [sys.executable, __file__, "--work", task, backend, str(folder)]
            subprocess.run([*script, "--networks", *networks], check=True)
    worst = 0.0
    for bundle in sorted(folder.glob("*.h5.zip")):
        case, _, trainer = bundle.name.removesuffix(".h5.zip").rpartition(" ")
        made = {b: np.load(folder / f"{case} {trainer} {b}.npy") for b in BACKENDS}
        worst = max(worst, told(case, trainer, made))
    return worst


def work(task: str, backend: str, folder: str, networks: list[str]) -> int:
    """Train a bundle of each case for a few steps, or apply all bundles that are there."""
    from ptychoconfig.payloads import create_inference_payload, create_training_payload
    from ptychoconfig.schema import SimulationConfig
    from ptychodata.backends import load_backend
    from ptychodata.bundle import read_bundle, write_bundle
    from ptychodata.simulate import simulate

    engine, exact = load_backend(backend), {"precision": "32-true", "accelerator": "cpu"}
    for side in (64, 128):
        scan = simulate(SimulationConfig(N=side, n_patterns=36, nphotons=1e6))
        for path in sorted(Path(folder).glob(f"*N {side:3}*.h5.zip")) if task == "infer" else []:
            bundle = read_bundle(path)
            payload = create_inference_payload(
                bundle_config=bundle.config, flags=exact, environment={}
            )
            obj = engine.infer(bundle, scan, payload, lambda progress: None).obj
            np.save(Path(folder, f"{path.name.removesuffix('.h5.zip')} {backend}.npy"), obj)
        for network in networks if task == "train" else []:
            for grid in (1, 2):
                flags = {"architecture": network, "gridsize": grid, "epochs": 1, "n_groups": 12}
                flags |= {"batch_size": 6, "enable_checkpointing": False, "logger": "none"}
                payload = create_training_payload(N=side, flags=flags | exact, environment={})
                run = Path(folder), (lambda progress: None), (lambda: False)
                bundle = engine.train([scan], payload, *run)
                name = f"{network:9} N {side:3}  C {grid**2} {backend}.h5.zip"
                write_bundle(bundle, Path(folder, name))
    return 0


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
