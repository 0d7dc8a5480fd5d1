"""Time to simulate scans of 64² patterns, and the most memory that took.

    OMP_NUM_THREADS=1 python benchmarks/simulate.py

Prints one JSON object a line: objects and probes of every kind, in a process of its own each.
"""

import argparse
import json
import multiprocessing
import resource
import sys
import time
from collections.abc import Sequence

from ptychoconfig.schema import SimulationConfig
from ptychodata.simulate import simulate

CASES = (
    {},
    {"object_kind": "lines-original"},
    {"object_kind": "random-field", "probe_kind": "zone-plate"},
    {"object_kind": "dead-leaves", "probe_kind": "gaussian", "probe_modes": 3},
    {"object_kind": "natural", "dead_pixels": 20, "saturation_counts": 5000},
    {"object_kind": "siemens-star", "position_error_px": 1.0, "background_counts": 0.1},
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every case and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n-patterns", type=int, default=10_000, help="patterns of each scan")
    count = parser.parse_args(arguments).n_patterns
    for case in CASES:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            print(json.dumps(pool.apply(_measured, ({**case, "n_patterns": count},))), flush=True)


def _measured(settings: dict[str, object]) -> dict[str, object]:
    started, cpu = time.perf_counter(), time.process_time()
    scan = simulate(SimulationConfig.model_validate(settings))
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {
        **settings,
        "N": scan.N,
        "seconds": round(seconds, 2),
        "cpu_s": round(cpu, 2),
        "patterns_per_s": round(len(scan) / seconds),
        "peak_gb": round(peak / 1e9, 2),
    }


if __name__ == "__main__":
    main()
