"""The reference physics against closed forms: what pins every sign, unit and scale."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptychodata import physics
from ptychodata.golden import gradients
from ptychodata.grouping import group_indices

N = 16
LOSSES = [physics.poisson_deviance, physics.amplitude_mse, physics.amplitude_mae]


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def field(rng, *shape):
    return rng.normal(size=shape) + 1j * rng.normal(size=shape)


def gaussian(side, width, centre_yx=(0.0, 0.0)):
    u = np.arange(side) - side // 2
    y, x = u[:, None] - centre_yx[0], u[None, :] - centre_yx[1]
    return np.exp(-(y**2 + x**2) / (2 * width**2)).astype(complex)


def inner(a, b):
    return np.vdot(a, b)


# Positions


@settings(deadline=None, max_examples=200)
@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_positions_split_into_pixel_and_fraction(y, x):
    pixel, fraction = physics.split_positions(np.array([[y, x]]))
    assert pixel.dtype == np.int64
    assert (fraction >= -0.5).all() and (fraction < 0.5).all()
    np.testing.assert_array_equal(pixel + fraction, [[y, x]])


def test_half_pixels_go_to_the_higher_pixel_always():
    pixel, fraction = physics.split_positions(np.array([[0.5, 1.5], [-0.5, 2.5]]))
    assert pixel.tolist() == [[1, 2], [0, 3]]
    assert (fraction == -0.5).all()


# The Fourier transform


def test_far_field_conserves_energy_and_is_undone(rng):
    wave = field(rng, 2, 3, N, N)
    far = physics.far_field(wave)
    assert np.sum(np.abs(far) ** 2) == pytest.approx(np.sum(np.abs(wave) ** 2))
    np.testing.assert_allclose(physics.inverse_far_field(far), wave, atol=1e-12)


def test_transforms_are_adjoint(rng):
    a, b = field(rng, N, N), field(rng, N, N)
    assert inner(physics.far_field(a), b) == pytest.approx(inner(a, physics.inverse_far_field(b)))


def test_even_wave_has_its_light_in_the_centre_pixel():
    far = physics.far_field(np.ones((N, N), complex))
    assert far[N // 2, N // 2] == pytest.approx(N)
    assert np.sum(np.abs(far) ** 2) == pytest.approx(N * N)


def test_gaussian_has_the_gaussian_of_the_inverse_width():
    width = 2.5
    far = physics.far_field(gaussian(32, width))
    expected = 2 * np.pi * width**2 / 32 * gaussian(32, 32 / (2 * np.pi * width))
    np.testing.assert_allclose(far, expected, atol=1e-6)


# The shift of the probe


def test_whole_shift_rolls(rng):
    probe = field(rng, 2, N, N)
    shifted = physics.shift_probe(probe, np.array([[3.0, -2.0]]))
    np.testing.assert_allclose(shifted[0], np.roll(probe, (3, -2), axis=(1, 2)), atol=1e-12)


def test_shift_moves_content_by_plus_f_in_y_and_x():
    f = np.array([[0.31, -0.44]])
    shifted = physics.shift_probe(gaussian(32, 2.0)[None], f)[0, 0]
    np.testing.assert_allclose(shifted, gaussian(32, 2.0, f[0]), atol=1e-7)


def test_shift_is_a_phase_ramp_in_the_far_field(rng):
    probe, f = field(rng, 1, N, N), np.array([[0.2, -0.35]])
    k = (np.arange(N) - N // 2) / N
    ramp = np.exp(-2j * np.pi * (f[0, 0] * k[:, None] + f[0, 1] * k))
    shifted = physics.far_field(physics.shift_probe(probe, f)[0])
    np.testing.assert_allclose(shifted, ramp * physics.far_field(probe), atol=1e-12)


def test_shift_is_unitary_with_the_opposite_shift_as_adjoint(rng):
    a, b, f = field(rng, 2, N, N), field(rng, 2, N, N), np.array([[0.5, -0.27]])
    moved = physics.shift_probe(a, f)[0]
    assert np.linalg.norm(moved) == pytest.approx(np.linalg.norm(a))
    assert inner(moved, b) == pytest.approx(inner(a, physics.shift_probe(b, -f)[0]))


# Windows


def test_object_shift_moves_a_point_by_plus_d_bilinearly():
    point = np.zeros((2, N, N), complex)
    point[:, 5, 6] = 1
    moved = physics.shift_object(point, np.array([[0.25, -0.5], [-3.0, 2.25]]))
    expected = np.zeros((2, N, N))
    expected[0, 5:7, 5:7] = np.outer([0.75, 0.25], [0.5, 0.5])
    expected[1, 2, 8:10] = [0.75, 0.25]
    np.testing.assert_allclose(moved, expected, atol=1e-15)


def test_object_shift_takes_zero_beyond_the_patch_and_keeps_planes_inside():
    plane = np.broadcast_to(np.arange(N) * (1 + 2j) + 3.0, (1, N, N))
    moved = physics.shift_object(plane, np.array([[0.0, 0.4]]))[0]
    np.testing.assert_allclose(moved[:, 1:], plane[0, :, 1:] - 0.4 * (1 + 2j), atol=1e-12)
    np.testing.assert_allclose(moved[:, 0], 0.6 * plane[0, :, 0])
    assert not physics.shift_object(plane, np.array([[N, 0.0]])).any()


@settings(deadline=None, max_examples=30)
@given(st.floats(-20, 20), st.floats(-20, 20), st.integers(0, 99))
def test_object_shift_has_the_opposite_shift_as_adjoint(y, x, seed):
    a, b = field(np.random.default_rng(seed), 2, 1, N, N)
    shift = np.array([[y, x]])
    ahead, back = physics.shift_object(a, shift), physics.shift_object(b, -shift)
    assert inner(ahead, b) == pytest.approx(inner(a, back), abs=1e-9)


def test_extract_and_assemble_are_adjoint(rng):
    shape, pixel = (30, 41), np.array([[8, 8], [22, 33], [15, 20], [15, 21]])
    obj, patches = field(rng, *shape), field(rng, 4, N, N)
    cut = physics.extract(obj, pixel, N)
    assert inner(cut, patches) == pytest.approx(inner(obj, physics.assemble(patches, pixel, shape)))


def test_laplacian_is_the_gradient_of_squared_differences(rng):
    obj, other = (
        rng.standard_normal((2, 7, 5)) + 1j * rng.standard_normal((2, 7, 5)) for _ in range(2)
    )

    def product(one, two):
        return sum(np.sum(np.diff(one, axis=a).conj() * np.diff(two, axis=a)) for a in (-2, -1))

    assert np.sum(other.conj() * physics.laplacian(obj)) == pytest.approx(-product(other, obj))
    assert not physics.laplacian(np.ones((4, 6))).any()


@pytest.mark.parametrize("pixel", [(7, 8), (8, 7), (23, 8), (8, 34)])
def test_window_outside_the_object_is_refused(pixel):
    with pytest.raises(IndexError, match="windows inside the object"):
        physics.extract(np.ones((30, 41)), np.array([pixel]), N)


# A point object at every member of a group of four


POSITIONS = np.array([[12.3, 13.9], [11.6, 17.2], [16.8, 12.4], [18.1, 18.7]])
POINT = (14, 17)  # asymmetrical in y and x


def point_object():
    obj = np.zeros((28, 31), complex)
    obj[POINT] = 0.8 - 0.6j
    return obj


def members():
    group = group_indices(POSITIONS, 2, 3, np.random.default_rng(0))[0]
    assert sorted(group) == [0, 1, 2, 3]
    return group


@pytest.mark.parametrize("member", range(4))
def test_point_appears_where_it_lies_from_the_member(member):
    r = POSITIONS[members()[member]]
    pixel, _ = physics.split_positions(r[None])
    patch = physics.extract(point_object(), pixel, N)[0]
    place = np.array(POINT) - np.floor(r + 0.5).astype(int) + N // 2
    assert np.argwhere(patch).tolist() == [place.tolist()]
    back = physics.assemble(patch[None], pixel, (28, 31))
    np.testing.assert_array_equal(back, point_object())


@pytest.mark.parametrize("member", range(4))
def test_point_scatters_what_the_moved_probe_has_there(member):
    """One point scatters evenly: λ = |P(point − r) O|² / N², with P known between the pixels."""
    r = POSITIONS[members()[member]]
    probe = 100 * gaussian(32, 2.5, (1.0, -2.0))[None]  # off centre, so that mirrors show
    obj = np.pad(point_object(), 16)
    rate = physics.forward(obj, probe, r[None] + 16)
    u = np.array(POINT) - r - (1.0, -2.0)
    expected = (100 * np.exp(-np.sum(u**2) / (2 * 2.5**2))) ** 2 / 32**2
    np.testing.assert_allclose(rate, expected, rtol=1e-5)


@pytest.mark.parametrize("member", range(4))
def test_bright_point_in_free_space_matches_the_sum_over_all_pixels(member):
    """The centred transform written out, with the point's phase: no FFT, no shifted arrays."""
    r = POSITIONS[members()[member]] + 8
    side, obj = 32, np.pad(1 + point_object(), 8, constant_values=1)
    rate = physics.forward(obj, 10 * gaussian(side, 2.0, (0.5, -1.0))[None], r[None])[0]
    n = np.floor(r + 0.5).astype(int)
    shifted = 10 * gaussian(side, 2.0, (0.5 + r[0] - n[0], -1.0 + r[1] - n[1]))
    u = np.arange(side) - side // 2
    exit_wave = shifted * obj[np.ix_(n[0] + u, n[1] + u)]
    dft = np.exp(-2j * np.pi * np.outer(u, u) / side) / np.sqrt(side)
    expected = np.abs(dft @ exit_wave @ dft.T) ** 2
    np.testing.assert_allclose(rate, expected, atol=1e-6 * expected.max())


