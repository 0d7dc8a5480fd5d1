"""Trust without a known object: that it is given where due, and denied where not."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptychoconfig.errors import DataError
from ptychoconfig.schema import SimulationConfig
from ptychodata import physics
from ptychodata.contracts import Reconstruction
from ptychodata.simulate import simulate
from ptychodata.stitching import stitch
from ptychodata.trust import (
    halves,
    scan_statistics,
    split_half,
    training_statistics,
    unlike_training,
)


@pytest.fixture(scope="module")
def scan():
    return simulate(SimulationConfig(N=32, n_patterns=300, overlap=0.75, nphotons=1e6))


def stitched(scan, patches):
    """Patches of a scan, stitched as inference does it."""
    weight = physics.coverage(
        physics.shift_probe(scan.photon_probe, physics.split_positions(scan.positions_px)[1])
    )
    canvas = stitch(patches, scan.positions_px, weight / weight.max() + 1e-4)
    return Reconstruction(
        obj=canvas.object().astype(np.complex64),
        coverage=canvas.relative_coverage(),
        origin_yx_px=canvas.origin_yx_px.astype(float),
        positions_px=scan.positions_px,
        probe=scan.photon_probe,
    )


# Halves


@settings(deadline=None, max_examples=25)
@given(st.integers(4, 200), st.integers(0, 99))
def test_halves_are_a_partition(count, seed):
    positions = np.random.default_rng(seed).uniform(-50, 500, size=(count, 2))
    first, second = halves(positions, seed)
    np.testing.assert_array_equal(np.sort(np.concatenate([first, second])), np.arange(count))
    assert len(first) - len(second) in (0, 1)


def test_halves_cover_alike_and_differ_by_seed():
    """Each quarter of the field gives each half its share; no half is every second column."""
    grid = 5.0 * np.stack(np.meshgrid(np.arange(20), np.arange(20), indexing="ij"), -1)
    positions = grid.reshape(-1, 2)
    first, second = halves(positions)
    for half in (first, second):
        quarter = (positions[half] > 48).astype(int) @ [2, 1]
        assert np.ptp(np.bincount(quarter)) <= 4
        columns = np.bincount((positions[half, 1] / 5).astype(int) % 2)
        assert columns.min() > 0.3 * len(half)
    assert not np.array_equal(first, halves(positions, 1)[0])
    np.testing.assert_array_equal(first, halves(positions)[0])


# Split-half correlation


def test_halves_agree_down_to_where_their_noise_begins(scan):
    """Each half gives the truth, and noise of its own above 0.2 cycles per pixel."""
    rng = np.random.default_rng(0)
    k_y, k_x = (np.fft.fftfreq(side) for side in scan.truth.shape)
    above = np.hypot(k_y[:, None], k_x) > 0.2

    def reconstruct(half):
        noise = 0.05 * np.fft.fft2(rng.normal(size=scan.truth.shape) + 0j)
        image = stitched(half, np.ones(half.diffraction.shape, complex))
        obj = (scan.truth + np.fft.ifft2(above * noise)).astype(np.complex64)
        return replace(image, obj=obj, origin_yx_px=np.zeros(2))

    assert split_half(scan, reconstruct).resolution_px == pytest.approx(5, rel=0.2)


def test_a_constant_is_not_reached(scan):
    found = split_half(scan, lambda half: stitched(half, np.ones(half.diffraction.shape, complex)))
    assert np.isnan(found.resolution_px) and np.isnan(found.one_seventh_px)


@pytest.mark.parametrize("kind", ["noise", "blob", "wave"])
@pytest.mark.parametrize("positions", ["jittered", "raster", "spiral", "random"])
def test_a_network_that_ignores_the_data_is_not_reached(kind, positions):
    """It paints the same patch wherever the beam is."""
    config = SimulationConfig(N=32, n_patterns=300, overlap=0.75, positions_kind=positions)
    rng, (y, x) = np.random.default_rng(1), np.mgrid[:32, :32] - 16
    patch = {
        "noise": 1 + 0.3 * (rng.normal(size=(32, 32)) + 1j * rng.normal(size=(32, 32))),
        "blob": 1 - 0.5 * np.exp(-(y**2 + x**2) / 20) * np.exp(1j * y / 9),
        "wave": np.exp(0.5j * np.sin(y) * np.cos(0.7 * x)),
    }[kind]
    found = split_half(
        simulate(config), lambda half: stitched(half, np.tile(patch, (len(half), 1, 1)))
    )
    assert np.isnan(found.resolution_px), found.describe()


def test_single_patterns_that_share_nothing_are_not_reached(scan):
    rng = np.random.default_rng(3)

    def reconstruct(half):
        noise = rng.normal(size=(2, *half.diffraction.shape))
        return stitched(half, 1 + 0.5 * (noise[0] + 1j * noise[1]))

    assert np.isnan(split_half(scan, reconstruct).resolution_px)


def test_each_half_is_reconstructed_alone(scan):
    seen = []

    def reconstruct(half):
        seen.append(half.positions_px)
        return stitched(half, np.ones(half.diffraction.shape, complex))

    split_half(scan, reconstruct)
    assert [len(positions) for positions in seen] == [150, 150]
    assert len(np.unique(np.concatenate(seen), axis=0)) == 300
    with pytest.raises(DataError, match="--split-half"):
        split_half(scan.subset(np.arange(3)), reconstruct)


# Out of distribution


def test_statistics_by_hand():
    """A square probe of side s has a radius of gyration of √((s² − 1) / 6)."""
    scan = simulate(SimulationConfig(N=32, n_patterns=100, positions_kind="raster"))
    probe = np.zeros((1, 32, 32), np.complex64)
    probe[:, 11:21, 11:21] = 3
    found = scan_statistics(replace(scan, probe=probe))
    gyration = np.sqrt((10**2 - 1) / 6)
    assert found["probe_width"] == pytest.approx(gyration / 32)
    step = np.diff(np.unique(scan.positions_px[:, 0])).max()
    assert found["step_per_probe"] == pytest.approx(step / gyration, rel=1e-6)
    assert found["mean_photons"] == scan.mean_photons
    same = np.tile(scan.diffraction[:1], (100, 1, 1))
    assert scan_statistics(replace(scan, diffraction=same))["pattern_contrast"] < 1e-6


def test_the_like_of_the_training_is_no_outlier(scan):
    trained = training_statistics([scan])
    other = simulate(SimulationConfig(N=32, n_patterns=150, overlap=0.75, nphotons=3e5, seed=9))
    assert unlike_training(scan, trained) == []
    assert unlike_training(other, trained) == []


@pytest.mark.parametrize(
    ("changed", "names"),
    [
        ({"nphotons": 1e3}, {"mean_photons"}),
        ({"nphotons": 1e8}, {"mean_photons"}),
        ({"probe_kind": "gaussian"}, {"pattern_width"}),
        ({"probe_diameter_px": 5.0}, {"probe_width", "pattern_width"}),
        ({"overlap": 0.2}, {"step_per_probe"}),
    ],
)
def test_what_training_never_saw_is_flagged(scan, changed, names):
    settings = {"N": 32, "n_patterns": 150, "overlap": 0.75, "nphotons": 1e6} | changed
    found = unlike_training(simulate(SimulationConfig(**settings)), training_statistics([scan]))
    assert names <= {unlike.name for unlike in found}
    assert all("in training" in str(unlike) for unlike in found)


def test_what_is_unknown_is_not_flagged(scan):
    assert unlike_training(scan, {"mean_photons": 3.0}) is None
    bare = replace(scan, probe=None, intensity_scale=None)
    assert {u.name for u in unlike_training(bare, training_statistics([scan])) or []} == set()
    assert unlike_training(scan, training_statistics([bare])) == []
