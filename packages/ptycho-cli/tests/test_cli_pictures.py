"""Pictures show the covered object, without what the data cannot tell."""

import io

import numpy as np
import pytest
from PIL import Image

from ptychocli.pictures import _round_length, covered_view, flat_phase, shown_images, write_pictures
from ptychodata.contracts import Reconstruction


def _reconstruction(phase: np.ndarray, pixel_size_m: float = 5e-9) -> Reconstruction:
    """An object lit in its middle, with an offset and a ramp on top of ``phase``."""
    height, width = phase.shape
    y, x = np.mgrid[:height, :width]
    ramp = 0.3 * y - 0.2 * x + 1.0
    coverage = np.zeros(phase.shape, dtype=np.float32)
    coverage[10:-10, 20:-10] = 1
    obj = np.where(coverage > 0, 0.8 * np.exp(1j * (phase + ramp)), 7).astype(np.complex64)
    origin = np.array([-5.0, 3.0])
    centres = np.array([[30.0, 40.0], [50.0, 60.0]]) + origin
    probe = np.ones((1, 32, 32), dtype=np.complex64)
    return Reconstruction(obj, coverage, origin, centres, probe, pixel_size_m)


def _bump(height: float) -> np.ndarray:
    y, x = np.mgrid[:80, :100]
    bump: np.ndarray = height * np.exp(-((y - 40) ** 2 + (x - 55) ** 2) / (2 * 8.0**2))
    return bump


def test_view_is_cropped_to_what_was_lit():
    view = covered_view(_reconstruction(_bump(1)))
    assert view.obj.shape == view.covered.shape == (60, 70)
    assert view.covered.all()
    assert view.extent_px == (22.5, 92.5, 64.5, 4.5)
    assert np.abs(view.obj).max() < 1


def test_ramp_and_offset_are_removed():
    phase = _bump(1.5)
    found, wrapped = flat_phase(covered_view(_reconstruction(phase)))
    expected = phase[10:-10, 20:-10]
    y, x = np.mgrid[:60, :70]
    terms = np.stack([y, x, np.ones_like(y)], axis=-1).reshape(-1, 3)
    plane, *_ = np.linalg.lstsq(terms, (found - expected).ravel(), rcond=None)
    assert not wrapped
    np.testing.assert_allclose((terms @ plane).reshape(60, 70), found - expected, atol=1e-4)
    assert abs(np.median(found)) < 1e-6


def test_a_phase_beyond_pi_is_unwrapped():
    found, wrapped = flat_phase(covered_view(_reconstruction(_bump(9))))
    assert not wrapped
    assert np.ptp(found) == pytest.approx(9, rel=0.1)


def test_a_phase_that_cannot_be_unwrapped_stays_cyclic():
    noise = np.random.default_rng(3).uniform(-np.pi, np.pi, (80, 100))
    found, wrapped = flat_phase(covered_view(_reconstruction(noise)))
    assert wrapped
    assert np.abs(found).max() <= np.pi


def test_the_zero_is_taken_where_it_is_asked_for():
    """On the bump's top, whose rows and columns are told in the scan's coordinates."""
    top = "34:36,57:59"
    found, _ = flat_phase(covered_view(_reconstruction(_bump(1.5)), top))
    everywhere, _ = flat_phase(covered_view(_reconstruction(_bump(1.5))))
    np.testing.assert_allclose(everywhere - found, everywhere.max(), atol=0.03)
    assert np.median(found[29:32, 34:37]) == pytest.approx(0, abs=1e-6)
    for reach in ("36:34,59:57", "-9:300,-9:300", "900:901,900:901"):
        other, _ = flat_phase(covered_view(_reconstruction(_bump(1.5)), reach))
        np.testing.assert_allclose(other, found if reach[:2] == "36" else everywhere)


def test_colours_ignore_a_few_wild_pixels():
    wild = _reconstruction(_bump(1))
    wild.obj[30:32, 40:42] = 1e4
    low, high = shown_images(wild)[0].limits
    assert 0.79 < low < high < 0.81


@pytest.mark.parametrize("pixel_size_m", [5e-9, float("nan")])
def test_pictures_are_written(tmp_path, pixel_size_m):
    write_pictures(shown_images(_reconstruction(_bump(2), pixel_size_m)), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["amplitude.png", "phase.png"]
    for path in tmp_path.iterdir():
        with Image.open(io.BytesIO(path.read_bytes())) as picture:
            assert min(picture.size) > 300
            assert np.ptp(np.asarray(picture)) > 100


def test_a_flat_or_unlit_object_still_gives_pictures(tmp_path):
    flat = _reconstruction(np.zeros((80, 100)))
    flat.coverage[:] = 0
    flat.obj[:] = 1
    write_pictures(shown_images(flat), tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("about_m", "text"),
    [(1.1e-6, "1 µm"), (9.9e-7, "500 nm"), (2.3e-8, "20 nm"), (6e-3, "5 mm"), (5e-7, "500 nm")],
)
def test_scale_bar_has_a_round_length(about_m, text):
    length_m, name = _round_length(about_m)
    assert name == text
    assert about_m / 2.6 < length_m <= about_m * 1.001
