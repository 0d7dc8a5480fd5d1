"""What the tests of this backend share, in a process without Torch."""

import sys

import pytest

from ptychoconfig.payloads import create_inference_payload, create_training_payload
from ptychoconfig.schema import SimulationConfig
from ptychodata.backends import LAST_CHECKPOINT
from ptychodata.simulate import simulate
from ptychotf._start import start_tensorflow

if "torch" in sys.modules:
    pytest.exit("expected a process without Torch; run: pytest packages/ptycho-tf", returncode=4)
start_tensorflow()

TINY = {
    "cnn": {"gridsize": 1, "n_filters_scale": 1},
    "unrolled": {"gridsize": 2, "unrolled_steps": 3, "unrolled_width": 8, "unrolled_levels": 1},
}


@pytest.fixture(scope="session")
def scan():
    """30 patterns of 32×32: 29 to train on in six batches, one held out."""
    return simulate(SimulationConfig(N=32, n_patterns=30, overlap=0.7, nphotons=1e8))


@pytest.fixture
def training_payload():
    """Build a payload for a small network, with any flag of `ptycho train`."""

    def build(**flags):
        network = flags.get("architecture", "cnn")
        common = {"architecture": network, "batch_size": 5, "epochs": 2, "precision": "32-true"}
        flags = common | TINY[network] | flags
        return create_training_payload(N=32, flags=flags, environment={})

    return build


@pytest.fixture
def inference_payload():
    """Build a payload for a bundle, with any flag of `ptycho infer`."""

    def build(bundle, **flags):
        flags = {"precision": "32-true", **flags}
        return create_inference_payload(bundle_config=bundle.config, flags=flags, environment={})

    return build


@pytest.fixture
def run(scan, training_payload, tmp_path):
    """Train in a folder of its own; stop after so many reports, or go on from a folder."""
    from ptychotf.training import train

    def go(name="run", *, scans=(scan,), stop_after=None, resume=None, seen=None, **flags):
        reports = [] if seen is None else seen
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        path = resume and tmp_path / resume / LAST_CHECKPOINT
        asked = lambda: stop_after is not None and len(reports) >= stop_after  # noqa: E731
        return train(scans, training_payload(**flags), folder, reports.append, asked, path)

    return go
