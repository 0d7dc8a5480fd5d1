"""The solver: its gradients, what it finds, and what it leaves alone."""

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from ptychoconfig.errors import BackendError, NumericalError
from ptychoconfig.payloads import create_solver_payload
from ptychoconfig.schema import SimulationConfig, SolverConfig
from ptychodata.contracts import Scan, Solution
from ptychodata.metrics import score
from ptychodata.probes import choose_probe
from ptychodata.simulate import simulate
from ptychodata.solving import plan_solution
from ptychotf import physics
from ptychotf.backend import TensorFlowBackend
from ptychotf.solver import run, steps
from ptychotf.solver.estimate import orthogonal
from ptychotf.solver.steps import Patterns, Sums, Unknowns, visit

NATURAL = {"N": 32, "n_patterns": 196, "overlap": 0.75, "nphotons": 1e8, "object_kind": "natural"}


@pytest.fixture(scope="module")
def natural() -> Scan:
    return simulate(SimulationConfig(**NATURAL))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def solve(scan: Scan, start: Solution | None = None, stop=lambda: False, seen=None, **flags):
    payload = create_solver_payload(flags=flags, environment={})
    report = (lambda progress: None) if seen is None else seen.append
    return TensorFlowBackend().reconstruct(scan, payload, report, stop, start)


def scores(solution: Solution, scan: Scan) -> dict[str, float]:
    found = solution.reconstruction
    return score(found.obj, found.origin_yx_px, scan.truth, scan.positions_px)


def test_object_and_probe_are_found_from_free_space(natural):
    seen = []
    solution = solve(natural, seen=seen)
    found = scores(solution, natural)
    assert found["amplitude_ssim"] > 0.98 and found["phase_ssim"] > 0.98
    assert solution.stopped == "converged" and solution.epochs == len(seen) < 100
    assert solution.history["r_free"][-1] < 0.01
    assert solution.reconstruction.probe_source == "file"  # absolute, and explains the patterns
    assert np.array_equal(solution.reconstruction.probe, natural.photon_probe)
    assert [progress.epoch for progress in seen] == list(range(1, solution.epochs + 1))


def some_state(
    rng: np.random.Generator, modes: int, varying: int
) -> tuple[Unknowns, Patterns, tf.Tensor]:
    """Five patterns of doubles, the last there to fill up the batch; and fractions of pixels."""

    def complex_(*shape: int) -> tf.Tensor:
        return tf.constant(rng.normal(size=shape) + 1j * rng.normal(size=shape))

    unknowns = Unknowns(
        obj=complex_(24, 24),
        probe=complex_(modes, 16, 16),
        background=tf.constant(rng.uniform(0.1, 1, size=(16, 16))),
        variable=complex_(varying, 16, 16) if varying else None,
    )
    there = np.array([1.0, 1, 1, 1, 0])
    pixel, fraction = physics.split_positions(tf.constant(rng.uniform(8, 16, size=(5, 2))))
    patterns = Patterns(
        pixel=pixel,
        ramps=physics.axis_ramps(fraction, 16),
        gain=tf.constant(rng.uniform(0.5, 2, size=5) * there),
        weights=tf.constant(rng.normal(size=(5, varying))) if varying else None,
        amplitude=tf.constant(np.sqrt(rng.poisson(50.0, size=(5, 16, 16)))),
        valid=tf.constant((rng.random((16, 16)) > 0.2) * there[:, None, None]),
    )
    return unknowns, patterns, fraction


