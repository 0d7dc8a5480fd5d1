"""Overlap of disks in closed form, on scans whose answer is known by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptychoconfig.errors import DataError
from ptychodata.inspection.overlap import disk_overlap, overlap_metrics


def test_disks_that_coincide_touch_and_miss() -> None:
    found = disk_overlap(np.array([0.0, 10, 25]), 10)
    np.testing.assert_allclose(found, [1, 0, 0], atol=1e-12)


def test_a_lens_at_one_radius() -> None:
    expected = 2 / 3 - np.sqrt(3) / (2 * np.pi)  # textbook lens of two circles through centres
    assert disk_overlap(np.array(5.0), 10) == pytest.approx(expected)


@given(st.floats(0, 1), st.floats(0.1, 1e3))
def test_the_fraction_is_that_of_pixels(distance: float, diameter: float) -> None:
    y, x = np.mgrid[-1:1:401j, -1:2:601j]
    one, other = np.hypot(y, x) < 1, np.hypot(y, x - 2 * distance) < 1
    counted = np.count_nonzero(one & other) / np.count_nonzero(one)
    assert disk_overlap(np.array(distance * diameter), diameter) == pytest.approx(counted, abs=0.01)


def test_the_three_metrics_by_hand() -> None:
    positions = np.array([[0.0, 0], [0, 4], [0, 8], [0, 8], [100, 0]])  # one repeated, one far
    groups = np.array([[0, 1], [1, 2], [4, 3]])
    found = overlap_metrics(positions, 10.0, groups, neighbors=1)
    near = float(disk_overlap(np.array(4.0), 10))
    assert found["group_overlap"] == pytest.approx((near + near + 0) / 3)
    assert found["position_overlap"] == pytest.approx((near + near + near + 0) / 4)
    assert found["centroid_overlap"] == pytest.approx(near)  # of (0, 2) and (0, 6); (50, 4) is far
    assert (found["n_positions"], found["n_distinct"], found["n_groups"]) == (5, 4, 3)


def test_no_centroids_that_are_near_give_zero_and_no_groups_nothing() -> None:
    positions = np.array([[0.0, 0], [0, 4], [90, 0], [90, 4]])
    assert overlap_metrics(positions, 10, np.array([[0, 1], [2, 3]]))["centroid_overlap"] == 0
    assert np.isnan(overlap_metrics(positions, 10)["centroid_overlap"])
    assert np.isnan(overlap_metrics(positions, 10)["group_overlap"])


@pytest.mark.parametrize(
    ("positions", "diameter", "neighbors"),
    [([[0.0, 0], [0, 0]], 10, 6), ([[0.0, 0], [1, 0]], 0, 6), ([[0.0, 0], [1, 0]], 5, 0)],
)
def test_only_degenerate_inputs_are_refused(
    positions: list[list[float]], diameter: float, neighbors: int
) -> None:
    with pytest.raises(DataError, match="expected a probe diameter"):
        overlap_metrics(np.array(positions), diameter, neighbors=neighbors)
