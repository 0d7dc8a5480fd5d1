"""Patterns that stay on the disk behave as the array that they stand for."""

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptychoconfig.schema import SimulationConfig
from ptychodata import patterns
from ptychodata.patterns import LazyPatterns, blocks, mapped, rows
from ptychodata.simulate import simulate

WHOLE = np.arange(23 * 4 * 4, dtype=np.uint16).reshape(23, 4, 4)


def lazy(step: int = 5) -> tuple[LazyPatterns, list[tuple[int, int]]]:
    read: list[tuple[int, int]] = []

    def load(start: int, stop: int) -> np.ndarray:
        read.append((start, stop))
        return WHOLE[start:stop].copy()

    return LazyPatterns(WHOLE.shape, WHOLE.dtype, load, step=step), read


INDICES = (
    *(0, -1, np.int64(7), slice(None), slice(3, 17), slice(17, 3), slice(None, None, -2)),
    *(np.array([5, 5, 0, 22]), [1, 2], np.array([[1, 2], [20, 3]]), WHOLE[:, 0, 0] % 3 == 0),
    *((slice(2, 9), 1), (3, slice(0, 2), 0), np.array([], dtype=int)),
)


@pytest.mark.parametrize("step", [1, 5, 100])
@pytest.mark.parametrize("index", INDICES, ids=repr)
def test_indexing_is_that_of_the_array(index: object, step: int) -> None:
    found, _ = lazy(step)
    np.testing.assert_array_equal(found[index], WHOLE[index])


@settings(max_examples=50, deadline=None)
@given(st.integers(-30, 30), st.integers(-30, 30), st.integers(1, 30))
def test_any_slice(start: int, stop: int, step: int) -> None:
    np.testing.assert_array_equal(lazy(step)[0][start:stop], WHOLE[start:stop])


@pytest.mark.parametrize("index", [23, -24, np.array([0, 23])])
def test_a_pattern_that_is_not_there(index: object) -> None:
    with pytest.raises(IndexError, match="below 23"):
        lazy()[0][index]


def test_reading_in_order_reads_each_block_once() -> None:
    found, read = lazy()
    for _, block in blocks(found, most_bytes=3 * 32):
        assert block.nbytes <= 3 * 32
    assert read == [(0, 5), (5, 10), (10, 15), (15, 20), (20, 23)]


def test_what_is_read_cannot_be_changed_in_place() -> None:
    with pytest.raises(ValueError, match="read-only"):
        lazy()[0][2:4][:] = 0


def test_it_looks_like_an_array() -> None:
    found, _ = lazy()
    assert (found.shape, found.dtype, found.ndim, len(found)) == (WHOLE.shape, WHOLE.dtype, 3, 23)
    assert found.nbytes == WHOLE.nbytes
    np.testing.assert_array_equal(np.asarray(found, dtype=np.float32), WHOLE.astype(np.float32))


def test_functions_and_choices_are_applied_when_patterns_are_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found, read = lazy()
    monkeypatch.setattr(patterns, "EAGER_BYTES", 100)
    halved = mapped(found, lambda b, which: b[:, :2, :2] / 2 + which.start, dtype="f4", side=(2, 2))
    chosen = rows(found, np.array([22, 1, 3, 2]))
    assert not read
    assert (halved.shape, halved.dtype) == ((23, 2, 2), np.float32)
    expected = WHOLE[:, :2, :2] / 2 + 5 * (np.arange(23) // 5)[:, None, None]
    np.testing.assert_array_equal(halved[:], expected)
    np.testing.assert_array_equal(chosen[:], WHOLE[[22, 1, 3, 2]])
    assert isinstance(chosen, LazyPatterns)


def test_small_arrays_are_changed_at_once() -> None:
    assert isinstance(mapped(WHOLE, lambda block, _: block + 1), np.ndarray)
    np.testing.assert_array_equal(mapped(WHOLE, lambda block, _: block + 1), WHOLE + 1)
    assert rows(WHOLE, np.arange(23)) is WHOLE


def test_photons_are_counted_once(monkeypatch):
    scan = simulate(SimulationConfig(N=32, n_patterns=20))
    index = np.array([7, 3, 11])
    expected = scan.photons[index]
    monkeypatch.setattr("ptychodata.contracts.survey_patterns", None)
    np.testing.assert_array_equal(scan.subset(index).photons, expected)
    assert scan.subset(index).with_probe(None).mean_photons == expected.mean()


def test_what_is_made_ahead_comes_in_order_and_raises_in_its_place():
    threads = set()

    def items():
        for number in range(4):
            threads.add(threading.current_thread().name)
            yield number
        raise OSError("gone")

    coming = patterns.ahead(items())
    assert [next(coming) for _ in range(4)] == [0, 1, 2, 3]
    with pytest.raises(OSError, match="gone"):
        next(coming)
    assert not any("MainThread" in name for name in threads)
    assert list(patterns.ahead([])) == []
