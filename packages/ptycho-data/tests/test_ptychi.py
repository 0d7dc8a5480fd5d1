"""pty-chi on our scans: what is exchanged with it, with a stand-in, and what it finds, itself."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from ptychoconfig.errors import (
    BackendError,
    ConfigError,
    NumericalError,
    UsageError,
)
from ptychoconfig.payloads import create_solver_payload
from ptychoconfig.schema import SimulationConfig, SolverConfig
from ptychodata.engines import process
from ptychodata.engines.adapter import PtychiEngine
from ptychodata.engines.process import find_python
from ptychodata.engines.ptychi import PtychiSettings, run_ptychi
from ptychodata.metrics import score
from ptychodata.residuals import residuals
from ptychodata.simulate import simulate
from ptychodata.solving import plan_solution

FAKE = """#!{python}
import json, sys, time
from pathlib import Path
import numpy as np
_, worker, source, target, stop = sys.argv[1:]
given = dict(np.load(source))
settings = json.loads(str(given["settings"]))
def say(**message):
    print(json.dumps(message), flush=True)
def finish(**changes):
    probe = given["probe"][None]
    found = dict(object=given["object"], probe=probe, positions_px=given["positions_px"],
        opr_weights=np.ones((len(probe), 1)), loss=[2.0], wall_s=[0.5], cpu_s=[0.25],
        snapshots=np.empty(0), snapshot_epochs=np.empty(0), peak_bytes=7,
        versions=json.dumps({{"ptychi": "0"}}))
    np.savez(target, **found | changes)
{body}
"""

WORKS = 'say(ptychi="0"); say(epoch=1, loss=2.0, wall_s=0.5, cpu_s=0.25); finish({changes})'

needs_ptychi = pytest.mark.skipif(
    not os.environ.get(process.PYTHON_VARIABLE),
    reason=f"needs {process.PYTHON_VARIABLE}; `python -m nox -s ptychi-env` makes one",
)


@pytest.fixture
def fake(tmp_path):
    """Makes an interpreter that does as told instead of running pty-chi."""
    if os.name == "nt":
        pytest.skip("the stand-in is a script with a first line that names its interpreter")

    def make(body: str) -> str:
        path = tmp_path / "python"
        path.write_text(FAKE.format(python=sys.executable, body=body))
        path.chmod(0o755)
        return str(path)

    return make


@pytest.fixture(scope="module")
def scan():
    return simulate(SimulationConfig(N=32, n_patterns=30, overlap=0.7, nphotons=1e6))


def planned(scan, **settings):
    return plan_solution(scan, SolverConfig(**{"held_out_fraction": 0.0, **settings}), None)


def run(scan, python=None, plan=None, settings=None, **more):
    return run_ptychi(
        scan, plan or planned(scan), settings or PtychiSettings(), python=python, **more
    )


def test_what_comes_back_lies_where_it_was(scan, fake):
    python = fake(WORKS.format(changes="object=2 * given['object']"))
    seen = []
    found = run(scan, python, report=seen.append)
    image = found.reconstruction
    np.testing.assert_allclose(image.positions_px, scan.positions_px, atol=1e-9)
    np.testing.assert_array_equal(image.origin_yx_px, planned(scan).origin_yx_px)
    np.testing.assert_allclose(image.obj, 2 * planned(scan).obj)
    np.testing.assert_allclose(image.probe, scan.photon_probe, rtol=1e-5)
    assert image.coverage.max() == 1 and image.coverage.shape == image.obj.shape
    assert [epoch["loss"] for epoch in seen] == [2.0] and found.loss.tolist() == [2.0]
    assert found.peak_bytes == 7 and found.versions == {"ptychi": "0"}


def test_a_solved_probe_keeps_its_power_and_the_patterns_stay(scan, fake):
    python = fake(WORKS.format(changes="probe=3 * given['probe'][None]"))
    image = run(scan, python).reconstruction
    np.testing.assert_allclose(image.probe, scan.photon_probe, rtol=1e-5)
    np.testing.assert_allclose(image.obj, 3 * planned(scan).obj, rtol=1e-5)
    fixed = run(scan, python, settings=PtychiSettings(refine_probe=False)).reconstruction
    np.testing.assert_allclose(fixed.probe, 3 * scan.photon_probe, rtol=1e-5)


def test_patterns_held_out_are_never_handed_over(scan, fake):
    plan = replace(planned(scan), kept=np.delete(np.arange(30), [3, 5]), held_out=np.array([3, 5]))
    body = "assert len(given['counts']) == len(given['positions_px']) == 28\n"
    body += WORKS.format(changes="positions_px=given['positions_px'] + 1")
    moved = run(scan, fake(body), plan).reconstruction.positions_px - scan.positions_px
    np.testing.assert_allclose(moved[plan.kept], 1, atol=1e-9)
    np.testing.assert_allclose(moved[plan.held_out], 0, atol=1e-9)


def test_positions_beyond_the_object_are_an_error(scan, fake):
    python = fake(WORKS.format(changes="positions_px=given['positions_px'] + 20"))
    with pytest.raises(NumericalError, match=r"beyond its edge.*--refine-positions"):
        run(scan, python)


def test_background_and_masks_become_what_pty_chi_has(scan, fake):
    mask = np.ones(scan.diffraction.shape, dtype=bool)
    mask[0, 1, 2] = mask[4, 3, 3] = False
    body = "assert (~given['valid']).sum() == 2 and given['counts'].min() == 0\n"
    odd = replace(scan, mask=mask, background=np.full((32, 32), 5, np.float32))
    result = run(odd, fake(body + WORKS.format(changes="")))
    assert len(result.notes) == 2


def test_a_stop_ends_the_run_with_what_it_has(scan, fake):
    body = """
