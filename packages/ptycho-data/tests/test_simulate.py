"""Simulated scans: what they hold is what the forward model says of their truth."""

import time
from dataclasses import replace

import numpy as np
import pytest

from ptychoconfig.errors import DataError
from ptychoconfig.schema import SimulationConfig
from ptychodata import physics
from ptychodata.formats import read, write
from ptychodata.objects import (
    HELD_OUT_IMAGES,
    NATURAL_IMAGES,
    OBJECTS,
    dead_leaves_object,
    lines_object,
    natural_object,
    phantom_object,
    random_field_object,
    siemens_star_object,
)
from ptychodata.simulate import scan_of, scan_positions, simulate
from ptychodata.stitching import plan_canvas

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


@pytest.mark.parametrize("kind", [kind for kind in OBJECTS if kind != "lines-original"])
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
    stems = {name.split(".")[0] for name in NATURAL_IMAGES}
    assert not stems & {"camera", "coins", "moon"}
    assert {name.split(".")[0] for name in HELD_OUT_IMAGES} == {"camera", "coins", "moon"}


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


def test_a_probe_of_a_file_can_be_propagated(tmp_path):
    write(simulate(small(probe_kind="gaussian")), tmp_path / "source.npz")
    file = {"probe_file": str(tmp_path / "source.npz"), "noise": False}
    flat, bent = (simulate(small(**file, defocus_rad=phi)).probe[0] for phi in (0, 5))
    change = physics.far_field(bent) / physics.far_field(flat)
    assert np.angle(change[16, 24] / change[16, 16]) == pytest.approx(5 / 4, abs=1e-3)


def test_the_original_s_protocol_is_one_word():
    """83² positions every 4 px on an object of 392² without phase, and its statistics."""
    config = SimulationConfig(object_kind="lines-original")
    assert (config.n_patterns, config.step_px, config.nphotons) == (6889, 4, 1e9)
    assert (config.positions_kind, config.probe_kind) == ("raster", "disk-original")
    scan = simulate(SimulationConfig(object_kind="lines-original", n_patterns=100, step_px=10))
    assert scan.truth.shape == (392, 392)
    assert not np.angle(scan.truth).any()
    amplitude = np.abs(scan.truth)
    assert amplitude.mean() == pytest.approx(2.75, abs=0.2)
    assert amplitude.std() == pytest.approx(0.69, abs=0.1)
    assert 0.3 < amplitude.min() < 1 and 4.5 < amplitude.max() < 5.5
    assert scan.positions_px[0].tolist() == [32, 32]
    assert scan.positions_px[1].tolist() == [32, 42]
    assert scan.mean_photons == pytest.approx(1e9, rel=1e-4)


def test_a_raster_of_the_protocol_just_covers_its_object():
    config = SimulationConfig(object_kind="lines-original")
    positions = scan_positions(
        config.positions_kind, config.n_patterns, 4.0, np.random.default_rng(0)
    )
    shape, _ = plan_canvas(positions, 64)
    assert shape == (392, 392)


