"""The orientation test names the right class, and says when it cannot."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ptychodata import physics
from ptychodata.contracts import Scan
from ptychodata.inspection import Orientation, check_orientation, find_orientation, inspect_scan
from ptychodata.inspection.epie import fit
from ptychodata.inspection.orientation import CLASSES, reoriented
from ptychodata.objects import lines_object, natural_object
from ptychodata.simulate import scan_of

STAR = Path(__file__).parents[4] / "shared/data/siemens-star-small.npz.bz2"
N = 32
GRID = np.arange(N) - N // 2
RADIUS = np.hypot(GRID[:, None], GRID)
MAKERS = {"lines": lines_object, "natural": natural_object}


def probe(kind: str) -> NDArray[np.complex64]:
    """A soft disk with or without an asymmetric phase, or a curved donut."""
    modulus = np.clip((8 - RADIUS) / 2 + 0.5, 0, 1)
    if kind == "donut":
        modulus = modulus * np.clip((RADIUS - 2) / 2 + 0.5, 0.1, 1)
    bend = {"disk": 0 * RADIUS, "donut": 0.03 * RADIUS**2}.get(
        kind, 0.004 * GRID[:, None] ** 3 + 0.02 * RADIUS**2 + 0.003 * GRID**3
    )
    return np.asarray((modulus * np.exp(1j * bend))[None].astype(np.complex64))


def simulated(object_kind: str = "lines", probe_kind: str = "disk", dose: float = 1e6) -> Scan:
    """7×7 jittered positions, absolute power."""
    rng = np.random.default_rng(3)
    line = 20 + 4.0 * np.arange(7)
    positions = np.stack(np.meshgrid(line, line, indexing="ij"), axis=-1).reshape(-1, 2)
    positions += rng.uniform(-1.5, 1.5, positions.shape)
    truth = MAKERS[object_kind]((66, 66), rng).astype(np.complex64)
    return scan_of(truth, probe(probe_kind), positions, dose, rng)


def turned(scan: Scan, flags: tuple[str, ...]) -> Scan:
    patterns, positions = reoriented(flags, scan.diffraction, scan.positions_px)
    return replace(scan, diffraction=patterns, positions_px=positions)


def named(scan: Scan) -> dict[str, Any]:
    return {finding.name: finding for finding in check_orientation(scan)}


@pytest.mark.parametrize(("object_kind", "probe_kind"), [("lines", "disk"), ("natural", "donut")])
def test_each_class_is_told_from_the_others(object_kind: str, probe_kind: str) -> None:
    scan = replace(simulated(object_kind, probe_kind), probe_power="relative")
    assert not named(scan).keys() - {"half-turn"}
    for name in ("mirrored", "transposed", "a quarter turn"):
        found = named(turned(scan, CLASSES[name][0]))["orientation"]
        assert found.severity == "error"
        assert name in found.message
        residuals = found.evidence["residuals"]
        assert min(residuals, key=residuals.get) == name


@pytest.mark.parametrize("flags", [("--negate-y",), ("--swap-xy",), ("--flip-y",)])
def test_what_mends_a_broken_scan_is_among_the_flags(flags: tuple[str, ...]) -> None:
    found = named(turned(simulated(), flags))["orientation"]
    assert " ".join(flags) in found.flags


def test_a_half_turn_is_undetermined_under_a_symmetric_probe() -> None:
    scan = simulated(probe_kind="disk")
    for flags in CLASSES["as recorded"][::2]:
        found = inspect_scan(turned(scan, flags))
        assert not {"orientation", "half-turn"} & {item.name for item in found.findings}
        assert found.figures["half_turn"] == "undetermined"


def test_a_trusted_asymmetric_probe_decides_a_half_turn() -> None:
    scan = simulated("natural", "bent")
    assert inspect_scan(scan).figures["half_turn"] == "as recorded"
    for flags in CLASSES["as recorded"][1:]:
        found = named(turned(scan, flags))["half-turn"]
        assert found.severity == "error"
        assert found.flags == (" ".join(flags),)


def test_shuffled_positions_are_an_error() -> None:
    scan = simulated("natural")
    order = np.random.default_rng(1).permutation(len(scan))
    found = named(replace(scan, positions_px=scan.positions_px[order]))
    assert found["shuffled-positions"].severity == "error"
    assert "orientation" not in found


@pytest.mark.parametrize("by", [1, -1])
def test_patterns_one_frame_off_are_an_error(by: int) -> None:
    scan = simulated("natural")
    found = named(replace(scan, diffraction=np.roll(scan.diffraction, by, axis=0)))
    assert set(found) == {"frame-lag"}
    assert found["frame-lag"].severity == "error"
    assert ("after" if by > 0 else "before") in found["frame-lag"].message


def test_a_raster_one_frame_off_is_only_moved() -> None:
    scan = simulated()
    line = 20 + 4.0 * np.arange(7)
    grid = np.stack(np.meshgrid(line, line, indexing="ij"), axis=-1).reshape(-1, 2)
    even = scan_of(scan.truth, probe("disk"), grid, 1e6, np.random.default_rng(0))  # type: ignore[arg-type]
    late = replace(even, diffraction=np.roll(even.diffraction, 1, axis=0))
    assert "frame-lag" not in named(late)


def test_an_object_without_contrast_leaves_it_undetermined() -> None:
    scan = simulated()
    flat = scan_of(
        np.ones((66, 66), np.complex64), probe("disk"), scan.positions_px, 1e4,
        np.random.default_rng(0),
    )  # fmt: skip
    found = named(flat)
    assert found["orientation"].severity == "info"
    assert "undetermined" in found["orientation"].message


def test_it_says_why_it_did_not_test() -> None:
    scan = simulated()
    assert "probe" in find_orientation(replace(scan, probe=None)).reason
    few = scan.subset(np.arange(5))
    assert "fewer" in find_orientation(few).reason
    far = replace(scan, positions_px=scan.positions_px * 1e4)
    assert "near each other" in find_orientation(far).reason
    assert isinstance(find_orientation(few), Orientation)


@pytest.mark.parametrize("flags", [way for ways in CLASSES.values() for way in ways])
def test_turning_keeps_dc_and_undoes_itself_where_it_must(flags: tuple[str, ...]) -> None:
    patterns = np.random.default_rng(0).random((3, 8, 8))
    positions = np.random.default_rng(1).random((3, 2))
    turned_patterns, turned_positions = reoriented(flags, patterns, positions)
    np.testing.assert_array_equal(turned_patterns[:, 4, 4], patterns[:, 4, 4])
    back = patterns, positions
    for _ in range(4):  # the order of any element divides 4
        back = reoriented(flags, *back)
    np.testing.assert_array_equal(back[0], patterns)
    np.testing.assert_allclose(back[1], positions)
    assert turned_positions.shape == positions.shape


def test_the_short_fit_explains_patterns_without_noise() -> None:
    scan = simulated("natural")
    rate = physics.forward(scan.truth, scan.photon_probe, scan.positions_px)  # type: ignore[arg-type]
    found = fit(rate.astype(np.float32), scan.positions_px, scan.photon_probe, passes=30)
    start = fit(rate.astype(np.float32), scan.positions_px, scan.photon_probe, passes=1)
    assert found.residual.mean() < 0.2 * start.residual.mean()
    assert found.residual.mean() < 0.03


@pytest.mark.slow
@pytest.mark.skipif(not STAR.is_file(), reason="the real scan lies beside the repository only")
@pytest.mark.parametrize("flags", [(), ("--flip-y",)])
def test_the_real_star(flags: tuple[str, ...]) -> None:
    from ptychodata.formats import read

    found = named(turned(read(STAR), flags))
    assert ("orientation" in found) == bool(flags)
    if flags:
        assert " ".join(flags) == found["orientation"].flags[0]
        assert found["orientation"].evidence["margin"] > 1.5
