"""The solver: its gradients, what it finds, and what it leaves alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ptychoconfig.errors import NumericalError
from ptychoconfig.payloads import create_solver_payload
from ptychoconfig.schema import SimulationConfig
from ptychodata import descent
from ptychodata.contracts import Reconstruction, Scan, Solution
from ptychodata.metrics import score
from ptychodata.simulate import simulate
from ptychotorch import physics
from ptychotorch.backend import TorchBackend
from ptychotorch.solver import steps
from ptychotorch.solver.estimate import Estimate, orthogonal
from ptychotorch.solver.steps import Sums, visit

NATURAL = {"N": 32, "n_patterns": 196, "overlap": 0.75, "nphotons": 1e8, "object_kind": "natural"}


@pytest.fixture(scope="module")
def natural() -> Scan:
    return simulate(SimulationConfig(**NATURAL))


def solve(scan: Scan, start: Solution | None = None, stop=lambda: False, seen=None, **flags):
    payload = create_solver_payload(flags=flags, environment={})
    report = (lambda progress: None) if seen is None else seen.append
    return TorchBackend().reconstruct(scan, payload, report, stop, start)


def scores(solution: Solution, scan: Scan) -> dict[str, float]:
    found = solution.reconstruction
    return score(found.obj, found.origin_yx_px, scan.truth, scan.positions_px)


def test_object_and_probe_are_found_from_free_space(natural):
    seen = []
    solution = solve(natural, seen=seen)
    found = scores(solution, natural)
    assert found["amplitude_ssim"] > 0.98 and found["phase_ssim"] > 0.98
    assert solution.stopped == "converged" and solution.epochs == len(seen) < 100
    assert solution.history["r_factor"][-1] < 0.1 * solution.history["r_factor"][0]
    assert solution.history["r_free"][-1] < 0.01
    assert solution.reconstruction.probe_source == "file"  # absolute, and explains the patterns
    assert np.array_equal(solution.reconstruction.probe, natural.photon_probe)
    assert {progress.phase for progress in seen} == {"solve"}
    assert [progress.epoch for progress in seen] == list(range(1, solution.epochs + 1))


def some_estimate(
    rng: np.random.Generator, modes: int, varying: int
) -> tuple[Estimate, torch.Tensor]:
    def complex_(*shape: int) -> torch.Tensor:
        return torch.from_numpy(rng.normal(size=shape) + 1j * rng.normal(size=shape))

    positions = torch.from_numpy(rng.uniform(8, 16, size=(5, 2)))
    estimate = Estimate(
        obj=complex_(24 * 24),
        shape=(24, 24),
        probe=complex_(modes, 16, 16),
        positions=positions,
        drift=torch.zeros(2, dtype=torch.float64),
        background=torch.from_numpy(rng.uniform(0.1, 1, size=(16, 16))),
        intensity=torch.from_numpy(rng.uniform(0.5, 2, size=5)),
        variable=complex_(varying, 16, 16) if varying else None,
        weights=torch.from_numpy(rng.normal(size=(5, varying))) if varying else None,
    )
    return estimate, torch.from_numpy(rng.poisson(50.0, size=(5, 16, 16)).astype(np.float64))


@pytest.mark.parametrize("likelihood", ["amplitude", "poisson"])
@pytest.mark.parametrize(("modes", "varying"), [(1, 0), (3, 0), (2, 2)])
def test_the_sums_are_the_gradients_of_the_losses(rng, likelihood, modes, varying):
    """Against autograd, in double precision: ∂L/∂z* is half the gradient that Torch gives."""
    estimate, counts = some_estimate(rng, modes, varying)
    valid = torch.from_numpy((rng.random((16, 16)) > 0.2).astype(np.float64))
    chosen = torch.arange(5)

    unknown = {"obj": estimate.obj, "probe": estimate.probe}
    if varying:
        unknown["variable"] = estimate.variable
    for tensor in unknown.values():
        tensor.requires_grad_(True)
    pixel, fraction = physics.split_positions(estimate.positions)
    probe = estimate.probe[None].expand(5, -1, -1, -1)
    if varying:
        change = torch.einsum("bk,kyx->byx", estimate.weights.to(probe.dtype), estimate.variable)
        probe = torch.cat([probe[:, :1] + change[:, None], probe[:, 1:]], 1)
    shifted = torch.cat(
        [physics.shift_probe(p, f[None]) for p, f in zip(probe, fraction, strict=True)]
    )
    shifted = shifted * estimate.intensity.sqrt()[:, None, None, None]
    waves = physics.exit_waves(shifted, physics.extract(estimate.obj.view(24, 24), pixel, 16))
    rate = physics.intensity(physics.far_field(waves, corner=True), estimate.background)
    loss = physics.poisson_deviance if likelihood == "poisson" else physics.amplitude_mse
    (loss(rate, counts, 1.0, valid) * 5).backward()
    expected = {name: tensor.grad for name, tensor in unknown.items()}

    estimate = replace(estimate, **{name: t.detach() for name, t in unknown.items()})
    varied = None if estimate.variable is None else torch.fft.fft2(estimate.variable)
    # visit() computes in the precision of its inputs but for the ramp, which is float32.
    seen = visit(
        estimate,
        torch.fft.fft2(estimate.probe),
        varied,
        chosen,
        counts.sqrt(),
        valid,
        likelihood,
    )
    sums = Sums.of(estimate)
    sums.add_object(seen, estimate.shape)
    sums.add_probe(seen, estimate, chosen)
    found = {"obj": sums.obj, "probe": torch.fft.ifft2(sums.probe)}
    if varying:
        found["variable"] = torch.fft.ifft2(sums.variable)
    for name, value in found.items():
        error = torch.linalg.vector_norm(value + expected[name] / 2)
        assert error < 2e-3 * torch.linalg.vector_norm(value), name


def test_a_perfect_estimate_is_left_alone(rng):
    estimate, _ = some_estimate(rng, 2, 0)
    everything = visit(
        estimate,
        torch.fft.fft2(estimate.probe),
        None,
        torch.arange(5),
        torch.ones(5, 16, 16),
        None,
        "amplitude",
    )
    again = visit(
        estimate,
        torch.fft.fft2(estimate.probe),
        None,
        torch.arange(5),
        everything.rate.sqrt(),
        None,
        "poisson",
    )
    assert torch.linalg.vector_norm(again.change) < 1e-3 * torch.linalg.vector_norm(again.waves)


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


def test_reading_from_the_disk_gives_the_same(natural, monkeypatch):
    kept = solve(natural, epochs=2)
    monkeypatch.setattr(descent, "_free_bytes", lambda: 0.0)
    assert np.array_equal(solve(natural, epochs=2).reconstruction.obj, kept.reconstruction.obj)


def test_a_wrong_probe_is_found(natural):
    """Half too wide, of unknown power, and told to be relative."""
    r = np.arange(32) - 16
    wide = (np.hypot(r[:, None], r) < 1.3 * 7.04).astype(np.complex64)[None]
    guessed = replace(natural, probe=wide, probe_power="relative")
    found, fixed = solve(guessed, epochs=40), solve(guessed, epochs=40, refine_probe="off")
    assert found.history["r_free"][-1] < 0.2 * fixed.history["r_free"][-1]
    assert scores(found, natural)["phase_ssim"] > 0.99 > 0.5 > scores(fixed, natural)["phase_ssim"]
    probe = found.reconstruction.probe
    assert found.reconstruction.probe_source == "solved"
    assert np.sum(np.abs(probe) ** 2) == pytest.approx(natural.mean_photons, rel=0.01)
    y = np.sum(np.abs(probe) ** 2, axis=(0, 2)) @ r / np.sum(np.abs(probe) ** 2)
    assert abs(y) < 0.2


def test_a_probe_is_made_up_where_there_is_none(natural):
    found = solve(replace(natural, probe=None, probe_power="relative"), epochs=40)
    assert found.reconstruction.probe_source == "solved"
    assert found.history["r_free"][-1] < 0.01 and scores(found, natural)["phase_ssim"] > 0.99


def test_a_trusted_probe_that_does_not_fit_is_refined_in_the_end(natural):
    r = np.arange(32) - 16
    narrow = (np.hypot(r[:, None], r) < 0.8 * 7.04).astype(np.complex64)[None]
    narrow *= np.sqrt(natural.mean_photons / np.sum(np.abs(narrow) ** 2))
    found = solve(replace(natural, probe=narrow))
    assert found.reconstruction.probe_source == "solved"
    assert found.history["r_free"][-1] < 0.05


def test_modes_are_found_orthogonal_and_their_powers(rng):
    scan = simulate(SimulationConfig(**NATURAL, probe_modes=2, probe_mode_decay=0.4))
    truth = np.sum(np.abs(scan.probe) ** 2, axis=(1, 2))
    one = replace(scan, probe=scan.probe[:1], probe_power="relative")
    coherent, found = solve(one, epochs=40), solve(one, epochs=40, modes=2)
    assert found.history["r_free"][-1] < 0.2 * coherent.history["r_free"][-1]
    assert found.mode_powers == pytest.approx(truth / truth.sum(), abs=0.03)
    first, second = found.reconstruction.probe.reshape(2, -1)
    assert abs(np.vdot(first, second)) < 1e-3 * np.linalg.norm(first) * np.linalg.norm(second)


def test_orthogonal_modes_make_the_same_sum(rng):
    modes = torch.from_numpy(rng.normal(size=(3, 8, 8)) + 1j * rng.normal(size=(3, 8, 8)))
    turned = orthogonal(modes)
    wave = torch.from_numpy(rng.normal(size=(8, 8)) + 1j * rng.normal(size=(8, 8)))
    rates = [physics.intensity(torch.fft.fft2(p * wave)[None]) for p in (modes, turned)]
    assert torch.allclose(*rates)
    power = turned.abs().square().sum((1, 2))
    assert (power.diff() <= 0).all()


def test_masked_pixels_do_not_count(natural, rng):
    mask = rng.random((32, 32)) > 0.05
    spoiled = np.where(mask, natural.diffraction, 10**6).astype(np.uint32)
    trusting = solve(replace(natural, diffraction=spoiled), epochs=20)
    masked = solve(replace(natural, diffraction=spoiled, mask=mask), epochs=20)
    assert scores(masked, natural)["phase_ssim"] > 0.99
    assert scores(trusting, natural)["phase_ssim"] < 0.7


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
    assert np.abs(found.reconstruction.positions_px - wrong).max() < 7


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
    known = solve(replace(scan, background=background), epochs=30)
    found, without = solve(scan, epochs=40, refine_background=True), solve(scan, epochs=40)
    assert (found.background >= 0).all()
    assert found.history["r_free"][-1] < 0.2 * without.history["r_free"][-1]
    assert np.linalg.norm(found.background - background) < 0.4 * np.linalg.norm(background)
    assert scores(known, natural)["phase_ssim"] > 0.97


def test_a_probe_that_varies_along_the_scan_is_followed(natural, rng):
    """The probe drifts from the truth by up to half of another mode."""
    drift = rng.uniform(-0.5, 0.5, size=len(natural))
    ramp = ((np.arange(32) - 16) / 7).astype(np.float32)
    from ptychodata.physics import forward

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
    assert weights.mean() == pytest.approx(0, abs=0.2) and weights.std() == pytest.approx(
        1, abs=0.2
    )


def test_few_photons_are_taken_as_poisson(rng):
    scan = simulate(SimulationConfig(**NATURAL | {"nphotons": 5e3, "overlap": 0.8}))
    found = {kind: solve(scan, likelihood=kind) for kind in ("poisson", "amplitude")}
    poisson, amplitude = (scores(found[kind], scan)["phase_ssim"] for kind in found)
    assert poisson > amplitude + 0.03
    assert np.array_equal(solve(scan).reconstruction.obj, found["poisson"].reconstruction.obj)


def test_a_run_goes_on_from_an_earlier_one(natural):
    first = solve(natural, epochs=4)
    second = solve(natural, start=first, epochs=10)
    assert second.epochs == 10 and len(second.history["r_factor"]) == 10
    assert second.history["r_factor"][:4] == first.history["r_factor"]
    assert second.history["r_factor"][4] < 2 * first.history["r_factor"][-1]
    assert (np.diff(second.history["seconds"]) > 0).all()
    nothing = solve(natural, start=second, epochs=10)
    assert np.array_equal(
        scores(nothing, natural)["phase_ssim"], pytest.approx(scores(second, natural)["phase_ssim"])
    )


def test_an_image_is_a_start(natural):
    """From the known object the residual is at its floor at once."""
    y, x = natural.truth.shape
    truth = Reconstruction(
        natural.truth,
        np.ones((y, x), np.float32),
        np.zeros(2),
        natural.positions_px,
        natural.photon_probe,
    )
    found = solve(natural, start=Solution(truth), epochs=1)
    assert found.history["r_factor"][0] < 0.1
    assert scores(found, natural)["phase_ssim"] > 0.98


def test_asking_it_to_stop_keeps_the_best(natural):
    seen = []
    found = solve(natural, stop=lambda: len(seen) >= 3, seen=seen)
    assert found.stopped == "interrupted" and found.epochs == 3
    assert found.history["r_free"][-1] < found.history["r_free"][0]


def test_patterns_of_another_world_end_the_run(natural, monkeypatch):
    monkeypatch.setattr(steps, "MOMENTUM", 1.5)
    with pytest.raises(NumericalError, match=r"residual to fall.*ptycho inspect"):
        solve(natural, epochs=50)


def test_the_solver_does_not_import_lightning():
    import subprocess
    import sys

    code = "import sys, ptychotorch.solver; sys.exit('lightning' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
