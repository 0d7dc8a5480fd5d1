"""CXI and NXcxi_ptycho, laid out by hand: our forward model predicts the patterns in them."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ptychoconfig.errors import DataError
from ptychoconfig.schema import DataConfig
from ptychodata.contracts import Scan
from ptychodata.formats import read, read_shapes, write

from .peers import (
    DETECTOR_PIXEL_M,
    DISTANCE_M,
    ENERGY_EV,
    PIXEL_M,
    N,
    Peer,
    assert_predicts,
)

PEER = Peer()
JOULE = 1.602176634e-19
DETECTOR, SOURCE = "entry_1/instrument_1/detector_1", "entry_1/instrument_1/source_1"
TRANSLATION = "entry_1/sample_1/geometry_1/translation"
Y, X = PEER.relative_m.T
UPRIGHT = np.stack([X, Y, 0 * X], axis=1)
"""Motion of the sample before an upright detector, whose axes are (0, −1, 0) and (−1, 0, 0)."""


def write_cxi(path: Path, **changed: Any) -> Path:
    """A CXI file; None leaves a key out."""
    keys = {
        "cxi_version": 160,
        f"{DETECTOR}/data": PEER.counts,
        f"{DETECTOR}/distance": DISTANCE_M,
        f"{DETECTOR}/x_pixel_size": DETECTOR_PIXEL_M,
        f"{DETECTOR}/y_pixel_size": DETECTOR_PIXEL_M,
        f"{SOURCE}/energy": ENERGY_EV * JOULE,
        f"{SOURCE}/illumination": PEER.probe,
        TRANSLATION: UPRIGHT,
        **changed,
    }
    with h5py.File(path, "w") as file:
        for key, value in keys.items():
            if value is not None:
                file[key] = value
        if f"{DETECTOR}/data" in file:
            file["entry_1/data_1/data"] = h5py.SoftLink(f"/{DETECTOR}/data")
    return path


def test_a_plain_file(tmp_path: Path) -> None:
    scan = read(write_cxi(tmp_path / "a.cxi"))
    assert_predicts(scan, PEER)
    assert scan.photon_energy_eV == pytest.approx(ENERGY_EV)
    assert scan.detector_distance_m == DISTANCE_M
    assert scan.object_pixel_m == pytest.approx(PIXEL_M)
    assert scan.mask is None
    assert read_shapes(tmp_path / "a.cxi") == ((7, N, N), (2, N, N))


SIZE = DETECTOR_PIXEL_M
BASES = {
    "upright": ([[0, -1, 0], [-1, 0, 0]], UPRIGHT),
    "rows go up": ([[0, 1, 0], [-1, 0, 0]], UPRIGHT * [1, -1, 1]),
    "columns go to +x": ([[0, -1, 0], [1, 0, 0]], UPRIGHT * [-1, 1, 1]),
    "turned by 90°": ([[-1, 0, 0], [0, 1, 0]], np.stack([Y, -X, 0 * X], axis=1)),
}


@pytest.mark.parametrize("kind", BASES)
@pytest.mark.parametrize("turned", [False, True])
def test_the_basis_is_honoured(tmp_path: Path, kind: str, turned: bool) -> None:
    """The same patterns from a detector mounted otherwise, before which the sample moves so."""
    axes, motion = BASES[kind]
    basis = SIZE * np.array(axes, float)
    changed = {f"{DETECTOR}/basis_vectors": basis.T if turned else basis, TRANSLATION: motion}
    assert_predicts(read(write_cxi(tmp_path / "a.cxi", **changed)), PEER)


DIALECTS: dict[str, dict[str, Any]] = {
    "PyNX turns the motion": {TRANSLATION: UPRIGHT.T},
    "energy in eV": {f"{SOURCE}/energy": ENERGY_EV},
    "motion at the detector": {TRANSLATION: None, f"{DETECTOR}/translation": UPRIGHT},
    "motion at the data": {TRANSLATION: None, "entry_1/data_1/translation": UPRIGHT},
    "pixel from the basis": {
        f"{DETECTOR}/x_pixel_size": None,
        f"{DETECTOR}/y_pixel_size": None,
        f"{DETECTOR}/basis_vectors": SIZE * np.array([[0, -1, 0], [-1, 0, 0]]).T,
    },
    "distance before the sample": {f"{DETECTOR}/distance": -DISTANCE_M},
    "a probe of Ptychodus": {f"{SOURCE}/illumination": None, "entry_1/image_1/data": PEER.probe},
}


@pytest.mark.parametrize("kind", DIALECTS)
def test_dialects(tmp_path: Path, kind: str) -> None:
    assert_predicts(read(write_cxi(tmp_path / "a.cxi", **DIALECTS[kind])), PEER)


def test_masks_are_bits(tmp_path: Path) -> None:
    bits = np.zeros((N, N), np.uint32)
    bits[1, 2], bits[3, 4], bits[5, 6] = 1, 0x1000, 0x1004
    scan = read(write_cxi(tmp_path / "a.cxi", **{f"{DETECTOR}/mask": bits}))
    assert scan.mask is not None
    assert np.argwhere(~scan.mask).tolist() == [[1, 2], [5, 6]]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no motion": ({TRANSLATION: None}, "translation"),
    "short motion": ({TRANSLATION: UPRIGHT[:5]}, "shape"),
    "NaN motion": ({TRANSLATION: UPRIGHT * np.nan}, "finite"),
    "oblong pixels": ({f"{DETECTOR}/x_pixel_size": 1e-4}, "square pixels"),
    "a skew basis": ({f"{DETECTOR}/basis_vectors": [[0, 1, 0], [0, 1, 1]]}, "perpendicular"),
    "a short mask": ({f"{DETECTOR}/mask": np.zeros((4, 4), int)}, "mask"),
    "flat data": ({f"{DETECTOR}/data": np.ones((N, N))}, "P, N, N"),
    "complex data": ({f"{DETECTOR}/data": np.ones((7, N, N), complex)}, "real"),
    "no energy": ({f"{SOURCE}/energy": None}, "--photon-energy-ev"),
    "negative counts": ({f"{DETECTOR}/data": -PEER.counts}, "≥ 0"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_nonsense_is_refused(tmp_path: Path, kind: str) -> None:
    changes, message = REFUSED[kind]
    with pytest.raises(DataError, match=message):
        read(write_cxi(tmp_path / "a.cxi", **changes))


def test_what_the_file_lacks_is_given(tmp_path: Path) -> None:
    path = write_cxi(tmp_path / "a.cxi", **{f"{SOURCE}/energy": None, f"{DETECTOR}/distance": None})
    given = DataConfig(photon_energy_eV=ENERGY_EV, detector_distance_m=DISTANCE_M)
    assert_predicts(read(path, options=given), PEER)
    assert_predicts(read(path, options=DataConfig(object_pixel_m=PIXEL_M)), PEER)


def test_written_files_follow_the_layout(tmp_path: Path) -> None:
    mask = np.ones((N, N), bool)
    mask[2, 3] = False
    scan = Scan(
        PEER.counts,
        PEER.relative_m / PIXEL_M,
        PEER.probe,
        mask=mask,
        object_pixel_m=PIXEL_M,
        photon_energy_eV=ENERGY_EV,
        detector_distance_m=DISTANCE_M,
        detector_pixel_m=DETECTOR_PIXEL_M,
    )
    assert write(scan, tmp_path / "a.cxi") == ()
    with h5py.File(tmp_path / "a.cxi") as file:
        assert file["cxi_version"][()] == 160
        assert file[f"{SOURCE}/energy"][()] == pytest.approx(ENERGY_EV * JOULE)
        np.testing.assert_allclose(file[TRANSLATION], UPRIGHT, atol=1e-15)
        assert file["entry_1/data_1"].get("data", getlink=True).path == f"/{DETECTOR}/data"
        assert file["entry_1/data_1/translation"].shape == (7, 3)
        bits = file[f"{DETECTOR}/mask"]
        assert bits.dtype == np.uint32 and bits[2, 3] == 1 and bits[:].sum() == 1
        assert file[f"{DETECTOR}/basis_vectors"].shape == (3, 2)
    again = read(tmp_path / "a.cxi")
    assert_predicts(again, PEER)
    np.testing.assert_array_equal(again.mask, mask)


def write_nx(path: Path, entry: str = "entry_1", **changed: Any) -> Path:
    """NXcxi_ptycho with units: key → (value, unit)."""
    tail = entry[5:]
    instrument = f"{entry}/instrument{tail}"
    detector = f"{instrument}/detector{tail}"
    keys: dict[str, Any] = {
        f"{entry}/definition": ("NXptycho", None),
        f"{entry}/beam{tail}/incident_beam_energy": (ENERGY_EV / 1e3, "keV"),
        f"{instrument}/source{tail}/energy": (3.0, "GeV"),
        f"{instrument}/source{tail}/illumination": (PEER.probe, None),
        f"{detector}/data": (PEER.counts, None),
        f"{detector}/distance": (DISTANCE_M * 1e3, "mm"),
        f"{detector}/x_pixel_size": (DETECTOR_PIXEL_M * 1e6, "µm"),
        f"{detector}/y_pixel_size": (DETECTOR_PIXEL_M * 1e6, "um"),
        f"{detector}/translation": (UPRIGHT * 1e6, "um"),
        **changed,
    }
    with h5py.File(path, "w") as file:
        for key, (value, unit) in keys.items():
            if value is not None:
                file[key] = value
                if unit is not None:
                    file[key].attrs["units"] = unit
    return path


def test_nexus_with_units(tmp_path: Path) -> None:
    scan = read(write_nx(tmp_path / "a.nxs"))
    assert_predicts(scan, PEER)
    assert scan.photon_energy_eV == pytest.approx(ENERGY_EV)


def test_nexus_motors_and_a_raster(tmp_path: Path) -> None:
    index = [0, 1, 2, 3, 4, 5]
    place = PEER.relative_m[index] * 1e6
    changed = {
        "entry/instrument/detector/data": (PEER.counts[index].reshape(2, 3, N, N), None),
        "entry/instrument/detector/translation": (None, None),
        "entry/sample/positioner_1/raw_value": (place[:, 0].reshape(2, 3), "um"),
        "entry/sample/positioner_1/name": ("stage_y", None),
        "entry/sample/positioner_2/raw_value": (place[:, 1].reshape(2, 3), "um"),
        "entry/sample/positioner_2/name": ("stage_x", None),
    }
    scan = read(write_nx(tmp_path / "a.nxs", "entry", **changed))
    np.testing.assert_allclose(scan.positions_px, PEER.relative_m[index] / PIXEL_M)
    np.testing.assert_array_equal(scan.diffraction, PEER.counts[index])
    assert any("--negate-x" in note for note in scan.notes)


def test_virtual_data_beside_the_file(tmp_path: Path) -> None:
    key = f"{DETECTOR}/data"
    with h5py.File(tmp_path / "frames.h5", "w") as file:
        file["frames"] = PEER.counts
    write_nx(tmp_path / "a.nxs", **{key: (None, None)})
    layout = h5py.VirtualLayout(PEER.counts.shape, PEER.counts.dtype)
    layout[:] = h5py.VirtualSource("frames.h5", "frames", PEER.counts.shape)
    with h5py.File(tmp_path / "a.nxs", "r+") as file:
        file.create_virtual_dataset("entry_1/data_1/data", layout)
    assert_predicts(read(tmp_path / "a.nxs"), PEER)


def test_the_crop_is_around_the_beam(tmp_path: Path) -> None:
    frames = np.zeros((7, N + 10, N + 20), np.float32)
    frames[:, 7 : 7 + N, 11 : 11 + N] = PEER.counts
    centre = {f"{DETECTOR}/beam_center_y": 7 + N / 2, f"{DETECTOR}/beam_center_x": 11 + N / 2}
    changed = {key: (value * SIZE, "m") for key, value in centre.items()}
    path = write_nx(tmp_path / "a.nxs", **{f"{DETECTOR}/data": (frames, None)}, **changed)
    with pytest.raises(DataError, match="--crop-px"):
        read(path)
    given = DataConfig(crop_px=N)
    path = write_nx(
        path,
        **{f"{DETECTOR}/data": (frames, None), f"{SOURCE}/illumination": (None, None)},
        **changed,
    )
    scan = read(path, options=given)
    np.testing.assert_array_equal(scan.diffraction, PEER.counts)
    np.testing.assert_allclose(scan.positions_px, PEER.relative_m / PIXEL_M)


def test_an_unknown_unit_is_refused(tmp_path: Path) -> None:
    changed = {f"{DETECTOR}/distance": (5.0, "furlong")}
    with pytest.raises(DataError, match="furlong"):
        read(write_nx(tmp_path / "a.nxs", **changed))
