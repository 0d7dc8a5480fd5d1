"""A scan file as it lies on disk: opened once, trusted in nothing.

NPZ members are read without numpy's loader: their headers are parsed here, and what a header
claims is held against the bytes that the archive has before anything is allocated.  A large
member that is stored uncompressed is mapped into memory, not read.
"""

import ast
import bz2
import io
import math
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ptychoconfig.errors import DataError

if TYPE_CHECKING:
    from ptychodata.formats.hdf5 import Hdf5
    from ptychodata.formats.tree import Tree

__all__ = ["Member", "Source", "open_source"]

_MIB = 2**20
MAPPED_BYTES = 4 * _MIB
"""Size from which a stored member is mapped and not read."""

_HEADER_BYTES = 10_000
_DTYPE = re.compile(r"[<>|=](?:[biufcSU]\d{1,9}|O)")
_DEFLATE_RATIO = 1032  # the most that deflate can compress (zlib's technical notes)
_BZ2_RATIO = 1000  # far above what patterns reach; bzip2 itself allows 10⁶
_BROKEN = (
    OSError,
    EOFError,
    OverflowError,
    RuntimeError,  # zipfile: encrypted; NotImplementedError: unknown compression
    ValueError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)
"""What bz2, zipfile and zlib raise on broken input."""


@dataclass(frozen=True)
class Member:
    """One array of an NPZ archive, known from its header alone."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran_order: bool
    header_bytes: int
    info: zipfile.ZipInfo

    @property
    def is_pickled(self) -> bool:
        """Whether only unpickling, which could run anything, would read it."""
        return self.dtype.hasobject

    @property
    def nbytes(self) -> int:
        """Bytes of the array that the header claims."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, eq=False)
class Source:
    """An open scan file.

    Args:
        path: where it is.
        data: its bytes, uncompressed; mapped from the disk where possible.
        archive: the same as a zip archive; None if it is none.
        members: array key → header, for an NPZ archive.
        hdf5: the same as an open HDF5 file; None if it is none.
    """

    path: Path
    data: NDArray[np.uint8]
    archive: zipfile.ZipFile | None
    members: Mapping[str, Member]
    hdf5: "Hdf5 | None" = None

    @property
    def tree(self) -> "Tree | None":
        """Arrays and attributes by name, of an HDF5 file or an archive."""
        from ptychodata.formats.tree import NpzTree

        if self.hdf5 is not None or self.archive is None:
            return self.hdf5
        return NpzTree(self)

    def array(self, key: str) -> NDArray[Any]:
        """Read or map the array ``key``, in native byte order.

        Raises:
            DataError: it is pickled, larger than memory, or its bytes are broken.
        """
        member = self.members[key]
        if member.is_pickled or self.archive is None:
            raise DataError(
                f"{self.path}: key {key!r}: expected numbers or text, found a pickled object, "
                "which could run any program when loaded; save it as a plain array"
            )
        try:
            if member.info.compress_type == zipfile.ZIP_STORED and member.nbytes >= MAPPED_BYTES:
                array = self._mapped(member)
            else:
                array = _read(self.archive, member)
        except (*_BROKEN, MemoryError) as error:
            raise DataError(
                f"{self.path}: key {key!r}: expected {member.nbytes:,} bytes of {member.dtype}, "
                f"found the file broken ({type(error).__name__}: {error}); copy it again"
            ) from error
        return array if member.dtype.isnative else array.astype(member.dtype.newbyteorder("="))

    def _mapped(self, member: Member) -> NDArray[Any]:
        """The member's bytes where they lie in the file (zip local header: APPNOTE 4.3.7)."""
        start = member.info.header_offset
        local = self.data[start : start + 30].tobytes()
        if not local.startswith(b"PK\3\4"):
            raise ValueError("the archive's directory points at no member")
        name_bytes, extra_bytes = struct.unpack("<HH", local[26:30])
        start += 30 + name_bytes + extra_bytes + member.header_bytes
        content = self.data[start : start + member.nbytes]
        if len(content) != member.nbytes:
            raise EOFError("the file ends early")
        flat = content.view(member.dtype)
        return flat.reshape(member.shape, order="F" if member.fortran_order else "C")


def _read(archive: zipfile.ZipFile, member: Member) -> NDArray[Any]:
    flat = np.empty(math.prod(member.shape), member.dtype)
    target = flat.view(np.uint8) if flat.nbytes else np.empty(0, np.uint8)
    with archive.open(member.info) as stream:
        stream.read(member.header_bytes)
        for start in range(0, len(target), _MIB):
            part = target[start : start + _MIB]
            content = stream.read(len(part))
            if len(content) != len(part):
                raise EOFError("the member ends early")
            part[:] = np.frombuffer(content, np.uint8)
    return flat.reshape(member.shape, order="F" if member.fortran_order else "C")


