"""Processor time of a cold `ptycho infer`, and of the network alone on the same patterns of 64².

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive python benchmarks/infer_cold.py \
        [--networks unrolled cnn] [--n-patterns 1600 10000] [--precision auto] [--profile]

The command runs in a process of its own, imports, reading, stitching, residuals, pictures, product
and report included; the network alone is the backend's `infer` on a scan in memory, called twice,
the second time counted.  Networks are trained for a few steps.  With `--profile` the parts of the
command are timed too.  Prints JSON, seconds of processor time.
"""

import argparse
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

PTYCHO = [sys.executable, "-m", "ptychocli"]
COMPILED = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}  # as installed
PARTS = {
    "network": ("ptychotorch.inference", "infer"),
    "residuals": ("ptychodata.residuals", "solution_misfit"),
    "scores": ("ptychodata.metrics", "score"),
    "pictures": ("ptychocli.pictures", "write_pictures"),
    "unwrapping": ("ptychocli.pictures", "shown_images"),
    "report": ("ptychocli.report", "write_report"),
    "product": ("ptychocli.rundir", "write_product"),
    "provenance": ("ptychocli.rundir", "provenance"),
    "unlike training": ("ptychodata.trust", "unlike_training"),
    "reading": ("ptychocli.scans", "read_scans"),
    "probe": ("ptychodata.probes", "choose_probe"),
}


def main() -> None:
    """Simulate, train briefly, apply, and print the times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", default=["unrolled", "cnn"])
    parser.add_argument("--n-patterns", nargs="+", type=int, default=[1600, 10_000])
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--parts", help=argparse.SUPPRESS)  # what a profiled process is given
    arguments = parser.parse_args()
    if arguments.parts:
        print(json.dumps(profile(json.loads(arguments.parts))))
        return
    found = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for count in arguments.n_patterns:
            simulate = ["simulate", folder / f"{count}.npz", "--N", 64, "--n-patterns", count]
            measure([*PTYCHO, *map(str, simulate)], folder)
        for network in arguments.networks:
            train = ["train", folder / f"{arguments.n_patterns[0]}.npz", "--output-dir", network]
            train += ["--architecture", network, "--epochs", 1, "--n-groups", 6]
            train += ["--val-fraction", 0]
            measure([*PTYCHO, *map(str, [*train, "--preview-every", 0])], folder)
            for count in arguments.n_patterns:
                infer = ["infer", network, f"{count}.npz", "--precision", arguments.precision]
                infer += ["--output-dir", f"{network}-{count}"]
                found[f"{network} {count}"] = times(infer, folder, profiled=arguments.profile)
    print(json.dumps(found, indent=1))


def times(infer: list[str], folder: Path, *, profiled: bool) -> dict[str, Any]:
    """The command, the network alone, and their quotient."""
    command, _ = measure([*PTYCHO, *infer], folder)
    code = (
        "import sys, time; from ptychoconfig.payloads import create_inference_payload;"
        "from ptychodata import formats; from ptychodata.bundle import read_bundle;"
        "from ptychotorch.inference import infer;"
        "bundle, scan = read_bundle(sys.argv[1]), formats.read(sys.argv[2]);"
        "flags = {'precision': sys.argv[3], 'probe': 'file'};"
        "payload = create_inference_payload(bundle_config=bundle.config, flags=flags);"
        "scan.photons; infer(bundle, scan.subset(range(64)), payload, lambda _: None);"
        "started = time.process_time(); infer(bundle, scan, payload, lambda _: None);"
        "print(time.process_time() - started)"
    )
    _, told = measure([sys.executable, "-c", code, infer[1], infer[2], infer[4]], folder)
    alone = float(told)
    found: dict[str, Any] = {
        "command_s": round(command, 1),
        "network_s": round(alone, 1),
        "quotient": round(command / alone, 2),
    }
    if profiled:
        again = json.dumps([*infer, "--force"])
        _, told = measure([sys.executable, __file__, "--parts", again], folder)
        found["parts_s"] = json.loads(told.splitlines()[-1])
    return found


def measure(command: list[str], folder: Path) -> tuple[float, str]:
    """Run a command; its processor time in seconds, and what it printed."""
    with tempfile.TemporaryFile() as out:
        streams: Any = {"stdout": out, "stderr": subprocess.DEVNULL, "env": COMPILED}
        process = subprocess.Popen(command, cwd=folder, **streams)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        told = out.read().decode()
    if process.returncode:
        raise SystemExit(f"{command} ended with {process.returncode}: {told}")
    return usage.ru_utime + usage.ru_stime, told


def profile(argv: list[str]) -> dict[str, float]:
    """Run the command in this process with its parts timed."""
    from ptychocli.main import main as ptycho

    found: dict[str, float] = {}
    for module in ("torch", "ptychotorch.inference", "matplotlib.figure"):
        import_module(module)
    found["imports"] = time.process_time()
    for name, (module, function) in PARTS.items():
        target = import_module(module)
        setattr(target, function, timed(getattr(target, function), found, name))
    ptycho([*argv, "--quiet"])
    found["all"] = time.process_time()
    return {name: round(value, 2) for name, value in found.items()}


def timed(of: Callable[..., Any], found: dict[str, float], name: str) -> Callable[..., Any]:
    """The function, its processor time added up under a name."""

    @functools.wraps(of)
    def call(*arguments: Any, **more: Any) -> Any:
        started = time.process_time()
        try:
            return of(*arguments, **more)
        finally:
            found[name] = found.get(name, 0) + time.process_time() - started

    return call


if __name__ == "__main__":
    main()
