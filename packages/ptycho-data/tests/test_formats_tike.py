"""The NPZ of tike: its conventions are undone, so that our forward model predicts its counts."""

import bz2
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptychoconfig.errors import DataError
from ptychodata import physics
from ptychodata.formats import read, read_shapes, write

N, SIDE = 32, 90
STAR = Path(__file__).parents[4] / "shared" / "data" / "siemens-star-small.npz.bz2"


def tike_scan(modes: int = 2) -> tuple[dict[str, Any], np.ndarray, np.ndarray, np.ndarray]:
    """A scan as tike stores it, with our object, probe and positions."""
    rng = np.random.default_rng(5)
    obj = rng.uniform(0.5, 1, (SIDE, SIDE)) * np.exp(1j * rng.uniform(-1, 0, (SIDE, SIDE)))
    grid = np.arange(N) - N // 2
    disk = np.exp(-(grid[:, None] ** 2 + grid**2) / 40)
    probe = 30 * np.stack([disk * (grid**m) for m in range(modes)]).astype(np.complex64)
    positions = rng.uniform(N, SIDE - N, (9, 2))
    counts = physics.forward(obj, probe, positions)
    stored = {
        "data": np.fft.ifftshift(counts, axes=(1, 2))[None].astype(np.float32),
        "probe": probe[None, None, None],
        "scan": (positions - N // 2 - 40)[None].astype(np.float32),
    }
    return stored, obj, probe, positions


@pytest.mark.parametrize("compressed", [False, True])
def test_our_forward_model_predicts_what_tike_stored(tmp_path: Path, compressed: bool) -> None:
    stored, obj, probe, positions = tike_scan()
    buffer = io.BytesIO()
    np.savez(buffer, **stored)
    path = tmp_path / ("a.npz.bz2" if compressed else "a.npz")
    path.write_bytes(bz2.compress(buffer.getvalue()) if compressed else buffer.getvalue())
    scan = read(path)
    assert (scan.name, scan.domain, scan.probe_power) == ("a", "counts", "relative")
    np.testing.assert_array_equal(scan.probe, probe)
    moved = positions - scan.positions_px  # by a whole number of pixels, the same for all
    np.testing.assert_allclose(moved, np.broadcast_to(np.rint(moved[0]), moved.shape), atol=1e-5)
    corner = np.rint(moved[0]).astype(int)
    rate = physics.forward(obj[corner[0] :, corner[1] :], probe, scan.positions_px)
    np.testing.assert_allclose(scan.counts(), rate, rtol=1e-3, atol=1e-3 * rate.max())
    assert ((scan.positions_px.min(axis=0) >= N // 2) & (scan.positions_px.min(axis=0) < N)).all()
    assert sum(note.startswith("tike: ") for note in scan.notes) == 3
    assert read_shapes(path) == ((9, N, N), (2, N, N))


def test_leading_axes_are_optional(tmp_path: Path) -> None:
    stored, *_ = tike_scan(modes=1)
    np.savez(tmp_path / "a.npz", **stored)
    np.savez(tmp_path / "b.npz", **{key: np.squeeze(value) for key, value in stored.items()})
    a, b = read(tmp_path / "a.npz"), read(tmp_path / "b.npz")
    np.testing.assert_array_equal(a.diffraction, b.diffraction)
    np.testing.assert_array_equal(a.positions_px, b.positions_px)
    np.testing.assert_array_equal(a.probe, b.probe)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "two scans": ({"data": np.ones((2, 9, N, N))}, "'data'"),
    "oblong": ({"data": np.ones((9, N, 16))}, "'data'.*square"),
    "complex": ({"data": np.ones((9, N, N), complex)}, "'data'.*real"),
    "no patterns": ({"data": np.ones((0, N, N))}, "'data'"),
    "negative": ({"data": -np.ones((9, N, N))}, "'data'.*≥ 0"),
    "positions": ({"scan": np.ones((8, 2))}, "'scan'.*9 patterns"),
    "NaN positions": ({"scan": np.full((9, 2), np.nan)}, "'scan'.*finite"),
    "probe size": ({"probe": np.ones((1, 1, 1, 64, 64), complex)}, "'probe'.*32×32"),
    "probe per pattern": ({"probe": np.ones((9, 1, 1, N, N), complex)}, "'probe'.*one probe"),
    "NaN probe": ({"probe": np.full((N, N), np.nan, complex)}, "'probe'.*finite"),
    "flat probe": ({"probe": np.ones(N)}, "'probe'"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_nonsense_is_refused_naming_the_key(tmp_path: Path, kind: str) -> None:
    changes, message = REFUSED[kind]
    np.savez(tmp_path / "a.npz", **{**tike_scan()[0], **changes})
    with pytest.raises(DataError, match=message):
        read(tmp_path / "a.npz")


@pytest.mark.skipif(not STAR.exists(), reason="the measured star lies beside the repository only")
def test_the_measured_star_round_trips_as_canonical_npz(tmp_path: Path) -> None:
    star = read(STAR)
    assert star.name == "siemens-star-small"
    assert star.diffraction.shape == (516, 128, 128)
    assert star.mean_photons == pytest.approx(461_213, rel=1e-4)
    mean = star.diffraction.mean(axis=0)
    assert mean[48:80, 48:80].sum() > 0.3 * mean.sum()
    assert mean[:16, :16].sum() < 1e-3 * mean.sum()
    write(star, tmp_path / "star.npz")
    back = read(tmp_path / "star.npz")
    np.testing.assert_array_equal(back.diffraction, star.diffraction)
    np.testing.assert_array_equal(back.positions_px, star.positions_px)
    np.testing.assert_array_equal(back.probe, star.probe)
    assert back.notes == star.notes
