"""``train``, ``infer`` and ``reconstruct`` from Python, without the command."""

import subprocess
import sys

import numpy as np
import pytest

import ptychotorch
from ptychoconfig.errors import BundleError, ConfigError, DataError
from ptychodata import Bundle, Reconstruction, Solution, simulate_scan, write_bundle

SMALL = {"unrolled_steps": 2, "unrolled_width": 8, "unrolled_levels": 1, "gridsize": 2}


@pytest.fixture(scope="module")
def scan():
    return simulate_scan(N=32, n_patterns=49, nphotons=1e6, overlap=0.7, seed=3)


@pytest.fixture(scope="module")
def bundle(scan):
    return ptychotorch.train(scan, epochs=2, probe="file", accelerator="cpu", **SMALL)


def test_importing_costs_nothing():
    code = "import sys, ptychotorch; assert not {'torch', 'lightning', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_is_trained_is_a_bundle_of_the_settings(bundle, scan):
    assert isinstance(bundle, Bundle)
    assert bundle.config["model"]["unrolled_width"] == 8
    assert bundle.config["model"]["N"] == 32
    assert len(bundle.history["train_loss"]) == 2


def test_a_bundle_makes_an_image_from_memory_and_from_a_file(bundle, scan, tmp_path):
    image = ptychotorch.infer(scan, bundle, accelerator="cpu", probe="file")
    assert isinstance(image, Reconstruction)
    write_bundle(bundle, tmp_path / "wts.h5.zip")
    again = ptychotorch.infer(scan, tmp_path, accelerator="cpu", probe="file")
    np.testing.assert_array_equal(image.obj, again.obj)


def test_without_a_bundle_the_pretrained_network_serves(scan):
    image = ptychotorch.infer(scan, accelerator="cpu")
    refined = ptychotorch.infer(scan, accelerator="cpu", refine=2)
    assert np.isfinite(image.obj).all() and np.isfinite(refined.obj).all()
    assert not np.array_equal(image.obj[:40, :40], refined.obj[:40, :40])


def test_a_bundle_goes_on_learning_what_more_passes_come_to():
    hard = simulate_scan(
        N=32, n_patterns=64, overlap=0.55, object_kind="natural", probe_kind="zone-plate", seed=3
    )
    given = {"probe": "file", "accelerator": "cpu"}
    deep = SMALL | {"unrolled_steps": 4}
    start = ptychotorch.train(hard, epochs=1, n_groups=6, **given, **deep)
    tuned = ptychotorch.train(hard, start=start, epochs=4, n_groups=15, learning_rate=2e-3, **given)
    assert tuned.config["training"]["model_type"] == "distilled"
    losses = tuned.history["val_loss"]
    assert losses[-1] < losses[0] - 0.2  # of the logarithm of the squared error


def test_the_solver_goes_on_from_an_image(scan):
    told = []
    first = ptychotorch.reconstruct(scan, epochs=2, accelerator="cpu", report=told.append)
    assert isinstance(first, Solution)
    assert len(told) == 2
    further = ptychotorch.reconstruct(scan, first, epochs=4, accelerator="cpu")
    assert (first.epochs, further.epochs, len(further.history["r_factor"])) == (2, 4, 4)
    ptychotorch.reconstruct(scan, first.reconstruction, epochs=1, accelerator="cpu")


def test_a_training_stops_when_asked_and_goes_on_from_its_folder(scan, tmp_path):
    told = []
    settings = {**SMALL, "epochs": 3, "probe": "file", "accelerator": "cpu"}
    halted = ptychotorch.train(
        scan, run_dir=tmp_path, report=told.append, should_stop=lambda: len(told) > 2, **settings
    )
    assert len(halted.history["train_loss"]) < 3
    last = tmp_path / "checkpoints" / "last.ckpt"
    whole = ptychotorch.train(scan, run_dir=tmp_path, resume=last, **settings)
    assert len(whole.history["train_loss"]) == 3


def test_a_training_leaves_no_file(scan, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ptychotorch.train(scan, epochs=1, n_groups=6, probe="file", accelerator="cpu", **SMALL)
    assert not list(tmp_path.iterdir())


def test_missing_torch_is_told_with_the_remedy():
    code = """
import sys
sys.modules["torch"] = None
from ptychoconfig.errors import BackendError
from ptychodata.backends import load_backend
try:
    load_backend("torch").networks()
except BackendError as error:
    assert "pip install 'ptycho-cli[torch]'" in str(error), error
else:
    raise AssertionError("it found Torch")
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_mistakes_are_told_as_by_the_command(scan, tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'epochs'"):
        ptychotorch.train(scan, epoch=3)
    with pytest.raises(ConfigError, match="--epochs: expected an integer ≥ 1"):
        ptychotorch.train(scan, epochs=0)
    with pytest.raises(BundleError, match="found none"):
        ptychotorch.infer(scan, tmp_path)
    with pytest.raises(DataError, match="expected a probe"):
        ptychotorch.train(scan.with_probe(None), probe="file", epochs=1)
    with pytest.raises(AttributeError, match="nothing"):
        _ = ptychotorch.nothing
