"""A scan through every pair of formats that can hold it comes back as it was."""

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptychodata.contracts import Scan
from ptychodata.formats import formats, read, writable, write

P, N, H, W = 5, 32, 70, 84
FILES = {
    "npz": "a.npz",
    "ptychodus": "product.h5",
    "ptychovit": "a_dp.hdf5",
    "cxi": "a.cxi",
    "ptylab": "a.hdf5",
}
"""Format → a name of a file; those that hold everything."""


@st.composite
def scans(draw: st.DrawFn) -> Scan:
    """Any scan with a known geometry, as float64 metres hold it."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    counts = draw(st.sampled_from(["uint8", "uint16", "int32", "float32"]))
    amplitude = draw(st.booleans())
    modes = draw(st.integers(0, 3))
    masks = {"none": None, "one": (N, N), "each": (P, N, N)}
    mask = masks[draw(st.sampled_from(sorted(masks)))]
    truth = draw(st.booleans())
    probe = rng.normal(size=(modes, N, N)) + 1j * rng.normal(size=(modes, N, N))
    obj = rng.normal(size=(H, W)) + 1j * rng.normal(size=(H, W))
    low = 0 if truth else -500
    energy, distance, pixel = 8000.0, 1.5, 75e-6
    return Scan(
        diffraction=rng.integers(0, 99, (P, N, N)).astype("float32" if amplitude else counts),
        positions_px=rng.uniform([low, low], [H, W], (P, 2)),
        probe=probe.astype(np.complex64) if modes else None,
        domain="amplitude" if amplitude else "counts",
        intensity_scale=draw(st.sampled_from([1.0, 3.7])) if amplitude else 1.0,
        probe_power=draw(st.sampled_from(["absolute", "relative"])),
        mask=None if mask is None else rng.random(mask) > 0.1,
        background=rng.random((N, N), np.float32) if draw(st.booleans()) else None,
        scan_index=rng.permutation(99)[:P] if draw(st.booleans()) else None,
        object_pixel_m=1.239841984e-6 / energy * distance / (N * pixel),
        photon_energy_eV=energy,
        detector_distance_m=distance,
        detector_pixel_m=pixel,
        truth=obj.astype(np.complex64) if truth else None,
        true_positions_px=rng.normal(size=(P, 2)) if draw(st.booleans()) else None,
        near_field=draw(st.booleans()),
        name="a",
        notes=("said before.",) if draw(st.booleans()) else (),
        provenance={"seed": 3} if draw(st.booleans()) else {},
    )


def assert_same(found: Scan, scan: Scan) -> None:
    np.testing.assert_allclose(found.counts(), scan.counts(), rtol=1e-6)
    if scan.domain == "counts":
        assert found.diffraction.dtype == scan.diffraction.dtype
        np.testing.assert_array_equal(found.diffraction, scan.diffraction)
    np.testing.assert_allclose(found.positions_px, scan.positions_px, rtol=1e-12, atol=1e-9)
    for name in ("probe", "mask", "background", "scan_index", "truth", "true_positions_px"):
        np.testing.assert_equal(getattr(found, name), getattr(scan, name), err_msg=name)
    for name in ("object_pixel_m", "photon_energy_eV", "detector_distance_m", "detector_pixel_m"):
        assert getattr(found, name) == pytest.approx(getattr(scan, name), rel=1e-12), name
    assert found.probe_power == scan.probe_power
    assert (found.near_field, found.has_dose) == (scan.near_field, scan.has_dose)
    assert found.provenance == scan.provenance
    assert set(scan.notes) <= set(found.notes)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with TemporaryDirectory() as made, pytest.MonkeyPatch.context() as patch:
        patch.setattr("ptychodata.files._sync", lambda path: None)  # many files, none to last
        yield Path(made)


@pytest.mark.parametrize(("first", "second"), list(product(FILES, FILES)))
@settings(max_examples=4, deadline=None)
@given(scan=scans())
def test_any_scan_through_any_pair(folder: Path, first: str, second: str, scan: Scan) -> None:
    found = scan
    for step, name in enumerate((first, second)):
        place = folder / str(step) / name
        place.mkdir(parents=True, exist_ok=True)
        write(found, place / FILES[name], name)
        found = read(place / FILES[name])
    assert_same(found, scan)


@settings(max_examples=10, deadline=None)
@given(scan=scans())
def test_tike_keeps_what_it_has_a_place_for(folder: Path, scan: Scan) -> None:
    dropped = write(scan, folder / "t.npz", "tike")
    found = read(folder / "t.npz")
    np.testing.assert_allclose(found.counts(), scan.counts(), rtol=1e-6)
    np.testing.assert_equal(found.probe, scan.probe)
    moved = found.positions_px - scan.positions_px
    np.testing.assert_allclose(moved, np.broadcast_to(np.rint(moved[0]), moved.shape), atol=1e-9)
    assert ("the mask" in " ".join(dropped)) == (scan.mask is not None)


def test_every_format_that_is_written_is_tried_here() -> None:
    assert set(writable()) == {*FILES, "tike"}
    assert set(writable()) < set(formats())


@pytest.mark.parametrize("name", FILES)
def test_the_same_scan_gives_the_same_bytes(tmp_path: Path, name: str) -> None:
    scan = _plain()
    written = []
    for run in "ab":
        (tmp_path / run).mkdir()
        write(scan, tmp_path / run / FILES[name], name)
        written.append([path.read_bytes() for path in sorted((tmp_path / run).iterdir())])
    assert written[0] == written[1]


def test_counts_of_an_unknown_unit_stay_so(tmp_path: Path) -> None:
    scan = _plain(intensity_scale=None)
    for name, file in FILES.items():
        write(scan, tmp_path / file, name)
        assert not read(tmp_path / file).has_dose, name


def _plain(**changed: object) -> Scan:
    rng = np.random.default_rng(1)
    known = {
        "diffraction": rng.integers(0, 9, (P, N, N)).astype(np.uint16),
        "positions_px": rng.uniform(0, 40, (P, 2)),
        "probe": np.full((1, N, N), 1 + 2j, np.complex64) * rng.random((N, N), np.float32),
        "object_pixel_m": 1e-8,
        "photon_energy_eV": 8e3,
        "detector_distance_m": 2.0,
        "detector_pixel_m": 1e-4,
    }
    return Scan(**{**known, **changed})
