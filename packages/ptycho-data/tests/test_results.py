"""Reconstructions: read back as written, and refused with the reason when broken."""

import json
from dataclasses import fields, replace

import numpy as np
import pytest

from ptychoconfig.errors import DataError
from ptychodata.contracts import Reconstruction, Solution
from ptychodata.results import (
    read_reconstruction,
    read_solution,
    write_reconstruction,
    write_solution,
    write_tiffs,
)


def image(pixel_size_m=1.5e-8, disagreement=None):
    rng = np.random.default_rng(0)
    return Reconstruction(
        obj=(rng.normal(size=(20, 30)) + 1j * rng.normal(size=(20, 30))).astype(np.complex64),
        coverage=rng.random((20, 30)).astype(np.float32),
        origin_yx_px=np.array([-3.0, 4.0]),
        positions_px=rng.uniform(0, 20, size=(5, 2)),
        probe=rng.normal(size=(2, 8, 8)).astype(np.complex64),
        pixel_size_m=pixel_size_m,
        disagreement=disagreement,
    )


@pytest.mark.parametrize("pixel_size_m", [1.5e-8, float("nan")])
@pytest.mark.parametrize("by_folder", [True, False])
@pytest.mark.parametrize("disagreement", [None, np.ones((20, 30), np.float32)])
def test_what_was_written_is_read(tmp_path, pixel_size_m, by_folder, disagreement):
    write_reconstruction(written := image(pixel_size_m, disagreement), tmp_path)
    read = read_reconstruction(tmp_path if by_folder else tmp_path / "reconstruction.npz")
    for field in fields(Reconstruction):
        if field.name != "probe_source":
            mine, other = getattr(written, field.name), getattr(read, field.name)
            np.testing.assert_array_equal(mine, other)
            assert np.asarray(mine).dtype == np.asarray(other).dtype


def solution():
    rng = np.random.default_rng(1)
    return Solution(
        image(),
        background=rng.random((8, 8)).astype(np.float32),
        intensity=rng.random(5).astype(np.float32),
        variable_modes=rng.normal(size=(2, 8, 8)).astype(np.complex64),
        variable_weights=rng.random((5, 2)).astype(np.float32),
        held_out=np.array([1, 4]),
        history={"r_factor": [0.5, 0.25], "r_free": [0.6, float("nan")], "seconds": [1.0, 2.0]},
        epochs=2,
    )


@pytest.mark.parametrize("without", [(), ("background", "variable_modes", "variable_weights")])
def test_what_a_solver_fitted_is_read_back(tmp_path, without):
    written = replace(solution(), **dict.fromkeys(without))
    write_solution(written, tmp_path)
    read = read_solution(tmp_path)
    for name in ("background", "intensity", "variable_modes", "variable_weights", "held_out"):
        mine, other = getattr(written, name), getattr(read, name)
        if mine is None:
            assert other is None
        else:
            np.testing.assert_array_equal(mine, other)
            assert mine.dtype == other.dtype
    assert read.epochs == 2
    assert read.history.keys() == written.history.keys()
    for name, values in written.history.items():
        np.testing.assert_array_equal(read.history[name], values)
    np.testing.assert_array_equal(read_reconstruction(tmp_path).obj, written.reconstruction.obj)


def test_an_image_alone_is_a_start(tmp_path):
    write_reconstruction(image(), tmp_path)
    read = read_solution(tmp_path)
    assert read.background is read.intensity is read.variable_modes is None
    assert (read.epochs, len(read.held_out), read.history) == (0, 0, {})


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("background", np.ones((4, 4)), r"shape \(8, 8\)"),
        ("intensity", np.ones(4), r"shape \(5,\)"),
        ("variable_weights", np.ones((5, 3)), r"shape \(5, 2\)"),
        ("variable_modes", np.full((2, 8, 8), np.inf + 0j), "finite"),
        ("held_out", np.array([5]), "0 to 4"),
        ("held_out", np.array([0.5]), "integers"),
        ("epochs", np.array([1, 2]), "0 axes"),
        ("history_r_factor", np.array("good"), "real values"),
    ],
)
def test_broken_fits_are_refused(tmp_path, key, value, told):
    file = tmp_path / "reconstruction.npz"
    write_solution(solution(), tmp_path)
    with np.load(file) as found:
        np.savez(file, **{**found, key: value})
    with pytest.raises(DataError, match=told):
        read_solution(file)


def test_the_same_content_gives_the_same_bytes(tmp_path):
    file = tmp_path / "reconstruction.npz"
    write_reconstruction(image(), tmp_path)
    first = file.read_bytes()
    write_reconstruction(image(), tmp_path)
    assert file.read_bytes() == first


@pytest.mark.parametrize("pixel_size_m", [1.5e-8, float("nan")])
def test_tiffs_hold_every_pixel_and_its_size(tmp_path, pixel_size_m):
    import tifffile

    written = image(pixel_size_m)
    write_tiffs(written, tmp_path)
    with tifffile.TiffFile(tmp_path / "phase.tif") as file:
        page = file.pages[0]
        assert page.dtype == np.float32
        np.testing.assert_array_equal(page.asarray(), np.angle(written.obj).astype(np.float32))
        told = json.loads(page.description)
        assert told["origin_yx_px"] == [-3.0, 4.0]
        if np.isfinite(pixel_size_m):
            assert told["pixel_size_m"] == pixel_size_m
            wide, per = page.tags["XResolution"].value
            assert wide / per == pytest.approx(0.01 / pixel_size_m, rel=1e-6)
        else:
            assert told["pixel_size_m"] is None
    amplitude = tifffile.imread(tmp_path / "amplitude.tif")
    np.testing.assert_array_equal(amplitude, np.abs(written.obj))
    first = (tmp_path / "phase.tif").read_bytes()
    write_tiffs(written, tmp_path)
    assert (tmp_path / "phase.tif").read_bytes() == first


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("probe", None, "expected the key 'probe', found coverage"),
        ("object", np.ones((4, 4, 4), complex), "2 axes"),
        ("object", np.ones((0, 4), complex), "pixels"),
        ("object", np.full((20, 30), np.nan + 0j), "NaN"),
        ("object", np.array([["a"]]), "complex values"),
        ("coverage", np.ones((3, 3)), r"shape \(20, 30\)"),
        ("positions_px", np.ones((0, 2)), "P > 0"),
        ("positions_px", np.ones((4, 3)), r"\(P, 2\)"),
        ("origin_yx_px", np.full(2, np.inf), "finite"),
        ("probe", np.ones((1, 4, 6), complex), r"\(M, N, N\)"),
        ("pixel_size_m", np.ones(2), "0 axes"),
        ("disagreement", np.ones((3, 3)), r"shape \(20, 30\)"),
    ],
)
def test_broken_files_are_refused(tmp_path, key, value, told):
    file = tmp_path / "reconstruction.npz"
    write_reconstruction(image(), tmp_path)
    with np.load(file) as found:
        arrays = {**found}
    arrays[key] = value
    np.savez(file, **{name: array for name, array in arrays.items() if array is not None})
    with pytest.raises(DataError, match=told):
        read_reconstruction(file)


def test_missing_and_foreign_files_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"reconstruction\.npz"):
        read_reconstruction(tmp_path)
    (tmp_path / "note.npz").write_text("no archive")
    with pytest.raises(DataError, match="no keys at all"):
        read_reconstruction(tmp_path / "note.npz")
