"""Figures of two images: by hand for small ones, perfect for identity, undefined for even ones."""

import numpy as np
import pytest

from ptychodata.similarity import mean_error, ms_ssim, pearson, psnr_db, ssim

TAPS = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
WINDOW = np.outer(TAPS, TAPS) / TAPS.sum() ** 2


@pytest.fixture
def pair():
    def images(side):
        rng = np.random.default_rng(side)
        known = rng.uniform(0.2, 1, size=(side, side))
        return known, known + 0.1 * rng.normal(size=known.shape)

    return images


def terms(known, found, span):
    """Luminance, and contrast times structure, of one window of 11×11 pixels."""
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    mu, nu = np.sum(WINDOW * known), np.sum(WINDOW * found)
    variances = np.sum(WINDOW * known**2) - mu**2 + np.sum(WINDOW * found**2) - nu**2
    covariance = np.sum(WINDOW * known * found) - mu * nu
    return (2 * mu * nu + c1) / (mu**2 + nu**2 + c1), (2 * covariance + c2) / (variances + c2)


def test_one_window_by_hand(pair):
    known, found = pair(11)
    luminance, structure = terms(known, found, np.ptp(known))
    assert ms_ssim(known, found) == pytest.approx(luminance * structure, rel=1e-9)


def test_two_scales_by_hand(pair):
    """22×22 pixels: 12×12 windows at the first scale, one at the second."""
    known, found = pair(22)
    span = np.ptp(known)
    structures = [
        terms(known[y : y + 11, x : x + 11], found[y : y + 11, x : x + 11], span)[1]
        for y in range(12)
        for x in range(12)
    ]
    coarse = [image.reshape(11, 2, 11, 2).mean(axis=(1, 3)) for image in (known, found)]
    total = 0.0448 + 0.2856
    expected = np.mean(structures) ** (0.0448 / total)
    expected *= np.prod(terms(*coarse, span)) ** (0.2856 / total)
    assert ms_ssim(known, found) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("side", [16, 21, 64, 175, 176, 352])
def test_identity_is_perfect_at_every_size(pair, side):
    known, _ = pair(side)
    assert ms_ssim(known, known) == pytest.approx(1, abs=1e-12)
    assert ssim(known, known) == pytest.approx(1) and psnr_db(known, known) == 200
    assert pearson(known, known) == pytest.approx(1) and mean_error(known, known) == 0


def test_fine_noise_costs_less_than_a_coarse_error(pair):
    """What the scales are for: the eye forgives noise that averages out."""
    known, _ = pair(256)
    rng = np.random.default_rng(3)
    fine = rng.normal(size=known.shape)
    coarse = np.kron(rng.normal(size=(32, 32)), np.ones((8, 8)))
    by_noise, by_blocks = (ms_ssim(known, known + 0.2 * e / e.std()) for e in (fine, coarse))
    assert by_blocks < by_noise < 1
    assert ms_ssim(known, 1 - known) == 0  # anticorrelated


def test_what_is_undefined(pair):
    known, found = pair(32)
    even = np.full_like(known, 0.7)
    assert np.isnan([ssim(even, found), ms_ssim(even, found), psnr_db(even, found)]).all()
    assert np.isnan(ms_ssim(known[:10], found[:10]))
    assert pearson(known, even) == pearson(even, found) == 0
