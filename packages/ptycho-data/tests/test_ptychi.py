"""pty-chi on our scans: what is exchanged with it, with a stand-in, and what it finds, itself."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from ptychoconfig.errors import BackendError, ConfigError, DataError, NumericalError
from ptychoconfig.schema import SimulationConfig
from ptychodata import metrics
from ptychodata.engines import ptychi as module
from ptychodata.engines.ptychi import PtychiSettings, canvas_of, find_python, run_ptychi
from ptychodata.simulate import simulate

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
    not os.environ.get(module.PYTHON_VARIABLE),
    reason=f"needs {module.PYTHON_VARIABLE}; `python -m nox -s ptychi-env` makes one",
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


def test_what_comes_back_lies_where_it_was(scan, fake):
    python = fake(WORKS.format(changes="object=2 * given['object']"))
    seen = []
    found = run_ptychi(scan, PtychiSettings(), python=python, report=seen.append)
    image = found.reconstruction
    np.testing.assert_allclose(image.positions_px, scan.positions_px, atol=1e-9)
    np.testing.assert_array_equal(image.origin_yx_px, canvas_of(scan, PtychiSettings())[1])
    np.testing.assert_allclose(image.obj, 2)
    np.testing.assert_allclose(image.probe, scan.photon_probe, rtol=1e-5)
    assert image.coverage.max() == 1 and image.coverage.shape == image.obj.shape
    assert [epoch["loss"] for epoch in seen] == [2.0] and found.loss.tolist() == [2.0]
    assert found.peak_bytes == 7 and found.versions == {"ptychi": "0"}


def test_a_solved_probe_keeps_its_power_and_the_patterns_stay(scan, fake):
    python = fake(WORKS.format(changes="probe=3 * given['probe'][None]"))
    image = run_ptychi(scan, PtychiSettings(), python=python).reconstruction
    np.testing.assert_allclose(image.probe, scan.photon_probe, rtol=1e-5)
    np.testing.assert_allclose(image.obj, 3, rtol=1e-5)
    fixed = run_ptychi(scan, PtychiSettings(refine_probe=False), python=python).reconstruction
    np.testing.assert_allclose(fixed.probe, 3 * scan.photon_probe, rtol=1e-5)


def test_excluded_patterns_are_never_handed_over(scan, fake):
    body = "assert len(given['counts']) == len(given['positions_px']) == 28\n"
    body += WORKS.format(changes="positions_px=given['positions_px'] + 1")
    result = run_ptychi(scan, PtychiSettings(), python=fake(body), exclude=np.array([3, 5]))
    moved = result.reconstruction.positions_px - scan.positions_px
    assert np.flatnonzero(~result.used).tolist() == [3, 5]
    np.testing.assert_allclose(moved[result.used], 1, atol=1e-9)
    np.testing.assert_array_equal(moved[~result.used], 0)


def test_background_and_masks_become_what_pty_chi_has(scan, fake):
    mask = np.ones(scan.diffraction.shape, dtype=bool)
    mask[0, 1, 2] = mask[4, 3, 3] = False
    body = "assert (~given['valid']).sum() == 2 and given['counts'].min() == 0\n"
    odd = replace(scan, mask=mask, background=np.full((32, 32), 5, np.float32))
    result = run_ptychi(odd, PtychiSettings(), python=fake(body + WORKS.format(changes="")))
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
    result = run_ptychi(
        scan,
        PtychiSettings(),
        python=fake(body),
        report=seen.append,
        should_stop=lambda: len(seen) >= 2,
    )
    assert (
        len(seen) >= 2 and result.reconstruction.obj.shape == canvas_of(scan, PtychiSettings())[0]
    )


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
        run_ptychi(scan, PtychiSettings(), python=fake(body))


def test_silence_is_not_waited_for(scan, fake, monkeypatch):
    monkeypatch.setattr(module, "START_S", 0.3)
    with pytest.raises(BackendError, match=r"load pty-chi within 0\.3 s"):
        run_ptychi(scan, PtychiSettings(), python=fake("time.sleep(60)"))
    with pytest.raises(BackendError, match="--max-time"):
        run_ptychi(
            scan, PtychiSettings(max_time_s=0.1), python=fake("say(ptychi='0'); time.sleep(60)")
        )


def test_divergence_is_an_error(scan, fake):
    python = fake(WORKS.format(changes="object=np.nan * given['object']"))
    with pytest.raises(NumericalError, match="after 1 epochs"):
        run_ptychi(scan, PtychiSettings(), python=python)


def test_without_an_interpreter_the_line_to_run_is_told(monkeypatch, tmp_path):
    monkeypatch.delenv(module.PYTHON_VARIABLE, raising=False)
    with pytest.raises(BackendError, match=r"nox -s ptychi-env.*--engine-python"):
        find_python()
    monkeypatch.setenv(module.PYTHON_VARIABLE, str(tmp_path / "none"))
    with pytest.raises(BackendError, match=f"{module.PYTHON_VARIABLE}.*no file"):
        find_python()
    (tmp_path / "text").write_text("hello")
    with pytest.raises(BackendError, match="does not run"):
        run_ptychi(
            simulate(SimulationConfig(N=32, n_patterns=4)),
            PtychiSettings(),
            python=str(tmp_path / "text"),
        )


def test_what_pty_chi_cannot_do_is_refused_before_it_starts(scan):
    with pytest.raises(ConfigError, match="lsqml or rpie"):
        run_ptychi(scan, PtychiSettings(algorithm="dm", opr_modes=2), python=sys.executable)
    with pytest.raises(ConfigError, match="at least one mode"):
        run_ptychi(scan, PtychiSettings(modes=0), python=sys.executable)
    with pytest.raises(ConfigError, match="start of"):
        run_ptychi(scan, PtychiSettings(), python=sys.executable, start=np.ones((3, 3)))
    with pytest.raises(DataError, match="probe"):
        run_ptychi(replace(scan, probe=None), PtychiSettings(), python=sys.executable)


def test_the_worker_says_whether_pty_chi_loads():
    command = [sys.executable, "-P", str(module.WORKER), "--check"]
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


@needs_ptychi
@pytest.mark.slow
@pytest.mark.parametrize(
    ("algorithm", "batch_size", "epochs"),
    [("lsqml", 10, 40), ("rpie", 5, 40), ("epie", 5, 100), ("dm", 75, 300)],
)
def test_pty_chi_finds_the_object_in_our_conventions(wide, algorithm, batch_size, epochs):
    settings = PtychiSettings(
        algorithm=algorithm,
        epochs=epochs,
        batch_size=batch_size,
        refine_probe=False,
        keep_every=epochs,
        threads=1,
    )
    result = run_ptychi(wide, settings)
    image = result.reconstruction
    found = metrics.score(image.obj, image.origin_yx_px, wide.truth, wide.positions_px)
    assert found["phase_ssim"] > 0.95 and found["amplitude_ssim"] > 0.95
    assert max(abs(found["shift_y_px"]), abs(found["shift_x_px"])) < 0.05
    assert found["scale"] == pytest.approx(1, abs=0.01)
    np.testing.assert_array_equal(result.snapshots[-1], image.obj)
    # The residual is ours, with our forward model: scale, windows and shifts all agree.
    assert metrics.residuals(image.obj, image.origin_yx_px, wide, image.probe)["r_factor"] < 0.05


@needs_ptychi
@pytest.mark.slow
def test_pty_chi_solves_for_probe_modes_and_positions(wide):
    rng = np.random.default_rng(0)
    off = replace(wide, positions_px=wide.positions_px + rng.normal(0, 0.7, (len(wide), 2)))
    settings = PtychiSettings(
        epochs=60, batch_size=10, modes=2, opr_modes=2, refine_positions=True, threads=1
    )
    result = run_ptychi(off, settings)
    image = result.reconstruction
    assert image.probe.shape == (2, 32, 32) and result.opr_modes.shape == (1, 32, 32)
    assert result.opr_weights.shape == (len(wide), 2)
    error = image.positions_px - wide.positions_px
    error -= error.mean(axis=0)
    before = off.positions_px - wide.positions_px
    assert np.std(error) < 0.6 * np.std(before)
