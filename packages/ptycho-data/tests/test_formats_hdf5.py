"""HDF5 files are opened without trust: links, sizes, filters, broken bytes."""

import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from ptychoconfig.errors import DataError
from ptychodata.formats import read
from ptychodata.formats.hdf5 import open_hdf5
from ptychodata.patterns import EAGER_BYTES, LazyPatterns

N = 8
STACK = np.arange(6 * N * N, dtype=np.uint16).reshape(6, N, N)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    return folder / "scan.h5"


def load(path: Path, key: str = "data") -> np.ndarray:
    with open_hdf5(path) as tree:
        return np.asarray(tree.patterns(key)[:])


def write(path: Path, make: Callable[[h5py.File], object]) -> Path:
    with h5py.File(path, "w") as opened:
        make(opened)
    return path


def test_arrays_and_attributes(file: Path) -> None:
    def make(opened: h5py.File) -> None:
        opened["a/b"] = STACK.astype(">u2")
        opened["a/b"].attrs["unit"] = "m"
        opened["name"] = "text"
        opened["pair"] = np.array([(1.0, 2.0)], dtype=[("real", "f4"), ("imag", "f4")])
        opened["nothing"] = h5py.Empty("f4")
        opened["objects"] = h5py.Empty(h5py.string_dtype())

    with open_hdf5(write(file, make)) as tree:
        assert tree.names("a") == ["b"]
        assert tree.dtype("a/b") == np.uint16
        np.testing.assert_array_equal(tree.load("a/b"), STACK)
        assert tree.text("a/b", "unit") == "m"
        assert tree.text("name") == "text"
        assert tree.load("pair") == np.complex64(1 + 2j)
        assert (tree.number("missing"), tree.number("a/b", "missing")) == (None, None)
        assert "a" not in tree and "a/b/c" not in tree
        for key in ("nothing", "a", "missing"):
            with pytest.raises(DataError, match="expected"):
                tree.load(key)
        with pytest.raises(DataError, match="real numbers"):
            tree.array("pair")
        with pytest.raises(DataError, match=r"shape \(any, 9\)"):
            tree.array("a/b", shape=(None, 9))


def test_links_within_the_file_are_followed(file: Path) -> None:
    def make(opened: h5py.File) -> None:
        opened["entry/detector/data"] = STACK
        opened["data"] = h5py.SoftLink("/entry/here/data")
        opened["entry/here"] = h5py.SoftLink("detector")
        opened["dangling"] = h5py.SoftLink("/nowhere")
        opened["loop"] = h5py.SoftLink("/loop")

    np.testing.assert_array_equal(load(write(file, make)), STACK)
    with open_hdf5(file) as tree:
        assert "dangling" not in tree
        with pytest.raises(DataError, match="links one after another"):
            assert "loop" in tree


def test_external_links_stay_in_the_folder(file: Path) -> None:
    write(file.with_name("other.h5"), lambda opened: opened.create_dataset("x", data=STACK))
    outside = file.parents[1] / "secret.h5"
    write(outside, lambda opened: opened.create_dataset("x", data=STACK))
    (file.parent / "alias.h5").symlink_to(outside)
    names = ("other.h5", "../secret.h5", str(outside), "alias.h5", "missing.h5")

    def make(opened: h5py.File) -> None:
        for i, name in enumerate(names):
            opened[f"link{i}"] = h5py.ExternalLink(name, "/x")

    write(file, make)
    np.testing.assert_array_equal(load(file, "link0"), STACK)
    for key in ("link1", "link2", "link3"):
        with pytest.raises(DataError, match="not followed"):
            load(file, key)
    with pytest.raises(DataError, match="found none"):
        load(file, "link4")


def test_virtual_data_stay_in_the_folder(file: Path) -> None:
    def make_source(opened: h5py.File) -> None:
        opened["x"] = STACK
        opened["out"] = h5py.ExternalLink("../secret.h5", "/x")

    write(file.with_name("other.h5"), make_source)
    write(file.parents[1] / "secret.h5", lambda opened: opened.create_dataset("x", data=STACK))

    def virtual(name: str, key: str) -> h5py.VirtualLayout:
        layout = h5py.VirtualLayout(STACK.shape, STACK.dtype)
        layout[:] = h5py.VirtualSource(name, key, STACK.shape)
        return layout

    sources = (("other.h5", "x"), ("../secret.h5", "x"), ("other.h5", "out"), ("other.h5", "none"))

    def make(opened: h5py.File) -> None:
        for i, (name, key) in enumerate(sources):
            opened.create_virtual_dataset(f"v{i}", virtual(name, key))

    write(file, make)
    np.testing.assert_array_equal(load(file, "v0"), STACK)
    for key in ("v1", "v2"):
        with pytest.raises(DataError, match="not followed"):
            load(file, key)
    with pytest.raises(DataError, match="found none"):
        load(file, "v3")


