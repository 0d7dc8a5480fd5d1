"""Ptychodus: products of every lineage, laid out by hand; ours has all their names."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ptychoconfig.errors import DataError
from ptychodata.contracts import Reconstruction, Scan
from ptychodata.formats import inputs, outputs, ptychodus, read, read_shapes, write
from ptychodata.formats.product import read_product, write_product

from .peers import DETECTOR_PIXEL_M, DISTANCE_M, ENERGY_EV, PIXEL_M, H, N, Peer, W, assert_predicts

PEER = Peer()
CENTRE_M = np.array([3e-6, -7e-6])  # (y, x) of the object's middle
LINEAGES = {
    "0.7.7": ("probe_energy_eV", "object_layer_distance_m", np.array([np.inf]), "costs"),
    "1.0": ("photon_energy_eV", "object_layer_spacing_m", np.empty(0), "costs"),
    "1.1.0": ("photon_energy_eV", "object_layer_spacing_m", np.empty(0), "losses"),
    "1.2": ("photon_energy_eV", "object_layer_spacing_m", np.empty(0), "loss_values"),
    "1.7.0": ("photon_energy_eV", "object_layer_spacing_m", np.empty(0), "loss_values"),
}


def write_pair(folder: Path, version: str = "1.7.0", **changed: Any) -> Path:
    """Product and diffraction file, in shuffled order, paired by index."""
    energy, layers, spacing, losses = LINEAGES[version]
    order = np.random.default_rng(0).permutation(7)
    place = PEER.relative_m[order] + CENTRE_M
    pixels = {"pixel_width_m": PIXEL_M, "pixel_height_m": PIXEL_M}
    product = folder / "product.h5"
    with h5py.File(product, "w") as file:
        file.attrs.update({"name": "x", "comments": "", energy: ENERGY_EV})
        file.attrs["detector_object_distance_m"] = DISTANCE_M
        file["probe_position_indexes"] = changed.get("indexes", order + 100)
        file["probe_position_x_m"] = place[:, 1]
        file["probe_position_y_m"] = place[:, 0]
        probe = PEER.probe if version == "0.7.7" else PEER.probe[None]
        file.create_dataset("probe", data=changed.get("probe", probe)).attrs.update(pixels)
        obj = file.create_dataset("object", data=changed.get("object", PEER.obj[None]))
        obj.attrs.update({**pixels, "center_x_m": CENTRE_M[1], "center_y_m": CENTRE_M[0]})
        file[layers] = spacing
        file[losses] = np.array([3.0, 2.0])
        file.attrs.update(changed.get("attributes", {}))
    with h5py.File(folder / "diffraction.h5", "w") as file:
        patterns = file.create_dataset(
            "patterns", data=np.rint(PEER.counts).astype("u4"), compression="lzf"
        )
        patterns.attrs["detector_pixel_height_m"] = DETECTOR_PIXEL_M
        patterns.attrs["detector_pixel_width_m"] = DETECTOR_PIXEL_M
        file["indexes"] = changed.get("numbers", np.arange(7) + 100)
        bad = np.zeros((N, N), bool)
        bad[0, 3] = True
        file["bad_pixels"] = bad
    return product


def exact(scan: Scan) -> None:
    """The object, too, lies where the positions say."""
    assert scan.truth is not None
    np.testing.assert_array_equal(scan.truth, PEER.obj)
    np.testing.assert_allclose(scan.positions_px, PEER.positions_px, atol=1e-6)


@pytest.mark.parametrize("version", LINEAGES)
@pytest.mark.parametrize("given", ["product.h5", "diffraction.h5"])
def test_every_lineage_is_read(tmp_path: Path, version: str, given: str) -> None:
    write_pair(tmp_path, version)
    scan = read(tmp_path / given)
    np.testing.assert_array_equal(scan.counts(), np.rint(PEER.counts))
    np.testing.assert_array_equal(scan.probe, PEER.probe)
    exact(scan)
    np.testing.assert_array_equal(scan.scan_index, np.arange(7) + 100)
    assert scan.photon_energy_eV == ENERGY_EV
    assert scan.detector_distance_m == DISTANCE_M
    assert scan.detector_pixel_m == DETECTOR_PIXEL_M
    assert scan.object_pixel_m == pytest.approx(PIXEL_M)
    assert scan.mask is not None
    assert np.argwhere(~scan.mask).tolist() == [[0, 3]]
    assert not scan.near_field
    assert read_shapes(tmp_path / given) == ((7, N, N), (2, N, N))
    assert {path.name for path in inputs(tmp_path / given)} == {"product.h5", "diffraction.h5"}


def test_a_point_object_says_which_way_x_and_y_go(tmp_path: Path) -> None:
    """The first pattern is of a position to the right of and below the second's."""
    write_pair(tmp_path)
    with h5py.File(tmp_path / "product.h5", "r+") as file:
        file["probe_position_x_m"][...] = np.arange(7) * 5 * PIXEL_M
        file["probe_position_y_m"][...] = np.arange(7) * 3 * PIXEL_M
        file["probe_position_indexes"][...] = np.arange(7)
    with h5py.File(tmp_path / "diffraction.h5", "r+") as file:
        file["indexes"][...] = np.arange(7)
    steps = np.diff(read(tmp_path / "product.h5").positions_px, axis=0)
    np.testing.assert_allclose(steps, np.broadcast_to([3, 5], (6, 2)))


