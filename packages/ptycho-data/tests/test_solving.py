from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptychoconfig.errors import DataError
from ptychoconfig.schema import SimulationConfig, SolverConfig
from ptychodata.contracts import Reconstruction, Scan, Solution
from ptychodata.grouping import hold_out_interior
from ptychodata.inspection import probe_diameter_px
from ptychodata.simulate import simulate
from ptychodata.solving import Schedule, model_probe, plan_solution, with_modes


@pytest.fixture(scope="module")
def scan() -> Scan:
    return simulate(SimulationConfig(N=32, n_patterns=100, nphotons=1e6))


def without_probe(scan: Scan, **changes: object) -> Scan:
    from dataclasses import replace

    return replace(scan, **{"probe": None, "probe_power": "relative", **changes})


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_steps_keep_their_length_for_half_of_the_epochs_and_end_near_zero():
    schedule, lengths = Schedule(SolverConfig(epochs=10), clock=Clock()), []
    while not schedule.stopped:
        lengths.append(schedule.length())
        schedule.record(1.0 / schedule.epoch if schedule.epoch else 2.0)
    assert len(lengths) == 10 and schedule.stopped == "epochs"
    assert lengths[:6] == [1.0] * 6 and lengths[-1] < 0.4
    assert lengths == sorted(lengths, reverse=True)


def test_a_run_from_a_known_object_shortens_its_steps_from_the_first_epoch_on():
    schedule, lengths = Schedule(SolverConfig(epochs=10), started=True, clock=Clock()), []
    while not schedule.stopped:
        lengths.append(schedule.length())
        schedule.record(1.0)
    assert lengths[0] == 1.0 and lengths[5] < 0.75 and lengths[-1] < 0.2
    assert Schedule(SolverConfig(), started=True, clock=Clock()).length() == 1.0


def test_time_bounds_a_run_and_shortens_its_steps_in_time():
    clock = Clock()
    schedule, lengths = Schedule(SolverConfig(max_time=10.0), clock=clock), []
    misfit = 1.0
    while not schedule.stopped:
        lengths.append(schedule.length())
        clock.now += 1.0
        misfit *= 0.9
        schedule.record(misfit)
    assert schedule.stopped == "max_time" and len(lengths) == 10
    assert lengths[5] == 1.0 and lengths[-1] < 0.5


def test_without_bounds_a_run_ends_after_the_misfit_has_stopped_falling():
    schedule, lengths = Schedule(SolverConfig(), clock=Clock()), []
    while not schedule.stopped:
        lengths.append(schedule.length())
        schedule.record(max(0.1, 1 - 0.1 * len(lengths)))
        if schedule.settled:
            schedule.cool()
    falling = 9
    assert schedule.stopped == "converged"
    assert len(lengths) == falling + Schedule.PATIENCE + Schedule.COOLING
    assert set(lengths[: falling + Schedule.PATIENCE]) == {1.0}
    assert lengths[-1] < 0.2


def test_a_misfit_that_never_settles_ends_at_the_most_epochs():
    schedule = Schedule(SolverConfig(), clock=Clock())
    while not schedule.stopped:
        schedule.record(0.9**schedule.epoch)
    assert schedule.epoch == Schedule.MOST and schedule.stopped == "converged"


def test_epochs_of_an_earlier_run_count():
    schedule = Schedule(SolverConfig(epochs=5), begun=3, clock=Clock())
    schedule.record(1.0)
    assert not schedule.stopped
    schedule.record(1.0)
    assert schedule.stopped == "epochs" and schedule.epoch == 5


@given(st.integers(0, 2**32 - 1))
def test_held_out_patterns_are_interior_distinct_and_a_function_of_the_seed(seed):
    y, x = np.divmod(np.arange(400), 20)
    positions = np.stack([y, x], 1) * 5.0
    held = hold_out_interior(positions, 0.05, seed)
    inside = ((positions > 7.5 - 1e-9) & (positions < 87.5 + 1e-9)).all(1)
    assert len(held) == round(0.05 * inside.sum()) and inside[held].all()
    assert (np.diff(held) > 0).all() and np.array_equal(
        held, hold_out_interior(positions, 0.05, seed)
    )


@pytest.mark.parametrize(
    "positions", [np.zeros((1, 2)), np.zeros((5, 2)), np.arange(20.0).reshape(10, 2)]
)
def test_a_scan_without_interior_holds_nothing_out(positions):
    assert len(hold_out_interior(positions, 0.5, 0)) == 0


@pytest.mark.parametrize("diameter", [12.0, 16.0, 20.0])
def test_a_disk_is_found_from_the_patterns_of_a_weak_object(diameter):
    config = SimulationConfig(
        N=64, n_patterns=100, object_kind="phantom", probe_diameter_px=diameter, noise=False
    )
    simulated = simulate(config)
    probe = model_probe(without_probe(simulated), "disk")
    assert probe_diameter_px(probe) == pytest.approx(probe_diameter_px(simulated.probe), rel=0.2)
    assert np.sum(np.abs(probe) ** 2) == pytest.approx(simulated.mean_photons, rel=1e-4)


