"""The canonical NPZ: every layout in use is read, what is ambiguous or wrong is refused."""

import os
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ptychoconfig.errors import ConfigError, DataError, UsageError
from ptychoconfig.schema import DataConfig
from ptychodata.contracts import Scan
from ptychodata.formats import formats, npz, read, read_shapes, writable, write

P, N = 6, 32
DOCS = Path(__file__).parents[3] / "docs" / "formats.md"
Arrays = dict[str, Any]


def arrays(**changes: Any) -> Arrays:
    """Keys of a complete amplitude file; None removes one."""
    rng = np.random.default_rng(3)
    whole = {
        "diffraction": rng.uniform(0, 3, (P, N, N)).astype(np.float32),
        "probeGuess": (rng.normal(size=(N, N)) + 1j).astype(np.complex64),
        "xcoords": rng.uniform(20, 80, P),
        "ycoords": rng.uniform(20, 80, P),
        "domain": "amplitude",
        "intensity_scale": 2.0,
    }
    return {key: value for key, value in {**whole, **changes}.items() if value is not None}


def save(path: Path, **changes: Any) -> Path:
    np.savez(path, **arrays(**changes))
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "scan.npz"


def assert_identical(first: Scan, second: Scan) -> None:
    for field in fields(Scan):
        one, other = getattr(first, field.name), getattr(second, field.name)
        np.testing.assert_equal(one, other, err_msg=field.name)
        if isinstance(one, np.ndarray):
            assert one.dtype == other.dtype, field.name


def test_the_keys_become_a_scan(file: Path) -> None:
    keys = arrays()
    scan = read(save(file))
    np.testing.assert_array_equal(scan.diffraction, keys["diffraction"])
    np.testing.assert_array_equal(
        scan.positions_px, np.stack([keys["ycoords"], keys["xcoords"]], 1)
    )
    np.testing.assert_array_equal(scan.probe, keys["probeGuess"][None] * 2)
    np.testing.assert_allclose(scan.counts(), 4 * keys["diffraction"] ** 2, rtol=1e-6)
    assert (scan.name, scan.domain, scan.probe_power, scan.notes) == (
        "scan",
        "amplitude",
        "relative",
        (),
    )
    assert read(file, name="other").name == "other"


def random_scan(seed: int, domain: str, dtype: str, scale: float | None, modes: int) -> Scan:
    rng = np.random.default_rng(seed)
    probe = rng.normal(size=(modes, N, N)) + 1j * rng.normal(size=(modes, N, N))
    return Scan(
        diffraction=rng.integers(0, 99, (P, N, N)).astype(dtype),
        positions_px=rng.uniform(0, 40, (P, 2)),
        probe=probe.astype(np.complex64) if modes else None,
        domain=domain,  # type: ignore[arg-type]
        intensity_scale=scale,
        probe_power="relative" if scale is None else "absolute",
        mask=None if seed % 3 == 0 else rng.random((N, N) if seed % 3 == 1 else (P, N, N)) > 0.1,
        background=rng.random((N, N)).astype(np.float32) if seed % 2 else None,
        scan_index=np.arange(P)[::-1] if seed % 2 else None,
        object_pixel_m=1e-8 if seed % 2 else float("nan"),
        photon_energy_eV=8e3 if seed % 2 else float("nan"),
        truth=np.full((50, 60), 1 - 2j, np.complex64) if seed % 2 else None,
        true_positions_px=rng.uniform(0, 40, (P, 2)) if seed % 2 else None,
        name="scan",
        notes=("made for a test",),
        provenance={"seed": seed, "of": {"a": [1.5, None]}} if seed % 2 else {},
    )


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.integers(0, 1000),
    st.sampled_from(["counts", "amplitude"]),
    st.sampled_from(["uint16", "float32", "int64", "uint8"]),
    st.none() | st.floats(1e-4, 1e6),
    st.integers(1, 3),
)
def test_a_scan_read_back_is_identical(
    file: Path, seed: int, domain: str, dtype: str, scale: float | None, modes: int
) -> None:
    if domain == "counts" and scale is None:
        scale = 1.0
    scan = random_scan(seed, domain, dtype, scale, modes)
    write(scan, file)
    back = read(file)
    if not scan.has_dose:  # said on reading, and only once
        assert len(back.notes) == 2
        scan = replace(scan, notes=back.notes)
    assert_identical(scan, back)
    first = file.read_bytes()
    write(back, file)
    assert file.read_bytes() == first or not scan.has_dose