@contextmanager
def open_source(path: str | os.PathLike[str]) -> Iterator[Source]:
    """Open a scan file, uncompressing ``.bz2`` into memory.

    Raises:
        DataError: there is none, it cannot be read, or it is broken.
    """
    file = Path(path)
    data = _bytes_of(file)
    if isinstance(data, np.memmap) and _may_be_hdf5(data):
        from ptychodata.formats.hdf5 import open_hdf5

        with open_hdf5(file) as tree:
            yield Source(file, data, None, {}, tree)
        return
    if not _starts(data, b"PK\3\4"):
        yield Source(file, data, None, {})
        return
    with file.open("rb") if isinstance(data, np.memmap) else io.BytesIO(data.data) as stream:
        try:
            archive = zipfile.ZipFile(stream)
            members = _headers(archive, len(data))
        except _BROKEN as error:
            raise DataError(
                f"{file}: expected a whole NPZ archive, found it truncated or broken "
                f"({type(error).__name__}: {error}); copy it again"
            ) from error
        yield Source(file, data, archive, members)


def _starts(data: NDArray[np.uint8], magic: bytes) -> bool:
    return data[: len(magic)].tobytes() == magic


def _may_be_hdf5(data: NDArray[np.uint8]) -> bool:
    """Whether HDF5's signature stands at 0, or after a user block, as in MATLAB's files."""
    return any(_starts(data[at:], b"\x89HDF\r\n\x1a\n") for at in (0, 512, 1024, 2048))


def _bytes_of(file: Path) -> NDArray[np.uint8]:
    if not file.is_file():
        found = "a directory" if file.is_dir() else "nothing there"
        raise DataError(f"{file}: expected a scan file, found {found}; check the path")
    try:
        if file.stat().st_size == 0:
            raise DataError(f"{file}: expected a scan file, found an empty one; copy it again")
        data: NDArray[np.uint8] = np.memmap(file, np.uint8, "r")
        return _uncompressed(data) if _starts(data, b"BZh") else data
    except _BROKEN as error:
        raise DataError(
            f"{file}: expected a readable scan file, found: {error}; check its permissions, or "
            "copy it again"
        ) from error


def _uncompressed(data: NDArray[np.uint8]) -> NDArray[np.uint8]:
    limit = 64 * _MIB + _BZ2_RATIO * len(data)
    content = bytearray()
    with bz2.open(io.BytesIO(data.data)) as stream:
        while part := stream.read(_MIB):
            content += part
            if len(content) > limit:
                raise ValueError(f"bzip2 data of more than {limit:,} bytes")
    return np.frombuffer(content, np.uint8)


def _headers(archive: zipfile.ZipFile, file_bytes: int) -> dict[str, Member]:
    """Headers of the arrays, held against the sizes that the archive records."""
    members: dict[str, Member] = {}
    for info in archive.infolist():
        if not info.filename.endswith(".npy"):
            continue
        key = info.filename.removesuffix(".npy")
        _check_sizes(info, file_bytes)
        with archive.open(info) as stream:
            member = _header(stream.read(_HEADER_BYTES + 12), info)
        if key in members:
            raise ValueError(f"key {key!r} stands twice")
        if not member.is_pickled and member.header_bytes + member.nbytes != info.file_size:
            raise ValueError(
                f"key {key!r} claims {member.nbytes:,} bytes, an array of shape {member.shape}, "
                f"and has {max(0, info.file_size - member.header_bytes):,}"
            )
        members[key] = member
    return members


def _check_sizes(info: zipfile.ZipInfo, file_bytes: int) -> None:
    ratio = {zipfile.ZIP_STORED: 1, zipfile.ZIP_DEFLATED: _DEFLATE_RATIO}.get(info.compress_type)
    if ratio is None:
        raise ValueError(f"{info.filename} has compression {info.compress_type}, unknown to NPZ")
    if (
        info.header_offset + info.compress_size > file_bytes
        or info.file_size > ratio * info.compress_size
    ):
        raise ValueError(
            f"{info.filename} claims {info.file_size:,} bytes, more than the file can hold"
        )


def _header(start: bytes, info: zipfile.ZipInfo) -> Member:
    """Parse the header of a ``.npy`` file, versions 1 and 2 (numpy.lib.format)."""
    if start[:6] != b"\x93NUMPY" or start[6:8] not in (b"\1\0", b"\2\0"):
        raise ValueError(f"{info.filename} is no array of NPY format 1 or 2")
    prefix = 10 if start[6] == 1 else 12
    length = int.from_bytes(start[8:prefix], "little")
    text = start[prefix : prefix + length]
    if len(text) != length:
        raise ValueError(f"{info.filename} claims a header of {length:,} bytes")
    try:
        fields = ast.literal_eval(text.decode("latin-1").strip())
        shape, descr, fortran = fields["shape"], fields["descr"], fields["fortran_order"]
    except (SyntaxError, TypeError, KeyError, RecursionError, MemoryError) as error:
        raise ValueError(f"{info.filename} has a broken header: {error}") from error
    if not (
        isinstance(shape, tuple)
        and all(type(side) is int and side >= 0 for side in shape)
        and isinstance(descr, str)
        and _DTYPE.fullmatch(descr)
        and isinstance(fortran, bool)
    ):
        raise ValueError(f"{info.filename} has an unknown header: {fields}")
    try:
        dtype = np.dtype(descr)
    except TypeError as error:
        raise ValueError(f"{info.filename} has an unknown dtype: {descr}") from error
    return Member(shape, dtype, fortran, prefix + length, info)
