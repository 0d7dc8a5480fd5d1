"""How good an image is after how long: the solver at runs of more and more epochs.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive \
        python benchmarks/solver.py SCAN --epochs 2 3 4 6 8 12 16 24 [--set modes=3] [--json FILE]
            [--backend tf]

Time is the processor time of one thread, which other processes disturb least, reading of the scan
left out; with TensorFlow the first row pays for compiling, and TF_NUM_INTRAOP_THREADS=1 keeps it to
one thread.  Scores are against the scan's known object, or ``--reference``, a reconstruction.npz.
``benchmarks/ptychi_baseline.py`` gives the same of pty-chi.
"""

import argparse
import json
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np

from ptychoconfig.payloads import create_solver_payload
from ptychodata.backends import Backend, load_backend
from ptychodata.contracts import Scan, Solution
from ptychodata.formats import read
from ptychodata.metrics import score


def main() -> None:
    """Solve a scan several times, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scan", type=Path)
    parser.add_argument("--backend", default="torch")
    parser.add_argument("--epochs", type=int, nargs="*", default=[2, 3, 4, 6, 8, 12, 16, 24])
    parser.add_argument("--set", action="append", default=[], metavar="SETTING=VALUE")
    parser.add_argument("--reference", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--save", type=Path, help="keep the last image as NPZ")
    arguments = parser.parse_args()
    backend = load_backend(arguments.backend)
    scan = read(arguments.scan)
    flags = {k: json.loads(v) for k, v in (pair.split("=", 1) for pair in arguments.set)}
    rows = []
    for epochs in arguments.epochs or [None]:
        chosen = flags | ({} if epochs is None else {"epochs": epochs})
        row, solution = run(backend, scan, chosen, arguments.reference)
        rows.append(row)
        print("  ".join(f"{name} {value:.5g}" for name, value in row.items()), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))
    if arguments.save:
        image = solution.reconstruction
        np.savez(arguments.save, object=image.obj, origin_yx_px=image.origin_yx_px,
                 positions_px=image.positions_px, probe=image.probe)  # fmt: skip


def run(
    backend: Backend, scan: Scan, flags: dict[str, Any], reference: Path | None
) -> tuple[dict, Solution]:
    """One run: its time, residuals and scores."""
    payload = create_solver_payload(flags=flags)
    started = time.process_time()
    solution = backend.reconstruct(scan, payload, lambda progress: None, lambda: False)
    seconds = time.process_time() - started
    row = {
        "epochs": solution.epochs,
        "cpu_s": seconds,
        "patterns_per_s": solution.epochs * len(scan) / seconds,
        "r_factor": solution.history["r_factor"][-1],
        "r_free": solution.history["r_free"][-1],
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    return row | scores(solution, scan, reference), solution


def scores(solution: Solution, scan: Scan, reference: Path | None) -> dict[str, float]:
    """SSIM of amplitude and phase."""
    image = solution.reconstruction
    if reference is not None:
        with np.load(reference) as theirs:
            truth, origin = theirs["object"], theirs["origin_yx_px"]
    elif scan.truth is not None:
        truth, origin = scan.truth, np.zeros(2)
    else:
        return {}
    found = score(
        image.obj, image.origin_yx_px, truth, scan.positions_px, truth_origin_yx_px=origin
    )
    return {name: found[name] for name in ("amplitude_ssim", "phase_ssim")}


if __name__ == "__main__":
    main()
