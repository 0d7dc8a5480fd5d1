"""ptypy, PtyLab, PtychoViT and fold_slice files, laid out by hand as each describes them."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from scipy.io import savemat

from ptychoconfig.errors import DataError, UsageError
from ptychodata.contracts import Scan
from ptychodata.formats import inputs, read, read_shapes, write

from .peers import (
    DETECTOR_PIXEL_M,
    DISTANCE_M,
    ENERGY_EV,
    PIXEL_M,
    WAVELENGTH_M,
    N,
    Peer,
    assert_predicts,
)

PEER = Peer()


def fill(path: Path, keys: dict[str, Any]) -> Path:
    """An HDF5 file of ``keys``; None leaves one out."""
    with h5py.File(path, "w") as file:
        for key, value in keys.items():
            if value is not None:
                file[key] = value
    return path


def with_probe(scan: Scan) -> Scan:
    """The scan with the peer's probe, which some formats cannot hold."""
    return Scan(scan.diffraction, scan.positions_px, PEER.probe)


def ptyd(folder: Path, **changed: Any) -> Path:
    """Two chunks, the second linked from a file beside."""
    place = PEER.relative_m
    weights = np.ones((3, N, N))
    weights[:, 4, 5] = 0
    fill(
        folder / "part1.h5",
        {
            "part/data": PEER.counts[4:],
            "part/indices": np.arange(4, 7),
            "part/positions": place[4:],
            "part/weights": weights,
        },
    )
    keys = {
        "meta/version": b"0.1",
        "meta/num_frames": 7,
        "meta/shape": np.array([N, N]),
        "meta/psize": np.array([DETECTOR_PIXEL_M] * 2),
        "meta/energy": ENERGY_EV / 1e3,
        "meta/distance": DISTANCE_M,
        "meta/propagation": b"farfield",
        "info/weight2d": weights[0],
        "chunks/0/data": PEER.counts[:4],
        "chunks/0/indices": np.arange(4),
        "chunks/0/positions": place[:4],
        "chunks/0/weights": np.empty(0),
        **changed,
    }
    path = fill(folder / "scan.ptyd", keys)
    with h5py.File(path, "r+") as file:
        file["chunks/1"] = h5py.ExternalLink("part1.h5", "/part")
    return path


def test_ptyd(tmp_path: Path) -> None:
    scan = read(ptyd(tmp_path))
    assert scan.probe is None
    assert_predicts(with_probe(scan), PEER)
    assert scan.photon_energy_eV == pytest.approx(ENERGY_EV)
    assert scan.object_pixel_m == pytest.approx(PIXEL_M)
    assert scan.mask is not None
    assert np.argwhere(~scan.mask).tolist() == [[4, 5]]
    assert not scan.near_field
    assert read_shapes(tmp_path / "scan.ptyd") == ((7, N, N), None)


def test_ptyd_of_the_near_field_is_flagged(tmp_path: Path) -> None:
    scan = read(ptyd(tmp_path, **{"meta/propagation": b"nearfield"}))
    assert scan.near_field
    assert any("near field" in note for note in scan.notes)


PTYD_REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no positions": ({"chunks/0/positions": None}, "chunks/0/positions"),
    "other sides": ({"chunks/0/data": np.ones((4, 8, 8))}, "one shape"),
    "two pixel sizes": ({"meta/psize": np.array([1.0, 2.0])}, "psize"),
    "negative energy": ({"meta/energy": -1.0}, "energy"),
    "weights": ({"chunks/0/weights": np.ones((2, 3))}, "weights"),
    "indices": ({"chunks/0/indices": np.arange(3)}, "indices"),
}


@pytest.mark.parametrize("kind", PTYD_REFUSED)
def test_ptyd_nonsense_is_refused(tmp_path: Path, kind: str) -> None:
    changes, message = PTYD_REFUSED[kind]
    with pytest.raises(DataError, match=message):
        read(ptyd(tmp_path, **changes))


def ptylab(path: Path, **changed: Any) -> Path:
    keys = {
        "ptychogram": PEER.counts,
        "encoder": PEER.relative_m,
        "wavelength": WAVELENGTH_M,
        "dxd": DETECTOR_PIXEL_M,
        "zo": DISTANCE_M,
        "probe": PEER.probe[None, None, :, None],
        "entrancePupilDiameter": 1e-6,
        **changed,
    }
    return fill(path, keys)


