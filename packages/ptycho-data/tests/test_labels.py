"""What supervised training learns from: patches of a file, or windows of a known object."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ptychoconfig.errors import DataError
from ptychoconfig.payloads import create_training_payload
from ptychoconfig.schema import DataConfig, SimulationConfig
from ptychodata import physics
from ptychodata.contracts import Scan
from ptychodata.formats import read, write
from ptychodata.simulate import simulate
from ptychodata.training.batches import GroupReader, GroupSampler
from ptychodata.training.labels import check_labels, known_windows


@pytest.fixture(scope="module")
def scan() -> Scan:
    return simulate(SimulationConfig(N=32, n_patterns=12, overlap=0.7, object_kind="natural"))


def centred(scan: Scan) -> np.ndarray:
    """Patches of a smooth object, each centred on the exact position of its pattern."""
    r = np.arange(scan.N) - scan.N // 2
    y, x = (scan.positions_px[:, i, None] + r for i in (0, 1))
    return (np.exp(1j * y[:, :, None] / 40) * (1 + 0.1 * np.cos(x / 30))[:, None, :]).astype("c8")


def test_windows_are_cut_from_the_known_object(scan: Scan) -> None:
    index = np.array([7, 2])
    for window, (y, x) in zip(
        known_windows(scan, index),
        np.floor(scan.positions_px[index] + 0.5).astype(int),
        strict=True,
    ):
        half = scan.N // 2
        np.testing.assert_array_equal(window, scan.truth[y - half : y + half, x - half : x + half])


def test_patches_on_exact_positions_become_windows_on_pixels(scan: Scan) -> None:
    labelled = replace(scan, labels=centred(scan))
    pixel, _ = physics.split_positions(scan.positions_px)
    on_pixels = centred(replace(scan, positions_px=pixel.astype(float)))
    found = known_windows(labelled, np.arange(len(scan)))
    np.testing.assert_allclose(found[:, 1:-1, 1:-1], on_pixels[:, 1:-1, 1:-1], atol=2e-3)
    moved = np.abs(centred(scan) - on_pixels).max()
    assert moved > 5e-3  # else nothing was shown


def test_a_batch_has_its_labels_where_they_are_asked_for(scan: Scan) -> None:
    payload = create_training_payload(N=32, flags={"gridsize": 2, "batch_size": 2}, environment={})
    rows = next(iter(GroupSampler([scan], [np.arange(12)], payload)))
    batch = GroupReader([scan], labelled=True).read(rows)
    assert batch.label is not None
    np.testing.assert_array_equal(batch.label, known_windows(scan, rows.groups.ravel()))
    assert GroupReader([scan]).read(rows).label is None


@pytest.mark.parametrize("key", ["Y", "ground_truth_patches"])
def test_labels_are_read_from_the_npz(scan: Scan, key: str, tmp_path: Path) -> None:
    write(scan, tmp_path / "plain.npz")
    with np.load(tmp_path / "plain.npz") as file:
        np.savez(tmp_path / "labelled.npz", **{**file, key: centred(scan)})
    found = read(tmp_path / "labelled.npz")
    np.testing.assert_array_equal(np.asarray(found.labels), centred(scan))
    assert not any(key in note for note in found.notes)


def test_labels_of_another_size_than_the_patterns_are_dropped_with_a_note(
    scan: Scan, tmp_path: Path
) -> None:
    larger = simulate(SimulationConfig(N=64, n_patterns=12, overlap=0.7))
    write(replace(larger, labels=centred(larger)), tmp_path / "scan.npz")
    found = read(tmp_path / "scan.npz", options=DataConfig(bin_px=2))
    assert found.labels is None and any("labels of shape" in note for note in found.notes)


@pytest.mark.parametrize("suffix", ["npz", "cxi"])
def test_labels_survive_writing(scan: Scan, suffix: str, tmp_path: Path) -> None:
    geometry = {"object_pixel_m": 1e-8, "photon_energy_eV": 8000.0, "detector_distance_m": 2.0}
    labelled = replace(scan, labels=centred(scan), detector_pixel_m=1e-4, **geometry)
    write(labelled, tmp_path / f"scan.{suffix}")
    found = read(tmp_path / f"scan.{suffix}").subset(np.array([3, 5]))
    np.testing.assert_array_equal(np.asarray(found.labels), centred(scan)[[3, 5]])


def test_scans_without_what_is_learned_from_are_refused_by_the_key(scan: Scan) -> None:
    check_labels(scan)
    check_labels(replace(scan, truth=None, labels=centred(scan)))
    wrong = centred(scan)
    wrong[3, 4, 5] = np.nan
    for bad, told in (
        (replace(scan, truth=None), r"key 'Y'.*'objectGuess'.*found neither"),
        (replace(scan, labels=wrong), r"finite labels in the key 'Y'"),
        (replace(scan, truth=scan.truth[:-20]), r"holds the window of every pattern, found one of"),
    ):
        with pytest.raises(DataError, match=told):
            check_labels(bad)
