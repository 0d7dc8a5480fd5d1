"""Patterns that stay on the disk and are read in blocks when they are asked for.

``LazyPatterns`` stands where an array (P, N, N) does: it has a shape, a dtype, and gives arrays
when indexed along its first axis.  One block is kept, so that reading in order reads each once.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "BLOCK_BYTES",
    "EAGER_BYTES",
    "LazyPatterns",
    "ahead",
    "blocks",
    "joined",
    "mapped",
    "rows",
]

T = TypeVar("T")

EAGER_BYTES = 2**28
"""Size up to which patterns are read into memory at once."""

BLOCK_BYTES = 2**25
"""Size of a block that is read at once."""

_SPARSE = 4
"""A part of a block that is smaller by this factor is read alone."""

Load = Callable[[int, int], NDArray[Any]]
Step = Callable[[NDArray[Any], slice], NDArray[Any]]


class LazyPatterns:
    """P patterns that ``load`` reads.

    Args:
        shape: (P, …).
        dtype: of what ``load`` gives.
        load: (start, stop) → the patterns start … stop − 1.
        step: patterns of a block; by default as many as make ``BLOCK_BYTES``.
    """

    def __init__(
        self, shape: tuple[int, ...], dtype: Any, load: Load, *, step: int | None = None
    ) -> None:
        self.shape = shape
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        self._load = load
        self.step = step or _step(shape, self.dtype)
        self._block: tuple[int, NDArray[Any]] | None = None

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes that the patterns would take in memory."""
        return _size(self.shape, self.dtype)

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        whole = self._range(0, len(self))
        return np.array(whole, dtype=dtype, copy=copy)

    def __getitem__(self, index: Any) -> NDArray[Any]:
        first, *rest = index if isinstance(index, tuple) else (index,)
        found = self._along_first(first)
        if isinstance(first, int | np.integer):
            return np.asarray(found[tuple(rest)])
        return np.asarray(found[(slice(None), *rest)])

    def _along_first(self, index: Any) -> NDArray[Any]:
        count = len(self)
        if isinstance(index, slice):
            chosen = range(*index.indices(count))
            if chosen.step == 1:
                return self._range(chosen.start, max(chosen.start, chosen.stop))
            return self._rows(np.arange(chosen.start, chosen.stop, chosen.step))
        if isinstance(index, int | np.integer):
            return np.asarray(self._rows(np.array([int(index)]))[0])
        numbers = np.asarray(index)
        return self._rows(np.flatnonzero(numbers) if numbers.dtype == np.bool_ else numbers)

    def _range(self, start: int, stop: int) -> NDArray[Any]:
        parts = []
        while start < stop:
            at, block = self._block_of(start)
            part = block[start - at : stop - at]
            parts.append(part)
            start += len(part)
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts) if parts else np.empty((0, *self.shape[1:]), self.dtype)

    def _rows(self, numbers: NDArray[Any]) -> NDArray[Any]:
        count = len(self)
        numbers = numbers.astype(np.int64)
        if numbers.size and not (-count <= numbers.min() and numbers.max() < count):
            raise IndexError(f"expected pattern numbers below {count}, found {numbers.max()}")
        flat = (numbers % count).ravel()
        found = np.empty((len(flat), *self.shape[1:]), self.dtype)
        for block in np.unique(flat // self.step):
            chosen = np.flatnonzero(flat // self.step == block)
            start, stop = int(flat[chosen].min()), int(flat[chosen].max()) + 1
            if (self._block is not None and self._block[0] == block * self.step) or (
                _SPARSE * (stop - start) > self.step
            ):
                start, content = self._block_of(start)
            else:
                content = self._load(start, stop)
            found[chosen] = content[flat[chosen] - start]
        return found.reshape(*numbers.shape, *self.shape[1:])

    def _block_of(self, number: int) -> tuple[int, NDArray[Any]]:
        """The block that holds pattern ``number``, read-only, and where it starts."""
        start = number - number % self.step
        kept = self._block
        if kept is None or kept[0] != start:
            block = self._load(start, min(start + self.step, len(self)))
            block.flags.writeable = False
            kept = self._block = (start, block)
        return kept


Patterns = NDArray[Any] | LazyPatterns


def blocks(patterns: Patterns, most_bytes: int = BLOCK_BYTES) -> Iterator[tuple[slice, Any]]:
    """The patterns in order: which, and an array of them, of at most about ``most_bytes``."""
    step = max(1, most_bytes // max(1, _size(patterns.shape[1:], patterns.dtype)))
    for start in range(0, len(patterns), step):
        part = slice(start, min(start + step, len(patterns)))
        yield part, patterns[part]


def ahead(items: Iterable[T]) -> Iterator[T]:
    """The items in order, the next one made in a thread while one is used."""
    left = iter(items)
    with ThreadPoolExecutor(1, "ahead") as pool:
        coming = pool.submit(_take, left)
        while found := coming.result():
            coming = pool.submit(_take, left)
            yield found[0]


def _take(left: Iterator[T]) -> list[T]:
    return list(islice(left, 1))


def mapped(
    patterns: Patterns,
    function: Step,
    *,
    dtype: Any = None,
    side: tuple[int, ...] | None = None,
) -> Patterns:
    """Patterns after ``function`` (block, which) → block: at once if small, else when read.

    Args:
        patterns: (P, …).
        function: changes a block of patterns; it is given their slice, too.
        dtype: of the result; by default that of ``patterns``.
        side: axes of a pattern after the function; by default unchanged.
    """
    shape = (patterns.shape[0], *(side or patterns.shape[1:]))
    target = np.dtype(dtype or patterns.dtype)
    if isinstance(patterns, LazyPatterns) or max(patterns.nbytes, _size(shape, target)) > (
        EAGER_BYTES
    ):

        def load(start: int, stop: int) -> NDArray[Any]:
            changed = function(patterns[start:stop], slice(start, stop))
            return np.array(changed, dtype=target, order="C")

        step = patterns.step if isinstance(patterns, LazyPatterns) else None
        return LazyPatterns(shape, target, load, step=step)
    found = np.empty(shape, target)
    for part, block in blocks(patterns):
        found[part] = function(block, part)
    return found


def joined(parts: Sequence[Patterns]) -> Patterns:
    """Patterns of one shape, one after another: at once if small, else when read.

    Raises:
        ValueError: their shapes differ, or there are none.
    """
    if len(parts) == 1:
        return parts[0]
    if len({part.shape[1:] for part in parts}) != 1:
        raise ValueError(f"patterns of shapes {sorted({part.shape[1:] for part in parts})}")
    ends = np.cumsum([len(part) for part in parts])
    dtype = np.result_type(*(part.dtype for part in parts))
    shape = (int(ends[-1]), *parts[0].shape[1:])
    if _size(shape, dtype) <= EAGER_BYTES:
        return np.concatenate([part[:] for part in parts])

    def load(start: int, stop: int) -> NDArray[Any]:
        first, last = np.searchsorted(ends, [start, stop - 1], side="right")
        found = []
        for number in range(first, last + 1):
            begin = int(ends[number]) - len(parts[number])
            found.append(parts[number][max(0, start - begin) : stop - begin])
        return np.concatenate(found).astype(dtype, copy=False)

    return LazyPatterns(shape, dtype, load)


def rows(patterns: Patterns, numbers: NDArray[np.integer[Any]]) -> Patterns:
    """The patterns ``numbers`` in their order, at once if they are few, else when read."""
    if np.array_equal(numbers, np.arange(len(patterns))):
        return patterns
    shape = (len(numbers), *patterns.shape[1:])
    if _size(shape, patterns.dtype) <= EAGER_BYTES:
        return patterns[numbers]
    return LazyPatterns(shape, patterns.dtype, lambda start, stop: patterns[numbers[start:stop]])


def _size(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    size = dtype.itemsize
    for side in shape:
        size *= side
    return size


def _step(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    return max(1, BLOCK_BYTES // max(1, _size(shape[1:], dtype)))