def test_npz_products_have_flat_names(tmp_path: Path) -> None:
    write_pair(tmp_path)
    product, diffraction = {}, {}
    with h5py.File(tmp_path / "product.h5") as file:
        product |= {name: file[name][()] for name in file} | dict(file.attrs)
        for name in ("probe", "object"):
            product |= {f"{name}_{key}": value for key, value in file[name].attrs.items()}
    with h5py.File(tmp_path / "diffraction.h5") as file:
        diffraction |= {name: file[name][()] for name in file}
    other = tmp_path / "npz"
    other.mkdir()
    np.savez(other / "product.npz", **product)
    np.savez(other / "diffraction.npz", **diffraction)
    exact(read(other / "product.npz"))


def test_patterns_and_positions_without_a_partner_are_dropped(tmp_path: Path) -> None:
    write_pair(tmp_path, numbers=np.array([0, 106, 105, 104, 103, 2, 102]))
    scan = read(tmp_path / "product.h5")
    np.testing.assert_array_equal(scan.counts(), np.rint(PEER.counts[[1, 2, 3, 4, 6]]))
    np.testing.assert_allclose(scan.positions_px, PEER.positions_px[[6, 5, 4, 3, 2]])
    assert any("2 patterns without position and 2 positions" in note for note in scan.notes)


def test_indexes_that_are_all_zero_are_paired_in_order(tmp_path: Path) -> None:
    write_pair(tmp_path, indexes=np.zeros(7, int), numbers=np.arange(7))
    order = np.random.default_rng(0).permutation(7)
    scan = read(tmp_path / "product.h5")
    np.testing.assert_allclose(scan.positions_px, PEER.positions_px[order])
    assert any("paired in order" in note for note in scan.notes)


def test_what_a_scan_cannot_hold_is_dropped_with_a_note(tmp_path: Path) -> None:
    write_pair(
        tmp_path,
        probe=np.stack([PEER.probe, 0.1 * PEER.probe]),
        object=np.stack([PEER.obj] * 2),
        attributes={"far_field": False},
    )
    scan = read(tmp_path / "product.h5")
    assert scan.truth is None
    assert scan.near_field
    np.testing.assert_array_equal(scan.probe, PEER.probe)
    assert any("1 OPR modes" in note for note in scan.notes)
    assert any("2 layers" in note for note in scan.notes)


