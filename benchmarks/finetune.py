"""What training the pretrained network on a scan, without its known object, makes of its image.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive python benchmarks/finetune.py [--max-time 5min]
        [--star SCAN.npz IMAGE.npz REFERENCE.npz] [--seeds 1]

The scans of `benchmarks/pretrained.py` with patterns of 64 x 64 pixels, and the star: amplitude and
phase SSIM before and after.  Prints a line for each.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from pretrained import SCANS, scores, timed

import ptychotorch
from ptychoconfig.schema import SimulationConfig
from ptychodata.bundle import read_bundle
from ptychodata.contracts import Scan
from ptychodata.formats import read
from ptychodata.pretrained import PRETRAINED
from ptychodata.simulate import simulate


def main() -> None:
    """All scans, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--max-time", default="5min", help="Of each training.")
    parser.add_argument("--star", type=Path, nargs=3, metavar=("SCAN", "IMAGE", "REFERENCE"))
    parser.add_argument("--seeds", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name, settings in SCANS.items():
        if "N" in settings or "single shots" in name:
            continue
        for seed in range(9001, 9001 + arguments.seeds):
            given = {"positions_kind": "random", "seed": seed, **settings}
            scan = simulate(SimulationConfig.model_validate(given))
            tell(name, scan, None, arguments.max_time)
    if arguments.star:
        scan_file, image, reference = arguments.star
        with np.load(image) as solved:
            scan = read(scan_file).with_probe(solved["probe"])
        tell("star", scan, reference, arguments.max_time)


def tell(name: str, scan: Scan, reference: Path | None, limit: str) -> None:
    """One line."""
    before = scores(timed(read_bundle(PRETRAINED), scan)[0], scan, reference)
    bundle = ptychotorch.train(scan, start="pretrained", max_time=limit, precision="32-true")
    after = scores(timed(bundle, scan)[0], scan, reference)
    steps = len(bundle.history.get("train_loss", ()))
    print(
        f"{name:24} {before[0]:.3f}/{before[1]:.3f} -> {after[0]:.3f}/{after[1]:.3f} "
        f"({steps} epochs)",
        flush=True,
    )


if __name__ == "__main__":
    main()
