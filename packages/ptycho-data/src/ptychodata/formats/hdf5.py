"""An HDF5 file, opened without trust.

- Links are followed one by one.  An external link, or a source of a virtual dataset, must lie in
  the folder of the file that names it, or below; external raw storage is refused.
- What a header claims is held against the bytes that the file stores for it before anything is
  allocated.  Chunks that were never written are allowed up to a bound: their fill values are free.
- Large patterns stay on the disk (``LazyPatterns``); the file is opened anew for each block, so
  that no handle is left open.
- Filters beyond HDF5's own come from hdf5plugin, which is imported when one is met.
- No object is unpickled or evaluated.
"""

import math
import os
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ptychoconfig.errors import DataError
from ptychodata.formats.tree import Tree
from ptychodata.patterns import BLOCK_BYTES, EAGER_BYTES, LazyPatterns, Patterns

if TYPE_CHECKING:
    import h5py

__all__ = ["Hdf5", "open_hdf5"]

_RATIO = 1032  # the most that deflate compresses; other filters stay below on real data
_MOST_EAGER_UNSTORED = 2**26
_MOST_LAZY_UNSTORED = 2**36
_MOST_CHUNK_BYTES = 2**29
_MOST_ATTRIBUTE_BYTES = 2**20
_MOST_NAMES = 10**5
_MOST_LINKS = 16
_MOST_SOURCES = 10**5
_BROKEN = (OSError, KeyError, RuntimeError, ValueError, TypeError, OverflowError, MemoryError)
"""What h5py raises on broken input."""


@contextmanager
def open_hdf5(path: str | os.PathLike[str]) -> Iterator["Hdf5"]:
    """Open an HDF5 file for reading.

    Raises:
        DataError: it is missing, truncated or broken.
    """
    with ExitStack() as stack:
        yield Hdf5(Path(path), _open(Path(path), stack), stack)


def _open(path: Path, stack: ExitStack) -> "h5py.File":
    import h5py

    with _reading(path, "/"):
        return stack.enter_context(
            # blocks are whole chunks, so that HDF5's own cache would only copy them once more
            h5py.File(path, "r", locking=False, rdcc_nbytes=0)
        )


@contextmanager
def _reading(path: Path, key: str) -> Iterator[None]:
    """Turn what h5py raises into one message."""
    try:
        yield
    except _BROKEN as error:
        line = " ".join(str(error).split())[:300]
        raise DataError(
            f"{path}: key {key!r}: expected a whole HDF5 file, found it broken "
            f"({type(error).__name__}: {line}); copy it again"
        ) from error