def test_external_storage_is_refused(file: Path) -> None:
    raw = file.with_name("raw.bin")
    raw.write_bytes(bytes(STACK.nbytes))
    external = [(os.fspath(raw), 0, STACK.nbytes)]
    write(file, lambda o: o.create_dataset("data", STACK.shape, "u2", external=external))
    with pytest.raises(DataError, match="external storage"):
        load(file)


CLAIMS = {
    "10¹² patterns": {"shape": (10**12, N, N), "chunks": (1, N, N)},
    "10¹² patterns, contiguous": {"shape": (10**12, N, N)},
    "2⁶² patterns": {"shape": (2**62, 1, 1), "chunks": (1024, 1, 1)},
    "chunks of 3 GB": {"shape": (3000, 1000, 1000), "chunks": (3000, 1000, 1000), "dtype": "u1"},
}


@pytest.mark.parametrize("kind", CLAIMS)
def test_a_false_claim_is_refused_before_anything_is_allocated(file: Path, kind: str) -> None:
    write(file, lambda opened: opened.create_dataset("data", **{"dtype": "u2", **CLAIMS[kind]}))
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"claimed|chunks"):
            load(file)
        with open_hdf5(file) as tree, pytest.raises(DataError, match=r"claimed|chunks"):
            tree.load("data")
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


def test_large_patterns_stay_on_the_disk(file: Path) -> None:
    count = EAGER_BYTES // (2 * 256 * 256) + 10
    shape = (count, 256, 256)

    def make(opened: h5py.File) -> None:
        data = opened.create_dataset("data", shape, "u2", chunks=(3, 256, 256), fillvalue=7)
        data[100] = 1

    with open_hdf5(write(file, make)) as tree:
        found = tree.patterns("data")
    assert isinstance(found, LazyPatterns)
    assert found.step % 3 == 0
    np.testing.assert_array_equal(found[99:102].mean(axis=(1, 2)), [7, 1, 7])
    np.testing.assert_array_equal(found[[count - 1, 100]].mean(axis=(1, 2)), [7, 1])
    write(file, lambda opened: opened.create_dataset("data", data=STACK))
    with pytest.raises(DataError, match="another shape"):
        found[count - 1]


def test_a_raster_of_patterns_is_one_row(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raster = np.arange(4 * 5 * N * N, dtype=np.int32).reshape(4, 5, N, N)
    write(file, lambda opened: opened.create_dataset("data", data=raster))
    np.testing.assert_array_equal(load(file), raster.reshape(20, N, N))
    monkeypatch.setattr("ptychodata.formats.hdf5.EAGER_BYTES", 1)
    with open_hdf5(file) as tree:
        found = tree.patterns("data")
    np.testing.assert_array_equal(found[3:12], raster.reshape(20, N, N)[3:12])


def test_detector_compression_is_read(file: Path) -> None:
    import hdf5plugin

    for name, options in {
        "bitshuffle": hdf5plugin.Bitshuffle(cname="lz4"),
        "lz4": hdf5plugin.LZ4(),
        "zstd": hdf5plugin.Zstd(),
        "gzip": {"compression": "gzip"},
    }.items():
        write(file, lambda o, more=options: o.create_dataset("data", data=STACK, **more))
        np.testing.assert_array_equal(load(file), STACK, err_msg=name)


def test_a_truncated_file_is_refused(file: Path) -> None:
    whole = write(file, lambda opened: opened.create_dataset("data", data=STACK)).read_bytes()
    for length in (8, 100, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:length])
        with pytest.raises(DataError, match="expected"):
            load(file)


def test_an_hdf5_file_of_something_else_names_its_keys(file: Path) -> None:
    write(file, lambda opened: opened.create_dataset("volume", data=STACK))
    with pytest.raises(DataError, match="HDF5 file with the keys volume"):
        read(file)


def test_names_that_are_no_text_are_named_all_the_same(file: Path) -> None:
    def make(opened: h5py.File) -> None:
        opened[b"\xff\xfe"] = STACK
        opened["volume"] = STACK

    with pytest.raises(DataError, match="volume"):
        read(write(file, make))


@pytest.mark.parametrize(
    ("after", "damage"),
    [
        (16, b"\1\0" + bytes(6) + b"\xff" * 8),  # the text claims more than there is
        (16 + 16 + 8, bytes(16)),  # free space of no length: the library would loop for ever
        (0, b"NOPE"),
    ],
)
def test_a_damaged_text_is_refused_before_the_library_reads_it(
    file: Path, after: int, damage: bytes
) -> None:
    write(file, lambda f: f.create_dataset("data", data="title"))
    with open_hdf5(file) as tree:
        assert tree.load("data") == "title"
    content = bytearray(file.read_bytes())
    heap = content.index(b"GCOL")
    content[heap + after : heap + after + len(damage)] = damage
    file.write_bytes(content)
    with open_hdf5(file) as tree, pytest.raises(DataError, match="heap"):
        tree.load("data")
