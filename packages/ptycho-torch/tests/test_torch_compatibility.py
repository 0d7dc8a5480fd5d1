"""A bundle of the first format keeps loading, and gives the image that it always gave."""

from pathlib import Path

import numpy as np

from ptychoconfig.payloads import create_inference_payload
from ptychodata.bundle import read_bundle
from ptychodata.formats import read
from ptychotorch.inference import infer

FIXTURES = Path(__file__).parents[3] / "fixtures"


def test_the_first_bundle_makes_its_recorded_image():
    bundle, scan = read_bundle(FIXTURES / "bundles" / "format-1.zip"), read(FIXTURES / "hard.npz")
    payload = create_inference_payload(
        bundle_config=bundle.config,
        flags={
            "accelerator": "cpu",
            "precision": "32-true",
            "passes": bundle.config["model"]["unrolled_steps"],
        },
        environment={},
    )
    image = infer(bundle, scan, payload, lambda progress: None)
    with np.load(FIXTURES / "bundles" / "format-1.npz", allow_pickle=False) as recorded:
        expected = recorded["object"]
        np.testing.assert_allclose(image.origin_yx_px, recorded["origin_yx_px"])
    error = np.linalg.norm(image.obj[::8, ::8] - expected) / np.linalg.norm(expected)
    assert error < 1e-4
