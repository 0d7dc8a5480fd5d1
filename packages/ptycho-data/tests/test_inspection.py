"""What the inspection measures is right for scans whose figures are known; so are its findings."""

import json
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from ptychodata import physics
from ptychodata.contracts import Scan
from ptychodata.inspection import (
    Finding,
    Inspection,
    check_position_unit,
    check_power,
    inspect_scan,
    nearest_px,
    probe_diameter_px,
)

N, STEP = 64, 6
GRID = np.arange(N) - N // 2
RADIUS = np.hypot(GRID[:, None], GRID)


def disk(diameter: float) -> NDArray[np.complex64]:
    """A disk with an edge that is soft over two pixels."""
    edge = np.clip((diameter / 2 - RADIUS) / 2 + 0.5, 0, 1)
    return (edge * np.exp(0.004j * RADIUS**2))[None].astype(np.complex64)


def clean_scan() -> Scan:
    """7×7 positions 6 px apart under a disk of 26 px, 10⁵ photons, absolute."""
    rng = np.random.default_rng(0)
    line = N // 2 + STEP * np.arange(7.0)
    positions = np.stack(np.meshgrid(line, line, indexing="ij"), axis=-1).reshape(-1, 2)
    obj = np.exp(1j * rng.uniform(-0.5, 0, (120, 120)))
    probe = disk(26)
    probe *= np.float32(np.sqrt(1e5 / np.sum(np.abs(probe) ** 2)))
    counts = rng.poisson(physics.forward(obj, probe, positions)).astype(np.uint16)
    return Scan(counts, positions, probe, probe_power="absolute")


@pytest.fixture(scope="module")
def scan() -> Scan:
    return clean_scan()


def with_values(scan: Scan, change: Any, dtype: str = "float64") -> Scan:
    values = scan.diffraction.astype(dtype)
    change(values)
    return replace(scan, diffraction=values)


def check(scan: Scan) -> Inspection:
    """Without the test of orientation, which has tests of its own."""
    return inspect_scan(scan, orientation=False)


def finding(scan: Scan, name: str) -> Finding:
    found = check(scan).findings
    assert name in [item.name for item in found]
    return next(item for item in found if item.name == name)


def test_a_clean_scan_has_no_findings(scan: Scan) -> None:
    assert check(scan).findings == ()


def test_the_figures_of_a_clean_scan(scan: Scan) -> None:
    figures = check(scan).as_dict()
    photons = scan.diffraction.sum(axis=(1, 2), dtype=float)
    assert figures["photons_min"] == photons.min()
    assert figures["photons_median"] == np.median(photons)
    assert figures["photons_max"] == photons.max()
    assert (figures["n_patterns"], figures["N"], figures["probe_modes"]) == (49, N, 1)
    assert (figures["dtype"], figures["domain"]) == ("uint16", "counts")
    assert figures["scan_extent_px"] == [36, 36]
    assert figures["median_step_px"] == STEP
    assert figures["median_overlap"] == pytest.approx(1 - STEP / 26, abs=0.03)
    assert figures["power_ratio"] == pytest.approx(1, abs=0.01)
    assert figures["object_pixel_m"] is None
    assert np.hypot(*figures["dc_offset_px"]) < 1


def test_as_dict_is_strict_json(scan: Scan) -> None:
    bare = replace(scan, probe=None, probe_power="relative", intensity_scale=None)
    found = check(bare).as_dict()
    again = json.loads(json.dumps(found, allow_nan=False))
    assert again == found
    assert found["name"] == "scan"
    assert found["probe_diameter_px"] is None
    expected = {"name", "severity", "message", "hint", "evidence", "flags"}
    assert set(found["findings"][0]) == expected


@pytest.mark.parametrize("diameter", [10, 20, 40])
def test_the_diameter_of_a_disk(diameter: float) -> None:
    expected = np.sqrt(0.9) * diameter  # 90 % of the area
    assert probe_diameter_px(disk(diameter)) == pytest.approx(expected, abs=1)
    moved = np.roll(disk(diameter), (7, -5), axis=(1, 2))
    assert probe_diameter_px(moved) == pytest.approx(expected, abs=1)