@pytest.mark.parametrize("kind", OBJECTS)
@pytest.mark.parametrize("shape", [(40, 33), (150, 210)])
def test_objects_have_the_shape_and_are_a_function_of_the_generator(kind, shape):
    first, again, other = (OBJECTS[kind](shape, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first.shape == ((392, 392) if kind == "lines-original" else shape)
    np.testing.assert_array_equal(first, again)
    assert kind == "phantom" or (first != other).any()
    if kind != "lines-original":
        assert np.abs(first).max() <= 1 + 1e-9


def test_random_fields_are_rough_at_every_scale():
    """Phase and amplitude are unrelated, and their spectrum falls as k⁻³ above the corner."""
    obj = random_field_object((512, 512), np.random.default_rng(0))
    field = np.arctanh(np.angle(obj))
    assert field.std() == pytest.approx(1, abs=0.05)
    other = np.arctanh(np.clip((np.abs(obj) - 0.8) / 0.2, -1 + 1e-12, 1 - 1e-12))
    assert abs(np.corrcoef(field.ravel(), other.ravel())[0, 1]) < 0.1
    power = np.abs(np.fft.fft2(field * np.outer(np.hanning(512), np.hanning(512)))) ** 2
    k = np.hypot(np.fft.fftfreq(512)[:, None], np.fft.fftfreq(512))
    low, high = (power[(k > c / 1.1) & (k < c * 1.1)].mean() for c in (0.1, 0.4))
    assert np.log(low / high) / np.log(4) == pytest.approx(3, abs=0.2)


def test_a_siemens_star_has_36_spokes():
    obj = siemens_star_object((300, 260), np.random.default_rng(0))
    angle = np.linspace(0, 2 * np.pi, 4000)
    y, x = (np.rint(c + 80 * f(angle)).astype(int) for c, f in ((149.5, np.sin), (129.5, np.cos)))
    on = np.angle(obj[y, x]) < -0.5
    assert np.sum(np.diff(on.astype(int)) == 1) == pytest.approx(36, abs=1)
    assert on.mean() == pytest.approx(0.5, abs=0.03)
    assert obj[0, 0] == 1
    np.testing.assert_allclose(np.log(np.abs(obj)), 0.1 * np.angle(obj), atol=1e-12)


def test_dead_leaves_are_even_inside_and_sharp_at_the_edge():
    obj = dead_leaves_object((200, 200), np.random.default_rng(0))
    step = np.abs(np.diff(obj, axis=1))
    assert np.median(step) < 0.02 < 0.3 < np.quantile(step, 0.98)
    assert np.angle(obj).min() >= -1.5 and np.angle(obj).max() <= 0


def test_patterns_are_made_at_the_true_positions_and_the_file_has_the_nominal(tmp_path):
    settings = {"N": 32, "n_patterns": 400, "noise": False}
    scan = simulate(SimulationConfig(**settings, position_error_px=0.7))
    exact = simulate(SimulationConfig(**settings))
    error = scan.true_positions_px - scan.positions_px
    assert error.std() == pytest.approx(0.7, rel=0.1)
    np.testing.assert_allclose(
        np.diff(scan.positions_px, axis=0), np.diff(exact.positions_px, axis=0)
    )
    rate = physics.forward(scan.truth, scan.photon_probe, scan.true_positions_px)
    np.testing.assert_allclose(scan.counts(), rate, rtol=1e-3, atol=1e-5 * rate.max())
    assert exact.true_positions_px is None
    write(scan, tmp_path / "scan.npz")
    np.testing.assert_array_equal(
        read(tmp_path / "scan.npz").true_positions_px, scan.true_positions_px
    )


def test_the_detector_adds_and_loses():
    clean = simulate(small(noise=False))
    scan = simulate(small(noise=False, background_counts=0.5, dead_pixels=9, saturation_counts=900))
    dead = (scan.counts() == 0).all(axis=0)
    assert dead.sum() == 9
    np.testing.assert_array_equal(scan.background, np.full((32, 32), 0.5, np.float32))
    expected = np.where(dead, 0, np.minimum(clean.counts() + 0.5, 900))
    np.testing.assert_allclose(scan.counts(), expected, rtol=1e-6)
    np.testing.assert_array_equal(scan.mask, ~dead & (scan.counts() < 900))
    assert (scan.counts() == 900).any()
    np.testing.assert_array_equal(scan.probe, clean.probe)


def test_the_mask_is_as_small_as_it_can_be():
    assert simulate(small(dead_pixels=3)).mask.shape == (32, 32)
    assert simulate(small(saturation_counts=10**9)).mask is None
    spoiled = simulate(small(dead_pixels=3, saturation_counts=50, mask_recorded=False))
    assert spoiled.mask is None and spoiled.diffraction.max() == 50


def test_background_is_counted_like_photons():
    scan = simulate(small(nphotons=100, background_counts=2.0, n_patterns=100))
    assert scan.mean_photons == pytest.approx(100 + 2 * 32**2, rel=0.01)
    assert scan.diffraction.dtype == np.uint32


def test_the_file_says_how_it_was_simulated(tmp_path):
    source, target = tmp_path / "source.npz", tmp_path / "scan.npz"
    write(simulate(small()), source)
    config = small(probe_file=str(source), seed=7, dead_pixels=2)
    write(simulate(config), target)
    recorded = read(target).provenance["simulation"]
    assert recorded == {**config.model_dump(), "probe_file": "source.npz"}
    again = {**recorded, "probe_file": str(source)}
    np.testing.assert_array_equal(simulate(small(**again)).diffraction, read(target).diffraction)


@pytest.mark.slow
def test_ten_thousand_patterns_take_seconds():
    started = time.monotonic()
    scan = simulate(SimulationConfig(N=64, n_patterns=10_000))
    assert len(scan) == 10_000
    assert time.monotonic() - started < 20