class Hdf5(Tree):
    """An open HDF5 file; keys are paths from its root.

    Args:
        path: where it is.
        file: the open file.
        stack: closes the files that links lead to.
    """

    def __init__(self, path: Path, file: "h5py.File", stack: ExitStack) -> None:
        self.path, self._file, self._stack = path, file, stack
        self._opened: dict[Path, h5py.File] = {path.resolve(): file}
        self._checked: dict[str, int] = {}

    def __contains__(self, key: object) -> bool:
        import h5py

        return isinstance(self._node(str(key)), h5py.Dataset)

    def names(self, key: str = "/") -> list[str]:
        """Names in the group ``key``, in order; none if there is no such group."""
        import h5py

        with _reading(self.path, key):
            group = self._node(key)
            if not isinstance(group, h5py.Group):
                return []
            if len(group) > _MOST_NAMES:
                raise ValueError(f"{len(group):,} names in one group")
            return [os.fsdecode(name) for name in group]  # bytes where they are no UTF-8

    def shape(self, key: str) -> tuple[int, ...]:
        """Shape of ``key``, from its header."""
        with _reading(self.path, key):
            return tuple(self._dataset(key).shape)

    def dtype(self, key: str) -> np.dtype[Any]:
        """Type of ``key``, from its header."""
        with _reading(self.path, key):
            return _plain_dtype(self._dataset(key).dtype)

    def load(self, key: str) -> NDArray[Any]:
        """``key``, read whole."""
        with _reading(self.path, key):
            dataset = self._dataset(key)
            if _is_text(dataset.dtype):
                return self._text_of(key, dataset)
            self._check_size(key, dataset, _MOST_EAGER_UNSTORED)
            return _plain(dataset[()])

    def patterns(self, key: str) -> Patterns:
        """The array ``key``, its leading axes joined to (P, H, W); large ones stay on the disk."""
        with _reading(self.path, key):
            dataset = self._dataset(key)
            shape = tuple(dataset.shape)
            self._check_size(key, dataset, _MOST_LAZY_UNSTORED)
            if dataset.ndim < 3:
                raise self.refuse(key, "patterns of shape (P, N, N)", shape, "reshape it")
            flat = (math.prod(shape[:-2]), *shape[-2:])
            if dataset.size * dataset.dtype.itemsize <= EAGER_BYTES:
                return _plain(dataset[()]).reshape(flat)
            rows = _Rows(Path(dataset.file.filename), str(dataset.name), shape)
            step = _step(dataset)
            return LazyPatterns(flat, _plain_dtype(dataset.dtype), rows.load, step=step)

    def attribute(self, key: str, name: str) -> Any:
        """The attribute ``name`` of ``key`` ('' = of the file); None if there is none."""
        import h5py

        with _reading(self.path, f"{key}@{name}"):
            node = self._node(key or "/")
            if node is None or not h5py.h5a.exists(node.id, name.encode()):
                return None
            found = h5py.h5a.open(node.id, name.encode())
            if found.get_storage_size() > _MOST_ATTRIBUTE_BYTES:
                raise ValueError(f"an attribute of {found.get_storage_size():,} bytes")
            value = node.attrs[name]
        return None if isinstance(value, h5py.Empty) else value

    def rows(self, key: str, start: int, stop: int) -> NDArray[Any]:
        """Rows of the array ``key``, along its first axis."""
        with _reading(self.path, key):
            return _plain(self._dataset(key)[start:stop])

    def _text_of(self, key: str, dataset: "h5py.Dataset") -> NDArray[Any]:
        if dataset.size != 1:
            raise self.refuse(key, "one text", f"shape {dataset.shape}", "store a scalar")
        _check_heap(dataset)
        return np.asarray(dataset.asstr("utf-8", "replace")[()], dtype=np.str_)

    def _node(self, key: str) -> Any:
        """The group or dataset at ``key``, or None; its links are followed safely."""
        with _reading(self.path, key):
            return self._follow(self._file, key, _MOST_LINKS)

    def _follow(self, file: "h5py.File", key: str, links_left: int) -> Any:
        import h5py

        node: Any = file
        names = [name for name in key.split("/") if name not in ("", ".")]
        for at, name in enumerate(names):
            if not isinstance(node, h5py.Group) or not node.id.links.exists(name.encode()):
                return None
            kind = node.id.links.get_info(name.encode()).type
            if kind == h5py.h5l.TYPE_HARD:
                node = _wrapped(h5py.h5o.open(node.id, name.encode()))
                continue
            if not links_left:
                raise ValueError(f"more than {_MOST_LINKS} links one after another")
            rest = "/".join(names[at + 1 :])
            if kind == h5py.h5l.TYPE_SOFT:
                target = node.id.links.get_val(name.encode()).decode()
                base = "" if target.startswith("/") else node.name
                return self._follow(node.file, f"{base}/{target}/{rest}", links_left - 1)
            if kind != h5py.h5l.TYPE_EXTERNAL:
                raise ValueError(f"{name!r} is a link of an unknown kind")
            other, target = (part.decode() for part in node.id.links.get_val(name.encode()))
            there = self._beside(Path(node.file.filename), other, key)
            return self._follow(there, f"{target}/{rest}", links_left - 1)
        return node

    def _beside(self, path: Path, name: str, key: str) -> "h5py.File":
        """Open the file ``name`` that ``path`` refers to, if it lies in its folder or below."""
        folder = path.resolve().parent
        target = (folder / name).resolve()
        if not target.is_relative_to(folder):
            raise DataError(
                f"{path}: key {key!r}: expected a link into the same folder, found {name!r}, "
                "which is not followed; copy the data into this file"
            )
        if target not in self._opened:
            if not target.is_file():
                raise DataError(
                    f"{path}: key {key!r}: expected the file {name!r} that it links to, found "
                    "none; copy it beside"
                )
            self._opened[target] = _open(target, self._stack)
        return self._opened[target]

    def _dataset(self, key: str) -> "h5py.Dataset":
        import h5py

        node = self._node(key)
        if not isinstance(node, h5py.Dataset) or node.shape is None:
            raise self.refuse(key, "an array", "none", "check how the file was written")
        _load_filters(node, self.path, key)
        if key not in self._checked:
            self._checked[key] = self._stored_bytes(node, key, _MOST_LINKS)
        return node

    def _check_size(self, key: str, dataset: "h5py.Dataset", unstored: int) -> None:
        """Hold the size that the header claims against the bytes that are stored."""
        if _plain_dtype(dataset.dtype).kind not in "buifc":
            raise self.refuse(key, "numbers", dataset.dtype, "convert it")
        claimed = math.prod(dataset.shape) * dataset.dtype.itemsize
        stored = self._checked[key]
        if claimed > unstored + _RATIO * stored:
            raise self.refuse(
                key,
                "an array that the file holds",
                f"{claimed:,} bytes claimed (shape {dataset.shape}) and {stored:,} stored",
                "copy the file again",
            )

    def _stored_bytes(self, dataset: "h5py.Dataset", key: str, links_left: int) -> int:
        """Bytes that are stored for a dataset, in its file and those of a virtual one."""
        created = dataset.id.get_create_plist()
        path = Path(dataset.file.filename)
        if created.get_external_count():
            raise self.refuse(key, "data in the file", "external storage", "copy it into the file")
        if not dataset.is_virtual:
            _check_chunks(self, dataset, key)
            stored = int(dataset.id.get_storage_size())
            if stored > path.stat().st_size:
                raise ValueError(f"{stored:,} bytes claimed, more than the file has")
            return stored
        if not links_left or created.get_virtual_count() > _MOST_SOURCES:
            raise ValueError("a virtual dataset of too many sources")
        total = 0
        for name, inner in {(s.file_name, s.dset_name) for s in dataset.virtual_sources()}:
            if "%" in name or "%" in inner:
                raise self.refuse(key, "sources by name", f"the pattern {name!r}", "copy the data")
            file = dataset.file if name == "." else self._beside(path, name, key)
            source = self._follow(file, inner, links_left - 1)
            if source is None:
                raise self.refuse(key, f"the source {inner!r} in {name!r}", "none", "copy it")
            _load_filters(source, path, key)
            total += self._stored_bytes(source, key, links_left - 1)
        return total


