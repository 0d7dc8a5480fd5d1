"""The scale that a fresh network begins with, against closed forms."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptychoconfig.payloads import TrainingPayload, create_training_payload
from ptychoconfig.schema import SimulationConfig
from ptychodata import physics
from ptychodata.contracts import Scan
from ptychodata.simulate import simulate
from ptychodata.training.strength import USUAL, first_scale, known_strength, object_strength


@pytest.fixture(scope="module")
def scan() -> Scan:
    return simulate(SimulationConfig(N=32, n_patterns=20, overlap=0.7, probe_modes=2))


def payload(**flags: object) -> TrainingPayload:
    flags = {"architecture": "cnn", "gridsize": 1, **flags}
    return create_training_payload(N=32, flags=flags, environment={})


def even(scan: Scan, modulus: float, **more: object) -> Scan:
    """The patterns of an object of the same modulus everywhere, without noise."""
    rates = physics.forward(np.full((200, 200), modulus, complex), scan.probe, scan.positions_px)
    rates = rates.astype(np.float32)
    return replace(scan, diffraction=rates, truth=None, true_positions_px=None, **more)


def test_the_strength_of_an_even_object_is_its_modulus(scan: Scan) -> None:
    for modulus in (0.3, 1.0, 3.07):
        assert object_strength(even(scan, modulus)) == pytest.approx(modulus, rel=1e-4)


def test_it_is_the_root_of_photons_over_power(scan: Scan) -> None:
    power = np.sum(np.abs(scan.probe.astype(complex)) ** 2)
    expected = np.sqrt(scan.photons.mean() / power)
    assert object_strength(scan) == pytest.approx(expected, rel=1e-9)
    assert object_strength(replace(scan, probe_power="relative")) == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("shape", ["one for all", "one each"])
def test_neither_a_background_nor_what_a_mask_hides_changes_it(scan: Scan, shape: str) -> None:
    plain, rng = even(scan, 0.8), np.random.default_rng(0)
    background = rng.uniform(0, 1e-3 * plain.diffraction.max(), (32, 32)).astype(np.float32)
    mask = np.ones((32, 32), bool)
    mask[16:20, 14:18] = False  # at the middle, which has most photons
    if shape == "one each":
        mask = np.stack([mask] * len(scan))
    hidden = replace(
        plain, diffraction=plain.diffraction + background, background=background, mask=mask
    )
    assert hidden.mean_photons < 0.95 * plain.mean_photons
    # Fractions of a pixel move the beam, and leave the far field's intensity as it is.
    assert object_strength(hidden) == pytest.approx(0.8, rel=1e-3)


def test_a_stop_that_hides_the_whole_beam_makes_it_large_and_no_more(scan: Scan) -> None:
    wave = physics.intensity(physics.far_field(scan.photon_probe)[None])[0]
    stopped = replace(scan, mask=wave < 1e-4 * wave.max())
    assert object_strength(stopped) <= 10 * object_strength(scan)


def test_without_photons_it_is_one(scan: Scan) -> None:
    dark = replace(scan, diffraction=np.zeros_like(scan.diffraction))
    assert object_strength(dark) == 1
    background = np.full((32, 32), scan.photons.max(), np.float32)
    assert object_strength(replace(scan, background=background)) == 1


@given(factor=st.floats(1e-3, 1e3))
def test_a_factor_on_the_probe_divides_the_scale(scan: Scan, factor: float) -> None:
    other = scan.with_probe((scan.probe * np.float32(factor)).astype(np.complex64))
    both = [first_scale(scans, payload()) for scans in ([scan], [other])]
    assert np.log(both[1]) - np.log(both[0]) == pytest.approx(-np.log(factor), abs=1e-5)
    mean = first_scale([scan, other], payload())
    assert np.log(mean) == pytest.approx(np.mean(np.log(both)), abs=1e-9)


def test_a_sigmoid_is_left_room_and_an_amplitude_without_bound_needs_none(scan: Scan) -> None:
    strength = object_strength(scan)
    assert first_scale([scan], payload()) == strength / USUAL
    for name in ("swish", "softplus", "relu"):
        assert first_scale([scan], payload(amp_activation=name)) == pytest.approx(strength)
    assert first_scale([scan], payload(intensity_scale_trainable=False)) == 1


def test_of_a_known_object_it_is_the_strength_of_its_windows(scan: Scan) -> None:
    """A wrong probe's power says nothing of a known object."""
    supervised = payload(model_type="supervised")
    weak = scan.with_probe(scan.probe / np.float32(3))
    strong = replace(scan, truth=2 * np.ones_like(scan.truth))
    assert known_strength(strong) == pytest.approx(2, rel=1e-5)
    assert known_strength(scan) == pytest.approx(object_strength(scan), rel=0.05)
    scales = [first_scale([s], supervised) for s in (scan, weak)]
    assert scales[1] == pytest.approx(scales[0], rel=1e-5)
