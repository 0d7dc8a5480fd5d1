"""Score a reconstruction of a scan against another one of the same scan.

    python benchmarks/score.py runs/star/recon/reconstruction.npz reference.npz

Both files hold `object`, `origin_yx_px` and `positions_px`, as `ptycho infer` writes them; the
positions tell how their coordinates differ.  Prints JSON: SSIM and other figures over the box of
the probe centres, after one global factor, a linear ramp and a sub-pixel shift.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from ptychodata.metrics import score


def main() -> None:
    """Read the two files and print the scores."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("reconstruction", type=Path)
    parser.add_argument("reference", type=Path)
    arguments = parser.parse_args()
    with np.load(arguments.reconstruction) as ours, np.load(arguments.reference) as theirs:
        positions = ours["positions_px"]
        offset = np.median(positions - theirs["positions_px"], axis=0)
        found = score(
            ours["object"],
            ours["origin_yx_px"],
            theirs["object"],
            positions,
            truth_origin_yx_px=theirs["origin_yx_px"] + offset,
        )
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
