"""Scores: perfect for what differs by a gauge only, poor for a flat image, right by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptychoconfig.errors import DataError
from ptychodata.metrics import (
    align_gauge,
    amplitude_ssim,
    compare,
    phase_ssim,
    score,
)
from ptychodata.objects import lines_object

SHAPE = (130, 121)
BOX = np.array([[32.0, 32.0], [97.0, 88.0]])
"""Two positions that span the box."""


def waves(shift=(0.0, 0.0), shape=SHAPE, start=(0, 0), seed=0):
    """A smooth complex object known between the pixels; ``shift`` moves its content."""
    rng = np.random.default_rng(seed)
    y = (np.arange(shape[0]) + start[0] - shift[0])[:, None]
    x = (np.arange(shape[1]) + start[1] - shift[1])[None, :]
    field = np.zeros(shape, complex)
    for k_y, k_x, a in rng.uniform(-1, 1, size=(40, 3)):
        field += a * np.exp(1j * (0.5 * k_y * y + 0.5 * k_x * x) + 6j * a)
    return np.exp(0.06 * field.real + 0.15j * field.imag)


def bent(obj, factor, ramp):
    y, x = np.indices(obj.shape)
    return factor * obj * np.exp(1j * (ramp[0] * y + ramp[1] * x))


def test_identity_is_perfect():
    truth = lines_object((272, 272), np.random.default_rng(0))
    found = score(truth.astype(np.complex64), np.zeros(2), truth, np.array([[32, 32], [240, 240]]))
    assert found["amplitude_ssim"] == pytest.approx(1) and found["phase_ssim"] == pytest.approx(1)
    assert found["amplitude_psnr_db"] > 120 and found["phase_psnr_db"] > 120
    assert found["amplitude_correlation"] == pytest.approx(1)
    assert abs(found["shift_y_px"]) < 1e-6 and abs(found["ramp_x_rad_per_px"]) < 1e-6


@pytest.mark.parametrize("shift", [(0.0, 0.0), (0.3, -0.45), (-2.6, 5.2), (7.7, 1.1)])
@pytest.mark.parametrize(
    ("factor", "ramp"), [(1, (0, 0)), (0.2 - 0.3j, (0.05, -0.02)), (40j, (-0.3, 0.41))]
)
def test_gauge_is_removed_and_told(shift, factor, ramp):
    moved = bent(waves(shift), factor, ramp)
    found = score(moved, np.zeros(2), waves(), BOX)
    assert found["amplitude_ssim"] > 0.9999 and found["phase_ssim"] > 0.9999
    assert found["complex_correlation"] > 0.999999
    fitted = [found[key] for key in ("shift_y_px", "shift_x_px")]
    np.testing.assert_allclose(fitted, np.negative(shift), atol=2e-3)
    slopes = [found[key] for key in ("ramp_y_rad_per_px", "ramp_x_rad_per_px")]
    np.testing.assert_allclose(slopes, np.negative(ramp), atol=1e-4)
    assert found["scale"] == pytest.approx(1 / abs(factor), rel=1e-3)


def test_object_and_truth_meet_by_their_origins():
    """Another canvas, another origin, the same place: nothing is left to shift."""
    obj = waves(shape=(140, 150), start=(-13, -9))
    found = score(obj, np.array([-13, -9]), waves(), BOX)
    assert abs(found["shift_y_px"]) + abs(found["shift_x_px"]) < 1e-6
    assert found["amplitude_ssim"] == pytest.approx(1)
    other = score(waves(), np.zeros(2), obj, BOX, truth_origin_yx_px=np.array([-13.0, -9.0]))
    assert other["phase_ssim"] == pytest.approx(1)
    wrong = score(obj, np.array([-10, -9]), waves(), BOX)
    assert wrong["shift_y_px"] == pytest.approx(-3, abs=1e-3)


def test_flat_image_scores_what_was_measured_for_one():
    """0.257/0.200 on one object of this kind; by the objects it varies by a few hundredths."""
    positions = np.array([[32, 32], [240, 240]])
    found = [
        score(np.ones((272, 272), complex), np.zeros(2), lines_object((272, 272), rng), positions)
        for rng in map(np.random.default_rng, range(4))
    ]
    assert np.mean([f["amplitude_ssim"] for f in found]) == pytest.approx(0.257, abs=0.02)
    assert np.mean([f["phase_ssim"] for f in found]) == pytest.approx(0.200, abs=0.02)
    assert all(f["amplitude_correlation"] == 0 for f in found)


def test_noise_and_blur_cost():
    rng, truth = np.random.default_rng(0), waves()
    noise = rng.normal(size=SHAPE) + 1j * rng.normal(size=SHAPE)
    scores = [score(truth + a * noise, np.zeros(2), truth, BOX) for a in (0, 0.02, 0.1, 0.5)]
    for key in ("amplitude_ssim", "phase_ssim", "amplitude_psnr_db", "complex_correlation"):
        values = [s[key] for s in scores]
        assert values == sorted(values, reverse=True) and values[0] > values[1] > values[3]


@settings(deadline=None, max_examples=10)
@given(st.floats(-np.pi, np.pi))
def test_phase_of_the_truth_as_a_whole_does_not_matter(angle):
    truth = waves()
    worse = truth * np.exp(0.3j * np.random.default_rng(0).normal(size=SHAPE))
    expected = score(worse, np.zeros(2), truth, BOX)
    found = score(worse, np.zeros(2), truth * np.exp(1j * angle), BOX)
    for name in ("phase_mae_rad", "phase_psnr_db"):  # SSIM compares means, so its zero matters
        assert found[name] == pytest.approx(expected[name], abs=1e-6)


def test_ssim_by_hand():
    """One window: SSIM = (2 μν + c1)(2 σ_xy + c2) / ((μ² + ν² + c1)(σ_x² + σ_y² + c2))."""
    rng = np.random.default_rng(1)
    x, y = rng.uniform(0.2, 1, size=(2, 7, 7))
    span = np.ptp(x)
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    covariance = np.cov(x.ravel(), y.ravel())
    expected = (2 * x.mean() * y.mean() + c1) * (2 * covariance[0, 1] + c2)
    expected /= (x.mean() ** 2 + y.mean() ** 2 + c1) * (np.trace(covariance) + c2)
    assert amplitude_ssim(y.astype(complex), x.astype(complex)) == pytest.approx(expected)
    assert phase_ssim(np.exp(1j * y), np.exp(1j * x)) == pytest.approx(expected)


def test_psnr_and_errors_by_hand():
    """An error of ±a at random, which no gauge removes, on a wedge of amplitude 1 … 2."""
    y, _ = np.indices((80, 80))
    truth = 1 + (y % 40) / 39 + 0j
    error = 0.01 * np.random.default_rng(0).choice([-1, 1], size=y.shape)
    positions = np.array([[20.0, 20.0], [59.0, 59.0]])
    found = score(truth + error, np.zeros(2), truth, positions)
    assert found["amplitude_psnr_db"] == pytest.approx(40, abs=0.05)
    assert found["amplitude_mae"] == pytest.approx(0.01, rel=0.01)


def test_what_the_truth_leaves_undefined_is_left_out():
    found = score(waves(), np.zeros(2), np.abs(waves()) + 0j, BOX)
    assert "phase_ssim" not in found and "phase_psnr_db" not in found
    assert 0 < found["amplitude_ssim"] <= 1 and found["phase_mae_rad"] > 0


def test_single_position_is_scored_over_a_small_box():
    assert score(waves(), np.zeros(2), waves(), BOX[:1])["phase_ssim"] == pytest.approx(1)


def test_objects_that_do_not_hold_the_box_are_refused():
    with pytest.raises(DataError, match="check the origins"):
        score(waves(), np.array([500, 0]), waves(), BOX)


def test_weight_says_what_counts():
    truth, spoilt = waves(), waves().copy()
    spoilt[:40] = 7 - 3j
    weight = np.zeros(SHAPE)
    weight[45:] = 1
    aligned, gauge = align_gauge(bent(spoilt, 2j, (0, 0)), truth, weight)
    np.testing.assert_allclose(aligned[45:], truth[45:], atol=1e-6)
    assert gauge.factor == pytest.approx(-0.5j, abs=1e-6)


def test_comparison_returns_both_over_the_box():
    moved = bent(waves((0.3, -0.45)), 40j, (0.05, -0.02))
    found = compare((moved, waves()), np.zeros((2, 2)), BOX)
    np.testing.assert_array_equal(found.truth, waves()[32:98, 32:89])
    assert np.abs(found.obj - found.truth).max() < 0.01
    assert found.scores == score(moved, np.zeros(2), waves(), BOX)
