"""Residuals: noise alone for the truth, more for what is wrong, right by hand."""

from dataclasses import replace

import numpy as np
import pytest

from ptychoconfig.schema import SimulationConfig
from ptychodata import physics
from ptychodata.contracts import Reconstruction, Solution
from ptychodata.residuals import misfit, residuals, solution_misfit
from ptychodata.simulate import simulate


@pytest.mark.parametrize("nphotons", [1e3, 1e6])
def test_truth_leaves_the_noise_of_photons_alone(nphotons):
    scan = simulate(SimulationConfig(N=32, n_patterns=100, nphotons=nphotons))
    found = residuals(scan.truth, np.zeros(2), scan, scan.photon_probe)
    assert found["r_factor"] == pytest.approx(found["poisson_floor"], rel=0.02)
    assert found["deviance_ratio"] == pytest.approx(1, abs=0.03)


def test_wrong_object_leaves_more_whatever_its_origin():
    scan = simulate(SimulationConfig(N=32, n_patterns=50, nphotons=1e9))
    padded = np.pad(scan.truth, 9, constant_values=1)
    right = residuals(padded, np.array([-9.0, -9.0]), scan, scan.photon_probe)
    wrong = residuals(padded, np.array([-8.0, -9.0]), scan, scan.photon_probe)
    same = residuals(scan.truth, np.zeros(2), scan, scan.photon_probe)
    assert right == pytest.approx(same)
    assert wrong["r_factor"] > 2 * right["r_factor"] and wrong["deviance_ratio"] > 10


def test_masked_pixels_do_not_count():
    scan = simulate(SimulationConfig(N=32, n_patterns=20))
    mask = np.random.default_rng(0).random((32, 32)) > 0.1
    spoilt = replace(scan, diffraction=np.where(mask, scan.diffraction, 9_999_999), mask=mask)
    found = residuals(scan.truth, np.zeros(2), spoilt, scan.photon_probe)
    assert found["deviance_ratio"] == pytest.approx(1, abs=0.05)


def test_without_dose_there_is_no_floor():
    scan = replace(simulate(SimulationConfig(N=32, n_patterns=20)), intensity_scale=None)
    assert set(residuals(scan.truth, np.zeros(2), scan, scan.photon_probe)) == {"r_factor"}


def test_misfit_tells_which_pattern_and_which_pixel():
    """By hand: √I is one more than √λ in one pixel of one pattern."""
    scan = simulate(SimulationConfig(N=32, n_patterns=20, noise=False))
    counts = np.array(scan.counts(), dtype=np.float64)
    root = np.sqrt(counts[7])
    root[16, 9] += 1
    counts[7] = root**2
    found = misfit(scan.truth, np.zeros(2), replace(scan, diffraction=counts), scan.photon_probe)
    assert found.r_factors.argmax() == 7
    assert found.r_factors[7] == pytest.approx(1 / root.sum(), rel=1e-2)
    assert np.delete(found.r_factors, 7).max() < 1e-3 / root.sum() * 20
    assert np.unravel_index(found.detector.argmax(), (32, 32)) == (16, 9)
    assert found.detector[16, 9] == pytest.approx(1 / 20, rel=1e-2)


def test_shuffled_patterns_raise_r():
    scan = simulate(SimulationConfig(N=32, n_patterns=50, nphotons=1e8))
    order = np.random.default_rng(0).permutation(50)
    shuffled = replace(scan, diffraction=np.asarray(scan.diffraction)[order])
    right = residuals(scan.truth, np.zeros(2), scan, scan.photon_probe)
    wrong = residuals(scan.truth, np.zeros(2), shuffled, scan.photon_probe)
    assert wrong["r_factor"] > 2 * right["r_factor"] and wrong["deviance_ratio"] > 10


def corrected(scan, rng):
    """All corrections at once, and the patterns that they imply, one by one."""
    count, side = len(scan), scan.N
    solution = Solution(
        Reconstruction(
            obj=np.pad(scan.truth, 4, constant_values=1),
            coverage=np.ones(np.array(scan.truth.shape) + 8, np.float32),
            origin_yx_px=np.array([-4.0, -4.0]),
            positions_px=scan.positions_px + rng.uniform(-1, 1, (count, 2)),
            probe=scan.photon_probe,
        ),
        background=np.full((side, side), 3, np.float32),
        intensity=rng.uniform(0.8, 1.2, count).astype(np.float32),
        variable_modes=np.roll(scan.photon_probe, 3, axis=1),
        variable_weights=rng.uniform(-0.3, 0.3, (count, 1)).astype(np.float32),
        held_out=np.array([3, 7]),
    )
    image, rates = solution.reconstruction, []
    for j, position in enumerate(image.positions_px):
        probe = image.probe + solution.variable_weights[j, 0] * solution.variable_modes
        rate = physics.forward(image.obj, probe, position[None] + 4)[0]
        rates.append(rate * solution.intensity[j] + 3)
    return solution, np.array(rates, np.float32)


def test_a_solution_is_held_to_all_its_corrections():
    scan = simulate(SimulationConfig(N=32, n_patterns=20, nphotons=1e7))
    solution, rates = corrected(scan, np.random.default_rng(0))
    scan = replace(scan, diffraction=rates, domain="counts", intensity_scale=1.0)
    found = solution_misfit(solution, scan).residuals
    assert found["r_factor"] < 1e-4 and found["r_free"] < 1e-4
    for without in ("background", "intensity", "variable_modes"):
        spoilt = replace(solution, **{without: None})
        assert solution_misfit(spoilt, scan).residuals["r_factor"] > 100 * found["r_factor"]


def test_held_out_patterns_are_counted_apart():
    scan = simulate(SimulationConfig(N=32, n_patterns=20, nphotons=1e7))
    solution, rates = corrected(scan, np.random.default_rng(0))
    rates[solution.held_out] *= 4  # amplitudes of half the right size
    scan = replace(scan, diffraction=rates, domain="counts", intensity_scale=1.0)
    found = solution_misfit(solution, scan).residuals
    assert found["r_factor"] < 1e-4
    assert found["r_free"] == pytest.approx(0.5, abs=1e-4)
    assert (
        "r_free"
        not in solution_misfit(replace(solution, held_out=np.empty(0, int)), scan).residuals
    )
