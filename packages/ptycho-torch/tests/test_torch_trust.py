"""What speaks for the image of a real network, and that it is denied to one that does not see."""

from dataclasses import replace

import numpy as np
import pytest

from ptychoconfig.payloads import create_training_payload
from ptychoconfig.schema import SimulationConfig
from ptychodata.contracts import Solution
from ptychodata.residuals import solution_misfit
from ptychodata.simulate import simulate
from ptychodata.trust import split_half
from ptychotorch.inference import infer
from ptychotorch.training import train

FLAGS = {
    "unrolled": {"unrolled_steps": 2, "unrolled_width": 8, "unrolled_levels": 2, "epochs": 8},
    "cnn": {"n_filters_scale": 1, "epochs": 1, "n_groups": 8},
}


@pytest.fixture(scope="module")
def scan():
    return simulate(SimulationConfig(N=32, n_patterns=196, overlap=0.75, nphotons=1e7))


@pytest.fixture(scope="module")
def bundle_of(scan, tmp_path_factory):
    def make(network):
        flags = {"architecture": network, "precision": "32-true", "preview_every": 0}
        payload = create_training_payload(N=32, flags=flags | FLAGS[network], environment={})
        part = scan.subset(np.arange(64))
        return train([part], payload, tmp_path_factory.mktemp(network), lambda _: None)

    return make


@pytest.fixture(scope="module")
def seeing(bundle_of):
    return bundle_of("unrolled")


def test_halves_of_a_network_that_sees_agree_and_of_a_collapsed_one_do_not(
    seeing, bundle_of, scan, inference_payload
):
    """Collapsed: without weights `cnn` gives the same patch for every pattern."""
    cnn = bundle_of("cnn")
    blind = replace(cnn, weights={name: np.zeros_like(w) for name, w in cnn.weights.items()})
    found = {}
    for name, bundle in (("seeing", seeing), ("blind", blind)):
        payload = inference_payload(bundle)
        found[name] = split_half(scan, lambda half, b=bundle, p=payload: infer(b, half, p, _silent))
    assert found["seeing"].resolution_px < 6
    assert np.isnan(found["blind"].resolution_px) and np.isnan(found["blind"].one_seventh_px)


def test_shuffled_patterns_raise_every_residual(seeing, scan, inference_payload):
    order = np.random.default_rng(0).permutation(len(scan))
    shuffled = replace(scan, diffraction=np.asarray(scan.diffraction)[order])
    held = np.array([60, 90, 120])
    kept = np.setdiff1d(np.arange(len(scan)), held)
    found = []
    for patterns in (scan, shuffled):
        image = infer(seeing, patterns.subset(kept), inference_payload(seeing), _silent)
        image = replace(image, positions_px=scan.positions_px)
        found.append(solution_misfit(Solution(image, held_out=held), patterns).residuals)
    for name in ("r_factor", "r_free", "deviance_ratio", "free_deviance_ratio"):
        assert found[1][name] > 1.5 * found[0][name], name
    assert found[0]["r_free"] < 1.5 * found[0]["r_factor"]


def _silent(progress):
    """Say nothing."""
