"""A bundle round-trips to the byte, and a broken or altered one is refused."""

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from ptychoconfig.errors import BundleError, ConfigError
from ptychodata.bundle import BUNDLE_NAME, FORMAT_VERSION, Bundle, read_bundle, write_bundle

Members = dict[str, bytes]


def make_bundle(weights: dict[str, NDArray[Any]] | None = None) -> Bundle:
    rng = np.random.default_rng(0)
    probe = (rng.normal(size=(2, 8, 8)) + 1j * rng.normal(size=(2, 8, 8))).astype(np.complex64)
    return Bundle(
        backend="torch",
        config={"model": {"N": 64}, "data": {"nphotons": None}, "training": {"epochs": 3}},
        weights=weights or {"step0/stem/kernel": rng.normal(size=(4, 2)), "count": np.array(7)},
        probes=(probe, probe[:1] * 2),
        probe_learned=True,
        history={"train_loss": [1.0, 0.5], "val_loss": [float("nan"), 0.6]},
        statistics={"mean_photons": 1e6, "unknown": float("nan")},
        versions={"ptycho-data": "0.1.0"},
    )


def assert_same(first: Bundle, second: Bundle) -> None:
    for field in fields(Bundle):
        np.testing.assert_equal(getattr(first, field.name), getattr(second, field.name))
    for name, array in first.weights.items():
        assert second.weights[name].dtype == array.dtype
        assert second.weights[name].shape == array.shape


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / BUNDLE_NAME
    write_bundle(make_bundle(), path)
    return path


