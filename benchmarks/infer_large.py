"""Memory and time of `ptycho infer` on as many patterns of 64² as wanted, from a file of few.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive python benchmarks/infer_large.py \
        [--n-patterns 100000] [--network unrolled] [--precision 32-true] [--limit 600]

The scan is a CXI file whose patterns are a virtual dataset: one simulated scan of 3,969 positions
in a raster of 4 px again and again, each `--apart` of its extent from the next, so that the object
grows with the patterns and hardly any of them are stored.  The network is trained for a few steps.
While the command runs, its resident memory is sampled.  After `--limit` seconds it is stopped; then
the time is extrapolated from its progress.  Prints JSON.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ptychoconfig.schema import SimulationConfig
from ptychodata import formats
from ptychodata.simulate import simulate

PTYCHO = [sys.executable, "-m", "ptychocli"]
SIDE, STEP = 63, 4.0  # positions along a side of the small scan, and pixels between them
PIXEL_M = 1e-8
DETECTOR = "entry_1/instrument_1/detector_1"


def main() -> None:
    """Make scan and network, apply it, and print what that took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n-patterns", type=int, default=100_000)
    parser.add_argument("--network", default="unrolled")
    parser.add_argument("--precision", default="32-true")
    parser.add_argument("--limit", type=float, default=600, help="Seconds after which to stop.")
    parser.add_argument("--apart", type=float, default=0.5, help="Of the small scan's extent.")
    parser.add_argument("--steps", type=int, help="Passes of `unrolled`; default its own.")
    parser.add_argument("--folder", help="Where to work.")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        small = make_scan(folder, arguments.n_patterns, arguments.apart)
        train = ["train", small, "--architecture", arguments.network, "--output-dir", "run"]
        train += ["--epochs", "1", "--n-groups", "6", "--val-fraction", "0"]
        train += ["--preview-every", "0", "--probe", "file"]
        train += ["--unrolled-steps", str(arguments.steps)] if arguments.steps else []
        subprocess.run([*PTYCHO, *train], cwd=folder, check=True, stderr=subprocess.DEVNULL)
        infer = ["infer", "run", "large.cxi", "--precision", arguments.precision, "--json"]
        infer += ["--probe", "file", "--output-dir", "out"]
        found = watch([*PTYCHO, *infer], folder, arguments.limit)
        with h5py.File(folder / "large.cxi") as file:
            extent = np.ptp(file[f"{DETECTOR}/translation"][...], axis=0)[:2] / PIXEL_M + 64
        found["object_px"] = " × ".join(f"{side:.0f}" for side in sorted(extent))
        found["file_mib"] = round((folder / "large.cxi").stat().st_size / 2**20, 1)
    settings = {key: getattr(arguments, key) for key in ("n_patterns", "network", "precision")}
    print(json.dumps(settings | found, indent=1))


def make_scan(folder: Path, count: int, apart: float) -> Path:
    """Write the small scan, and the large one made of it; return the small one."""
    kind: Any = {"positions_kind": "raster", "step_px": STEP}
    scan = simulate(SimulationConfig(N=64, n_patterns=SIDE**2, nphotons=1e6, **kind))
    scan = replace(scan, truth=None, object_pixel_m=PIXEL_M)  # a truth would be scored against
    small, large = folder / "small.cxi", folder / "large.cxi"
    for path in (small, large):
        formats.write(scan, path)
    tiles = -(-count // SIDE**2)
    across = int(np.ceil(np.sqrt(tiles)))
    with h5py.File(small) as source, h5py.File(large, "r+") as target:
        patterns, moved = source[f"{DETECTOR}/data"], source[f"{DETECTOR}/translation"][...]
        layout = h5py.VirtualLayout((count, *patterns.shape[1:]), patterns.dtype)
        translation = np.zeros((count, 3))
        extent = np.abs(np.ptp(moved, axis=0)).max() * SIDE / (SIDE - 1) * apart
        for tile in range(tiles):
            part = slice(tile * SIDE**2, min((tile + 1) * SIDE**2, count))
            size = part.stop - part.start
            layout[part] = h5py.VirtualSource(small.name, patterns.name, patterns.shape)[:size]
            offset = -np.array([tile % across, tile // across, 0]) * extent
            translation[part] = moved[:size] + offset
        for name in [path for path in paths(target) if target[path].shape == patterns.shape]:
            del target[name]
            target.create_virtual_dataset(name, layout)
        for name in [path for path in paths(target) if target[path].shape == moved.shape]:
            del target[name]
            target[name] = translation
    return small


def paths(file: h5py.File) -> list[str]:
    """Names of all datasets of a file, each once."""
    found: list[str] = []
    file.visititems(lambda name, it: found.append(name) if isinstance(it, h5py.Dataset) else None)
    return found


def watch(command: list[str], folder: Path, limit_s: float) -> dict[str, Any]:
    """Run a command and sample its resident memory; stop it after a while."""
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
    started, resident = time.monotonic(), []
    status = Path(f"/proc/{process.pid}/statm")
    pid = 0
    while not pid:
        time.sleep(0.5)
        pid, code, usage = os.wait4(process.pid, os.WNOHANG)
        if not pid:
            pages = int(status.read_text().split()[1])
            resident.append(
                (time.monotonic() - started, pages * os.sysconf("SC_PAGE_SIZE") / 2**20)
            )
            if time.monotonic() - started > limit_s:
                process.send_signal(signal.SIGKILL)
    process.returncode = os.waitstatus_to_exitcode(code)
    cpu_s = usage.ru_utime + usage.ru_stime
    found = {
        "exit_code": process.returncode,
        "seconds": round(time.monotonic() - started, 1),
        "cpu_s": round(cpu_s, 1),
        "peak_mib": round(usage.ru_maxrss / 1024),
        "resident_mib": " ".join(
            f"{m:.0f} at {t:.0f} s," for t, m in resident[:: max(1, len(resident) // 16)]
        ),
    }
    return found | progress_of(folder / "out" / "events.jsonl", cpu_s)


def progress_of(events: Path, cpu_s: float) -> dict[str, Any]:
    """How far the network came, and what the whole would have taken at that pace."""
    lines = events.read_text().splitlines() if events.exists() else []
    steps = [step for step in map(json.loads, lines) if step["phase"] == "infer"]
    if not steps:
        return {}
    last = steps[-1]
    share = last["done"] / last["total"]
    found = {"share": round(share, 4), "patterns_per_s": round(last["patterns_per_s"])}
    return found if share == 1 else found | {"extrapolated_cpu_s": round(cpu_s / share)}


if __name__ == "__main__":
    main()
