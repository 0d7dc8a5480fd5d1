"""Numeric arrays of MATLAB files of version 5, read without trust.

Layout: MathWorks, *MAT-File Format* (R2019b), chapter 1.  Only what a numeric array needs is
parsed.  What a header claims is held against the bytes of the file before anything is allocated.
SciPy's reader crashes on some broken files (found by ``nox -s fuzz``), so it is not used.
"""

import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Variable", "variables"]

_HEADER_BYTES, _START_BYTES = 128, 4096
_MATRIX, _COMPRESSED = 14, 15
_COMPLEX = 0x0800
_RATIO = 1032  # the most that deflate compresses
_STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8"}
_STORED |= {12: "i8", 13: "u8"}
_CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4"}
_CLASSES |= {14: "i8", 15: "u8"}
_MOST_AXES = 32


@dataclass(frozen=True)
class Variable:
    """A numeric array of a file, known from its header.

    Args:
        shape: (…), the first axis the fastest in the file.
        dtype: of its elements; ``object`` for text, cells and the like, which are not read.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    _content: bytes
    _is_compressed: bool
    _order: str

    def load(self) -> NDArray[np.generic]:
        """Read the array.

        Raises:
            ValueError: the file does not hold what it claims, or the array is not numeric.
            zlib.error: the compressed data are broken.
        """
        if self.dtype.kind == "O":
            raise ValueError("an array of text or cells")
        needed = math.prod(self.shape)
        limit = _RATIO * len(self._content) if self._is_compressed else len(self._content)
        if needed > limit + _START_BYTES:
            raise ValueError(f"an array of shape {self.shape} claimed, {limit:,} bytes stored")
        body = self._content
        if self._is_compressed:
            body = _inflated(body, _START_BYTES + 2 * 8 * needed)
        parts = list(_elements(body, self._order))[3:]
        real = self._part(parts, 0)
        if self.dtype.kind != "c":
            return np.asarray(real.astype(self.dtype)).reshape(self.shape, order="F")
        whole = np.empty(needed, self.dtype)
        whole.real, whole.imag = real, self._part(parts, 1)
        return whole.reshape(self.shape, order="F")

    def _part(self, parts: list[tuple[int, bytes]], number: int) -> NDArray[np.generic]:
        if number >= len(parts) or parts[number][0] not in _STORED:
            raise ValueError("an array without its numbers")
        kind, content = parts[number]
        stored = np.dtype(self._order + _STORED[kind])
        if len(content) != math.prod(self.shape) * stored.itemsize:
            raise ValueError(f"shape {self.shape} claimed, {len(content):,} bytes stored")
        return np.frombuffer(content, stored)


def variables(data: NDArray[np.uint8]) -> dict[str, Variable]:
    """The arrays of a file, by name; ``data`` are its bytes.

    Raises:
        ValueError: the file is no whole one of version 5.
        zlib.error: the compressed data are broken.
    """
    order = {b"IM": "<", b"MI": ">"}.get(data[126:128].tobytes())
    if order is None:
        raise ValueError("no mark of the byte order")
    found: dict[str, Variable] = {}
    at = _HEADER_BYTES
    while at + 8 <= len(data):
        kind, size = struct.unpack(f"{order}II", data[at : at + 8].tobytes())
        if size > len(data) - at - 8:
            raise ValueError(f"an element of {size:,} bytes, more than are left")
        content = data[at + 8 : at + 8 + size].tobytes() if kind in (_MATRIX, _COMPRESSED) else b""
        at += 8 + size
        named = _variable(content, kind == _COMPRESSED, order) if content else None
        if named is not None:
            found[named[0]] = named[1]
    return found


def _variable(content: bytes, is_compressed: bool, order: str) -> tuple[str, Variable] | None:
    start = _inflated(content, _START_BYTES) if is_compressed else content[:_START_BYTES]
    parts = []
    for part in _elements(start, order):
        parts.append(part)
        if len(parts) == 3:
            break
    if len(parts) < 3 or len(parts[0][1]) != 8 or len(parts[1][1]) % 4:
        raise ValueError("an array without flags, dimensions and name")
    flags = struct.unpack(f"{order}I", parts[0][1][:4])[0]
    shape = struct.unpack(f"{order}{len(parts[1][1]) // 4}i", parts[1][1])
    name = parts[2][1].decode("latin-1")
    if not name or not 2 <= len(shape) <= _MOST_AXES or min(shape) < 0:
        return None  # the workspace of functions, and what else is no array
    dtype = np.dtype(_CLASSES.get(flags & 0xFF, "O"))
    if flags & _COMPLEX and dtype.kind != "O":
        dtype = np.dtype(np.complex64 if dtype == np.float32 else np.complex128)
    return name, Variable(shape, dtype, content, is_compressed, order)


def _inflated(content: bytes, most: int) -> bytes:
    """The element inside a compressed one, without its tag; at most so many bytes of it."""
    inner = zlib.decompressobj().decompress(content, most)
    return inner[8:]


def _elements(content: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """Type and content of the elements of an array, as far as they are there."""
    at = 0
    while at + 8 <= len(content):
        kind, size = struct.unpack(f"{order}II", content[at : at + 8])
        if kind >> 16:  # a small element: type, size and content in eight bytes
            kind, size = kind & 0xFFFF, kind >> 16
            if size > 4:
                raise ValueError(f"a small element of {size} bytes")
            yield kind, content[at + 4 : at + 4 + size]
            at += 8
            continue
        yield kind, content[at + 8 : at + 8 + size]
        at += 8 + -(-size // 8) * 8