# Intensities


def test_free_space_passes_every_photon(rng):
    probe = field(rng, 3, N, N)
    rate = physics.forward(np.ones((40, 40)), probe, np.array([[20.3, 17.8], [12.0, 25.5]]))
    np.testing.assert_allclose(rate.sum(axis=(1, 2)), np.sum(np.abs(probe) ** 2))


def test_modes_and_background_add_in_intensity(rng):
    obj, probe, r = field(rng, 30, 30), field(rng, 2, N, N), np.array([[14.2, 15.4]])
    background = rng.uniform(size=(N, N))
    both = physics.forward(obj, probe, r, background)
    one, two = (physics.forward(obj, mode[None], r) for mode in probe)
    np.testing.assert_allclose(both, one + two + background)
    fields = physics.forward(obj, probe.sum(axis=0)[None], r)
    assert np.abs(fields - one - two).max() > 0.1 * fields.max()


def test_network_input_does_not_know_the_dose(rng):
    probe = field(rng, 2, N, N)
    counts = np.abs(physics.far_field(probe)) ** 2
    counts = counts.sum(axis=0)[None]
    x = physics.network_input(counts, probe)
    np.testing.assert_allclose(x, physics.network_input(1e6 * counts, 1e3 * probe))
    assert np.sum(x**2) == pytest.approx((N / 2) ** 2)