say(ptychi="0")
while not Path(stop).exists():
    say(epoch=1, loss=2.0, wall_s=0.5, cpu_s=0.25)
    time.sleep(0.01)
finish()
"""
    seen: list[object] = []
    result = run(scan, fake(body), report=seen.append, should_stop=lambda: len(seen) >= 2)
    assert len(seen) >= 2
    np.testing.assert_allclose(result.reconstruction.obj, planned(scan).obj)


BROKEN = {
    "import no_such_module": "no_such_module.*ptychi-env",
    "say(ptychi='0'); raise ValueError('bad option')": "status 1: ValueError: bad option",
    "say(ptychi='0'); Path(target).write_bytes(b'PK')": "readable result",
    "say(ptychi='0'); Path(target).write_bytes(b'')": "readable result",
    "say(ptychi='0'); np.savez(target, object=1)": "readable result.*probe",
}


@pytest.mark.parametrize("body", BROKEN)
def test_what_fails_there_is_told_here(scan, fake, body):
    with pytest.raises(BackendError, match=BROKEN[body]):
        run(scan, fake(body))


def test_silence_is_not_waited_for(scan, fake, monkeypatch, tmp_path):
    monkeypatch.setattr(process, "START_S", 0.3)
    with pytest.raises(BackendError, match=r"load pty-chi within 0\.3 s"):
        run(scan, fake("time.sleep(60)"))
    running = process.Process(sys.executable, tmp_path, max_time_s=5)
    running.loaded = True
    (tmp_path / "stderr").touch()
    running.check_silence(5.2)
    with pytest.raises(BackendError, match="--max-time"):
        running.check_silence(5.4)


def test_divergence_is_an_error(scan, fake):
    python = fake(WORKS.format(changes="object=np.nan * given['object']"))
    with pytest.raises(NumericalError, match="after 1 epochs"):
        run(scan, python)


def test_without_an_interpreter_the_line_to_run_is_told(scan, monkeypatch, tmp_path):
    monkeypatch.delenv(process.PYTHON_VARIABLE, raising=False)
    with pytest.raises(BackendError, match=r"nox -s ptychi-env.*--engine-python"):
        find_python()
    monkeypatch.setenv(process.PYTHON_VARIABLE, str(tmp_path / "none"))
    with pytest.raises(BackendError, match=f"{process.PYTHON_VARIABLE}.*no file"):
        find_python()
    (tmp_path / "text").write_text("hello")
    with pytest.raises(BackendError, match="does not run"):
        run(scan, str(tmp_path / "text"))


def solve(scan, python, start=None, algorithm="lsqml", stop=lambda: False, **flags):
    payload = create_solver_payload(flags=flags, environment={})
    seen = []
    engine = PtychiEngine(algorithm, python)
    return engine.reconstruct(scan, payload, seen.append, stop, start), seen


def test_settings_and_outcome_are_those_of_a_solver(scan, fake):
    body = """
