"""Fixtures: every array follows one index, the file repeats, and wrong pairs are found."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ptychoconfig.errors import ConfigError, DataError, UsageError
from ptychoconfig.schema import DataConfig, SimulationConfig
from ptychodata.contracts import Scan
from ptychodata.files import sha256_of
from ptychodata.fixtures import (
    SIDECAR_FIELDS,
    make_fixture,
    stratified_index,
    verify_fixture,
    verify_sidecar,
)
from ptychodata.formats import read, write
from ptychodata.pairing import pairing_of
from ptychodata.simulate import simulate

COMMITTED = sorted((Path(__file__).parents[3] / "fixtures").glob("*.npz"))
N, SIZE = 32, 32


@pytest.fixture(scope="module")
def whole() -> Scan:
    """70 patterns that have every per-pattern array there is."""
    scan = simulate(
        SimulationConfig(
            N=N, n_patterns=70, position_error_px=0.3, saturation_counts=3000, nphotons=1e5
        )
    )
    assert scan.mask is not None and scan.mask.ndim == 3
    return replace(scan, scan_index=np.arange(70)[::-1].copy())


@pytest.fixture
def source(tmp_path: Path, whole: Scan) -> Path:
    write(whole, tmp_path / "source.npz")
    return tmp_path / "source.npz"


@pytest.mark.parametrize(("count", "size"), [(70, 32), (64, 64), (1087, 64), (10**6, 16)])
def test_the_index_is_spread_over_the_scan(count: int, size: int) -> None:
    index = stratified_index(count, size)
    assert index.tolist() == [i * count // size for i in range(size)]
    assert len(set(index.tolist())) == size


@pytest.mark.parametrize(("count", "size"), [(70, 71), (70, 15)])
def test_a_size_that_the_source_cannot_give_is_refused(count: int, size: int) -> None:
    with pytest.raises(ConfigError, match=f"--subset-size: .* found {size}"):
        stratified_index(count, size)


def test_one_index_picks_every_array(source: Path, whole: Scan, tmp_path: Path) -> None:
    make_fixture(source, tmp_path / "small.npz", SIZE)
    small, index = read(tmp_path / "small.npz"), stratified_index(70, SIZE)
    np.testing.assert_array_equal(small.diffraction, whole.amplitude(index))
    np.testing.assert_array_equal(small.positions_px, whole.positions_px[index])
    np.testing.assert_array_equal(small.true_positions_px, whole.true_positions_px[index])
    np.testing.assert_array_equal(small.scan_index, whole.scan_index[index])
    np.testing.assert_array_equal(small.mask, whole.mask[index])
    for name in ("probe", "truth"):
        np.testing.assert_array_equal(getattr(small, name), getattr(whole, name))
    assert (small.domain, small.probe_power) == ("amplitude", "absolute")
    assert small.provenance["simulation"] == whole.provenance["simulation"]


def test_the_file_has_canonical_keys_dtypes_and_axes(source: Path, tmp_path: Path) -> None:
    """As many patterns as a pattern has rows: the file itself says which axis is which."""
    make_fixture(source, tmp_path / "small.npz", N)
    with np.load(tmp_path / "small.npz", allow_pickle=False) as keys:
        assert keys["diffraction"].shape == (N, N, N) and keys["diffraction"].dtype == np.float32
        assert keys["probeGuess"].dtype == keys["objectGuess"].dtype == np.complex64
        assert keys["xcoords"].dtype == keys["ycoords"].dtype == np.float64
        assert str(keys["axes"]) == "P,y,x"
        assert min(keys["objectGuess"].shape) > N
        assert all(np.any(keys[key]) for key in keys.files)


def test_a_rerun_gives_the_same_bytes(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000000000")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        make_fixture(source, tmp_path / name / "small.npz", SIZE)
    for name in ("small.npz", "small.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert json.loads((tmp_path / "one" / "small.json").read_text())["created"].startswith("2001")


def test_the_sidecar_says_where_it_comes_from(source: Path, tmp_path: Path) -> None:
    make_fixture(source, tmp_path / "small.npz", SIZE, options=DataConfig(nphotons=5e4))
    text = (tmp_path / "small.json").read_text()
    record = json.loads(text)
    assert set(SIDECAR_FIELDS) <= record.keys() and "ptycho-data" in record["versions"]
    assert record["source_dataset"] == "source.npz"
    assert record["source_sha256"] == sha256_of(source)
    assert record["sha256_checksum"] == sha256_of(tmp_path / "small.npz")
    assert record["subset_size"] == SIZE and min(record["coverage_yx"]) > 0.5
    assert any("--nphotons" in step for step in record["transformations"])
    assert record["data_settings"] == {"nphotons": 5e4}
    assert str(tmp_path) not in text


def test_a_subset_in_step_with_the_rows_covers_too_little(tmp_path: Path) -> None:
    """16 of 16 × 16 raster positions: the first column alone."""
    source = tmp_path / "raster.npz"
    write(simulate(SimulationConfig(N=N, n_patterns=256, positions_kind="raster")), source)
    with pytest.raises(DataError, match=r"along x, found 0\.0%.*another --subset-size"):
        make_fixture(source, tmp_path / "small.npz", 16)
    assert not (tmp_path / "small.npz").exists()
    make_fixture(source, tmp_path / "small.npz", 17)


def moved(scan: Scan, how: str) -> Scan:
    """A scan whose patterns do not belong to their positions."""
    order = {
        "shuffled": np.random.default_rng(3).permutation(len(scan)),
        "shifted by one": np.roll(np.arange(len(scan)), 1),
        "reversed": np.arange(len(scan))[::-1],
    }[how]
    return replace(scan, positions_px=scan.positions_px[order])


@pytest.mark.parametrize("how", ["shuffled", "shifted by one", "reversed"])
def test_patterns_at_others_positions_make_no_fixture(
    tmp_path: Path, whole: Scan, how: str
) -> None:
    write(moved(whole, how), tmp_path / "source.npz")
    with pytest.raises(DataError, match="expected each pattern to belong to its position"):
        make_fixture(tmp_path / "source.npz", tmp_path / "small.npz", SIZE)
    assert not (tmp_path / "small.npz").exists()


def test_the_defect_of_the_original_is_found(whole: Scan) -> None:
    """Positions spread over the scan beside its first patterns."""
    index = stratified_index(len(whole), SIZE)
    wrong = replace(
        whole.subset(index), diffraction=whole.diffraction[:SIZE], mask=whole.mask[:SIZE]
    )
    everything = np.arange(SIZE)
    assert pairing_of(whole.subset(index), everything).holds
    assert not pairing_of(wrong, everything).holds


def test_a_quarter_of_the_patterns_misplaced_is_found(whole: Scan) -> None:
    order = np.arange(len(whole))
    order[::4] = np.roll(order[::4], 1)
    assert not pairing_of(
        replace(whole, positions_px=whole.positions_px[order]), np.arange(70)
    ).holds


def test_neighbours_tell_where_no_object_is_known(whole: Scan) -> None:
    blind, everything = replace(whole, truth=None), np.arange(len(whole))
    pairing = pairing_of(blind, everything)
    assert pairing.method == "neighbours" and pairing.holds
    assert not pairing_of(moved(blind, "shuffled"), everything).holds


@pytest.mark.parametrize("change", [{"nphotons": 1e4}, {"probe_modes": 3}, {"dead_pixels": 100}])
def test_pairs_hold_under_noise_modes_and_dead_pixels(change: dict[str, float]) -> None:
    scan = simulate(SimulationConfig(N=N, n_patterns=64, **{"nphotons": 1e5, **change}))
    pairing = pairing_of(scan, np.arange(64))
    assert pairing.method == "forward" and pairing.holds and pairing.placed >= 0.9
    assert not pairing_of(moved(scan, "shuffled"), np.arange(64)).holds


def test_verify_finds_a_changed_file(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "small.npz"
    made = make_fixture(source, target, SIZE)
    assert verify_fixture(target)["pairing"]["placed"] == 1
    assert verify_fixture(target, source=source)["pairing"] == made["pairing"]
    assert verify_sidecar(target) == ("the SHA-256 agrees with the sidecar small.json.",)
    content = bytearray(target.read_bytes())
    content[-1000] ^= 1
    target.write_bytes(content)
    for check in (verify_fixture, verify_sidecar):
        with pytest.raises(DataError, match=r"expected the SHA-256 [0-9a-f]{64} that small\.json"):
            check(target)


def test_verify_finds_wrong_pairs_whose_sidecar_is_right(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "small.npz"
    record = make_fixture(source, target, SIZE)
    write(moved(read(target), "reversed"), target)
    record["sha256_checksum"] = sha256_of(target)
    (tmp_path / "small.json").write_text(json.dumps(record))
    with pytest.raises(DataError, match="belong to its position"):
        verify_fixture(target)
    with pytest.raises(DataError, match="expected positions_px to be the source's"):
        verify_fixture(target, source=source)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("subset_size", 33, "expected 33 patterns"),
        ("span_yx_px", [1.0, 1.0], "expected positions spanning"),
        ("source_span_yx_px", [1e4, 10.0], "expected positions over half"),
        ("source_dataset", "/home/me/scan.npz", "expected no absolute paths"),
        ("span_yx_px", "far", "a field of another kind"),
        ("data_settings", 3, "a field of another kind"),
        ("created", None, "found no created"),
    ],
)
def test_verify_reads_the_sidecar(
    source: Path, tmp_path: Path, field: str, value: object, message: str
) -> None:
    record = make_fixture(source, tmp_path / "small.npz", SIZE) | {field: value}
    record = {key: item for key, item in record.items() if item is not None or key != "created"}
    (tmp_path / "small.json").write_text(json.dumps(record))
    with pytest.raises(DataError, match=message):
        verify_fixture(tmp_path / "small.npz")


def test_verify_wants_the_very_source(source: Path, whole: Scan, tmp_path: Path) -> None:
    make_fixture(source, tmp_path / "small.npz", SIZE)
    write(replace(whole, name="again", notes=("other",)), tmp_path / "other.npz")
    with pytest.raises(DataError, match=r"expected the source of .*small\.npz"):
        verify_fixture(tmp_path / "small.npz", source=tmp_path / "other.npz")
    (tmp_path / "small.json").unlink()
    with pytest.raises(DataError, match="expected the sidecar"):
        verify_fixture(tmp_path / "small.npz")


@pytest.mark.parametrize("content", ["[1]", "{}", "{", '{"sha256_checksum": 3}', "\xff"])
def test_json_that_is_no_sidecar_says_nothing_of_a_scan(source: Path, content: str) -> None:
    source.with_suffix(".json").write_text(content, encoding="latin-1")
    assert verify_sidecar(source) == ()


def test_a_fixture_is_an_npz(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"ending in \.npz"):
        make_fixture(source, tmp_path / "small.h5", SIZE)


def test_there_are_two_committed_fixtures() -> None:
    assert [path.name for path in COMMITTED] == ["hard.npz", "lines.npz"]


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_the_committed_fixtures_hold(path: Path) -> None:
    assert path.stat().st_size < 1.5e6
    found = verify_fixture(path)
    assert found["pairing"]["method"] == "forward" and found["pairing"]["placed"] == 1
    scan = read(path)
    assert len(scan) == 64 and scan.truth is not None
    everything = np.arange(64)
    assert not pairing_of(moved(scan, "shuffled"), everything).holds
    assert not pairing_of(moved(scan, "shifted by one"), everything).holds