def test_coverage_is_the_power_of_all_modes(rng):
    probe = field(rng, 3, N, N)
    power = physics.coverage(physics.shift_probe(probe, np.array([[0.4, 0.1]])))
    assert power.shape == (1, N, N)
    assert power.sum() == pytest.approx(np.sum(np.abs(probe) ** 2))


# Losses


@pytest.fixture
def rates(rng):
    counts = rng.poisson(rng.uniform(0, 50, size=(3, N, N))).astype(float)
    return rng.uniform(0.1, 50, size=(3, N, N)), counts


def test_deviance_vanishes_at_the_counts_and_nowhere_else(rates):
    rate, counts = rates
    assert physics.poisson_deviance(counts, counts, 1.0) == 0
    assert physics.poisson_deviance(rate, counts, 1.0) > 0
    for sign in (-1, 1):
        moved = np.maximum(counts * (1 + sign * 0.01), 0)
        assert physics.poisson_deviance(moved, counts, 1.0) > 0


def test_deviance_is_the_plain_form(rates):
    rate, counts = rates
    e = physics.EPSILON
    plain = np.sum(rate - counts - counts * np.log((rate + e) / (counts + e)))
    mean = counts.sum(axis=(1, 2)).mean()
    assert physics.poisson_deviance(rate, counts, mean) == pytest.approx(plain / 3 / mean)


