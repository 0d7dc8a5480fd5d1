"""Files that are broken, or made to harm: one message each, no traceback, no large allocation."""

import bz2
import io
import re
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ptychoconfig.errors import DataError
from ptychodata.formats import read, read_shapes

MOST_BYTES = 2**23
"""What refusing a small file may allocate."""


def npz(**extra: bytes) -> bytes:
    """A small valid scan, its members replaced by ``extra``."""
    keys = {
        "diffraction": np.ones((4, 32, 32), np.float32),
        "probeGuess": np.ones((32, 32), np.complex64),
        "xcoords": np.arange(4.0),
        "ycoords": np.arange(4.0),
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for key, array in keys.items():
            archive.writestr(f"{key}.npy", extra.get(key, npy(array)))
    return buffer.getvalue()


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def header(text: str, version: int = 1) -> bytes:
    content = text.encode()
    length = struct.pack("<H" if version == 1 else "<I", len(content))
    return b"\x93NUMPY" + bytes([version, 0]) + length + content


def claim(shape: str, descr: str = "'<f4'") -> bytes:
    return header(f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}\n")


def assert_refused(path: Path, message: str = "expected") -> None:
    tracemalloc.start()
    try:
        for function in (read, read_shapes):
            with pytest.raises(DataError, match=message) as caught:
                function(path)
            assert str(path) in str(caught.value)
            assert "; " in str(caught.value)  # what to do next
        assert tracemalloc.get_traced_memory()[1] < MOST_BYTES
    finally:
        tracemalloc.stop()


NOT_A_SCAN = {
    "empty": (b"", "empty"),
    "text": (b"x, y\n1, 2\n", re.escape("b'x, y")),
    "an array": (npy(np.ones(3)), "NUMPY"),
    "an empty archive": (b"PK\5\6" + bytes(18), "expected"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF"),
    "bzip2 of text": (bz2.compress(b"text"), "b'text'"),
    "broken bzip2": (bz2.compress(b"text" * 99)[:-9], "ended"),
    "the start of a zip": (b"PK\3\4", "truncated or broken"),
    "a bzip2 bomb": (bz2.compress(bytes(2**27)), "more than"),
}


@pytest.mark.parametrize("kind", NOT_A_SCAN)
def test_what_is_no_scan_is_refused(tmp_path: Path, kind: str) -> None:
    content, message = NOT_A_SCAN[kind]
    path = tmp_path / "scan.npz"
    path.write_bytes(content)
    if kind == "a bzip2 bomb":  # uncompressed up to the bound, and no further
        with pytest.raises(DataError, match=message):
            read(path)
    else:
        assert_refused(path, message)


def test_no_file_and_a_directory(tmp_path: Path) -> None:
    assert_refused(tmp_path / "missing.npz", "nothing there")
    assert_refused(tmp_path, "a directory")


def test_an_archive_of_something_else_names_its_keys(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", volume=np.ones(3))
    assert_refused(tmp_path / "x.npz", "keys volume")
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert_refused(tmp_path / "x.npz", r"keys \(none\)")


CLAIMS = {
    "10¹² elements": claim("(1000000000000,)"),
    "10¹² elements in three axes": claim("(10000, 10000, 10000)"),
    "more than 64 bits": claim("(9999999999999999999999, 9999999999999999999999)"),
    "nothing, in a huge way": claim("(0, 99999999999999999999999)"),
    "a negative side": claim("(-1, 32, 32)"),
    "a true side": claim("(True, 32, 32)"),
    "no tuple": claim("5"),
    "a hundred axes": claim(str((1,) * 100)) + bytes(4),
    "text of a gigabyte": claim("()", "'<U250000000'"),
    "text beyond reason": claim("()", "'<U999999999'"),
    "a record": claim("(4,)", "[('a', '<f4')]") + bytes(16),
    "an unknown type": claim("(4,)", "'<f7'") + bytes(28),
    "a program": claim("(4,)", "__import__('os').getcwd()"),
    "a list": header("[1, 2]"),
    "no keys": header("{}"),
    "nonsense": header("{'descr': "),
    "many brackets": header("(" * 5000),
    "a null": header("{'a\0': 1}"),
    "a header of 60 kB": header(" " * 60_000),
    "a header of 4 GB": b"\x93NUMPY\2\0\xff\xff\xff\xff{}",
    "version 3": header("{}", 3),
    "no array": b"text",
    "nothing": b"",
}


@pytest.mark.parametrize("kind", CLAIMS)
@pytest.mark.parametrize("key", ["diffraction", "xcoords"])
def test_a_false_claim_is_refused_before_anything_is_allocated(
    tmp_path: Path, key: str, kind: str
) -> None:
    path = tmp_path / "scan.npz"
    path.write_bytes(npz(**{key: CLAIMS[kind]}))
    assert_refused(path)


def test_the_directory_of_the_archive_is_not_believed_either(tmp_path: Path) -> None:
    whole = npz()
    path = tmp_path / "scan.npz"
    at = whole.index(b"PK\1\2")
    for sizes in (struct.pack("<II", 2**31, 2**31), struct.pack("<II", 2**10, 2**31)):
        path.write_bytes(whole[: at + 20] + sizes + whole[at + 28 :])
        assert_refused(path, "more than the file can hold|broken")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compressions_that_npz_does_not_know_are_refused(tmp_path: Path, method: int) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w", method) as archive:
        archive.writestr("diffraction.npy", npy(np.ones((4, 32, 32))))
    assert_refused(tmp_path / "x.npz", "compression")


def test_a_key_standing_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(npz())
    with (
        pytest.warns(UserWarning, match="Duplicate"),
        zipfile.ZipFile(tmp_path / "x.npz", "a") as archive,
    ):
        archive.writestr("xcoords.npy", npy(np.zeros(4)))
    assert_refused(tmp_path / "x.npz", "twice")


def test_damage_in_a_member_is_found(tmp_path: Path) -> None:
    whole = bytearray(npz())
    whole[2000] ^= 1  # in the patterns, which a checksum covers
    (tmp_path / "x.npz").write_bytes(whole)
    with pytest.raises(DataError, match=r"'diffraction'.*CRC"):
        read(tmp_path / "x.npz")


def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path: Path) -> None:
    large = io.BytesIO()
    np.savez(  # large enough to be mapped
        large,
        diffraction=np.ones((300, 64, 64), np.float32),
        xcoords=np.arange(300.0),
        ycoords=np.arange(300.0),
    )
    path = tmp_path / "scan.npz"
    for whole in (npz(), large.getvalue()):
        for length in np.linspace(1, len(whole) - 1, 40).astype(int):
            path.write_bytes(whole[:length])
            with pytest.raises(DataError, match="expected"):
                read(path)


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_any_damage_ends_in_a_data_error_or_a_scan(tmp_path: Path, data: st.DataObject) -> None:
    whole = bytearray(npz())
    for at in data.draw(st.lists(st.integers(0, len(whole) - 1), min_size=1, max_size=4)):
        whole[at] = data.draw(st.integers(0, 255))
    path = tmp_path / "scan.npz"
    path.write_bytes(whole)
    try:
        scan = read(path)
    except DataError:
        return
    assert len(scan) == 4