assert settings["algorithm"] == "rpie" and settings["batch_size"] == 7 and settings["epochs"] == 3
assert settings["opr_modes"] == 3 and settings["device"] == "cpu"
assert len(given["probe"]) == 2
assert not settings["refine_probe"] and settings["refine_positions"]
probe = np.stack([np.stack([(k + 1) * given["probe"][0]] * 2) for k in range(3)])
weights = np.tile([1, 0.5, 0.25], (len(given["counts"]), 1))
"""
    body += WORKS.format(changes="probe=probe, opr_weights=weights")
    solution, seen = solve(
        scan,
        fake(body),
        algorithm="rpie",
        epochs=3,
        batch_size=7,
        modes=2,
        variable_modes=2,
        refine_positions=True,
        refine_probe="off",
        held_out_fraction=0.2,
        accelerator="cpu",
    )
    held = solution.held_out
    assert 0 < len(held) < 10 and not solution.variable_weights[held].any()
    assert solution.variable_modes.shape == (2, 32, 32)
    seen_weights = np.delete(solution.variable_weights, held, axis=0)
    np.testing.assert_allclose(seen_weights, np.tile([0.5, 0.25], (30 - len(held), 1)))
    assert solution.epochs == 1 and solution.history == {"r_factor": [2.0], "seconds": [0.5]}
    assert [p.phase for p in seen] == ["solve"] and seen[0].epochs == 3
    assert seen[0].seconds_left == pytest.approx(1.0)


def test_a_start_is_object_and_probe_and_its_epochs_count(scan, fake):
    changes = "object=2 * given['object'], probe=1j * given['probe'][None]"
    first, _ = solve(scan, fake(WORKS.format(changes=changes)), refine_probe="on")
    body = "assert (given['probe'].real == 0).all()\n" + WORKS.format(changes="")
    second, _ = solve(scan, fake(body), start=first)
    lit = first.reconstruction.coverage > 0
    np.testing.assert_array_equal(second.reconstruction.obj[lit], first.reconstruction.obj[lit])
    assert second.epochs == 2
    assert second.history == {"r_factor": [2.0, 2.0], "seconds": [0.5, 1.0]}


LOSSES = """
say(ptychi="0")
for epoch in range(1, settings["epochs"] + 1):
    say(epoch=epoch, loss=1 + 1 / epoch**2, wall_s=0.01 * epoch, cpu_s=0.0)
    time.sleep(0.01)
    if Path(stop).exists():
        break
