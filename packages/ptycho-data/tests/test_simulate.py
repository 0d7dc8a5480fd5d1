"""Simulated scans: what they hold is what the forward model says of their truth."""

import time
from dataclasses import replace

import numpy as np
import pytest

from ptychoconfig.errors import DataError
from ptychoconfig.schema import SimulationConfig
from ptychodata import physics
from ptychodata import simulate as module
from ptychodata.formats import write
from ptychodata.simulate import lines_object, natural_object, phantom_object, scan_of, simulate

SMALL = {"N": 32, "n_patterns": 30, "nphotons": 1e5}
KINDS = ("raster", "jittered", "random", "spiral")


def small(**changes) -> SimulationConfig:
    return SimulationConfig(**{**SMALL, **changes})


def test_expectations_are_those_of_the_forward_model():
    scan = simulate(small(noise=False))
    rate = physics.forward(scan.truth, scan.photon_probe, scan.positions_px)
    np.testing.assert_allclose(scan.counts(), rate, rtol=1e-4, atol=1e-5 * rate.max())
    assert scan.diffraction.dtype == np.float32
    assert scan.mean_photons == pytest.approx(1e5, rel=1e-5)


@pytest.mark.parametrize("kind", ["lines", "natural", "phantom"])
@pytest.mark.parametrize("nphotons", [1e2, 1e6, 1e9])
def test_mean_photons_are_those_asked_for(kind, nphotons):
    scan = simulate(small(object_kind=kind, nphotons=nphotons))
    expected = 5 / np.sqrt(30 * nphotons)
    assert scan.mean_photons == pytest.approx(nphotons, rel=expected)
    assert scan.probe_power == "absolute" and scan.domain == "counts"
    assert scan.diffraction.dtype == np.uint32
    assert np.abs(scan.truth).max() <= 1 + 1e-6


def test_noise_is_that_of_photons():
    drawn, rate = simulate(small(nphotons=1e4)), simulate(small(nphotons=1e4, noise=False))
    error = (drawn.counts().astype(float) - rate.counts()) ** 2
    assert error.sum() / rate.counts().sum() == pytest.approx(1, abs=0.05)


def test_counts_beyond_32_bits_are_stored_as_floats():
    scan = simulate(small(nphotons=1e12, n_patterns=4))
    assert scan.diffraction.dtype == np.float32
    assert scan.mean_photons == pytest.approx(1e12, rel=1e-5)


def test_one_seed_gives_one_scan():
    first, second, other = simulate(small()), simulate(small()), simulate(small(seed=2))
    np.testing.assert_array_equal(first.diffraction, second.diffraction)
    np.testing.assert_array_equal(first.truth, second.truth)
    assert other.truth.shape != first.truth.shape or (other.truth != first.truth).any()


def test_object_positions_and_noise_draw_from_streams_of_their_own():
    first, brighter = simulate(small()), simulate(small(nphotons=1e6))
    np.testing.assert_array_equal(first.truth, brighter.truth)
    np.testing.assert_array_equal(first.positions_px, brighter.positions_px)
    other = simulate(small(object_kind="natural"))
    np.testing.assert_array_equal(first.positions_px, other.positions_px)


@pytest.mark.parametrize("kind", KINDS)
def test_windows_lie_inside_an_object_that_is_no_larger(kind):
    scan = simulate(small(positions_kind=kind, n_patterns=37))
    corner = physics.split_positions(scan.positions_px)[0] - 16
    assert corner.min(axis=0).tolist() == [0, 0]
    assert tuple(corner.max(axis=0) + 32) == scan.truth.shape


@pytest.mark.parametrize("kind", KINDS)
def test_positions_lie_one_step_apart_on_average(kind):
    """Overlap 0.7 of a probe of 20 px is a step of 6 px: 36 px² for each pattern."""
    scan = simulate(
        small(positions_kind=kind, n_patterns=400, probe_diameter_px=20, overlap=0.7, noise=False)
    )
    span = np.ptp(scan.positions_px, axis=0)
    area = np.prod(span) * (np.pi / 4 if kind == "spiral" else 1)
    assert area / 400 == pytest.approx(36, rel=0.15)
    if kind == "raster":
        np.testing.assert_allclose(np.diff(scan.positions_px[:20], axis=0)[:, 1], 6)
    if kind != "raster":
        _, fraction = physics.split_positions(scan.positions_px)
        assert np.abs(fraction).std() > 0.1


