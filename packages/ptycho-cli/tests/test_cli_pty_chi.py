"""``reconstruct --engine pty-chi``: with a stand-in for its interpreter, and with the real one."""

import json
import os
import sys

import numpy as np
import pytest

from ptychodata.results import read_solution

PYTHON = os.environ.get("PTYCHO_PTYCHI_PYTHON")  # before the fixtures take it away

STAND_IN = """#!{python}
# Makes the object of twice the start out of whatever it is given, in as many epochs as asked for.
import json, sys
import numpy as np
given = dict(np.load(sys.argv[3]))
settings = json.loads(str(given["settings"]))
count = settings["epochs"]
loss, time = 1 / np.arange(1.0, count + 1), 0.5 * np.arange(1, count + 1)
print(json.dumps({{"ptychi": "2.2.0"}}), flush=True)
for epoch in range(1, count + 1):
    message = dict(epoch=epoch, loss=loss[epoch - 1], wall_s=0.5 * epoch, cpu_s=0.5 * epoch)
    print(json.dumps(message), flush=True)
np.savez(sys.argv[4], object=2 * given["object"], probe=given["probe"][None],
    positions_px=given["positions_px"], opr_weights=np.ones((len(given["counts"]), 1)),
    loss=loss, wall_s=time, cpu_s=time, snapshots=np.empty(0), snapshot_epochs=np.empty(0),
    peak_bytes=0, versions=json.dumps({{"ptychi": "2.2.0", "torch": "2.13.0"}}))
"""


@pytest.fixture
def stand_in(tmp_path):
    if os.name == "nt":
        pytest.skip("the stand-in is a script with a first line that names its interpreter")
    path = tmp_path / "python-with-pty-chi"
    path.write_text(STAND_IN.format(python=sys.executable))
    path.chmod(0o755)
    return path


@pytest.fixture
def solve(ptycho, scan, tmp_path):
    def call(*argv, into="solved"):
        return ptycho(
            *("reconstruct", scan, "--engine", "pty-chi", "--held-out-fraction", 0.9),
            *("--output-dir", tmp_path / into, *argv),
        )

    return call


def test_the_same_files_are_written(solve, stand_in, ptycho, scan, tmp_path):
    outcome = solve("--engine-python", stand_in, "--epochs", 4)
    assert outcome.code == 0, outcome.err
    own = ptycho(
        *("reconstruct", scan, "--backend", "stub", "--epochs", 4),
        *("--held-out-fraction", 0.9, "--output-dir", tmp_path / "own"),
    )
    assert own.code == 0, own.err
    names = [{path.name for path in (tmp_path / name).iterdir()} for name in ("solved", "own")]
    assert names[0] == names[1]
    metrics, ours = (
        json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("solved", "own")
    )
    assert set(metrics) == set(ours)
    assert set(metrics["residuals"]) == set(ours["residuals"])
    assert (metrics["epochs"], metrics["stopped"]) == (4, "epochs")
    provenance = json.loads((tmp_path / "solved" / "provenance.json").read_text())
    assert provenance["backend"] == "pty-chi 2.2.0 lsqml"
    solution = read_solution(tmp_path / "solved")
    assert np.ptp(np.abs(solution.reconstruction.obj)) == 0  # twice free space
    np.testing.assert_allclose(solution.history["r_factor"], [1, 1 / 2, 1 / 3, 1 / 4])
    assert len(solution.held_out) > 0


def test_the_environment_names_the_interpreter_and_a_run_goes_on(
    solve, stand_in, monkeypatch, tmp_path
):
    monkeypatch.setenv("PTYCHO_PTYCHI_PYTHON", str(stand_in))
    assert solve("--epochs", 2, "--engine-algorithm", "dm").code == 0
    first = read_solution(tmp_path / "solved").reconstruction
    longer = solve("--epochs", 5, "--engine-algorithm", "dm", "--resume")
    assert longer.code == 0, longer.err
    solution = read_solution(tmp_path / "solved")
    assert solution.epochs == 5 and len(solution.history["dm_error"]) == 5
    lit = first.coverage > 0
    np.testing.assert_allclose(solution.reconstruction.obj[lit], 2 * first.obj[lit])


def test_without_pty_chi_the_line_to_run_is_told_and_nothing_is_written(solve, tmp_path):
    outcome = solve()
    assert outcome.code == 5
    assert "python -m nox -s ptychi-env" in outcome.err and "--engine-python" in outcome.err
    assert not (tmp_path / "solved").exists()
    lacking = solve("--engine-python", sys.executable)
    assert lacking.code == 5 and "nox -s ptychi-env" in lacking.err


def test_what_does_not_fit_the_engine_is_refused(solve, stand_in, ptycho, scan, tmp_path):
    assert solve("--engine-python", stand_in, "--refine-background").code == 3
    assert solve("--engine-python", stand_in, "--engine-algorithm", "raar").code == 2
    argv = ("reconstruct", scan, "--backend", "stub", "--output-dir", tmp_path / "own")
    outcome = ptycho(*argv, "--engine-algorithm", "rpie")
    assert outcome.code == 2 and "--engine pty-chi" in outcome.err


@pytest.mark.slow
@pytest.mark.skipif(
    not PYTHON, reason="needs PTYCHO_PTYCHI_PYTHON; `python -m nox -s ptychi-env` makes one"
)
def test_pty_chi_itself_finds_the_object(shell, tmp_path):
    file = tmp_path / "lines.npz"
    argv = ("--N", 32, "--n-patterns", 150, "--overlap", 0.75, "--nphotons", 1e8)
    made = shell("simulate", file, *argv, "--positions-kind", "random")
    assert made.code == 0, made.err
    outcome = shell(
        *("reconstruct", file, "--engine", "pty-chi", "--engine-python", PYTHON, "--epochs", 30),
        *("--output-dir", tmp_path / "solved", "--json"),
    )
    assert outcome.code == 0, outcome.err
    assert outcome.json["scores"]["phase_ssim"] > 0.95
    assert outcome.json["residuals"]["r_free"] < 0.02
