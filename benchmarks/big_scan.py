"""Memory and time of `ptycho inspect` and `ptycho convert` on a scan larger than memory allows.

    OMP_NUM_THREADS=1 python benchmarks/big_scan.py [--gib 8] [--rounds 3] [--reading-only]

The scan is a CXI file of uint16 patterns of 256 × 256, in chunks of which one in `--written` was
written and the others have fill values, so that it takes little room.  Prints JSON: peak memory,
seconds and processor seconds of each command, and of plain h5py reading, and writing of the same
bytes, the least of several rounds in turn; the processor seconds tell more on a busy machine.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np

SIDE = 256
READING = ("plain_read", "inspect_no_orientation", "inspect")
PLAIN = """
import sys, h5py
source, target = sys.argv[1:]
out = open(target, "wb") if target else None
with h5py.File(source) as file:
    data = file["entry_1/data_1/data"]
    for start in range(0, len(data), 256):
        block = data[start : start + 256]
        if out:
            out.write(block)
"""


def main() -> None:
    """Make the scan, run each command in a process of its own, and print what each took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gib", type=float, default=8, help="Size of the patterns.")
    parser.add_argument("--written", type=int, default=16, help="Write one chunk in so many.")
    parser.add_argument("--rounds", type=int, default=1, help="Take the least of so many.")
    parser.add_argument("--reading-only", action="store_true", help="Leave out what writes.")
    parser.add_argument("--folder", help="Where to put the scan, twice its size.")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        scan, target = Path(folder) / "big.cxi", Path(folder) / "out.npz"
        make_scan(scan, int(arguments.gib * 2**30 / (2 * SIDE**2)), arguments.written)
        command = [sys.executable, "-m", "ptychocli"]
        commands = {
            "plain_read": [sys.executable, "-c", PLAIN, scan, ""],
            "inspect_no_orientation": [*command, "inspect", scan, "--json", "--no-orientation"],
            "inspect": [*command, "inspect", scan, "--json"],
            "plain_read_and_write": [sys.executable, "-c", PLAIN, scan, Path(folder) / "raw"],
            "convert_npz": [*command, "convert", scan, target, "--json"],
            "convert_cxi": [*command, "convert", scan, target.with_suffix(".cxi"), "--json"],
        }
        found: dict[str, dict[str, float]] = {}
        for _ in range(arguments.rounds):
            for name, argv in commands.items():
                if arguments.reading_only and name not in READING:
                    continue
                taken = measure([os.fspath(word) for word in argv])
                found[name] = least(found.get(name, taken), taken)
                for made in (Path(folder) / "raw", target, target.with_suffix(".cxi")):
                    made.unlink(missing_ok=True)
        stored = round(scan.stat().st_size / 2**20)
        print(json.dumps({"patterns_gib": arguments.gib, "stored_mib": stored, **found}, indent=1))


def least(first: dict[str, float], second: dict[str, float]) -> dict[str, float]:
    """The lesser of two of each figure."""
    return {name: min(first[name], second[name]) for name in first}


def make_scan(path: Path, count: int, written: int) -> None:
    """A raster of ``count`` patterns; those written are Poisson counts of a disk."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE // 2
    disk = np.exp(-(y**2 + x**2) / 500)
    step, across = 4e-8, int(np.ceil(np.sqrt(count)))
    with h5py.File(path, "w") as file:
        detector = "entry_1/instrument_1/detector_1"
        data = file.create_dataset(
            f"{detector}/data", (count, SIDE, SIDE), "u2", chunks=(8, SIDE, SIDE), fillvalue=1
        )
        for start in range(0, count, 8 * written):
            shape = (min(8, count - start), SIDE, SIDE)
            data[start : start + 8] = rng.poisson(np.broadcast_to(50 * disk, shape))
        file["entry_1/data_1/data"] = h5py.SoftLink(f"/{detector}/data")
        place = np.arange(count)
        xyz = np.stack([place % across, place // across, np.zeros(count)], axis=1) * step
        file["entry_1/sample_1/geometry_1/translation"] = xyz
        file[f"{detector}/distance"] = 2.0
        file[f"{detector}/x_pixel_size"] = file[f"{detector}/y_pixel_size"] = 75e-6
        file["entry_1/instrument_1/source_1/energy"] = 8000 * 1.602176634e-19
        file["entry_1/instrument_1/source_1/illumination"] = np.fft.fftshift(
            np.fft.ifft2(np.fft.ifftshift(np.sqrt(disk)))
        ).astype(np.complex64)


def measure(argv: list[str]) -> dict[str, float]:
    """Seconds, processor seconds and peak memory of a process."""
    started = time.perf_counter()
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - started
        errors.seek(0)
        if process.returncode not in (0, 4):  # 4: something is found in the scan
            raise SystemExit(f"{argv}: {errors.read().decode()}")
    return {
        "seconds": round(seconds, 1),
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_mib": round(usage.ru_maxrss / 1024),
    }


if __name__ == "__main__":
    main()