def _check_chunks(tree: Hdf5, dataset: "h5py.Dataset", key: str) -> None:
    """A chunk is read whole, so that it bounds the memory that a single pattern takes."""
    chunk = math.prod(dataset.chunks or (1,)) * dataset.dtype.itemsize
    if chunk > _MOST_CHUNK_BYTES:
        raise tree.refuse(
            key,
            f"chunks of at most {_MOST_CHUNK_BYTES:,} bytes",
            f"{chunk:,}",
            "write it again with one pattern, or a few, per chunk",
        )


class _Rows:
    """Reads patterns from a dataset whose leading axes are joined.

    Args:
        path, name: file and dataset.
        shape: the dataset's.
    """

    def __init__(self, path: Path, name: str, shape: tuple[int, ...]) -> None:
        self._path, self._name, self._shape = path, name, shape

    def load(self, start: int, stop: int) -> NDArray[Any]:
        with open_hdf5(self._path) as tree:
            if tree.shape(self._name) != self._shape:
                raise tree.refuse(self._name, f"{self._shape}", "another shape", "read it again")
            if len(self._shape) == 3:
                return tree.rows(self._name, start, stop)
            line = math.prod(self._shape[1:-2])
            first, last = start // line, -(-stop // line)
            whole = tree.rows(self._name, first, last).reshape(-1, *self._shape[-2:])
            return whole[start - first * line : stop - first * line]


