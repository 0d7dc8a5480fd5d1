"""Files are written whole or not at all, and read strictly."""

import errno
import hashlib
import json
import math
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptychoconfig.errors import ConfigError, DataError
from ptychodata.files import atomic_path, dump_json, parse_json, sha256_of


def test_the_file_appears_whole_and_alone(tmp_path: Path) -> None:
    target = tmp_path / "figure.png"
    with atomic_path(target) as temporary:
        assert temporary.suffix == ".png"
        temporary.write_bytes(b"new")
        assert not target.exists()
    assert target.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["figure.png"]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "scan.npz"
    target.write_bytes(b"old")

    def interrupted() -> None:
        with atomic_path(target) as temporary:
            temporary.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["scan.npz"]


def test_the_file_gets_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    with atomic_path(tmp_path / "ours"):
        pass
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "usual").stat().st_mode


@pytest.mark.parametrize("place", ["missing/out.npz", "a_file/out.npz", "a_folder"])
def test_an_unwritable_place_is_a_config_error(tmp_path: Path, place: str) -> None:
    (tmp_path / "a_file").touch()
    (tmp_path / "a_folder").mkdir()
    with pytest.raises(ConfigError, match="--output"), atomic_path(tmp_path / place):
        pytest.fail("nothing could have been written here")
    assert sorted(os.listdir(tmp_path)) == ["a_file", "a_folder"]


@pytest.mark.parametrize(("code", "kind"), [(errno.ENOSPC, ConfigError), (errno.EIO, OSError)])
def test_only_a_full_disk_is_blamed_on_the_place(
    tmp_path: Path, code: int, kind: type[Exception]
) -> None:
    with pytest.raises(kind) as caught, atomic_path(tmp_path / "out"):
        raise OSError(code, os.strerror(code))
    assert type(caught.value) is kind
    assert os.listdir(tmp_path) == []


def test_sha256_is_that_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc" * 10**5)
    assert sha256_of(tmp_path / "x") == hashlib.sha256(b"abc" * 10**5).hexdigest()
    with pytest.raises(DataError, match="readable"):
        sha256_of(tmp_path / "missing")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


def _plain(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


@given(JSON)
def test_json_round_trips_but_for_what_is_not_finite(value: object) -> None:
    assert parse_json(dump_json(value)) == _plain(value)
    assert "\n" not in dump_json(value, indent=None).rstrip("\n")


def test_json_does_not_depend_on_the_order_of_keys() -> None:
    assert dump_json({"a": 1, "b": [2.5]}) == dump_json({"b": (2.5,), "a": 1})
    assert json.loads(dump_json({"x": float("inf")})) == {"x": None}


@pytest.mark.parametrize(
    "text", ["NaN", "[Infinity]", '{"a": 1, "a": 2}', "{", "[" * 10**5, b"\xff\xfe"]
)
def test_what_is_not_strict_json_is_refused(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse_json(text)
