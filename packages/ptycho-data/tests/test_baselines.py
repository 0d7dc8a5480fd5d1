"""The network's zero is one step of the reference physics from each pattern."""

from dataclasses import replace

import numpy as np
import pytest

from ptychoconfig.schema import SimulationConfig
from ptychodata import baselines, physics
from ptychodata.baselines import first_step
from ptychodata.metrics import score
from ptychodata.simulate import scan_of, simulate
from ptychodata.stitching import nearest_pattern


def test_one_pattern_gives_its_own_step():
    scan = simulate(SimulationConfig(N=32, n_patterns=1, nphotons=1e6))
    found = first_step(scan)
    shifted = physics.shift_probe(scan.photon_probe, physics.split_positions(scan.positions_px)[1])
    free = np.ones((1, 32, 32), np.complex64)
    expected = free + physics.object_update(free, shifted, scan.counts())
    np.testing.assert_allclose(found.obj, expected[0], atol=1e-6)


def test_free_space_is_left_as_it_is():
    probe = simulate(SimulationConfig(N=32, n_patterns=1)).probe
    positions = np.random.default_rng(0).uniform(16, 40, (9, 2))
    scan = scan_of(np.ones((60, 60), np.complex64), probe, positions, 1e6, None)
    assert np.abs(first_step(scan).obj - 1).max() < 0.01


def test_chunks_do_not_matter_and_single_shots_take_the_nearest(monkeypatch: pytest.MonkeyPatch):
    scan = simulate(SimulationConfig(N=32, n_patterns=30, nphotons=1e6))
    merged, alone = first_step(scan), first_step(scan, alone=True)
    monkeypatch.setattr(baselines, "_TOGETHER_PIXELS", 1)
    np.testing.assert_allclose(first_step(scan).obj, merged.obj, atol=1e-6)
    np.testing.assert_allclose(first_step(scan, alone=True).obj, alone.obj, atol=1e-6)
    mine = nearest_pattern(scan.positions_px, np.array([4]), 32)[0]
    y, x = physics.split_positions(scan.positions_px)[0][4] - merged.origin_yx_px.astype(int) - 16
    own = first_step(replace(scan.subset(np.array([4]))))
    window = alone.obj[y : y + 32, x : x + 32]
    np.testing.assert_allclose(window[mine], own.obj[mine], atol=1e-5)


def test_it_already_shows_the_object():
    scan = simulate(SimulationConfig(n_patterns=100, nphotons=1e7, seed=3))
    found = first_step(scan)
    scores = score(found.obj, found.origin_yx_px, scan.truth, scan.positions_px)
    assert scores["complex_correlation"] > 0.5