def test_disk_probe_is_even_and_as_wide_as_asked_for():
    probe = np.abs(simulate(small(N=64, probe_diameter_px=24)).photon_probe[0])
    line = probe[32] / probe.max()
    assert (line[24:41] > 0.97).all() and (line[:18] < 0.01).all()
    assert abs(np.sum(line > 0.5) - 24) <= 1


def test_gaussian_probe_has_its_defocus_at_its_edge():
    probe = simulate(small(N=64, probe_kind="gaussian", probe_diameter_px=20, defocus_rad=2))
    field = probe.photon_probe[0]
    edge = field[32, 42] / field[32, 32]
    assert np.abs(edge) == pytest.approx(np.exp(-1), rel=1e-3)
    assert np.angle(edge) == pytest.approx(2, rel=1e-3)


def test_probe_is_taken_from_a_scan_file(tmp_path):
    source = simulate(small(probe_kind="gaussian", nphotons=1e4))
    two = np.concatenate([source.probe, 0.3j * np.roll(source.probe, 2, axis=1)])
    write(replace(source, probe=two), tmp_path / "source.npz")
    scan = simulate(small(probe_file=str(tmp_path / "source.npz")))
    assert scan.mean_photons == pytest.approx(1e5, rel=0.01)
    overlap = np.vdot(scan.probe, two) / np.linalg.norm(scan.probe) / np.linalg.norm(two)
    assert abs(overlap) == pytest.approx(1, abs=1e-5)


def test_probe_file_of_another_size_is_refused(tmp_path):
    write(simulate(small()), tmp_path / "source.npz")
    with pytest.raises(DataError, match=r"64×64 pixels \(--N\), found one of 32×32"):
        simulate(small(N=64, probe_file=str(tmp_path / "source.npz")))


def test_absurd_object_is_refused_before_it_is_made():
    with pytest.raises(DataError, match="expected an object of at most"):
        simulate(small(n_patterns=10, probe_diameter_px=1e6, overlap=0))


def test_lines_follow_their_recipe():
    obj = lines_object((200, 190), np.random.default_rng(0))
    amplitude = np.abs(obj)
    whole = np.abs(lines_object((200, 200), np.random.default_rng(0)))
    assert whole.max() == pytest.approx(1) and amplitude.max() <= 1
    phase = np.pi * np.tanh((whole - 0.5) / (3 * whole.mean()))
    np.testing.assert_allclose(np.angle(obj), phase[:, 5:195], atol=1e-9)


@pytest.mark.parametrize("shape", [(100, 130), (700, 650)])
def test_natural_objects_are_weak_phase_objects(shape):
    obj = natural_object(shape, np.random.default_rng(3))
    amplitude, phase = np.abs(obj), np.angle(obj)
    assert obj.shape == shape
    assert amplitude.min() >= 0.8 - 1e-9 and amplitude.max() <= 1 + 1e-9
    assert phase.min() == pytest.approx(-1) and phase.max() == pytest.approx(1)
    assert abs(np.corrcoef(amplitude.ravel(), phase.ravel())[0, 1]) < 0.7


def test_images_kept_for_evaluation_are_not_trained_on():
    stems = {name.split(".")[0] for name in module.NATURAL_IMAGES}
    assert not stems & {"camera", "coins", "moon"}
    for name in module.NATURAL_IMAGES:
        image = module._packaged_image(name)
        assert image.ndim == 2 and 0 <= image.min() < image.max() <= 1


def test_phantom_absorbs_and_retards():
    obj = phantom_object((90, 80), np.random.default_rng(0))
    assert np.abs(obj).min() == pytest.approx(np.exp(-0.3), abs=0.02)
    assert np.angle(obj).min() == pytest.approx(-1, abs=0.05)
    np.testing.assert_allclose(np.log(np.abs(obj)) / 0.3, np.angle(obj), atol=1e-9)


def test_probe_of_any_unit_and_several_modes_is_scaled():
    rng = np.random.default_rng(0)
    probe = (rng.normal(size=(2, 32, 32)) * 1e-7).astype(np.complex64)
    positions = rng.uniform(17, 40, size=(12, 2))
    scan = scan_of(np.ones((60, 60), np.complex64), probe, positions, 3e4, None)
    assert np.sum(np.abs(scan.probe) ** 2) == pytest.approx(3e4, rel=1e-5)
    assert scan.mean_photons == pytest.approx(3e4, rel=1e-5)


@pytest.mark.slow
def test_ten_thousand_patterns_take_seconds():
    started = time.monotonic()
    scan = simulate(SimulationConfig(N=64, n_patterns=10_000))
    assert len(scan) == 10_000
    assert time.monotonic() - started < 20
