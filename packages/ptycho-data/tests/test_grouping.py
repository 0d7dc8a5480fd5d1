"""Groups: near, distinct, repeatable; and the bounds on what can be asked for."""

from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptychoconfig.errors import ConfigError
from ptychodata.grouping import (
    deal,
    draw_subsample,
    group_indices,
    group_redundancy,
    keep_frames,
    redundancy,
    split_validation,
)


def grid(side, step=5.0):
    return step * np.stack(np.divmod(np.arange(side * side), side), axis=1)


def groups_of(positions, gridsize, neighbors, seed=0, **options):
    rng = np.random.default_rng(seed)
    return group_indices(positions, gridsize, neighbors, rng, **options)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 3), st.integers(9, 40), st.integers(8, 30), st.integers(0, 99))
def test_groups_are_an_anchor_and_its_nearest_neighbours(gridsize, count, neighbors, seed):
    positions = np.random.default_rng(seed).uniform(0, 100, size=(count, 2))
    groups = groups_of(positions, gridsize, neighbors, seed)
    assert groups.shape == (count, gridsize**2) and groups.dtype == np.int64
    assert sorted(groups[:, 0]) == list(range(count))
    reach = min(neighbors, count - 1)
    for group in groups:
        assert len(set(group.tolist())) == len(group)
        distance = np.linalg.norm(positions - positions[group[0]], axis=1)
        assert (distance[group] <= np.sort(distance)[reach] + 1e-9).all()


def test_a_seed_gives_one_result_and_another_another():
    first, same, other = (groups_of(grid(6), 2, 8, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, same)
    assert (first != other).any()


def test_single_patterns_need_no_neighbours():
    assert sorted(groups_of(grid(3), 1, 1)[:, 0]) == list(range(9))
    assert groups_of(np.zeros((1, 2)), 1, 4).tolist() == [[0]]


def test_sequential_groups_are_anchored_in_scan_order():
    groups = groups_of(grid(5), 2, 6, n_groups=7, sequential=True)
    assert groups[:, 0].tolist() == list(range(7))


def test_coinciding_positions_do_not_put_a_pattern_twice_into_a_group():
    for groups in (groups_of(np.zeros((12, 2)), 2, 5), groups_of(np.zeros((4, 2)), 2, 9)):
        assert all(len(set(group.tolist())) == 4 for group in groups)


def test_oversampling_reaches_the_bound_without_repeating_a_group():
    positions, neighbors = grid(3), 5
    bound = 9 * comb(neighbors, 3)
    groups = groups_of(positions, 2, neighbors, n_groups=bound, oversampling=True)
    distinct = {(int(group[0]), frozenset(group[1:].tolist())) for group in groups}
    assert len(distinct) == bound
    with pytest.raises(ConfigError, match=f"at most {bound} = 9 patterns"):
        groups_of(positions, 2, neighbors, n_groups=bound + 1, oversampling=True)


def test_more_groups_than_patterns_must_be_asked_for():
    with pytest.raises(ConfigError, match=r"--n-groups.*16 patterns.*--oversampling allows up to"):
        groups_of(grid(4), 2, 6, n_groups=17)
    assert groups_of(grid(4), 2, 6, n_groups=17, oversampling=True).shape == (17, 4)


def test_too_few_patterns_or_neighbours_name_the_flag():
    with pytest.raises(ConfigError, match=r"--gridsize 3: expected at least 9 patterns.*found 4"):
        groups_of(grid(2), 3, 18)
    with pytest.raises(ConfigError, match=r"--neighbor-count: expected at least 8.*found 7"):
        groups_of(grid(5), 3, 7)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 200), st.floats(0, 0.99), st.integers(0, 2**32 - 1))
def test_validation_split_is_a_partition(count, fraction, seed):
    kept, held = split_validation(count, fraction, seed)
    assert len(held) == int(fraction * count)
    assert sorted([*kept, *held]) == list(range(count))
    assert (np.diff(kept) > 0).all() and (np.diff(held) > 0).all()
    again = split_validation(count, fraction, seed)
    np.testing.assert_array_equal(held, again[1])


def test_subsample_is_drawn_once_in_scan_order():
    chosen = draw_subsample(100, 30, seed=4)
    assert len(chosen) == 30 and (np.diff(chosen) > 0).all() and chosen.max() < 100
    np.testing.assert_array_equal(chosen, draw_subsample(100, 30, seed=4))
    np.testing.assert_array_equal(draw_subsample(5, 5, seed=0), np.arange(5))
    with pytest.raises(ConfigError, match=r"--n-subsample: expected 1 to 100 patterns, found 101"):
        draw_subsample(100, 101, seed=4)


def test_excluded_frames_and_ranges_with_both_ends_go():
    np.testing.assert_array_equal(keep_frames(12, "0,3-5,11"), [1, 2, 6, 7, 8, 9, 10])
    np.testing.assert_array_equal(keep_frames(3, "1,1-1"), [0, 2])


@pytest.mark.parametrize("frames", ["12", "3-12", "5-3"])
def test_frames_that_the_scan_lacks_cannot_be_excluded(frames):
    with pytest.raises(ConfigError, match=f"--exclude: expected patterns from 0 to 11.*{frames}"):
        keep_frames(12, frames)


def test_excluding_everything_is_refused():
    with pytest.raises(ConfigError, match=r"--exclude.*leaves none"):
        keep_frames(12, "0-11")


@given(st.integers(1, 60), st.integers(1, 9), st.integers(0, 5))
def test_parts_are_dealt_out_without_rest(count, parts, seed):
    positions = np.random.default_rng(count).uniform(0, 50, (count, 2))
    dealt = deal(positions, parts, seed)
    assert len(dealt) == parts and max(map(len, dealt)) - min(map(len, dealt)) <= 1
    np.testing.assert_array_equal(np.sort(np.concatenate(dealt)), np.arange(count))


def test_every_part_covers_the_scan_alike():
    positions = np.stack(np.divmod(np.arange(400.0), 20), axis=1)
    for part in deal(positions, 4):
        quadrant = (positions[part] >= 10) @ [2, 1]
        assert (np.abs(np.bincount(quadrant, minlength=4) - 25) <= 1).all()


def test_order_of_the_patterns_does_not_matter_to_the_parts():
    rng = np.random.default_rng(0)
    positions = rng.uniform(0, 50, (100, 2))
    order = rng.permutation(100)
    for first, second in zip(deal(positions, 3), deal(positions[order], 3), strict=True):
        np.testing.assert_array_equal(first, np.sort(order[second]))


def test_redundancy_counts_the_probes_on_a_pixel():
    """A disk of 100 pixels on a 10 × 10 px² raster without overlap, and with four times as many."""
    probe = np.zeros((1, 32, 32), complex)
    probe[0, 11:21, 11:21] = 1
    sparse, dense = (np.stack(np.divmod(np.arange(400.0), 20), axis=1) * step for step in (10, 5))
    assert redundancy(probe, sparse) == pytest.approx(1, rel=0.01)
    assert redundancy(probe, dense) == pytest.approx(4 / (1 + 1 / 20) ** 2, rel=0.02)
    assert redundancy(2 * probe, sparse[:1]) == pytest.approx(1)


def test_redundancy_of_groups_that_take_all_is_that_of_their_square():
    assert group_redundancy(4.0, 9, 8) == pytest.approx(9 / 2.5**2)
    assert group_redundancy(4.0, 1, 4) == 1