def test_a_scan_without_probe_round_trips(file: Path) -> None:
    scan = random_scan(0, "counts", "uint16", 1.0, 0)
    write(scan, file)
    assert_identical(replace(scan, notes=("made for a test", "the file has no probe.")), read(file))


def test_what_is_written_can_be_read_without_pickle(file: Path) -> None:
    write(random_scan(1, "amplitude", "float32", 3.0, 2), file)
    with np.load(file, allow_pickle=False) as loaded:
        keys = {key: loaded[key] for key in loaded.files}
    assert keys["diffraction"].shape == (P, N, N)
    assert keys["probeGuess"].shape == (2, N, N)
    assert keys["nphotons"] == pytest.approx(read(file).mean_photons, rel=1e-6)
    assert str(keys["domain"]) == "amplitude"


def test_large_patterns_are_mapped_not_read(file: Path) -> None:
    patterns = np.random.default_rng(0).integers(1, 9, (P, 1024, 1024)).astype(np.float32)
    positions = np.arange(2.0 * P).reshape(P, 2)
    write(Scan(patterns, positions, np.ones((1, 1024, 1024), np.complex64)), file)
    scan = read(file)
    base: Any = scan.diffraction
    while base is not None and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap)
    np.testing.assert_array_equal(scan.diffraction, patterns)


@pytest.mark.parametrize("count", [N - 7, N + 7])
@pytest.mark.parametrize("channel", [False, True])
def test_both_axis_orders_are_the_same_scan(file: Path, count: int, channel: bool) -> None:
    rng = np.random.default_rng(0)
    patterns = rng.uniform(0, 1, (count, N, N)).astype(np.float32)
    both = []
    for stored in (patterns, patterns.transpose(1, 2, 0)):
        stored = stored[..., None] if channel else stored
        save(file, diffraction=stored, xcoords=np.arange(count), ycoords=np.arange(count))
        both.append(read(file))
        assert read_shapes(file) == ((count, N, N), (1, N, N))
    assert_identical(*both)
    np.testing.assert_array_equal(both[0].diffraction, patterns)
    assert both[1].diffraction.flags.c_contiguous


def test_masks_follow_the_axes_of_the_patterns(file: Path) -> None:
    mask = np.random.default_rng(0).random((P, N, N)) > 0.5
    patterns = arrays()["diffraction"].transpose(1, 2, 0)
    scan = read(save(file, diffraction=patterns, mask=mask.transpose(1, 2, 0)))
    np.testing.assert_array_equal(scan.mask, mask)


def test_a_cube_is_refused_unless_it_names_its_axes(file: Path) -> None:
    cube = np.random.default_rng(0).uniform(0, 1, (N, N, N)).astype(np.float32)
    line = np.arange(float(N))
    save(file, diffraction=cube, xcoords=line, ycoords=line)
    with pytest.raises(DataError, match=r"fits .P, N, N. and .N, N, P.; add a key 'axes'"):
        read(file)
    with pytest.raises(DataError, match="'axes'"):
        read_shapes(file)
    save(file, diffraction=cube, xcoords=line, ycoords=line, axes="y,x,P")
    np.testing.assert_array_equal(read(file).diffraction, np.moveaxis(cube, 2, 0))
    write(read(file), file)
    np.testing.assert_array_equal(read(file).diffraction, np.moveaxis(cube, 2, 0))


def test_the_two_names_of_the_patterns_read_equal(file: Path) -> None:
    patterns = arrays()["diffraction"]
    one = read(save(file))
    assert_identical(one, read(save(file, diffraction=None, diff3d=patterns)))
    assert_identical(one, read(save(file, diff3d=patterns.astype(np.float64))))
    with pytest.raises(DataError, match="different"):
        read(save(file, diff3d=patterns[::-1]))
    with pytest.raises(DataError, match="different"):
        read(save(file, diff3d=patterns.transpose(1, 2, 0)))


