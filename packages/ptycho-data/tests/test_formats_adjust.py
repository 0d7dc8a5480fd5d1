"""What the user says of frames and geometry: crop, binning, mask, orientation, overrides."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptychoconfig.errors import ConfigError, DataError
from ptychoconfig.schema import DataConfig
from ptychodata import physics
from ptychodata.contracts import Scan
from ptychodata.formats import read, write
from ptychodata.patterns import LazyPatterns

P, N = 4, 64


def scan_of_nothing() -> Scan:
    """An empty object, for which the probe alone predicts the patterns."""
    y, x = np.mgrid[:N, :N] - N // 2
    probe = np.exp(-(((y - 2) / 5) ** 2) - ((x + 1) / 3) ** 2 + 0.04j * y * x)
    modes = (20 * np.stack([probe, 0.2 * probe * x])).astype(np.complex64)
    positions = np.random.default_rng(2).uniform(40, 80, (P, 2))
    counts = physics.forward(np.ones((130, 130), np.complex64), modes, positions)
    return Scan(
        counts.astype(np.float32),
        positions,
        modes,
        probe_power="absolute",
        object_pixel_m=1e-8,
        detector_pixel_m=1e-4,
    )


SCAN = scan_of_nothing()


def changed(folder: Path, scan: Scan = SCAN, **options: Any) -> Scan:
    write(scan, folder / "a.npz")
    return read(folder / "a.npz", options=DataConfig(**options))


def predicted(scan: Scan) -> np.ndarray:
    assert scan.probe is not None
    return physics.forward(np.ones((200, 200), np.complex64), scan.probe, scan.positions_px)


def test_a_crop_makes_coarser_pixels_of_the_same_field(tmp_path: Path) -> None:
    found = changed(tmp_path, crop_px=32)
    np.testing.assert_array_equal(found.diffraction, SCAN.diffraction[:, 16:48, 16:48])
    np.testing.assert_allclose(found.positions_px, SCAN.positions_px / 2)
    assert found.object_pixel_m == pytest.approx(2e-8)
    assert found.detector_pixel_m == 1e-4
    error = np.abs(predicted(found) - found.diffraction).max() / found.diffraction.max()
    assert error < 1e-5
    assert any("cropped from 64 × 64 to 32 × 32" in note for note in found.notes)


def test_binning_sums_counts_and_crops_the_probe(tmp_path: Path) -> None:
    found = changed(tmp_path, bin_px=2)
    sums = SCAN.diffraction.reshape(P, 32, 2, 32, 2).sum(axis=(2, 4))
    np.testing.assert_allclose(found.diffraction, sums, rtol=1e-6)
    np.testing.assert_array_equal(found.positions_px, SCAN.positions_px)
    assert (found.object_pixel_m, found.detector_pixel_m) == (1e-8, 2e-4)
    assert found.photons == pytest.approx(SCAN.photons)
    # the smaller field samples the same waves, at every other pixel
    sampled = 4 * SCAN.diffraction[:, ::2, ::2]
    assert np.abs(predicted(found) - sampled).max() < 1e-3 * sampled.max()
    power = [float(np.sum(np.abs(s.probe) ** 2)) for s in (found, SCAN)]
    assert power[0] == pytest.approx(power[1], rel=1e-3)


def test_binned_amplitudes_are_those_of_the_summed_counts(tmp_path: Path) -> None:
    amplitude = replace(SCAN, diffraction=np.sqrt(SCAN.diffraction), domain="amplitude")
    found = changed(tmp_path, amplitude, bin_px=4)
    np.testing.assert_allclose(found.counts(), changed(tmp_path, bin_px=4).counts(), rtol=1e-5)


def test_small_integers_do_not_overflow_when_binned(tmp_path: Path) -> None:
    full = Scan(np.full((P, N, N), 255, np.uint8), SCAN.positions_px, None)
    assert changed(tmp_path, full, bin_px=2).diffraction.max() == 1020


TURNS = st.fixed_dictionaries({name: st.booleans() for name in ("transpose", "flip_y", "flip_x")})


@settings(max_examples=8, deadline=None)
@given(TURNS)
def test_turning_leaves_the_centre_and_moves_all_frames_alike(turns: dict[str, bool]) -> None:
    from ptychodata.formats.recorded import Recorded, to_scan

    rng = np.random.default_rng(0)
    frames = rng.integers(1, 99, (P, N, N)).astype(np.uint16)
    recorded = Recorded(
        "x", "y", frames, SCAN.positions_px, mask=frames[0] > 20, background=frames[1] * 1.0
    )
    found = to_scan(recorded, DataConfig(**turns), "x")
    offset = np.array([[3, -5], [0, 0], [-7, 2]])
    expected = offset[:, ::-1] if turns["transpose"] else offset
    expected = expected * [-1 if turns["flip_y"] else 1, -1 if turns["flip_x"] else 1]
    for (y, x), (b, a) in zip(offset + N // 2, expected + N // 2, strict=True):
        np.testing.assert_array_equal(found.diffraction[:, b, a], frames[:, y, x])
        assert found.mask is not None and found.background is not None
        assert found.mask[b, a] == (frames[0, y, x] > 20)
        assert found.background[b, a] == frames[1, y, x]


def test_positions_are_swapped_then_turned(tmp_path: Path) -> None:
    known = replace(SCAN, truth=np.ones((130, 130), np.complex64))
    found = changed(tmp_path, known, swap_xy=True, negate_y=True)
    y, x = SCAN.positions_px.T
    np.testing.assert_array_equal(found.positions_px, np.stack([-x, y], axis=1))
    assert found.truth is None
    assert any("known object was dropped" in note for note in found.notes)


def test_a_mask_file_joins_the_mask(tmp_path: Path) -> None:
    first, second = np.ones((2, N, N), bool)
    first[0, 1], second[2, 3] = False, False
    scan = replace(SCAN, mask=first)
    np.save(tmp_path / "m.npy", second)
    np.savez(tmp_path / "m.npz", mask=second.astype(np.uint8))
    np.savez(tmp_path / "b.npz", bad_pixels=~second)
    for name in ("m.npy", "m.npz", "b.npz"):
        found = changed(tmp_path, scan, mask_file=str(tmp_path / name))
        np.testing.assert_array_equal(found.mask, first & second)
    np.save(tmp_path / "m.npy", second[:5])
    np.save(tmp_path / "n.npy", second * 7)
    for name in ("m.npy", "n.npy", "missing.npy"):
        with pytest.raises(DataError, match=name):
            changed(tmp_path, scan, mask_file=str(tmp_path / name))


def test_geometry_that_is_given_is_believed(tmp_path: Path) -> None:
    given = {"photon_energy_eV": 8e3, "detector_distance_m": 2.0, "detector_pixel_m": 5e-5}
    found = changed(tmp_path, **given)
    assert found.object_pixel_m == pytest.approx(1.239841984e-6 / 8e3 * 2 / (N * 5e-5))
    assert any("overrides 0.0001 in the file" in note for note in found.notes)
    assert any("object pixel went with it" in note for note in found.notes)
    assert changed(tmp_path, **given, object_pixel_m=3e-9).object_pixel_m == 3e-9
    del given["detector_pixel_m"]  # what is added contradicts nothing
    assert changed(tmp_path, **given).object_pixel_m == 1e-8


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--crop-px"):
        changed(tmp_path, crop_px=N + 2)
    with pytest.raises(ConfigError, match="--bin-px"):
        changed(tmp_path, bin_px=7)
    with pytest.raises(DataError, match="even side"):
        changed(tmp_path, bin_px=64)


def test_large_patterns_are_turned_when_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = changed(tmp_path, crop_px=32, bin_px=2, flip_x=True)
    monkeypatch.setattr("ptychodata.patterns.EAGER_BYTES", 1)
    lazy = changed(tmp_path, crop_px=32, bin_px=2, flip_x=True)
    assert isinstance(lazy.diffraction, LazyPatterns)
    np.testing.assert_array_equal(lazy.diffraction[:], whole.diffraction)
    write(lazy, tmp_path / "b.npz")
    np.testing.assert_array_equal(read(tmp_path / "b.npz").diffraction[:], whole.diffraction)
    some = lazy.subset(np.array([3, 1]))
    np.testing.assert_array_equal(some.counts(), whole.counts(np.array([3, 1])))