def test_the_diameter_of_a_gaussian_and_of_a_ring() -> None:
    sigma = 5.0  # of the intensity: 90 % lie within σ √(2 ln 10)
    gaussian = np.exp(-(RADIUS**2) / (4 * sigma**2))[None].astype(np.complex64)
    expected = 2 * sigma * np.sqrt(2 * np.log(10))
    assert probe_diameter_px(gaussian) == pytest.approx(expected, rel=0.03)
    ring = (disk(40) - disk(24)).astype(np.complex64)
    assert 36 < probe_diameter_px(ring) < 41
    assert np.isnan(probe_diameter_px(np.zeros((1, N, N), np.complex64)))


def test_the_nearest_neighbour() -> None:
    positions = np.array([[0.0, 0], [3, 4], [3, 5], [30, 0]])
    np.testing.assert_allclose(nearest_px(positions), [5, 1, 1, np.hypot(27, 4)])
    assert np.isnan(nearest_px(positions[:1])).all()


def test_repeated_exposures_do_not_count_as_overlap(scan: Scan) -> None:
    twice = scan.subset(np.repeat(np.arange(len(scan)), 2))
    figures = check(twice).figures
    assert figures["median_step_px"] == STEP
    assert figures["repeated_positions"] == 49
    assert finding(twice, "repeated-positions").severity == "info"


def test_a_single_pattern_has_no_overlap(scan: Scan) -> None:
    single = check(scan.subset(np.array([0])))
    assert single.as_dict()["median_overlap"] is None
    assert single.findings == ()


def test_amplitude_and_counts_give_the_same_figures(scan: Scan) -> None:
    amplitude = np.sqrt(scan.diffraction.astype(np.float64))
    other = check(
        replace(scan, diffraction=amplitude / 4, domain="amplitude", intensity_scale=4.0)
    ).figures
    one = check(scan).figures
    for name in ("photons_min", "photons_median", "photons_max", "power_ratio", "dc_offset_px"):
        np.testing.assert_allclose(other[name], one[name], rtol=1e-6)  # type: ignore[call-overload]