finish(loss=[1 + 1 / e**2 for e in range(1, epoch + 1)], wall_s=0.01 * np.arange(1, epoch + 1))
"""


def test_a_run_ends_when_the_loss_is_level_and_says_why(scan, fake):
    python = fake(LOSSES)
    solution, _ = solve(scan, python)
    assert solution.stopped == "converged" and 20 < solution.epochs < 200
    assert solve(scan, python, epochs=30)[0].stopped == "epochs"
    assert solve(scan, python, epochs=30, max_time=0.05)[0].stopped == "max_time"
    stopped, _ = solve(scan, python, epochs=300, stop=lambda: True)
    assert stopped.stopped == "interrupted" and stopped.epochs < 300


REFUSED = {
    "--refine-background": {"refine_background": True},
    "--refine-intensity": {"refine_intensity": True},
    "--variable-modes, found dm": {"variable_modes": 1, "algorithm": "dm"},
    "--accelerator mps": {"accelerator": "mps"},
    "--likelihood poisson with rpie": {"likelihood": "poisson", "algorithm": "rpie"},
}


@pytest.mark.parametrize("flag", REFUSED)
def test_a_setting_that_pty_chi_has_not_is_refused(scan, flag):
    with pytest.raises(ConfigError, match=flag):
        solve(scan, sys.executable, **REFUSED[flag])


def test_an_unknown_algorithm_is_a_usage_error():
    with pytest.raises(UsageError, match=r"lsqml, rpie, epie, dm.*'raar'"):
        PtychiEngine("raar", sys.executable)


def test_the_worker_says_whether_pty_chi_loads():
    command = [sys.executable, "-P", str(process.WORKER), "--check"]
    here = subprocess.run(command, capture_output=True, text=True, check=False)
    if here.returncode == 0:
        assert json.loads(here.stdout)["ptychi"]
    else:  # our own environment lacks it, and maybe Torch
        assert "ModuleNotFoundError" in here.stderr


@pytest.fixture(scope="module")
def wide():
    """Wider than high, at random positions: a swapped or negated axis does not fit."""
    scan = simulate(
        SimulationConfig(N=32, n_patterns=150, overlap=0.75, positions_kind="random", nphotons=1e9)
    )
    return scan.subset(np.flatnonzero(scan.positions_px[:, 0] < scan.positions_px[:, 0].mean()))


CALMER = {"reconstructor_options.exit_wave_update_relaxation": 0.7}
"""Full steps of the difference map wander about the solution."""


@needs_ptychi
@pytest.mark.slow
@pytest.mark.parametrize(
    ("algorithm", "batch_size", "epochs"),
    [("lsqml", 10, 40), ("rpie", 5, 40), ("epie", 5, 100), ("dm", 75, 120)],
)
def test_pty_chi_finds_the_object_in_our_conventions(wide, algorithm, batch_size, epochs):
    settings = PtychiSettings(
        algorithm=algorithm,
        epochs=epochs,
        batch_size=batch_size,
        refine_probe=False,
        keep_every=epochs,
        threads=1,
        options=CALMER if algorithm == "dm" else {},
    )
    result = run(wide, settings=settings)
    image = result.reconstruction
    found = score(image.obj, image.origin_yx_px, wide.truth, wide.positions_px)
    assert found["phase_ssim"] > 0.95 and found["amplitude_ssim"] > 0.95
    assert max(abs(found["shift_y_px"]), abs(found["shift_x_px"])) < 0.05
    assert found["scale"] == pytest.approx(1, abs=0.01)
    np.testing.assert_array_equal(result.snapshots[-1], image.obj)
    # The residual is ours, with our forward model: scale, windows and shifts all agree.
    assert residuals(image.obj, image.origin_yx_px, wide, image.probe)["r_factor"] < 0.05


@needs_ptychi
@pytest.mark.slow
def test_pty_chi_solves_for_probe_modes_and_positions(wide):
    rng = np.random.default_rng(0)
    off = replace(wide, positions_px=wide.positions_px + rng.normal(0, 0.7, (len(wide), 2)))
    settings = PtychiSettings(
        epochs=60, batch_size=10, opr_modes=2, refine_positions=True, threads=1
    )
    result = run(off, plan=planned(off, modes=2), settings=settings)
    image = result.reconstruction
    assert image.probe.shape == (2, 32, 32) and result.opr_modes.shape == (1, 32, 32)
    assert result.opr_weights.shape == (len(wide), 2)
    error = image.positions_px - wide.positions_px
    error -= error.mean(axis=0)
    before = off.positions_px - wide.positions_px
    assert np.std(error) < 0.6 * np.std(before)