def test_double_precision_is_converted_once(file: Path) -> None:
    keys = arrays()
    doubles = read(
        save(
            file,
            diffraction=keys["diffraction"].astype(">f8"),
            probeGuess=keys["probeGuess"].astype(np.complex128),
        )
    )
    assert_identical(doubles, read(save(file)))


def test_whole_numbers_stay_and_do_not_wrap(file: Path) -> None:
    counts = np.full((P, N, N), 300, np.uint16)
    scan = read(save(file, diffraction=counts, domain=None, intensity_scale=None))
    assert (scan.diffraction.dtype, scan.domain, scan.intensity_scale) == ("uint16", "counts", 1.0)
    assert any("taken as counts" in note for note in scan.notes)
    asked = read(file, options=DataConfig(domain="amplitude"))
    assert float(asked.counts().max()) == 300.0**2


@pytest.mark.parametrize("shape", [(N, N), (N, N, 1), (1, N, N)])
def test_one_probe_in_any_layout(file: Path, shape: tuple[int, ...]) -> None:
    probe = arrays()["probeGuess"]
    scan = read(save(file, probeGuess=probe.reshape(shape)))
    np.testing.assert_array_equal(scan.probe, 2 * probe[None])


def test_modes_are_kept(file: Path) -> None:
    probe = np.stack([arrays()["probeGuess"]] * 3)
    assert read(save(file, probeGuess=probe)).probe.shape == (3, N, N)  # type: ignore[union-attr]


def test_optional_keys_are_optional(file: Path) -> None:
    scan = read(save(file, probeGuess=None, domain=None, intensity_scale=None))
    assert scan.probe is None
    assert scan.truth is None
    assert not scan.has_dose
    text = " ".join(scan.notes)
    for part in ("taken as amplitude", "no dose", "no probe"):
        assert part in text


def test_unused_keys_are_named(file: Path) -> None:
    scan = read(save(file, norm_Y_I=np.ones(1), xcoords_start=np.zeros(P)))
    assert scan.notes == ("keys not used: norm_Y_I, xcoords_start.",)


def test_bad_pixels_are_the_inverse_of_a_mask(file: Path) -> None:
    bad = np.random.default_rng(0).random((N, N)) > 0.9
    np.testing.assert_array_equal(read(save(file, bad_pixels=bad)).mask, ~bad)
    both = read(save(file, bad_pixels=bad, mask=np.eye(N, dtype=np.uint8)))
    np.testing.assert_array_equal(both.mask, np.eye(N, dtype=bool) & ~bad)


@pytest.mark.parametrize("bad", [np.nan, -1.0, np.inf])
def test_masked_nonsense_is_set_to_zero(file: Path, bad: float) -> None:
    patterns, mask = arrays()["diffraction"].copy(), np.ones((N, N), bool)
    patterns[2, 5, 7], mask[5, 7] = bad, False
    scan = read(save(file, diffraction=patterns, mask=mask))
    assert scan.diffraction[2, 5, 7] == 0
    assert any("1 masked values" in note for note in scan.notes)


def test_the_known_object_is_kept_where_the_positions_lie_in_it(file: Path) -> None:
    obj = np.full((100, 90), 1j, np.complex128)
    scan = read(save(file, objectGuess=obj[None]))
    assert scan.truth is not None
    assert scan.truth.dtype == np.complex64
    small = read(save(file, objectGuess=obj[:40, :40]))
    assert small.truth is None
    assert any("dropped" in note for note in small.notes)


def test_geometry_under_either_name(file: Path) -> None:
    keys = {"probe_energy_eV": 8000.0, "detector_pixel_size_m": 75e-6, "detector_distance_m": 2.0}
    scan = read(save(file, **keys))
    assert (scan.photon_energy_eV, scan.detector_pixel_m) == (8000.0, 75e-6)
    assert scan.object_pixel_m == pytest.approx(1.2398e-6 / 8000 * 2 / (N * 75e-6), rel=1e-4)
    with pytest.raises(DataError, match="detector_pixel_size_m"):
        read(save(file, **keys, detector_pixel_m=55e-6))


# Domain and dose


def amplitude_power() -> float:
    return float((arrays()["diffraction"].astype(float) ** 2).sum() / P)