def test_deviance_of_a_billion_photons_holds_in_single_precision(rng):
    counts = rng.poisson(1e9, size=(1, N, N)).astype(np.float32)
    rate = (counts * (1 + 1e-4 * rng.normal(size=counts.shape))).astype(np.float32)
    n, r = counts.astype(float), rate.astype(float)
    exact = np.sum(r - n - n * np.log1p((r - n) / n))
    assert physics.poisson_deviance(rate, counts, 1.0) == pytest.approx(exact, rel=1e-3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("loss", LOSSES)
def test_losses_are_finite_where_no_light_is_expected(loss, dtype):
    counts = np.array([0, 1, 1e4, 1e9], dtype).reshape(1, 2, 2)
    found = loss(np.zeros_like(counts), counts, 1e9)
    assert np.isfinite(found) and found > 0


def test_deviance_without_expected_light_is_right_in_single_precision():
    counts = np.full((1, 2, 2), 1e6)
    exact = physics.poisson_deviance(0 * counts, counts, 1.0)
    single = counts.astype(np.float32)
    assert physics.poisson_deviance(0 * single, single, 1.0) == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize("loss", LOSSES)
def test_losses_mean_the_same_at_any_dose(loss, rates):
    rate, counts = (1e6 * a for a in rates)
    mean = counts.sum(axis=(1, 2)).mean()
    assert loss(rate, counts, mean) == pytest.approx(loss(rate * 9, counts * 9, mean * 9), rel=1e-4)


@pytest.mark.parametrize("loss", [*LOSSES, physics.r_factor])
@pytest.mark.parametrize("per_pattern", [False, True])
def test_masked_pixels_have_no_say(loss, per_pattern, rates, rng):
    rate, counts = rates
    valid = rng.random((3, N, N) if per_pattern else (N, N)) > 0.2
    spoilt = np.where(valid, counts, 1e6)
    extra = () if loss is physics.r_factor else (100.0,)
    assert loss(rate, spoilt, *extra, valid) == pytest.approx(loss(rate, counts, *extra, valid))
    assert loss(rate, spoilt, *extra) != pytest.approx(loss(rate, counts, *extra))


def test_absolute_error_is_at_most_the_root_of_the_squared_one(rates):
    rate, counts = rates
    squared = physics.amplitude_mse(rate, counts, 70.0)
    assert physics.amplitude_mae(rate, counts, 70.0) <= np.sqrt(squared)
    even = physics.amplitude_mse(counts + 0 * rate + 1e8, 0 * counts, 70.0)
    assert physics.amplitude_mae(counts + 1e8, 0 * counts, 70.0) == pytest.approx(
        np.sqrt(even), rel=1e-6
    )


def test_r_factor_by_hand():
    counts = np.array([4.0, 9.0, 0.0, 25.0]).reshape(1, 2, 2)
    rate = np.array([9.0, 4.0, 1.0, 25.0]).reshape(1, 2, 2)
    assert physics.r_factor(rate, counts) == pytest.approx(3 / 10)
    assert physics.r_factor(counts, counts) == 0


# Updates


@pytest.fixture
def problem(rng):
    return {
        "in_obj": 1 + 0.3 * field(rng, 22, 25),
        "in_probe": 30 * gaussian(N, 2.0)[None] * np.array([1, 0.4j])[:, None, None],
        "in_positions_px": np.array([[10.3, 13.6]]),
        "in_counts": rng.poisson(5.0, size=(1, N, N)).astype(float),
        "in_valid": (rng.random((N, N)) > 0.1).astype(float),
        "in_background": rng.uniform(size=(N, N)),
        "in_mean_photons": np.array(1280.0),
    }


def test_update_is_the_downhill_step_of_the_amplitude_loss(problem):
    """g = −(B n̄ / 2) ∇ L / max Σ|P|², the gradient taken in the convention dRe + i dIm."""
    pixel, f = physics.split_positions(problem["in_positions_px"])
    shifted = physics.shift_probe(problem["in_probe"], f)
    windows = physics.extract(problem["in_obj"], pixel, N)
    update = physics.object_update(
        windows, shifted, problem["in_counts"], problem["in_valid"], problem["in_background"]
    )
    slope, _ = gradients(problem, "amplitude_mse")
    peak = physics.coverage(shifted).max()
    expected = -1280.0 / 2 * physics.extract(slope, pixel, N) / peak
    np.testing.assert_allclose(update, expected, atol=1e-12)


def test_update_is_zero_at_a_perfect_model(problem):
    pixel, f = physics.split_positions(problem["in_positions_px"])
    shifted = physics.shift_probe(problem["in_probe"], f)
    windows = physics.extract(problem["in_obj"], pixel, N)
    rate = physics.intensity(physics.far_field(physics.exit_waves(shifted, windows)))
    update = physics.object_update(windows, shifted, rate + physics.EPSILON)
    assert np.abs(update).max() < 1e-12