@pytest.mark.parametrize("likelihood", ["amplitude", "poisson"])
@pytest.mark.parametrize(("modes", "varying"), [(1, 0), (3, 0), (2, 2)])
def test_the_sums_are_the_gradients_of_the_losses(rng, likelihood, modes, varying):
    """Against autodiff, in double precision: ∂L/∂z* is half the gradient that TensorFlow gives."""
    unknowns, patterns, fraction = some_state(rng, modes, varying)
    solved = {"obj": unknowns.obj, "probe": unknowns.probe}
    if varying:
        solved["variable"] = unknowns.variable
    loss_of = physics.poisson_deviance if likelihood == "poisson" else physics.amplitude_mse
    with tf.GradientTape() as tape:
        tape.watch(solved)
        rates = []
        for j in range(5):
            probe = solved["probe"]
            if varying:
                weights = tf.cast(patterns.weights[j], probe.dtype)
                change = tf.einsum("k,kyx->yx", weights, solved["variable"])
                probe = tf.concat([probe[:1] + change, probe[1:]], 0)
            shifted = physics.shift_probe(probe, fraction[j : j + 1])
            shifted *= tf.cast(patterns.gain[j], probe.dtype)
            windows = physics.extract(solved["obj"], patterns.pixel[j : j + 1], 16)
            waves = physics.far_field(physics.exit_waves(shifted, windows), corner=True)
            rates.append(physics.intensity(waves, unknowns.background))
        counts, rate = tf.square(patterns.amplitude), tf.concat(rates, 0)
        loss = loss_of(rate, counts, 1.0, patterns.valid) * 5
    expected = tape.gradient(loss, solved)

    seen = visit(unknowns, patterns, likelihood)
    sums = Sums.of(seen, (24, 24)).with_probe(seen)
    found = {"obj": sums.obj, "probe": tf.signal.ifft2d(sums.probe)}
    if varying:
        found["variable"] = tf.signal.ifft2d(sums.variable)
    for name, value in found.items():
        error = np.linalg.norm(value.numpy() + expected[name].numpy() / 2)
        assert error < 1e-9 * np.linalg.norm(value.numpy()), name


def test_patterns_that_fill_up_a_batch_count_for_nothing(rng):
    unknowns, patterns, _ = some_state(rng, 2, 1)
    real = Patterns(*(part[:4] for part in patterns))
    for some, all_ in zip(found_of(unknowns, real), found_of(unknowns, patterns), strict=True):
        np.testing.assert_allclose(all_, some, rtol=1e-12)


def found_of(unknowns: Unknowns, patterns: Patterns) -> list[np.ndarray]:
    seen = visit(unknowns, patterns, "amplitude")
    sums = Sums.of(seen, (24, 24)).with_probe(seen)
    return [tensor.numpy() for tensor in (*sums, *seen.residual())]


def test_held_out_patterns_teach_nothing(natural):
    first = solve(natural, epochs=3)
    spoiled = natural.diffraction.copy()
    spoiled[first.held_out] = spoiled[first.held_out, ::-1]
    second = solve(replace(natural, diffraction=spoiled), epochs=3)
    assert len(first.held_out) > 2 and np.array_equal(first.held_out, second.held_out)
    assert np.array_equal(first.reconstruction.obj, second.reconstruction.obj)
    assert second.history["r_free"][-1] > 2 * first.history["r_free"][-1]