def test_nphotons_is_the_mean_of_the_sums(file: Path) -> None:
    scan = read(save(file, intensity_scale=None, nphotons=1e6))
    assert scan.mean_photons == pytest.approx(1e6, rel=1e-5)


def test_two_records_of_the_dose_agree_to_one_percent(file: Path) -> None:
    right = 4 * amplitude_power()
    assert read(save(file, nphotons=right * 1.009)).intensity_scale == 2.0
    for wrong in (right * 1.02, right * 0.98):
        with pytest.raises(DataError, match="agree to 1 %"):
            read(save(file, nphotons=wrong))
    assert read(file, options=DataConfig(nphotons=50)).mean_photons == pytest.approx(50, rel=1e-5)


def test_counts_that_contradict_nphotons_are_refused(file: Path) -> None:
    counts = np.ones((P, N, N), np.float32)
    save(file, diffraction=counts, domain="counts", intensity_scale=None, nphotons=1e9)
    with pytest.raises(DataError, match="1024 photons per counts pattern"):
        read(file)


def test_the_dose_of_older_files_is_in_their_metadata(file: Path) -> None:
    text = '{"schema_version": "1.0.0", "physics_parameters": {"nphotons": 1e5}}'
    for stored in (np.array(text), np.frombuffer(text.encode(), np.uint8), np.array(text.encode())):
        scan = read(save(file, intensity_scale=None, _metadata=stored))
        assert scan.mean_photons == pytest.approx(1e5, rel=1e-5)
        assert any("_metadata" in note for note in scan.notes)


@pytest.mark.parametrize("text", ["{", "[]", '{"nphotons": NaN}'])
def test_broken_metadata_costs_only_itself(file: Path, text: str) -> None:
    scan = read(save(file, _metadata=text))
    assert any("not read" in note for note in scan.notes)


def test_pickled_metadata_is_left_alone(file: Path, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "ran"),)

    scan = read(save(file, _metadata=np.array(Trap(), dtype=object)))
    assert len(scan) == P
    assert any("_metadata is pickled" in note for note in scan.notes)
    assert not (tmp_path / "ran").exists()


def test_settings_override_the_file_and_say_so(file: Path) -> None:
    save(file, probe_power="absolute")
    options = DataConfig(domain="counts", nphotons=2e4, probe_power="relative")
    scan = read(file, options=options)
    assert (scan.domain, scan.probe_power) == ("counts", "relative")
    assert scan.mean_photons == pytest.approx(2e4, rel=1e-5)
    for flag in ("--domain counts", "--nphotons 20000", "--probe-power relative"):
        assert any(flag in note for note in scan.notes)
    assert read(file, options=DataConfig()).notes == ()


def test_an_absolute_probe_needs_a_dose(file: Path) -> None:
    with pytest.raises(DataError, match="--nphotons"):
        read(save(file, intensity_scale=None, probe_power="absolute"))


# What is refused, by key


def spoiled(value: float) -> NDArray[np.float32]:
    patterns: NDArray[np.float32] = arrays()["diffraction"].copy()
    patterns[4, 1, 2] = value
    return patterns


def without_last(key: str) -> Any:
    return arrays()[key][:-1]


