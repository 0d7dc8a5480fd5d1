r"""How far from the known objects of new scans of the corpus a network's images are.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive python benchmarks/unseen.py \
        [--bundle FILE] [--scans 30]

Scans of N = 64 that overlap, of a seed that no training has had.  Prints the mean logarithm of the
squared error that pretraining minimises (``ptychotorch.training.object_error``) after the last
pass, for the network and for the same passes without corrections, and their difference with its
standard error.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from ptychoconfig.schema import ModelConfig
from ptychodata.bundle import read_bundle
from ptychodata.contracts import Scan
from ptychodata.corpus import CorpusRanges, draw_scan
from ptychodata.grouping import redundancy
from ptychodata.pretrained import PRETRAINED
from ptychodata.unrolled import LEAST_ERROR
from ptychotorch import physics
from ptychotorch.merging import canvases
from ptychotorch.networks import Network, build_network
from ptychotorch.pretraining import known_batch
from ptychotorch.training import object_error
from ptychotorch.weights import from_arrays

SEED = 991
RANGES = CorpusRanges(N={64: 1.0}, single_shot=0.0)


def main() -> None:
    """Compare the network with its untrained passes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, default=PRETRAINED)
    parser.add_argument("--scans", type=int, default=30)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    bundle = read_bundle(arguments.bundle)
    model = ModelConfig.model_validate(bundle.config["model"])
    trained, untrained = build_network(model), build_network(model)  # a new head corrects nothing
    from_arrays(trained, dict(bundle.weights))
    scans = (draw_scan(index, SEED, RANGES) for index in range(arguments.scans))
    found = np.array([[error(each, scan) for each in (trained, untrained)] for scan in scans])
    gained = found[:, 0] - found[:, 1]
    spread = gained.std(ddof=1) / np.sqrt(len(gained))
    print(f"network {found[:, 0].mean():.3f}, untrained {found[:, 1].mean():.3f}")
    print(f"difference {gained.mean():.3f} ± {spread:.3f}, {len(gained)} scans")


@torch.inference_mode()
def error(network: Network, scan: Scan) -> float:
    """Logarithm of the squared error after the last pass."""
    batch, known = known_batch(scan, np.arange(len(scan)), alone=False)
    shifted = physics.shift_probe(torch.from_numpy(scan.photon_probe), batch.fraction)
    overlap, rng = redundancy(scan.photon_probe, scan.positions_px), np.random.default_rng(0)
    *_, (state, sums) = canvases(network, shifted, batch, overlap, rng=rng)
    return float(torch.log(object_error(state.obj, known, sums.weight) + LEAST_ERROR))


if __name__ == "__main__":
    main()
