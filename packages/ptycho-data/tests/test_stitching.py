"""Stitching: additive, whatever the chunks; planned before it is allocated."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptychoconfig.errors import DataError
from ptychodata import physics
from ptychodata.stitching import Canvas, nearest_pattern, plan_canvas, stitch

N = 16


@pytest.fixture
def rng():
    return np.random.default_rng(5)


@pytest.fixture
def positions(rng):
    return rng.uniform(-20, 40, size=(60, 2)) + np.array([7, 100])


@pytest.fixture
def weights(rng):
    return rng.uniform(0.1, 1, size=(60, N, N))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.floats(-500, 500), st.floats(-500, 500)), min_size=1, max_size=9))
def test_canvas_holds_every_window_and_no_more(points):
    positions = np.array(points)
    shape, origin = plan_canvas(positions, N)
    corner = physics.split_positions(positions)[0] - origin - N // 2
    assert corner.min(axis=0).tolist() == [0, 0]
    assert tuple(corner.max(axis=0) + N) == shape


def test_windows_of_an_object_are_stitched_to_that_object(positions, weights, rng):
    shape, origin = plan_canvas(positions, N)
    obj = rng.normal(size=shape) + 1j * rng.normal(size=shape)
    pixel = physics.split_positions(positions)[0]
    patches = physics.extract(obj, pixel - origin, N)
    canvas = stitch(patches, positions, weights)
    known = canvas.weight > 0
    assert known.any() and not known.all()
    np.testing.assert_allclose(canvas.object()[known], obj[known])
    assert (canvas.object()[~known] == 1).all()
    np.testing.assert_array_equal(canvas.origin_yx_px, origin)


def test_where_patches_disagree_their_weighted_mean_stands():
    positions = np.array([[8.0, 8.0], [8.0, 8.0]])
    patches = np.stack([np.full((N, N), 1 + 1j), np.full((N, N), 4 - 2j)])
    weights = np.stack([np.full((N, N), 2.0), np.full((N, N), 1.0)])
    np.testing.assert_allclose(stitch(patches, positions, weights).object(), 2)


@pytest.mark.parametrize("chunk", [1, 7, 60])
def test_chunks_and_workers_do_not_change_the_result(chunk, positions, weights, rng):
    patches = (rng.normal(size=(60, N, N)) + 1j * rng.normal(size=(60, N, N))).astype(np.complex64)
    whole = stitch(patches, positions, weights)
    shape, origin = plan_canvas(positions, N)
    pixel = physics.split_positions(positions)[0] - origin
    workers = [Canvas(shape, origin), Canvas(shape, origin)]
    for number, start in enumerate(range(0, 60, chunk)):
        part = slice(start, start + chunk)
        workers[number % 2].add(patches[part], pixel[part], weights[part].astype(np.float32))
    workers[0].merge(workers[1])
    np.testing.assert_allclose(workers[0].object(), whole.object(), atol=1e-6)
    np.testing.assert_allclose(workers[0].weight, whole.weight, rtol=1e-6)


def test_coverage_is_relative(positions, weights, rng):
    canvas = stitch(np.ones((60, N, N), complex), positions, weights)
    coverage = canvas.relative_coverage()
    assert coverage.dtype == np.float32 and coverage.max() == 1 and coverage.min() == 0
    assert (Canvas((4, 4), np.zeros(2, np.int64)).relative_coverage() == 0).all()


def test_sums_are_kept_in_double_precision():
    canvas = Canvas((N, N), np.zeros(2, np.int64))
    pixel = np.array([[N // 2, N // 2]])
    for value in (1e8, 1.0):
        canvas.add(np.full((1, N, N), value, np.complex64), pixel, np.ones((1, N, N), np.float32))
    assert (canvas.numerator == 1e8 + 1).all()


@pytest.mark.parametrize("pixel", [(7, 8), (8, 25)])
def test_window_outside_the_canvas_is_refused(pixel):
    canvas = Canvas((24, 32), np.zeros(2, np.int64))
    with pytest.raises(IndexError, match="inside the canvas"):
        canvas.add(np.ones((1, N, N), complex), np.array([pixel]), np.ones((1, N, N)))


@pytest.mark.parametrize("far", [1e7, 1e300, -1e12])
def test_absurd_canvas_is_refused_and_the_outlier_named(far, positions):
    positions[17, 1] = far
    with pytest.raises(DataError, match=r"position 17 at \(y, x\)"):
        plan_canvas(positions, N)


def test_every_covered_pixel_has_one_nearest_pattern(positions):
    shape, origin = plan_canvas(positions, N)
    pixel = physics.split_positions(positions)[0]
    mine = nearest_pattern(positions, np.arange(60), N)
    owners = physics.assemble(mine.astype(int), pixel - origin, shape)
    assert owners.max() == 1
    grid = np.stack(np.indices(shape), axis=-1) + origin  # (H, W, 2) in scan coordinates
    distance = np.linalg.norm(grid[:, :, None] - positions, axis=-1)
    nearest = distance.argmin(axis=-1)
    inside = grid - pixel[nearest] + N // 2
    expected = ((inside >= 0) & (inside < N)).all(axis=-1)
    np.testing.assert_array_equal(owners, expected)
    for index in (3, 41):
        y, x = np.nonzero(mine[index])
        corner = pixel[index] - origin - N // 2
        assert (nearest[y + corner[0], x + corner[1]] == index).all()


def test_nearest_pattern_does_not_depend_on_the_chunk():
    positions = 4.0 * np.stack(np.divmod(np.arange(49), 7), axis=1)  # ties everywhere
    whole = nearest_pattern(positions, np.arange(49), N)
    parts = [nearest_pattern(positions, np.array([i]), N)[0] for i in range(49)]
    np.testing.assert_array_equal(whole, parts)
    assert nearest_pattern(positions[:1], np.array([0]), N).all()


def test_disagreement_by_hand():
    """Two patches of weights 1 and 3 and values a and b differ by √(1·3)/(1 + 3) · |a − b|."""
    pixel = np.array([[4, 4], [4, 8]])
    patches = np.ones((2, 8, 8), complex) * np.array([1, 2j])[:, None, None]
    weights = np.ones((2, 8, 8)) * np.array([1, 3])[:, None, None]
    canvas = Canvas((8, 12), np.zeros(2, np.int64), spread=True)
    canvas.add(patches, pixel, weights)
    found = canvas.disagreement()
    np.testing.assert_allclose(found[:, 4:8], np.sqrt(3) / 4 * abs(1 - 2j), rtol=1e-6)
    assert (found[:, :4] == 0).all() and (found[:, 8:] == 0).all()
    parts = [Canvas((8, 12), np.zeros(2, np.int64), spread=True) for _ in range(2)]
    for part, i in zip(parts, range(2), strict=True):
        part.add(patches[i : i + 1], pixel[i : i + 1], weights[i : i + 1])
    parts[0].merge(parts[1])
    np.testing.assert_allclose(parts[0].disagreement(), found, atol=1e-7)
    assert Canvas((8, 12), np.zeros(2, np.int64)).disagreement() is None
