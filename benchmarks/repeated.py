"""Whether trainings, one after the other in one process, leave memory behind or disturb each other.

    OMP_NUM_THREADS=1 python benchmarks/repeated.py [--backend tf] [--network cnn] [--trainings 10]

Trainings of two sizes of patterns take turns.  Prints the resident memory after each pair, and
whether its weights are, bit for bit, those that the first pair left.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

from ptychoconfig.payloads import create_training_payload
from ptychoconfig.schema import SimulationConfig
from ptychodata.backends import Backend, load_backend
from ptychodata.contracts import Scan
from ptychodata.simulate import simulate


def main() -> None:
    """Train again and again, and print a line for each pair."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backend", default="torch")
    parser.add_argument("--network", default="cnn")
    parser.add_argument("--trainings", type=int, default=10, help="of each size")
    arguments = parser.parse_args()
    backend = load_backend(arguments.backend)
    scans = [simulate(SimulationConfig(N=side, n_patterns=64, nphotons=1e6)) for side in (32, 64)]
    first: list[dict[str, np.ndarray]] = []
    for number in range(arguments.trainings):
        found = [weights(backend, scan, arguments.network) for scan in scans]
        first = first or found
        same = all(
            np.array_equal(ours[name], theirs[name])
            for ours, theirs in zip(found, first, strict=True)
            for name in theirs
        )
        print(f"{number + 1}  resident_mib {resident_mib():.0f}  same {same}", flush=True)


def weights(backend: Backend, scan: Scan, network: str) -> dict[str, np.ndarray]:
    """Train for one epoch of a few steps."""
    flags = {"architecture": network, "epochs": 1, "n_groups": 16, "batch_size": 8}
    payload = create_training_payload(N=scan.N, flags=flags, environment={})
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder)
        bundle = backend.train([scan], payload, run, lambda progress: None, lambda: False)
    return dict(bundle.weights)


def resident_mib() -> float:
    """Memory that this process holds now, on Linux."""
    status = Path("/proc/self/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main()
