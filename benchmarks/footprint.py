"""Memory of `ptycho train` and `ptycho infer` on 10,000 patterns of 64², and time to a first step.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive python benchmarks/footprint.py [--network unrolled]

The scan is simulated; the commands run as a user's do, each in a process of its own: a training of
a few steps and its validation, and inference of the whole scan.  Prints JSON: peak memory, seconds
of the clock and of processor time in all, and, for the training, both from the start of the command
to the end of its first step, read from events.jsonl as it grows (on Linux).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PTYCHO = [sys.executable, "-m", "ptychocli"]
COMPILED = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}  # as installed


def main() -> None:
    """Simulate, train and infer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="unrolled")
    parser.add_argument("--backend", default="torch")
    parser.add_argument("--n-patterns", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=3, help="Optimiser steps of the training.")
    parser.add_argument("--scan", type=Path, help="Use this scan in place of a simulated one.")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scan = (arguments.scan or Path(folder) / "scan.npz").resolve()
        if arguments.scan is None:
            made = ["simulate", scan, "--N", 64, "--n-patterns", arguments.n_patterns]
            measure(made, Path(folder))
        batch = {"cnn": 16}.get(arguments.network, 6)
        train = ["train", scan, "--output-dir", "run", "--architecture", arguments.network]
        train += ["--epochs", 1, "--n-groups", arguments.steps * batch]
        train += ["--backend", arguments.backend]
        found = {"train": measure(train, Path(folder), Path(folder) / "run" / "events.jsonl")}
        found["infer"] = measure(["infer", "run", scan, "--output-dir", "out"], Path(folder))
    print(json.dumps({"network": arguments.network, **found}, indent=1))


def measure(words: list[object], folder: Path, events: Path | None = None) -> dict[str, float]:
    """Run a command; what it took, and what it had taken at the first step in ``events``."""
    started = time.perf_counter()
    first: dict[str, float] = {}
    with tempfile.TemporaryFile() as errors:
        command = [*PTYCHO, *map(str, words)]
        streams: Any = {"stdout": subprocess.DEVNULL, "stderr": errors, "env": COMPILED}
        process = subprocess.Popen(command, cwd=folder, **streams)
        while events and not first and Path(f"/proc/{process.pid}/exe").exists():
            if events.exists() and '"train"' in events.read_text():
                first = {
                    "first_step_s": round(time.perf_counter() - started, 1),
                    "first_step_cpu_s": round(processor_s(process.pid), 1),
                }
            time.sleep(0.02)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        errors.seek(0)
        if process.returncode:
            raise SystemExit(f"{command}: {errors.read().decode()}")
    return first | {
        "seconds": round(time.perf_counter() - started, 1),
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_mib": round(usage.ru_maxrss / 1024),
    }


def processor_s(pid: int) -> float:
    """Processor time that a running process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
