"""Processor time that drawing a scan of the corpus takes.

    OMP_NUM_THREADS=1 python benchmarks/corpus.py [--scans 300]

Prints JSON: for each N the scans drawn, their patterns on average, the median time; and the time of
one large object of each kind, made once for every 2000 scans and member.
"""

import argparse
import json
import time
from collections import defaultdict

import numpy as np

from ptychodata import corpus


def main() -> None:
    """Draw, and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scans", type=int, default=300)
    count = parser.parse_args().scans
    ranges, found = corpus.CorpusRanges(), defaultdict(list)
    for index in range(count):
        start = time.process_time()
        scan = corpus.draw_scan(index, 0, ranges)
        found[scan.N].append((len(scan), time.process_time() - start))
    report = {
        f"N={side}": {
            "scans": len(taken),
            "patterns": round(float(np.mean([number for number, _ in taken])), 1),
            "median_ms": round(1e3 * float(np.median([seconds for _, seconds in taken])), 1),
        }
        for side, taken in sorted(found.items())
    }
    for kind in ("dead-leaves", "lines", "random-field"):
        start = time.process_time()
        corpus._large.__wrapped__(kind, 0, 10**6, 0)
        report[kind] = {"large_object_s": round(time.process_time() - start, 2)}
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