@pytest.mark.parametrize("encoder", [PEER.relative_m, PEER.relative_m.T + 1e-3])
def test_ptylab(tmp_path: Path, encoder: np.ndarray) -> None:
    scan = read(ptylab(tmp_path / "a.hdf5", encoder=encoder))
    assert_predicts(scan, PEER)
    assert scan.photon_energy_eV == pytest.approx(ENERGY_EV)
    assert read_shapes(tmp_path / "a.hdf5") == ((7, N, N), (2, N, N))
    assert any("entrancePupilDiameter" in note for note in scan.notes)


def test_ptylab_without_probe_and_with_an_orientation(tmp_path: Path) -> None:
    scan = read(ptylab(tmp_path / "a.hdf5", probe=None, orientation=3))
    assert scan.probe is None
    assert any("--transpose" in note for note in scan.notes)


PTYLAB_REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "encoder": ({"encoder": PEER.relative_m[:3]}, "'encoder'"),
    "wavelength": ({"wavelength": 0.0}, "'wavelength'.*above 0"),
    "probe": ({"probe": np.ones((2, 0, 3), complex)}, "'probe'"),
    "no distance": ({"zo": None}, "--detector-distance-m"),
}


@pytest.mark.parametrize("kind", PTYLAB_REFUSED)
def test_ptylab_nonsense_is_refused(tmp_path: Path, kind: str) -> None:
    changes, message = PTYLAB_REFUSED[kind]
    with pytest.raises(DataError, match=message):
        read(ptylab(tmp_path / "a.hdf5", **changes))


def ptychovit(folder: Path, **changed: Any) -> Path:
    fill(folder / "x_dp.hdf5", {"dp": PEER.counts})
    keys = {
        "probe": PEER.probe[None],
        "object": PEER.obj[None],
        "probe_position_x_m": PEER.relative_m[:, 1],
        "probe_position_y_m": PEER.relative_m[:, 0],
        **changed,
    }
    with h5py.File(fill(folder / "x_para.hdf5", keys), "r+") as file:
        file["object"].attrs["pixel_height_m"] = PIXEL_M
    return folder / "x_dp.hdf5"


@pytest.mark.parametrize("given", ["x_dp.hdf5", "x_para.hdf5"])
def test_ptychovit(tmp_path: Path, given: str) -> None:
    ptychovit(tmp_path)
    scan = read(tmp_path / given)
    assert_predicts(scan, PEER)
    np.testing.assert_allclose(scan.positions_px, PEER.positions_px)  # in the object, too
    np.testing.assert_array_equal(scan.truth, PEER.obj)
    assert {path.name for path in inputs(tmp_path / given)} == {"x_dp.hdf5", "x_para.hdf5"}
    assert read_shapes(tmp_path / given) == ((7, N, N), (2, N, N))


def test_half_a_ptychovit_pair_is_refused(tmp_path: Path) -> None:
    path = ptychovit(tmp_path, probe_position_x_m=np.zeros(3), probe_position_y_m=np.zeros(3))
    with pytest.raises(DataError, match="one position for each of 7"):
        read(path)
    (tmp_path / "x_para.hdf5").unlink()
    with pytest.raises(DataError, match=r"x_para\.hdf5"):
        read(tmp_path / "x_dp.hdf5")
    (tmp_path / "x_dp.hdf5").rename(tmp_path / "y.hdf5")
    with pytest.raises(DataError, match="same name"):
        read(tmp_path / "y.hdf5")


def foldslice_arrays() -> dict[str, Any]:
    """As MATLAB sees them: dp (y, x, pattern), probe (y, x, mode)."""
    return {
        "dp": np.moveaxis(PEER.counts, 0, -1),
        "ppX": PEER.relative_m[:, 1],
        "ppY": PEER.relative_m[:, 0],
        "lambda": WAVELENGTH_M,
        "dx": PIXEL_M,
        "probe": np.moveaxis(PEER.probe, 0, -1),
    }


