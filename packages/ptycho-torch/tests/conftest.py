"""Small scans and payloads that the tests of this backend share."""

import numpy as np
import pytest

from ptychoconfig.payloads import (
    InferencePayload,
    TrainingPayload,
    create_inference_payload,
    create_training_payload,
)
from ptychoconfig.schema import NETWORKS_OF, SimulationConfig
from ptychodata.bundle import Bundle
from ptychodata.contracts import Scan
from ptychodata.simulate import simulate

SMALL = {"unrolled_steps": 2, "unrolled_width": 8, "unrolled_levels": 2, "gridsize": 2}


@pytest.fixture(scope="session")
def scan() -> Scan:
    """64 patterns of 32×32 from a known object."""
    return simulate(SimulationConfig(N=32, n_patterns=64, overlap=0.7, nphotons=1e8))


@pytest.fixture
def training_payload():
    """Build a payload for a small network, with any flag of `ptycho train` that it has."""

    def build(**flags: object) -> TrainingPayload:
        common = {"epochs": 2, "batch_size": 8, "precision": "32-true", **SMALL}
        network = flags.get("architecture", "unrolled")
        mine = {
            k: v for k, v in (common | flags).items() if network in NETWORKS_OF.get(k, [network])
        }
        return create_training_payload(N=32, flags=mine, environment={})

    return build


@pytest.fixture
def inference_payload():
    """Build a payload for a bundle, with any flag of `ptycho infer`."""

    def build(bundle: Bundle, **flags: object) -> InferencePayload:
        flags = {"precision": "32-true", **flags}
        return create_inference_payload(bundle_config=bundle.config, flags=flags, environment={})

    return build


@pytest.fixture
def rng() -> np.random.Generator:
    """A seeded generator of random numbers."""
    return np.random.default_rng(7)