def test_the_result_is_a_function_of_the_seed(natural):
    one, same, other = (solve(natural, epochs=2, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(one.reconstruction.obj, same.reconstruction.obj)
    assert not np.array_equal(one.reconstruction.obj, other.reconstruction.obj)


def test_a_probe_is_made_up_where_there_is_none(natural):
    found = solve(replace(natural, probe=None, probe_power="relative"), epochs=40)
    assert found.reconstruction.probe_source == "solved"
    assert found.history["r_free"][-1] < 0.01 and scores(found, natural)["phase_ssim"] > 0.99
    power = np.sum(np.abs(found.reconstruction.probe) ** 2)
    assert power == pytest.approx(natural.mean_photons, rel=0.01)


def test_modes_are_found_orthogonal_and_their_powers():
    scan = simulate(SimulationConfig(**NATURAL, probe_modes=2, probe_mode_decay=0.4))
    truth = np.sum(np.abs(scan.probe) ** 2, axis=(1, 2))
    one = replace(scan, probe=scan.probe[:1], probe_power="relative")
    coherent, found = solve(one, epochs=40), solve(one, epochs=40, modes=2)
    assert found.history["r_free"][-1] < 0.2 * coherent.history["r_free"][-1]
    assert found.mode_powers == pytest.approx(truth / truth.sum(), abs=0.03)
    first, second = found.reconstruction.probe.reshape(2, -1)
    assert abs(np.vdot(first, second)) < 1e-3 * np.linalg.norm(first) * np.linalg.norm(second)


def test_orthogonal_modes_make_the_same_sum(rng):
    modes = rng.normal(size=(3, 8, 8)) + 1j * rng.normal(size=(3, 8, 8))
    turned = orthogonal(modes)
    wave = rng.normal(size=(8, 8)) + 1j * rng.normal(size=(8, 8))
    rates = [np.sum(np.abs(np.fft.fft2(p * wave)) ** 2, axis=0) for p in (modes, turned)]
    assert np.allclose(*rates)
    assert (np.diff(np.sum(np.abs(turned) ** 2, axis=(1, 2))) <= 0).all()


@pytest.mark.parametrize("one_for_all", [True, False])
def test_masked_pixels_do_not_count(natural, rng, one_for_all):
    mask = rng.random((32, 32) if one_for_all else natural.diffraction.shape) > 0.05
    spoiled = np.where(mask, natural.diffraction, 10**6).astype(np.uint32)
    masked = solve(replace(natural, diffraction=spoiled, mask=mask), epochs=20)
    assert scores(masked, natural)["phase_ssim"] > 0.99


def test_positions_are_corrected(natural, rng):
    """Errors of 1 px, and a scan 2 % too large."""
    true = natural.positions_px
    wrong = (true - true.mean(0)) * 1.02 + true.mean(0) + rng.uniform(-1, 1, size=true.shape)
    scan = replace(natural, positions_px=wrong)
    fixed, found = solve(scan, epochs=40), solve(scan, epochs=40, refine_positions=True)

    def error(positions):
        off = positions - true
        return np.sqrt(np.mean((off - off.mean(0)) ** 2))

    assert error(found.reconstruction.positions_px) < 0.3 * error(wrong)
    assert found.history["r_free"][-1] < 0.25 * fixed.history["r_free"][-1]


def test_intensities_of_the_patterns_are_found(natural, rng):
    gain = rng.uniform(0.6, 1.4, size=len(natural))
    gain /= gain.mean()
    scan = replace(
        natural, diffraction=(natural.diffraction * gain[:, None, None]).astype(np.float32)
    )
    found = solve(scan, epochs=30, refine_intensity=True)
    assert np.corrcoef(found.intensity, gain)[0, 1] > 0.9  # a smooth part may go to the object
    assert found.history["r_free"][-1] < 0.2 * solve(scan, epochs=30).history["r_free"][-1]


def test_a_background_is_found(natural):
    y, x = np.indices((32, 32))
    background = (3000 * np.exp(-((y - 8) ** 2 + (x - 20) ** 2) / 100)).astype(np.float32)
    scan = replace(natural, diffraction=(natural.diffraction + background).astype(np.float32))
    found, without = solve(scan, epochs=40, refine_background=True), solve(scan, epochs=40)
    assert (found.background >= 0).all()
    assert found.history["r_free"][-1] < 0.2 * without.history["r_free"][-1]
    assert np.linalg.norm(found.background - background) < 0.4 * np.linalg.norm(background)


def test_a_probe_that_varies_along_the_scan_is_followed(natural, rng):
    """The probe drifts from the truth by up to half of another mode."""
    from ptychodata.physics import forward

    drift = rng.uniform(-0.5, 0.5, size=len(natural))
    ramp = ((np.arange(32) - 16) / 7).astype(np.float32)
    patterns = np.concatenate(
        [
            forward(natural.truth, natural.probe * (1 + w * ramp), position[None])
            for w, position in zip(drift, natural.positions_px, strict=True)
        ]
    )
    scan = replace(natural, diffraction=patterns.astype(np.float32), probe_power="relative")
    still = solve(scan, epochs=40)
    followed = solve(scan, epochs=40, variable_modes=1)
    assert followed.history["r_free"][-1] < 0.1 * still.history["r_free"][-1]
    weights = followed.variable_weights[:, 0]
    assert abs(np.corrcoef(weights, drift)[0, 1]) > 0.99
    assert weights.mean() == pytest.approx(0, abs=0.2)
    assert weights.std() == pytest.approx(1, abs=0.2)


def test_a_run_goes_on_from_an_earlier_one(natural):
    first = solve(natural, epochs=4)
    second = solve(natural, start=first, epochs=10)
    assert second.epochs == 10 and len(second.history["r_factor"]) == 10
    assert second.history["r_factor"][:4] == first.history["r_factor"]
    assert second.history["r_factor"][4] < 2 * first.history["r_factor"][-1]


def test_patterns_of_another_world_end_the_run(natural, monkeypatch):
    monkeypatch.setattr(steps, "MOMENTUM", 1.5)
    monkeypatch.setattr(run, "_learn", tf.function(run._learn.python_function, jit_compile=True))
    with pytest.raises(NumericalError, match=r"residual to fall.*ptycho inspect"):
        solve(natural, epochs=50)


def test_a_second_run_compiles_nothing(natural):
    solve(natural, epochs=1)
    before = run._learn.experimental_get_tracing_count()
    solve(natural, epochs=2, seed=3)
    assert run._learn.experimental_get_tracing_count() == before


def test_compiling_is_over_before_the_clock_of_a_run_begins(natural):
    config = SolverConfig(refine_probe="on", modes=2)
    plan = plan_solution(natural, config, None)
    fit = run._TensorFlowFit(natural, plan, config, None)
    traces = [f.experimental_get_tracing_count() for f in (run._learn, run._look)]
    assert np.array_equal(fit.estimate.obj, plan.obj)
    for refine_probe in (False, True):
        fit.learn(plan.kept[: plan.batch_size], 1.0, 0.0, refine_probe)
    fit.look(plan.held_out)
    assert not np.array_equal(fit.estimate.obj, plan.obj)
    assert traces == [f.experimental_get_tracing_count() for f in (run._learn, run._look)]


def test_more_devices_than_it_uses_are_refused(natural):
    with pytest.raises(BackendError, match=r"--devices: expected 1"):
        solve(natural, devices=2)


def test_an_image_is_polished_with_all_patterns(natural):
    """As `ptycho infer --refine` does: a start, and nothing held out."""
    image = solve(natural, epochs=6).reconstruction
    found = solve(natural, start=Solution(image), epochs=6, held_out_fraction=0.0)
    assert len(found.held_out) == 0 and np.isnan(found.history["r_free"]).all()
    assert (
        scores(found, natural)["phase_ssim"]
        > score(image.obj, image.origin_yx_px, natural.truth, natural.positions_px)["phase_ssim"]
    )


@pytest.mark.parametrize(("width", "source"), [(1.0, "file"), (0.7, "solved")])
def test_it_chooses_the_probe_that_a_network_works_with(natural, width, source):
    r = np.arange(32) - 16
    probe = (np.hypot(r[:, None], r) < width * 7.04).astype(np.complex64)[None]
    probe *= np.sqrt(natural.mean_photons / np.sum(np.abs(probe) ** 2))
    scan = natural if source == "file" else replace(natural, probe=probe)
    payload = create_solver_payload(flags={}, environment={})
    backend = TensorFlowBackend()
    found = choose_probe(backend, scan, "auto", payload, lambda progress: None, lambda: False)
    assert found.source == source