REFUSED: dict[str, tuple[Arrays, str]] = {
    "negative": (
        {"diffraction": spoiled(-1)},
        r"'diffraction'.*-1\.0 at pattern 4, pixel \[1, 2\]",
    ),
    "NaN": ({"diffraction": spoiled(np.nan)}, "'diffraction'.*nan at pattern 4"),
    "infinite": ({"diffraction": spoiled(np.inf)}, "'diffraction'.*inf"),
    "too large for float32": (
        {"diffraction": arrays()["diffraction"].astype(float) * 1e300},
        "'diffraction'.*inf",
    ),
    "dark": ({"diffraction": np.zeros((P, N, N))}, "only zeros"),
    "complex": ({"diffraction": np.ones((P, N, N), np.complex64)}, "'diffraction'.*real"),
    "text": ({"diffraction": np.full((P, N, N), "a")}, "'diffraction'.*<U1"),
    "rank 2": ({"diffraction": np.ones((N, N))}, "'diffraction'"),
    "rank 5": ({"diffraction": np.ones((P, N, N, 1, 1))}, "'diffraction'"),
    "channels": ({"diffraction": np.ones((P, N, N, 3))}, "'diffraction'"),
    "oblong": ({"diffraction": np.ones((P, N, N + 2))}, "'diffraction'.*square"),
    "odd": ({"diffraction": np.ones((P, 31, 31)), "probeGuess": None}, "even side"),
    "more positions": ({"diffraction": without_last("diffraction")}, "6 positions.*5 patterns"),
    "fewer positions": (
        {"xcoords": without_last("xcoords"), "ycoords": without_last("ycoords")},
        "5 positions.*6 patterns",
    ),
    "unequal coordinates": ({"ycoords": without_last("ycoords")}, "'ycoords'.*6 values.*found 5"),
    "no x": ({"xcoords": None}, "expected the key 'xcoords', found only .*ycoords"),
    "no y": ({"ycoords": None}, "'ycoords'"),
    "NaN position": ({"xcoords": np.full(P, np.nan)}, "'xcoords'.*finite"),
    "table of positions": ({"xcoords": np.ones((2, 3))}, "'xcoords'"),
    "probe size": ({"probeGuess": np.ones((64, 64), complex)}, "'probeGuess'.*32×32.*64×64"),
    "probe of rank 1": ({"probeGuess": np.ones(N, complex)}, "'probeGuess'"),
    "oblong probe": ({"probeGuess": np.ones((N, 16), complex)}, "'probeGuess'"),
    "probe per pattern": ({"probeGuess": np.ones((99, N, N), complex)}, "not one per pattern"),
    "NaN probe": ({"probeGuess": np.full((N, N), np.nan, complex)}, "'probeGuess'.*finite"),
    "mask of another size": ({"mask": np.ones((16, 16), bool)}, "'mask'"),
    "mask of numbers": ({"mask": np.full((N, N), 2)}, "'mask'.*0 and 1"),
    "background": ({"background": np.ones((16, 16))}, "'background'"),
    "negative background": ({"background": -np.ones((N, N))}, "background"),
    "scan index": ({"scan_index": np.arange(3)}, "'scan_index'"),
    "domain": ({"domain": "intensity"}, "'domain'.*counts or amplitude.*'intensity'"),
    "domain as number": ({"domain": 1.5}, "'domain'.*text"),
    "scale": ({"intensity_scale": -2.0}, "'intensity_scale'"),
    "two scales": ({"intensity_scale": np.ones(2)}, "'intensity_scale'.*one number"),
    "no photons": ({"intensity_scale": None, "nphotons": 0.0}, "'nphotons'"),
    "geometry": ({"detector_distance_m": -1.0}, "'detector_distance_m'"),
    "NaN object": ({"objectGuess": np.full((90, 90), np.nan, complex)}, "'objectGuess'"),
    "pickled": ({"xcoords": np.array([{}] * P)}, "'xcoords'.*object"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_nonsense_is_refused_naming_the_key(file: Path, kind: str) -> None:
    changes, message = REFUSED[kind]
    with pytest.raises(DataError, match=message):
        read(save(file, **changes))


def test_writing_needs_a_name_and_a_place(tmp_path: Path) -> None:
    scan = random_scan(0, "counts", "uint16", 1.0, 1)
    with pytest.raises(UsageError, match=r"\.npz"):
        write(scan, tmp_path / "scan.h5")
    with pytest.raises(UsageError, match="--format: expected one of npz"):
        write(scan, tmp_path / "scan.npz", "nps")
    with pytest.raises(ConfigError, match="--output"):
        write(scan, tmp_path / "missing" / "scan.npz")
    assert os.listdir(tmp_path) == []


def test_the_formats_are_listed() -> None:
    assert {"npz", "tike", "ptychodus"} <= set(formats())
    assert set(writable()) <= set(formats())


@pytest.mark.skipif(not DOCS.exists(), reason="the documentation lies in the repository only")
def test_every_key_is_documented() -> None:
    page = DOCS.read_text(encoding="utf-8")
    assert [key for key in sorted(npz._READ) if f"`{key}`" not in page] == []
