"""Fourier ring correlation: closed forms, and that it fails for what has nothing in common."""

from dataclasses import replace

import numpy as np
import pytest

from ptychoconfig.errors import DataError
from ptychodata.contracts import Reconstruction
from ptychodata.frc import FRC, _half_bit, frc, frc_of
from ptychodata.objects import lines_object

SIDE = 128


def white(seed, side=SIDE, cut=np.inf):
    """Complex white noise, but for frequencies from ``cut`` on (cycles per pixel)."""
    rng = np.random.default_rng(seed)
    radius = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side))
    spectrum = np.fft.fft2(rng.normal(size=(side, side)) + 1j * rng.normal(size=(side, side)))
    return np.fft.ifft2(np.where(radius < cut, spectrum, 0))


def test_identical_images_agree_down_to_the_pixel():
    found = frc(white(0), white(0), pixel_size_m=5e-9)
    np.testing.assert_allclose(found.correlation[1:], 1)
    assert found.resolution_px == found.one_seventh_px == found.one_half_px == 2
    assert found.frequency[-1] == 0.5
    assert found.as_dict()["resolution_m"] == pytest.approx(1e-8)
    assert found.describe() == "2 px (10 nm)"


@pytest.mark.parametrize("side", [33, 128])
@pytest.mark.parametrize("seed", range(8))
def test_independent_noise_is_not_reached(side, seed):
    found = frc(white(seed, side), white(100 + seed, side))
    assert np.isnan([found.resolution_px, found.one_seventh_px, found.one_half_px]).all()
    assert found.describe() == "not reached"


@pytest.mark.parametrize("cut", [0.1, 0.25, 0.4])
def test_band_limit_is_found(cut):
    signal = white(0, cut=cut)
    found = frc(signal + 1e-3 * white(1), signal + 1e-3 * white(2))
    for period in (found.resolution_px, found.one_seventh_px, found.one_half_px):
        assert 1 / period == pytest.approx(cut, abs=2.5 / SIDE)  # the window spreads by 2


@pytest.mark.parametrize("ratio", [0.5, 1.0, 3.0])
def test_white_signal_in_white_noise_gives_the_closed_form(ratio):
    """Both have power S, and noise of power N each: FRC = S / (S + N) in every ring."""
    signal, noise = white(0, 512), [white(seed, 512) / np.sqrt(ratio) for seed in (1, 2)]
    found = frc(signal + noise[0], signal + noise[1], align=False)
    pixels = np.pi * np.arange(20, 256) / 2
    spread = 4 / np.sqrt(pixels)
    assert (np.abs(found.correlation[20:256] - ratio / (1 + ratio)) < spread).all()
    assert found.correlation[100:].mean() == pytest.approx(ratio / (1 + ratio), abs=0.01)


def test_half_bit_threshold_by_its_definition():
    """Half a bit is log₂(1 + SNR) = ½: many pixels make it SNR / (1 + SNR) of the halves."""
    snr = (np.sqrt(2) - 1) / 2  # of each half; that of both together is twice as much
    assert _half_bit(np.array([1e12]))[0] == pytest.approx(snr / (1 + snr), abs=1e-4)
    found = frc(white(0), white(1), align=False).half_bit
    assert found[1] > 0.8 and (found[1:] > 0.2).all()


def test_gauge_is_removed():
    obj = lines_object((160, 160), np.random.default_rng(0))
    k = np.fft.fftfreq(160)
    phase = np.exp(-2j * np.pi * (0.4 * k[:, None] - 1.3 * k))
    y, x = np.indices(obj.shape)
    moved = 0.3j * np.fft.ifft2(np.fft.fft2(obj) * phase) * np.exp(0.04j * y - 0.1j * x)
    assert frc(obj, moved).correlation[2:60].min() > 0.98
    assert np.isnan(frc(obj, moved, align=False).resolution_px)


@pytest.mark.parametrize("first", [1.0, 0.7 - 0.2j])
def test_even_images_are_not_reached(first):
    even = np.full((64, 64), first, np.complex64)
    jitter = even * (1 + 1e-7 * white(0, 64)).astype(np.complex64)
    for other in (even, jitter, white(0, 64)):
        found = frc(even, other)
        assert np.isnan(found.resolution_px)
        assert np.isfinite(found.correlation).all()


def test_a_lattice_that_both_share_is_no_resolution():
    y, x = np.indices((SIDE, SIDE))
    lattice = np.cos(2 * np.pi * y / 8) * np.cos(2 * np.pi * x / 8)
    found = frc(white(0) + 20 * lattice, white(1) + 20 * lattice, align=False)
    assert found.correlation.max() > 0.9
    assert np.isnan(found.resolution_px)


def test_crossing_lies_on_the_line_between_rings():
    frequency = np.arange(9) / 16
    curve = FRC(frequency, np.array([1, 1, 1, 1, 1, 0.9, 0.3, 0, 0]), np.full(9, 0.2), 2.0)
    assert curve.one_half_px == pytest.approx(1 / ((5 + 2 / 3) / 16))
    assert curve.resolution_px == pytest.approx(1 / ((6 + 1 / 3) / 16))
    assert curve.as_dict()["resolution_m"] == pytest.approx(2 * curve.resolution_px)


def test_a_weight_leaves_out_what_it_must():
    first, second = white(0), white(0)
    second[:30] = white(1)[:30]
    weight = np.zeros((SIDE, SIDE))
    weight[36:] = np.sin(np.pi * (np.arange(SIDE - 36) + 0.5) / (SIDE - 36))[:, None] ** 2
    assert frc(first, second, align=False).correlation[5:60].max() < 0.98
    np.testing.assert_allclose(frc(first, second, weight=weight, align=False).correlation, 1)


def test_reconstructions_are_compared_where_they_lie():
    """Two canvases of one object, another origin each, between the probe centres alone."""
    obj = lines_object((150, 140), np.random.default_rng(1)).astype(np.complex64)
    one = Reconstruction(
        obj=obj.copy(),
        coverage=np.ones(obj.shape, np.float32),
        origin_yx_px=np.array([-20.0, 5.0]),
        positions_px=np.array([[10.0, 30.0], [90.0, 110.0]]),
        probe=np.ones((1, 32, 32), np.complex64),
        pixel_size_m=1e-8,
    )
    other = replace(one, obj=obj[10:, 6:].copy(), origin_yx_px=np.array([-10.0, 11.0]))
    other.obj[:5] = 99
    found = frc_of(one, other)
    np.testing.assert_allclose(found.correlation[1:], 1, atol=1e-6)
    assert len(found.frequency) == 41
    assert found.pixel_size_m == 1e-8


def test_images_that_cannot_be_compared_are_refused():
    for shapes in (((20, 20), (20, 21)), ((15, 40), (15, 40))):
        with pytest.raises(DataError, match="crop them"):
            frc(*(np.ones(shape, complex) for shape in shapes))