def rewrite(path: Path, change: Callable[[Members], None], compression: int = 0) -> None:
    """Alter members as someone who also repairs the hashes would."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    manifest = json.loads(members["manifest.json"])
    for name in set(members) & set(manifest["members"]):
        manifest["members"][name]["sha256"] = hashlib.sha256(members[name]).hexdigest()
    members["manifest.json"] = json.dumps(manifest).encode()
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def test_round_trip_from_file_and_from_folder(file: Path) -> None:
    assert_same(make_bundle(), read_bundle(file))
    assert_same(make_bundle(), read_bundle(file.parent))


def test_the_same_content_gives_the_same_bytes(file: Path, tmp_path: Path) -> None:
    write_bundle(read_bundle(file), tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == file.read_bytes()


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.dictionaries(
        st.from_regex(r"[a-z]{1,8}(/[a-z0-9]{1,4})?\.w", fullmatch=True),
        hnp.arrays(
            st.sampled_from([np.float32, np.float64, np.complex64, np.int64, np.uint8, np.bool_]),
            hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_any_numeric_weights_round_trip(tmp_path: Path, weights: dict[str, NDArray[Any]]) -> None:
    write_bundle(make_bundle(weights), tmp_path / "any.zip")
    assert_same(make_bundle(weights), read_bundle(tmp_path / "any.zip"))


def test_the_manifest_says_what_is_inside(file: Path) -> None:
    with zipfile.ZipFile(file) as archive:
        manifest = json.loads(archive.read("manifest.json"))
        assert set(manifest["models"]) == {"autoencoder", "diffraction_to_obj"}
        assert manifest["format_version"] == FORMAT_VERSION
        assert manifest["backend"] == "torch"
        assert set(manifest["members"]) == set(archive.namelist()) - {"manifest.json"}
        for info in archive.infolist():
            assert info.compress_type == zipfile.ZIP_STORED
            assert info.date_time == (1980, 1, 1, 0, 0, 0)
        for name, entry in manifest["members"].items():
            assert entry["sha256"] == hashlib.sha256(archive.read(name)).hexdigest()


@pytest.mark.parametrize(
    "bundle",
    [
        make_bundle({"w": np.array([object()])}),
        make_bundle({"w": np.array(["text"])}),
        Bundle(**{**vars(make_bundle()), "config": {"model": {}, "data": {}}}),
        Bundle(
            **{**vars(make_bundle()), "config": {"model": {"x": {1}}, "data": {}, "training": {}}}
        ),
    ],
)
def test_what_cannot_be_written_leaves_nothing(tmp_path: Path, bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="nothing was written"):
        write_bundle(bundle, tmp_path / BUNDLE_NAME)
    assert os.listdir(tmp_path) == []


def test_an_unwritable_place_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--output"):
        write_bundle(make_bundle(), tmp_path / "missing" / BUNDLE_NAME)


def test_a_missing_bundle_says_where_one_comes_from(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(BundleError, match="ptycho train"):
            read_bundle(place)


def test_a_newer_format_is_refused_by_name(file: Path) -> None:
    def newer(members: Members) -> None:
        manifest = json.loads(members["manifest.json"])
        members["manifest.json"] = json.dumps({**manifest, "format_version": 2}).encode()
        members["of_the_future.bin"] = b""

    rewrite(file, newer)
    with pytest.raises(BundleError, match=r"newer format 2, .*0\.1\.0.*pip install --upgrade"):
        read_bundle(file)


def h5(fill: Callable[[h5py.File], object]) -> bytes:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as opened:
        fill(opened)
    return buffer.getvalue()


def _virtual(opened: h5py.File) -> None:
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", (4,))
    opened.create_virtual_dataset("w", layout)


HOSTILE_WEIGHTS = {
    "a claim of 4 TB": lambda f: f.create_dataset("w", (10**12,), "f4"),
    "chunks that were never written": lambda f: f.create_dataset(
        "w", (10**12,), "f4", chunks=(1024,)
    ),
    "compressed zeros": lambda f: f.create_dataset("w", data=np.zeros(10**6), compression="gzip"),
    "bytes of another file": lambda f: f.create_dataset(
        "w", (4,), "u1", external=[("/etc/passwd", 0, 4)]
    ),
    "a dataset of another file": _virtual,
    "objects": lambda f: f.create_dataset("w", data=["text"], dtype=h5py.string_dtype()),
    "nothing": lambda f: f.create_dataset("w", data=h5py.Empty("f4")),
}


@pytest.mark.parametrize("kind", HOSTILE_WEIGHTS)
def test_hostile_weights_are_refused(file: Path, kind: str) -> None:
    rewrite(file, lambda members: members.update({"weights.h5": h5(HOSTILE_WEIGHTS[kind])}))
    with pytest.raises(BundleError, match=r"w (is not numeric|does not hold)"):
        read_bundle(file)


def test_links_to_other_files_are_not_followed(file: Path) -> None:
    def link(opened: h5py.File) -> None:
        opened["here"] = np.ones(2)
        opened["there"] = h5py.ExternalLink("/etc/passwd", "/x")
        opened["nowhere"] = h5py.SoftLink("/missing")

    rewrite(file, lambda members: members.update({"weights.h5": h5(link)}))
    assert set(read_bundle(file).weights) == {"here"}


ALTERED: dict[str, Callable[[Members], object]] = {
    "a member too many": lambda m: m.update({"run.py": b"print()"}),
    "a member outside": lambda m: m.update({"../escape": b""}),
    "a member too few": lambda m: m.pop("history.json"),
    "a list for settings": lambda m: m.update({"config.json": b"[]"}),
    "NaN in the JSON": lambda m: m.update({"history.json": b'{"loss": [NaN]}'}),
    "text for numbers": lambda m: m.update({"history.json": b'{"loss": ["a"]}'}),
    "no sections": lambda m: m.update({"config.json": b"{}"}),
    "no HDF5": lambda m: m.update({"weights.h5": b"text"}),
    "a probe of rank 2": lambda m: m.update(
        {"probe.h5": h5(lambda f: f.create_dataset("0", data=np.ones((8, 8), np.complex64)))}
    ),
}


@pytest.mark.parametrize("kind", ALTERED)
def test_an_altered_bundle_is_refused(file: Path, kind: str) -> None:
    rewrite(file, lambda members: (ALTERED[kind](members), None)[1])
    with pytest.raises(BundleError, match="expected"):
        read_bundle(file)


def test_altered_content_does_not_match_its_hash(file: Path) -> None:
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["config.json"] = members["config.json"].replace(b"64", b"32")
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(BundleError, match=r"config\.json with SHA-256"):
        read_bundle(file)


@pytest.mark.parametrize(
    "manifest", ["[]", "{}", '{"format_version": "1"}', '{"format_version": 0}', "{", '{"a": NaN}']
)
def test_a_broken_manifest_is_refused(tmp_path: Path, manifest: str) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("manifest.json", manifest)
    with pytest.raises(BundleError, match="expected"):
        read_bundle(tmp_path / "x.zip")


def test_compressed_members_are_refused(file: Path) -> None:
    rewrite(file, lambda members: None, zipfile.ZIP_DEFLATED)
    with pytest.raises(BundleError, match="uncompressed"):
        read_bundle(file)


def test_a_member_standing_twice_is_refused(file: Path) -> None:
    with (
        pytest.warns(UserWarning, match="Duplicate"),
        zipfile.ZipFile(file, "a") as archive,
    ):
        archive.writestr("config.json", "{}")
    with pytest.raises(BundleError, match="altered"):
        read_bundle(file)


def test_a_truncated_bundle_is_refused_wherever_it_ends(file: Path) -> None:
    whole = file.read_bytes()
    for length in range(0, len(whole), max(1, len(whole) // 60)):
        file.write_bytes(whole[:length])
        with pytest.raises(BundleError, match="expected"):
            read_bundle(file)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_a_flipped_byte_is_noticed_or_harmless(file: Path, data: st.DataObject) -> None:
    whole = bytearray(file.read_bytes())
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    path = file.with_name("flipped.zip")
    path.write_bytes(whole)
    try:
        found = read_bundle(path)
    except BundleError:
        return
    np.testing.assert_equal(found.weights, make_bundle().weights)
    np.testing.assert_equal(found.probes, make_bundle().probes)
    assert found.config == make_bundle().config
