"""The course of a run, with a fit that follows a script instead of the patterns."""

from collections.abc import Sequence

import numpy as np
import pytest

from ptychoconfig.errors import NumericalError
from ptychoconfig.schema import SimulationConfig, SolverConfig
from ptychodata import descent
from ptychodata.contracts import Scan
from ptychodata.descent import Amplitudes, Descent, Fitted
from ptychodata.simulate import simulate
from ptychodata.solving import plan_solution


@pytest.fixture(scope="module")
def scan() -> Scan:
    return simulate(SimulationConfig(N=32, n_patterns=100, nphotons=1e6))


class Script:
    """A fit whose object is the number of epochs behind it, and whose residuals are given."""

    def __init__(self, residuals: Sequence[float], positions: np.ndarray) -> None:
        self.residuals, self.positions = residuals, positions
        self.seen: list[np.ndarray] = []
        self.lengths: list[float] = []
        self.now = self.best = self.corrected = self.returned = self.epochs = 0

    def learn(self, batch, length, prior, refine_probe):
        self.seen.append(batch)
        self.lengths.append(length)
        self.now = self.epochs + 1
        return self.residuals[self.epochs] * len(batch), float(len(batch))

    def look(self, index):
        self.epochs += 1
        return self.residuals[self.epochs - 1] * len(index), float(len(index))

    def correct(self):
        self.corrected += 1

    def fix_gauge(self, power):
        raise AssertionError("the probe is known")

    def keep(self):
        self.best = self.now

    def go_back(self):
        self.now, self.returned = self.best, self.returned + 1

    def fitted(self, best, level):
        obj = np.full((80, 80), self.best if best else self.now, np.complex64)
        light, probe = np.ones((80, 80), np.float32), np.ones((1, 32, 32), np.complex64)
        return Fitted(obj, light, probe, self.positions, np.ones(2), None, None, None, None)


def follow(scan: Scan, residuals: Sequence[float], stop=lambda: False, **settings: object):
    config = SolverConfig(**{"epochs": len(residuals), "refine_probe": "off", **settings})
    plan = plan_solution(scan, config, None)
    fit = Script(residuals, plan.positions_px)
    run = Descent(scan, plan, config, None, fit)
    return fit, lambda: run.run(lambda progress: None, stop)


def test_the_best_epoch_is_kept_and_every_pattern_seen_once_in_each(scan):
    fit, run = follow(scan, [0.5, 0.2, 0.1, 0.3])
    found = run()
    assert found.reconstruction.obj[0, 0] == 3 and found.epochs == 4 and found.stopped == "epochs"
    assert found.history["r_factor"] == pytest.approx([0.5, 0.2, 0.1, 0.3])
    assert found.history["r_free"] == pytest.approx([0.5, 0.2, 0.1, 0.3])
    seen = np.concatenate(fit.seen).reshape(4, -1)
    kept = np.setdiff1d(np.arange(len(scan)), found.held_out)
    assert (np.sort(seen, axis=1) == kept).all() and not np.array_equal(seen[0], seen[1])
    assert fit.corrected == 3  # nothing is known after the first epoch
    assert fit.lengths[0] == 1 > fit.lengths[-1] > 0


def test_centring_moves_the_origin_and_leaves_the_positions(scan):
    fit, run = follow(scan, [0.5])
    image = run().reconstruction
    assert np.allclose(image.positions_px, scan.positions_px - 1)
    assert np.allclose(image.positions_px - image.origin_yx_px, fit.positions)


def test_a_diverging_epoch_is_taken_again_with_half_the_step(scan):
    fit, run = follow(scan, [0.5, 9.0, 0.4, 0.3], epochs=3)
    found = run()
    assert found.history["r_factor"] == pytest.approx([0.5, 0.4, 0.3])
    assert fit.returned == 1
    per_epoch = np.array(fit.lengths).reshape(4, -1)[:, 0]
    assert per_epoch[2] == per_epoch[1] / 2


def test_a_run_that_keeps_diverging_ends(scan):
    fit, run = follow(scan, [0.5, *[np.nan] * 4], epochs=10)
    with pytest.raises(NumericalError, match=r"R = nan after 2 epochs, 3 times"):
        run()
    assert fit.returned == 3


def test_a_run_stopped_in_its_first_epoch_has_what_it_had(scan):
    fit, run = follow(scan, [0.5, 0.4], stop=lambda: True)
    found = run()
    assert found.stopped == "interrupted" and found.epochs == 0 and len(fit.seen) == 1
    assert found.reconstruction.obj[0, 0] == 1


@pytest.mark.parametrize("free", [0.0, float("inf")])
def test_amplitudes_are_the_same_from_memory_and_from_the_file(scan, monkeypatch, free):
    monkeypatch.setattr(descent, "_free_bytes", lambda: free)
    measured, index = Amplitudes(scan), np.array([7, 3, 90])
    assert (measured.kept is None) == (free == 0)
    expected = np.fft.ifftshift(np.sqrt(scan.counts(index)), axes=(-2, -1))
    assert np.allclose(measured.root(index), expected, rtol=1e-6)
    assert measured.root(index).dtype == np.float32 and measured.valid(index) is None


def test_no_time_is_left_of_an_epoch_that_ends_too_late(scan):
    config = SolverConfig(max_time=1e-6, refine_probe="off")
    plan = plan_solution(scan, config, None)
    seen = []
    fit = Script([0.5, 0.2], plan.positions_px)
    Descent(scan, plan, config, None, fit).run(seen.append, lambda: False)
    assert [progress.seconds_left for progress in seen] == [0.0] * len(seen) and seen