def test_a_gaussian_has_the_defocus_that_the_patterns_show():
    step = 6.0
    config = SimulationConfig(
        N=64,
        n_patterns=100,
        object_kind="phantom",
        probe_kind="gaussian",
        probe_diameter_px=18.0,
        defocus_rad=4.0,
        overlap=1 - step / 18.0,
        noise=False,
    )
    simulated = simulate(config)
    probe = model_probe(without_probe(simulated), "gaussian")[0].astype(np.complex128)
    truth = simulated.probe[0].astype(np.complex128)

    def likeness(guess):
        return np.abs(np.vdot(guess, truth)) / (np.linalg.norm(guess) * np.linalg.norm(truth))

    assert likeness(probe) > 0.85 > 0.6 > likeness(np.abs(probe))


def test_added_modes_are_weak_and_unlike_the_first(scan):
    modes = with_modes(scan.photon_probe, 4).astype(np.complex128)
    power = np.sum(np.abs(modes) ** 2, axis=(1, 2))
    assert modes.shape == (4, 32, 32) and np.array_equal(modes[:1], scan.photon_probe)
    assert power[1:] == pytest.approx(0.02 * power[0], rel=1e-5)
    flat = modes.reshape(4, -1) / np.sqrt(power)[:, None]
    assert np.abs(flat[0].conj() @ flat[1:3].T).max() < 0.05
    assert len(with_modes(modes.astype(np.complex64), 2)) == 2


def test_plan_fills_in_what_the_settings_leave_open(scan):
    plan = plan_solution(scan, SolverConfig(), None)
    assert (plan.probe_source, plan.refine_probe, plan.likelihood) == ("file", "later", "amplitude")
    assert 4 <= plan.batch_size <= len(scan) // 8
    assert set(plan.kept) | set(plan.held_out) == set(range(len(scan)))
    assert len(plan.held_out) and not set(plan.kept) & set(plan.held_out)
    power = np.sum(np.abs(plan.probe) ** 2)
    assert np.abs(plan.obj) == pytest.approx(np.sqrt(scan.mean_photons / power))
    pixel = plan.positions_px
    assert pixel.min() >= 16 and (pixel.max(0) <= np.array(plan.obj.shape) - 16).all()
    few = simulate(SimulationConfig(N=32, n_patterns=50, nphotons=1e3))
    assert plan_solution(few, SolverConfig(), None).likelihood == "poisson"
    none = plan_solution(without_probe(scan), SolverConfig(modes=2), None)
    assert (none.probe_source, none.refine_probe, len(none.probe)) == ("model", "now", 2)


def test_a_start_lies_on_the_canvas_where_it_was(scan):
    plan = plan_solution(scan, SolverConfig(), None)
    rng = np.random.default_rng(1)
    obj = (plan.obj + rng.normal(size=plan.obj.shape)).astype(np.complex64)
    origin = plan.origin_yx_px + 0.25
    before = Reconstruction(
        obj, np.ones(obj.shape, np.float32), origin, scan.positions_px, scan.photon_probe
    )
    again = plan_solution(scan, SolverConfig(), Solution(before))
    shift = np.round(again.origin_yx_px - origin).astype(int)
    assert again.origin_yx_px - shift == pytest.approx(origin)
    window = tuple(slice(max(0, s), min(n, n + s)) for s, n in zip(shift, obj.shape, strict=True))
    mine = tuple(slice(w.start - s, w.stop - s) for w, s in zip(window, shift, strict=True))
    assert np.array_equal(again.obj[mine], obj[window])
    assert again.positions_px + again.origin_yx_px == pytest.approx(scan.positions_px)


def test_two_batches_make_a_pass_from_a_networks_object_under_a_probe_that_is_held(scan):
    plan = plan_solution(scan, SolverConfig(refine_probe="off"), None)
    shape = plan.obj.shape
    known = Reconstruction(
        plan.obj, np.ones(shape, np.float32), plan.origin_yx_px, scan.positions_px,
        scan.photon_probe,
    )  # fmt: skip

    def size(start, **settings):
        return plan_solution(scan, SolverConfig(**settings), start).batch_size

    held, first = {"refine_probe": "off"}, Solution(known)
    assert size(first, **held) == -(-len(plan.kept) // 2) > 2 * plan.batch_size
    assert size(first, **held, batch_size=7) == 7
    assert size(first) == size(None) == plan.batch_size
    assert size(replace(first, epochs=3), **held) == plan.batch_size


def test_a_start_of_another_scan_is_refused(scan):
    obj = np.ones((80, 80), np.complex64)
    coverage, origin = np.ones((80, 80), np.float32), np.zeros(2)
    few = Reconstruction(obj, coverage, origin, scan.positions_px[:50], scan.photon_probe)
    with pytest.raises(DataError, match="100 positions"):
        plan_solution(scan, SolverConfig(), Solution(few))
    small = Reconstruction(
        obj, coverage, origin, scan.positions_px, np.ones((1, 16, 16), np.complex64)
    )
    with pytest.raises(DataError, match="32×32"):
        plan_solution(scan, SolverConfig(), Solution(small))