def test_training_files_have_positions_of_their_own(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "training.h5", "w") as file:
        file["patterns"] = PEER.counts
        file["probe_position_y_px"], file["probe_position_x_px"] = PEER.positions_px.T
    scan = read(tmp_path / "training.h5")
    np.testing.assert_array_equal(scan.positions_px, PEER.positions_px)
    assert scan.probe is None
    assert inputs(tmp_path / "training.h5") == (tmp_path / "training.h5",)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no index in common": ({"numbers": np.arange(7)}, "none of them"),
    "a flat probe": ({"probe": np.ones(N, complex)}, "'probe'"),
    "a probe per pattern": ({"probe": np.ones((99, N, N), complex)}, "64 modes"),
    "NaN": ({"object": np.full((1, H, W), np.nan, complex)}, "'object'.*finite"),
    "energy": ({"attributes": {"photon_energy_eV": -1.0}}, "photon_energy_eV.*above 0"),
    "indexes": ({"indexes": np.arange(8)}, "probe_position_indexes"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_nonsense_is_refused(tmp_path: Path, kind: str) -> None:
    changes, message = REFUSED[kind]
    with pytest.raises(DataError, match=message):
        read(write_pair(tmp_path, **changes))


def test_half_a_pair_is_refused(tmp_path: Path) -> None:
    write_pair(tmp_path)
    (tmp_path / "diffraction.h5").rename(tmp_path / "elsewhere.h5")
    with pytest.raises(DataError, match=r"diffraction\.h5"):
        read(tmp_path / "product.h5")
    (tmp_path / "diffraction.h5").write_bytes((tmp_path / "product.h5").read_bytes())
    with pytest.raises(DataError, match="expected a diffraction file"):
        read(tmp_path / "product.h5")


def test_what_is_written_has_the_names_of_every_version(tmp_path: Path) -> None:
    write_pair(tmp_path)
    scan = read(tmp_path / "product.h5")
    target = tmp_path / "out" / "product.h5"
    target.parent.mkdir()
    assert write(scan, target, "ptychodus") == ()
    assert outputs(target, "ptychodus") == (target, target.with_name("diffraction.h5"))
    with h5py.File(target) as file:
        for energy, layers, spacing, losses in LINEAGES.values():
            assert file.attrs[energy] == ENERGY_EV
            assert file[layers].shape == spacing.shape
            assert file[losses].shape == (0,)
        for name in ("mass_attenuation_m2_per_kg", "mass_attenuation_m2_kg", "exposure_time_s"):
            assert file.attrs[name] == 0
        assert file.attrs["probe_photon_count"] == pytest.approx(scan.mean_photons)
        np.testing.assert_array_equal(file["probe_position_indexes"], np.arange(7) + 100)
        assert file["probe"].shape == (1, 2, N, N)
        assert file["object"].shape == (1, H, W)
        x = file["probe_position_x_m"][:] - file["object"].attrs["center_x_m"]
        y = file["probe_position_y_m"][:] - file["object"].attrs["center_y_m"]
        np.testing.assert_allclose(np.stack([y, x], 1), PEER.relative_m, atol=1e-15)
    with h5py.File(target.with_name("diffraction.h5")) as file:
        assert file["patterns"].compression == "lzf"
        assert file["patterns"].dtype == np.uint32
        assert file["bad_pixels"][0, 3] and file["bad_pixels"][:].sum() == 1
    again = read(target)
    exact(again)
    np.testing.assert_array_equal(again.counts(), scan.counts())


def test_a_scan_without_probe_or_object_still_converts(tmp_path: Path) -> None:
    scan = Scan(
        diffraction=np.ones((2, N, N), np.uint8),
        positions_px=np.array([[-3.5, 2.0], [40.0, 9.5]]),
        probe=None,
        object_pixel_m=1e-8,
        near_field=True,
    )
    notes = write(scan, tmp_path / "a.h5", "ptychodus")
    assert len(notes) == 2 and all("all 1 was written" in note for note in notes)
    assert (tmp_path / "a-diffraction.h5").exists()
    again = read(tmp_path / "a.h5")
    assert again.probe is None and again.truth is None and again.near_field
    np.testing.assert_allclose(again.positions_px, scan.positions_px, rtol=1e-12)
    np.testing.assert_array_equal(again.diffraction, scan.diffraction)


def test_positions_without_pixel_size_cannot_be_written(tmp_path: Path) -> None:
    scan = Scan(np.ones((1, N, N)), np.zeros((1, 2)), None)
    with pytest.raises(DataError, match="--object-pixel-m"):
        write(scan, tmp_path / "a.h5", "ptychodus")
    far = Scan(np.ones((2, N, N)), np.array([[0.0, 0], [1e6, 1e6]]), None, object_pixel_m=1e-8)
    with pytest.raises(DataError, match="outliers"):
        write(far, tmp_path / "a.h5", "ptychodus")
    assert not list(tmp_path.iterdir())


def test_reconstructions_become_products_and_back(tmp_path: Path) -> None:
    found = Reconstruction(
        obj=PEER.obj,
        coverage=np.ones(PEER.obj.shape, np.float32),
        origin_yx_px=np.array([-3.0, 12.0]),
        positions_px=PEER.positions_px + np.array([-3, 12]),
        probe=PEER.probe,
        pixel_size_m=PIXEL_M,
    )
    path = tmp_path / "product.h5"
    ptychodus.write_product(
        found, path, name="x", photon_energy_eV=ENERGY_EV, detector_distance_m=DISTANCE_M
    )
    again = ptychodus.read_product(path)
    np.testing.assert_array_equal(again.obj, found.obj)
    np.testing.assert_array_equal(again.probe, found.probe)
    np.testing.assert_allclose(again.origin_yx_px, found.origin_yx_px)
    np.testing.assert_allclose(again.positions_px, found.positions_px)
    assert again.pixel_size_m == PIXEL_M
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["probe_position_indexes"], np.arange(7))
        x = file["probe_position_x_m"][:] - file["object"].attrs["center_x_m"]
        np.testing.assert_allclose(x, PEER.relative_m[:, 1], atol=1e-15)
    unknown = Reconstruction(**{**vars(found), "pixel_size_m": float("nan")})
    with pytest.raises(DataError, match="pixel size"):
        write_product(unknown, path, name="x")
    np.savez(tmp_path / "other.npz", x=1)
    with pytest.raises(DataError, match="expected"):
        read_product(tmp_path / "other.npz")


def test_the_prediction_holds_for_a_written_pair(tmp_path: Path) -> None:
    scan = Scan(PEER.counts, PEER.positions_px, PEER.probe, truth=PEER.obj, object_pixel_m=PIXEL_M)
    write(scan, tmp_path / "product.h5", "ptychodus")
    assert_predicts(read(tmp_path / "product.h5"), PEER)