def test_chunks_do_not_matter(scan: Scan, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = check(scan).as_dict()
    monkeypatch.setattr("ptychodata.survey.CHUNK_BYTES", 1)
    assert check(scan).as_dict() == whole


def test_nan_and_negative_values_are_errors_unless_masked(scan: Scan) -> None:
    def spoil(values: NDArray[Any]) -> None:
        values[3, 10, 11], values[4, 10, 11], values[5, 10, 11] = np.nan, np.inf, -2

    bad = with_values(scan, spoil)
    assert finding(bad, "nan").severity == "error"
    assert finding(bad, "nan").message.startswith("2 ")
    assert finding(bad, "negative").message.startswith("1 ")
    mask = np.ones((N, N), bool)
    mask[10, 11] = False
    assert check(replace(bad, mask=mask)).findings == ()


def test_dead_and_hot_pixels_are_located(scan: Scan) -> None:
    def spoil(values: NDArray[Any]) -> None:
        values[:, 33, 30] = 0
        values[:, 5, 60] = values.max() / 3

    bad = with_values(scan, spoil)
    figures = check(bad).figures
    assert figures["dead_pixels_yx"] == [[33, 30]]
    assert figures["hot_pixels_yx"] == [[5, 60]]
    assert "(33, 30)" in finding(bad, "dead-pixels").message
    assert "(5, 60)" in finding(bad, "hot-pixels").message
    mask = np.ones((N, N), bool)
    mask[33, 30] = mask[5, 60] = False
    assert check(replace(bad, mask=mask)).findings == ()


def test_saturation_at_the_limit_of_the_dtype_and_below(scan: Scan) -> None:
    limit = with_values(scan, lambda values: values.__setitem__((7, 32, 32), 65535), "uint16")
    assert check(limit).figures["saturated_values"] == 1
    clipped = np.minimum(scan.diffraction, np.quantile(scan.diffraction, 0.999))
    assert finding(replace(scan, diffraction=clipped), "saturated").severity == "warning"


def test_empty_patterns_and_an_empty_scan(scan: Scan) -> None:
    some = with_values(scan, lambda values: values.__setitem__(slice(0, 3), 0))
    assert finding(some, "empty-patterns").message.startswith("3 of 49")
    assert finding(with_values(scan, lambda values: values.fill(0)), "dark").severity == "error"


@pytest.mark.parametrize("outlier", [(400.0, 50.0), (50.0, -1e6)])
def test_an_outlier_position_is_named_and_kept_out_of_the_extent(
    scan: Scan, outlier: tuple[float, float]
) -> None:
    positions = scan.positions_px.copy()
    positions[[7, 8]] = outlier
    positions[8] += 1  # two that keep each other company
    found = check(replace(scan, positions_px=positions)).figures
    assert found["outlier_indices"] == [7, 8]
    assert found["scan_extent_px"] == [36, 36]
    assert (
        "patterns 7, 8"
        in finding(replace(scan, positions_px=positions), "outlier-positions").message
    )


def test_a_spiral_a_line_and_a_random_scan_have_no_outliers() -> None:
    turn = np.arange(300.0)
    golden = 2.4 * turn
    layouts = {
        "spiral": np.stack([np.sqrt(turn) * np.cos(golden), np.sqrt(turn) * np.sin(golden)], 1) * 4,
        "line": np.stack([turn * 0, turn * 3], 1),
        "random": np.random.default_rng(2).uniform(0, 200, (300, 2)),
    }
    for name, positions in layouts.items():
        patterns = np.ones((300, 32, 32), np.uint8)
        found = check(Scan(patterns, positions, np.ones((1, 32, 32), np.complex64)))
        assert found.figures["outlier_positions"] == 0, name


def test_positions_in_metres_are_an_error(scan: Scan) -> None:
    metres = replace(scan, positions_px=scan.positions_px * 1e-8)
    assert finding(metres, "one-position").severity == "error"


def test_little_overlap_is_a_warning(scan: Scan) -> None:
    wide = replace(scan, positions_px=scan.positions_px * 3)
    assert finding(wide, "low-overlap").severity == "warning"


def test_no_probe_and_a_dark_one_are_errors(scan: Scan) -> None:
    assert finding(replace(scan, probe=None), "no-probe").severity == "error"
    dark = np.zeros((1, N, N), np.complex64)
    assert "no power" in finding(replace(scan, probe=dark), "no-probe").message


def test_a_probe_at_the_border_is_a_warning(scan: Scan) -> None:
    assert scan.probe is not None
    moved = np.roll(scan.probe, N // 2, axis=1)
    assert finding(replace(scan, probe=moved), "probe-at-border").severity == "warning"


@pytest.mark.parametrize(
    ("kind", "factor", "severity"),
    [("absolute", 0.8, "warning"), ("absolute", 0.1, "error"), ("relative", 30, "info")],
)
def test_a_power_mismatch_is_as_bad_as_it_is(
    scan: Scan, kind: Any, factor: float, severity: str
) -> None:
    assert scan.probe is not None
    other = replace(scan, probe=scan.probe * np.float32(factor), probe_power=kind)
    assert finding(other, "power-mismatch").severity == severity
    assert check(other).figures["power_ratio"] == pytest.approx(factor**2, rel=0.01)


def test_dc_in_the_corner_is_an_error_and_beside_the_centre_a_warning(scan: Scan) -> None:
    corner = np.fft.ifftshift(scan.diffraction, axes=(1, 2))
    assert finding(replace(scan, diffraction=corner), "dc-not-centred").severity == "error"
    moved = replace(scan, diffraction=np.roll(scan.diffraction, (5, -3), axis=(1, 2)))
    assert finding(moved, "dc-not-centred").severity == "warning"
    offset = check(moved).figures["dc_offset_px"]
    np.testing.assert_allclose(offset, [5, -3], atol=0.5)  # type: ignore[call-overload]


def test_no_dose_is_a_warning(scan: Scan) -> None:
    assert finding(replace(scan, intensity_scale=None), "no-dose").severity == "warning"


def test_counts_taken_as_amplitude_and_the_reverse_are_hinted_at(scan: Scan) -> None:
    counts = finding(replace(scan, domain="amplitude"), "domain")
    assert "--domain counts" in counts.hint
    roots = np.sqrt(scan.diffraction.astype(np.float32))
    assert "--domain amplitude" in finding(replace(scan, diffraction=roots), "domain").hint


def test_a_wrong_object_pixel_is_a_warning(scan: Scan) -> None:
    optics = {"photon_energy_eV": 8000.0, "detector_distance_m": 2.0, "detector_pixel_m": 75e-6}
    right = 1.2398420e-6 / 8000 * 2 / (N * 75e-6)
    assert check(replace(scan, object_pixel_m=right, **optics)).findings == ()
    wrong = replace(scan, object_pixel_m=2 * right, **optics)
    assert finding(wrong, "geometry").severity == "warning"


def test_errors_come_first(scan: Scan) -> None:
    bad = replace(scan, probe=None, intensity_scale=None, probe_power="relative")
    order = [item.severity for item in check(bad).findings]
    assert order == sorted(order, key=["error", "warning", "info"].index)
    assert len(order) == 2


def test_amplitude_in_any_unit_is_told_from_counts(scan: Scan) -> None:
    roots = (np.sqrt(scan.diffraction.astype(np.float64)) / 37).astype(np.float32)
    taken = replace(scan, diffraction=roots, probe_power="relative")
    found = finding(taken, "domain")
    assert found.severity == "error"
    assert found.flags == ("--domain amplitude",)
    assert found.evidence["unit"] == pytest.approx(1 / 37)


def test_values_without_noise_are_told_by_their_support(scan: Scan) -> None:
    assert scan.probe is not None
    weak = np.exp(0.3j * np.random.default_rng(0).random((120, 120)))
    rate = physics.forward(weak, scan.probe, scan.positions_px).astype(np.float32)
    right = replace(scan, diffraction=rate)
    assert "domain" not in [item.name for item in check(right).findings]
    assert finding(replace(right, diffraction=np.sqrt(rate)), "domain").severity == "warning"


def test_a_photon_that_does_not_count_as_one_is_a_warning(scan: Scan) -> None:
    gained = replace(scan, diffraction=scan.diffraction * 2.5, probe_power="relative")
    assert finding(gained, "quantum").evidence["step_photons"] == pytest.approx(2.5)


def test_a_probe_too_strong_by_a_thousand_is_an_error(scan: Scan) -> None:
    assert scan.probe is not None
    strong = replace(scan, probe=scan.probe * np.float32(np.sqrt(1000)))
    found = check_power(strong)
    assert found is not None and found.severity == "error"
    assert check_power(scan) is None


def test_positions_in_another_unit(scan: Scan) -> None:
    assert check_position_unit(scan) is None
    for factor in (0.1, 1e3):  # micrometres, nanometres
        other = check_position_unit(replace(scan, positions_px=scan.positions_px * factor))
        assert other is not None and other.name == "position-unit"
    metres = replace(scan, positions_px=scan.positions_px * 1e-8, object_pixel_m=1e-8)
    found = check_position_unit(metres)
    assert found is not None and "36 object pixels" in found.message


def test_a_near_field_scan_is_an_error(scan: Scan) -> None:
    assert finding(replace(scan, near_field=True), "near-field").severity == "error"


def test_patterns_are_never_read_whole(scan: Scan) -> None:
    class OnDisk:
        """Gives patterns a few at a time, as a file does."""

        shape, dtype, ndim = scan.diffraction.shape, scan.diffraction.dtype, 3

        def __len__(self) -> int:
            return len(scan)

        def __getitem__(self, index: Any) -> NDArray[Any]:
            found = np.asarray(scan.diffraction[index])
            if found.ndim == 3 and len(found) > 40:
                raise MemoryError(f"{len(found)} patterns at once")
            return found

    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch:
        patch.setattr("ptychodata.survey.CHUNK_BYTES", 8 * N * N * 7)
        patch.setattr("ptychodata.inspection.domain._PATTERNS", 16)
        found = inspect_scan(replace(scan, diffraction=cast(Any, OnDisk())))
    assert found.figures["photons_mean"] == pytest.approx(check(scan).figures["photons_mean"])
    assert found.figures["orientation"] == "as recorded"