def pairs(array: np.ndarray) -> np.ndarray:
    """Complex numbers as MATLAB stores them in version 7.3."""
    found = np.empty(array.shape, [("real", "f4"), ("imag", "f4")])
    found["real"], found["imag"] = array.real, array.imag
    return found


@pytest.mark.parametrize("version", ["5", "7.3"])
def test_foldslice(tmp_path: Path, version: str) -> None:
    arrays, path = foldslice_arrays(), tmp_path / "a.mat"
    if version == "5":
        savemat(path, arrays, do_compression=True)
    else:  # the axes of every array are turned round, after a user block of 512 bytes
        with h5py.File(path, "w", userblock_size=512) as file:
            for key, value in arrays.items():
                turned = np.asarray(value).T
                file[key] = pairs(turned) if key == "probe" else np.atleast_2d(turned)
        with path.open("r+b") as file:
            file.write(b"MATLAB 7.3 MAT-file".ljust(512))
    scan = read(path)
    assert_predicts(scan, PEER)
    assert scan.photon_energy_eV == pytest.approx(ENERGY_EV)
    assert read_shapes(path) == ((7, N, N), (2, N, N))


def test_foldslice_nonsense_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.mat"
    for key, value, message in (
        ("ppX", np.zeros(3), "'ppX'.*7 positions"),
        ("ppY", np.full(7, np.nan), "'ppY'.*finite"),
        ("dx", -1.0, "'dx'.*above 0"),
        ("probe", np.ones((2, 2)), "'probe'.*complex"),
        ("dp", "text", "'dp'"),
    ):
        savemat(path, {**foldslice_arrays(), key: value})
        with pytest.raises(DataError, match=message):
            read(path)
    savemat(path, foldslice_arrays())
    whole = path.read_bytes()
    for length in np.linspace(11, len(whole) - 1, 20).astype(int):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match="expected"):
            read(path)


def test_the_pair_is_written_under_its_names(tmp_path: Path) -> None:
    scan = Scan(PEER.counts, PEER.positions_px, PEER.probe, truth=PEER.obj, object_pixel_m=PIXEL_M)
    with pytest.raises(UsageError, match="_dp"):
        write(scan, tmp_path / "x.hdf5", "ptychovit")
    write(scan, tmp_path / "x_dp.hdf5", "ptychovit")
    with h5py.File(tmp_path / "x_para.hdf5") as file:
        assert file["object"].attrs["pixel_height_m"] == PIXEL_M
        np.testing.assert_allclose(file["probe_position_y_m"], PEER.relative_m[:, 0], atol=1e-15)
    assert_predicts(read(tmp_path / "x_para.hdf5"), PEER)


def test_ptylab_and_tike_are_written_as_they_read(tmp_path: Path) -> None:
    scan = Scan(
        PEER.counts,
        PEER.positions_px,
        PEER.probe,
        truth=PEER.obj,
        object_pixel_m=PIXEL_M,
        photon_energy_eV=ENERGY_EV,
        detector_distance_m=DISTANCE_M,
        detector_pixel_m=DETECTOR_PIXEL_M,
    )
    write(scan, tmp_path / "a.hdf5", "ptylab")
    with h5py.File(tmp_path / "a.hdf5") as file:
        np.testing.assert_allclose(file["encoder"], PEER.positions_px * PIXEL_M)
        assert file["wavelength"][()] == pytest.approx(WAVELENGTH_M)
        assert file["probe"].shape == (1, 1, 2, 1, N, N)
    assert_predicts(read(tmp_path / "a.hdf5"), PEER)
    dropped = write(scan, tmp_path / "a.npz", "tike")
    assert any("known object" in note for note in dropped)
    with np.load(tmp_path / "a.npz") as file:
        np.testing.assert_array_equal(file["data"], np.fft.ifftshift(PEER.counts, axes=(1, 2)))
        np.testing.assert_allclose(file["scan"][0], PEER.positions_px - N // 2)
        assert file["probe"].shape == (1, 1, 1, 2, N, N)
    assert_predicts(read(tmp_path / "a.npz"), PEER)
    unknown = Scan(PEER.counts, PEER.positions_px, PEER.probe, object_pixel_m=PIXEL_M)
    with pytest.raises(DataError, match="--photon-energy-ev"):
        write(unknown, tmp_path / "b.hdf5", "ptylab")