def _step(dataset: "h5py.Dataset") -> int:
    """Patterns of a block: whole chunks and whole lines, as many as make ``BLOCK_BYTES``."""
    line: int = math.prod(dataset.shape[1:-2]) * (dataset.chunks or (1,))[0]
    size: int = line * math.prod(dataset.shape[-2:]) * dataset.dtype.itemsize
    if size > 8 * BLOCK_BYTES:  # chunks across the scan: read them more often, in less memory
        return max(1, 8 * BLOCK_BYTES * line // size)
    return line * max(1, BLOCK_BYTES // max(1, size))


def _wrapped(node: Any) -> Any:
    import h5py

    kinds = {h5py.h5g.GroupID: h5py.Group, h5py.h5d.DatasetID: h5py.Dataset}
    kind = kinds.get(type(node))
    return None if kind is None else kind(node)


def _load_filters(dataset: Any, path: Path, key: str) -> None:
    """Make the filters of a dataset available, importing hdf5plugin only where one is needed."""
    import h5py

    created = dataset.id.get_create_plist()
    codes = [created.get_filter(i)[0] for i in range(created.get_nfilters())]
    missing = [code for code in codes if not h5py.h5z.filter_avail(code)]
    if missing:
        import hdf5plugin  # noqa: F401 - registers its filters

        missing = [code for code in missing if not h5py.h5z.filter_avail(code)]
    if missing:
        raise DataError(
            f"{path}: key {key!r}: expected a compression that hdf5plugin knows, found HDF5 "
            f"filter {missing[0]}; write it again with another, such as bitshuffle or gzip"
        )


def _is_text(dtype: np.dtype[Any]) -> bool:
    import h5py

    return h5py.check_string_dtype(dtype) is not None


def _is_pair(dtype: np.dtype[Any]) -> bool:
    """Whether a number is a pair (real, imag), as MATLAB writes complex ones."""
    return dtype.names == ("real", "imag") and dtype["real"] == dtype["imag"]


def _plain_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    if _is_pair(dtype):
        return np.dtype(np.complex64 if dtype["real"].itemsize == 4 else np.complex128)
    return dtype.newbyteorder("=")


def _plain(array: Any) -> NDArray[Any]:
    found = np.asarray(array)
    if _is_pair(found.dtype):
        return (found["real"] + 1j * found["imag"]).astype(_plain_dtype(found.dtype))
    return found.astype(_plain_dtype(found.dtype), copy=False)


def _check_heap(dataset: "h5py.Dataset") -> None:
    """Walk the heap that holds a text of variable length, as the library will.

    On a damaged one the library can loop for ever or take any memory (File Format Specification
    3.0, III.E: a collection is a header of 16 bytes, then objects with headers of 16 each).

    Raises:
        ValueError: the heap is not whole.
    """
    at = dataset.id.get_offset()
    if at is None or not dataset.id.get_type().is_variable_str():
        return
    path, base = Path(dataset.file.filename), dataset.file.userblock_size
    with path.open("rb") as file:
        file.seek(at)
        _, heap, number = struct.unpack("<IQI", _exactly(file, 16))
        if heap in (0, 2**64 - 1):
            return  # an empty text
        if base + heap > path.stat().st_size:
            raise ValueError("a text that lies beyond the end of the file")
        file.seek(base + heap)
        magic, size = struct.unpack("<4s4xQ", _exactly(file, 16))
        if magic != b"GCOL" or base + heap + size > path.stat().st_size:
            raise ValueError("a text whose heap is broken")
        place, found = 16, False
        while place + 16 <= size:
            index, length = struct.unpack("<H6xQ", _exactly(file, 16))
            free = index == 0  # the rest of the collection, its own header counted in
            if not (16 <= length <= size - place if free else length <= size - place - 16):
                raise ValueError("a text whose heap is broken")
            if free:
                break
            found = found or index == number
            step = -(-length // 8) * 8
            file.seek(step, os.SEEK_CUR)
            place += 16 + step
    if not found:
        raise ValueError("a text that its heap does not hold")


def _exactly(file: BinaryIO, count: int) -> bytes:
    found = file.read(count)
    if len(found) != count:
        raise ValueError("a file that ends early")
    return found
