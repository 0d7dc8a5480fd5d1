"""Which probe a scan is reconstructed with, decided with a solver whose answers are known."""

from dataclasses import replace

import numpy as np
import pytest

from ptychoconfig.errors import ConfigError
from ptychoconfig.payloads import create_solver_payload
from ptychoconfig.schema import SimulationConfig
from ptychodata.bundle import Bundle
from ptychodata.contracts import Reconstruction, Solution
from ptychodata.probes import choose_probe, learned_probe, probe_for
from ptychodata.simulate import simulate


@pytest.fixture(scope="module")
def scan():
    return simulate(SimulationConfig(N=32, n_patterns=200, nphotons=1e6))


class KnownSolver:
    """Returns the true object; the probe too, as the scan has it or better, where it is free."""

    name = "known"

    def __init__(self, better=None):
        self.better = better
        self.calls = []

    def reconstruct(self, scan, payload, report, should_stop, start=None):
        self.calls.append((scan, payload.solver))
        fixed = payload.solver.refine_probe == "off" or self.better is None
        image = Reconstruction(
            obj=scan.truth,
            coverage=np.ones(scan.truth.shape, np.float32),
            origin_yx_px=np.zeros(2),
            positions_px=scan.positions_px,
            probe=scan.photon_probe if fixed else self.better,
        )
        return Solution(image, held_out=np.arange(0, len(scan), 20), epochs=1)


def choose(solver, scan, choice="auto", should_stop=lambda: False):
    payload = create_solver_payload(flags={}, environment={})
    return choose_probe(solver, scan, choice, payload, lambda progress: None, should_stop)


def wrong(scan):
    return replace(scan, probe=np.roll(scan.probe, 3, axis=1) * np.complex64(1 + 0.5j))


def test_a_probe_that_explains_the_patterns_stays(scan):
    solver = KnownSolver()
    chosen = choose(solver, scan)
    assert chosen.source == "file"
    assert chosen.scan is scan
    assert chosen.r_file == pytest.approx(chosen.poisson_floor, rel=0.1)
    [(part, settings)] = solver.calls
    assert settings.refine_probe == "off"
    assert len(part) < len(scan)
    middle = np.median(scan.positions_px, axis=0)
    far = np.linalg.norm(part.positions_px - middle, axis=1).max()
    closer = np.linalg.norm(scan.positions_px - middle, axis=1) <= far
    assert np.count_nonzero(closer) == len(part)


def test_a_wrong_one_is_solved_for(scan):
    solver = KnownSolver(better=scan.photon_probe)
    chosen = choose(solver, wrong(scan))
    assert chosen.source == "solved"
    assert chosen.r_file > 2 * chosen.poisson_floor > chosen.r_solved
    np.testing.assert_allclose(chosen.scan.photon_probe, scan.photon_probe, rtol=1e-5)
    assert [settings.refine_probe for _, settings in solver.calls] == ["off", "on"]
    assert all(settings.max_time <= 30 for _, settings in solver.calls)
    assert chosen.figures()["r_solved"] == chosen.r_solved


def test_a_solved_probe_that_is_no_better_is_not_taken(scan):
    chosen = choose(KnownSolver(), wrong(scan))
    assert chosen.source == "file"
    assert chosen.r_solved == pytest.approx(chosen.r_file, rel=0.1)


def test_what_was_asked_for_is_done(scan):
    solver = KnownSolver(better=scan.photon_probe)
    assert choose(solver, wrong(scan), "file").source == "file"
    assert not solver.calls
    chosen = choose(solver, scan, "solve")
    assert chosen.source == "solved"
    assert chosen.r_file is None
    assert len(solver.calls) == 1


def test_without_a_dose_nothing_can_be_held_against_the_probe(scan):
    solver = KnownSolver(better=scan.photon_probe)
    assert choose(solver, replace(wrong(scan), intensity_scale=None)).source == "file"
    assert not solver.calls


def test_without_a_probe_one_is_solved_for(scan):
    chosen = choose(KnownSolver(better=scan.photon_probe), replace(scan, probe=None))
    assert chosen.source == "solved"
    assert chosen.r_file is None


def test_a_stop_keeps_the_file_s(scan):
    solver = KnownSolver(better=scan.photon_probe)
    assert choose(solver, wrong(scan), should_stop=lambda: True).source == "file"


def bundle(*probes, learned=True):
    return Bundle(
        backend="known",
        config={},
        weights={},
        probes=probes,
        probe_learned=learned,
        history={},
        statistics={},
        versions={},
    )


def test_a_learned_probe_is_scaled_to_the_scan(scan):
    relative = replace(scan, probe_power="relative")
    probe = 7 * np.roll(scan.probe, 1, axis=2)
    found, source = probe_for(relative, bundle(probe), "auto")
    assert source == "bundle"
    assert np.sum(np.abs(found) ** 2) == pytest.approx(scan.mean_photons, rel=1e-4)
    np.testing.assert_allclose(found / found.max(), probe / probe.max(), rtol=1e-4, atol=1e-6)


def test_the_file_s_is_taken_where_none_was_learned_for_this_n(scan):
    for other in (bundle(scan.probe, learned=False), bundle(scan.probe[:, 4:-4, 4:-4])):
        assert learned_probe(scan, other) is None
        assert probe_for(scan, other, "auto")[1] == "file"
        with pytest.raises(ConfigError, match="--probe bundle"):
            probe_for(scan, other, "bundle")
    assert probe_for(scan, bundle(scan.probe), "file")[1] == "file"
