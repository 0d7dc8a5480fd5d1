"""Probes of the simulation: widths, phases and modes have closed forms."""

import numpy as np
import pytest

from ptychoconfig.errors import ConfigError
from ptychoconfig.schema import SimulationConfig
from ptychodata import physics
from ptychodata.beams import (
    ABERRATIONS,
    _zernike,
    aberrated,
    coherent_beam,
    incoherent_modes,
    make_probe,
    schell_modes,
)

RNG = np.random.default_rng(0)


def beam(kind: str, diameter: float = 28.0, **settings) -> np.ndarray:
    return coherent_beam(SimulationConfig(probe_kind=kind, **settings), diameter)


def powers(modes: np.ndarray) -> np.ndarray:
    return np.sum(np.abs(modes) ** 2, axis=(1, 2))


def assert_orthogonal(modes: np.ndarray) -> None:
    flat = modes.reshape(len(modes), -1)
    gram = flat.conj() @ flat.T
    off = gram - np.diag(np.diag(gram))
    assert np.abs(off).max() < 1e-9 * np.abs(gram).max()


def test_the_original_s_disk_follows_its_recipe():
    """About 22 px across at N = 64 and 44 at 128, symmetric about (N − 1) / 2."""
    for side, across in ((64, 22), (128, 44)):
        probe, diameter = make_probe(SimulationConfig(probe_kind="disk-original", N=side), RNG)
        assert diameter == pytest.approx(across, abs=0.5)
        line = np.abs(probe[0][side // 2])
        assert np.sum(line > 0.5) == across
        np.testing.assert_allclose(probe[0], probe[0][::-1, ::-1], atol=1e-12)
        assert np.abs(probe[0]).min() == pytest.approx(1e-9)


def test_a_disk_may_be_curved_and_is_flat_by_default():
    assert not np.angle(beam("disk")).any()
    curved = beam("disk", defocus_rad=3.0)
    assert np.angle(curved[32, 46] / curved[32, 32]) == pytest.approx(3.0)
    np.testing.assert_allclose(np.abs(curved), np.abs(beam("disk")))


def test_a_zone_plate_has_an_annular_pupil_of_the_size_that_the_diameter_implies():
    pupil = np.abs(physics.far_field(beam("zone-plate", central_stop=0.5, defocus_rad=8.0)))
    rim = (1.22 + 16 / np.pi) / 28 * 64
    radius = np.hypot(*(np.indices((64, 64)) - 32))
    bright = pupil > 0.5 * pupil.max()
    assert radius[bright].max() == pytest.approx(rim, abs=1)
    assert radius[bright].min() == pytest.approx(rim / 2, abs=1)
    assert bright.sum() == pytest.approx(0.75 * np.pi * rim**2, rel=0.03)


def test_a_zone_plate_in_focus_has_its_first_dark_ring_at_the_diameter():
    focus = np.abs(beam("zone-plate", central_stop=0.0, defocus_rad=0.0))[32, 32:]
    assert np.argmin(focus[:20]) == pytest.approx(14, abs=1)  # Airy: 0.61 / k₀ = diameter / 2


def test_a_zone_plate_out_of_focus_is_a_donut():
    """Rays from the stop's edge and the rim meet the sample at 7.3 and 18.2 px."""
    power = np.abs(beam("zone-plate", 40.0, defocus_rad=20.0, N=96)) ** 2
    radius = np.hypot(*(np.indices((96, 96)) - 48))
    hole, ring, far = (
        power[(radius > a) & (radius < b)].mean() for a, b in ((2, 6), (8, 17), (22, 48))
    )
    assert hole < 0.3 * ring > 10 * far  # the spot in the middle, Arago's, is left out


def test_a_pupil_larger_than_the_detector_is_refused():
    with pytest.raises(ConfigError, match="--defocus-rad 30: expected a pupil of at most"):
        make_probe(SimulationConfig(probe_kind="zone-plate", defocus_rad=30.0), RNG)


@pytest.mark.parametrize("kind", ["disk", "gaussian", "zone-plate"])
def test_modes_are_orthogonal_and_fall_as_stated(kind):
    modes, _ = make_probe(
        SimulationConfig(probe_kind=kind, probe_modes=6, probe_mode_decay=0.4), RNG
    )
    assert_orthogonal(modes)
    np.testing.assert_allclose(powers(modes)[1:] / powers(modes)[:-1], 0.4)
    assert powers(modes).sum() == pytest.approx(1)
    first = beam(kind, 0.44 * 64)
    np.testing.assert_allclose(modes[0] / modes[0, 32, 32], first / first[32, 32], atol=1e-9)


def test_a_wider_beam_than_the_window_still_has_as_many_modes():
    assert incoherent_modes(np.ones((32, 32)), 64, 1.0, 32.0).shape == (64, 32, 32)


def test_schell_modes_make_the_coherence_that_they_are_named_for():
    first = beam("gaussian", 12.0, N=32)
    modes = schell_modes(first, 6.0, 100)
    assert_orthogonal(modes)
    assert (np.diff(powers(modes)) <= 1e-12).all()
    y, x = np.indices((32, 32)).reshape(2, -1)
    distance = (y[:, None] - y) ** 2 + (x[:, None] - x) ** 2
    expected = first.reshape(-1, 1) * first.reshape(-1).conj() * np.exp(-distance / 72)
    flat = modes.reshape(len(modes), -1)
    np.testing.assert_allclose(flat.T @ flat.conj(), expected, atol=1e-4)


def test_the_longer_the_coherence_the_more_the_first_mode_holds():
    first = beam("gaussian", 14.0)
    share = [powers(m := schell_modes(first, xi, 20))[0] / powers(m).sum() for xi in (4, 16, 1e4)]
    assert share[0] < 0.5 < share[1] < share[2]
    assert share[2] == pytest.approx(1, abs=1e-3)


def test_zernike_polynomials_are_orthonormal_over_the_pupil():
    y, x = (np.indices((257, 257)) - 128) / 128
    rho, theta = np.hypot(y, x), np.arctan2(y, x)
    inside = rho <= 1
    terms = np.stack([_zernike(n, m, rho, theta)[inside] for _, n, m in ABERRATIONS])
    np.testing.assert_allclose(terms @ terms.T / inside.sum(), np.eye(len(terms)), atol=0.02)


def test_aberrations_turn_the_phase_of_the_far_field_and_keep_its_power():
    modes = beam("zone-plate", central_stop=0.3, defocus_rad=4.0)[None]
    coefficients = np.zeros(len(ABERRATIONS))
    coefficients[0] = 0.5  # of defocus: √3 (2ρ² − 1)
    before, after = (
        physics.far_field(modes)[0],
        physics.far_field(aberrated(modes, coefficients))[0],
    )
    np.testing.assert_allclose(np.abs(after), np.abs(before), atol=1e-9 * np.abs(before).max())
    bright = np.abs(before) > 0.5 * np.abs(before).max()
    phase = np.unwrap(np.sort(np.angle(after[bright] / before[bright])))
    assert phase.std() == pytest.approx(0.5, rel=0.25)
    settings = {"probe_kind": "zone-plate", "aberration_rad": 0.5}
    first, again, other = (
        make_probe(SimulationConfig(**settings), np.random.default_rng(seed))[0]
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.01 * np.abs(first).max()
