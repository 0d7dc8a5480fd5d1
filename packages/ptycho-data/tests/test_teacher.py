"""The teacher of ``distilled`` training: the network's own passes, uncorrected, and many more."""

import numpy as np
import pytest

from ptychoconfig.errors import ConfigError
from ptychoconfig.schema import SimulationConfig
from ptychodata import physics
from ptychodata.bundle import read_bundle
from ptychodata.contracts import Reconstruction
from ptychodata.pretrained import PRETRAINED
from ptychodata.simulate import simulate
from ptychodata.stitching import plan_canvas
from ptychodata.training.labels import check_labels, known_windows
from ptychodata.training.plan import plan_training
from ptychodata.training.teacher import PASSES, taught


@pytest.fixture(scope="module")
def scan():
    return simulate(SimulationConfig(N=32, n_patterns=60, overlap=0.7))


def test_the_known_object_is_what_uncorrected_passes_make_where_the_patterns_are(scan):
    start, seen = read_bundle(PRETRAINED), []

    def infer(bundle, given, payload, report):
        seen.append((bundle, payload))
        (height, width), origin = plan_canvas(given.positions_px, given.N)
        y, x = origin
        image = given.truth[y : y + height, x : x + width]
        light = np.ones(image.shape, np.float32)
        return Reconstruction(image, light, origin.astype(float), given.positions_px, given.probe)

    payload = plan_training([scan], flags={}, start=start)
    (made,) = taught(infer, [scan], payload, start, lambda progress: None)
    bundle, asked = seen[0]
    assert asked.applied_model.unrolled_steps == PASSES > 2 * payload.model.unrolled_steps
    heads = [name for name in start.weights if "/head/" in name]
    assert heads and all(not bundle.weights[name].any() for name in heads)
    others = start.weights.keys() - heads
    assert all(bundle.weights[name] is start.weights[name] for name in others)
    check_labels(made)
    index = np.arange(len(scan))
    np.testing.assert_array_equal(known_windows(made, index), known_windows(scan, index))
    pixel, fraction = physics.split_positions(made.positions_px)
    np.testing.assert_allclose(fraction, physics.split_positions(scan.positions_px)[1], atol=1e-9)
    assert (pixel - scan.N // 2).min() >= 0


def test_a_start_teaches_itself_in_groups_that_the_scan_can_fill(scan):
    start = read_bundle(PRETRAINED)
    payload = plan_training([scan], flags={"val_fraction": 0.1}, start=start)
    training = payload.training
    assert (training.model_type, payload.model.gridsize) == ("distilled", 7)  # 54 patterns are kept
    assert (training.neighbor_count, training.n_groups, training.batch_size) == (48, 50, 1)
    assert (training.scheduler, training.ema_decay) == ("constant", 0.98)
    patterns = plan_training([scan], flags={"model_type": "pinn"}, start=start)
    assert (patterns.model.gridsize, patterns.training.n_groups) == (3, None)
    assert plan_training([scan], flags={}).training.model_type == "pinn"
    learned = plan_training([scan], flags={"probe_trainable": True}, start=start)
    assert learned.training.model_type == "pinn"


@pytest.mark.parametrize("more", [{}, {"architecture": "cnn"}])
def test_nothing_can_teach_where_there_is_no_start(scan, more):
    with pytest.raises(ConfigError, match=r"--model-type distilled: expected.*--from"):
        plan_training([scan], flags={"model_type": "distilled", **more})
