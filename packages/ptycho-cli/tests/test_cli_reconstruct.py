"""``reconstruct``, and the solver before and after a network, driven with a stub backend."""

import csv
import json

import numpy as np
import pytest
import yaml

from ptychodata.bundle import read_bundle
from ptychodata.results import read_solution

RECORDS = {"config.resolved.yaml", "events.jsonl", "provenance.json", "run.log"}
IMAGE = {"reconstruction.npz", "product.h5", "amplitude.png", "phase.png", "metrics.json"}
COURSE = {"metrics.csv", "convergence.png"}


@pytest.fixture
def solve(ptycho, scan, tmp_path):
    """Reconstruct the scan into the folder ``solved``."""

    def call(*argv, into="solved", of=scan):
        return ptycho(
            *("reconstruct", of, "--backend", "stub", "--held-out-fraction", 0.9),
            *("--output-dir", tmp_path / into, *argv),
        )

    return call


@pytest.fixture
def solved(solve, tmp_path):
    outcome = solve("--epochs", 6)
    assert outcome.code == 0, outcome.err
    return tmp_path / "solved"


def _metrics(folder):
    return json.loads((folder / "metrics.json").read_text())


def _table(folder):
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_everything_is_written(solved):
    assert {path.name for path in solved.iterdir()} == RECORDS | IMAGE | COURSE
    metrics = _metrics(solved)
    assert {"r_factor", "r_free", "poisson_floor"} <= set(metrics["residuals"])
    assert metrics["scores"]["amplitude_ssim"] > 0.1
    assert (metrics["epochs"], metrics["stopped"]) == (6, "epochs")
    assert metrics["mode_powers"] == [1.0]
    assert metrics["start"] == "free space"
    assert metrics["patterns_per_s"] == pytest.approx(6 * 25 / metrics["seconds"])
    for picture in ("amplitude.png", "phase.png", "convergence.png"):
        assert (solved / picture).read_bytes().startswith(b"\x89PNG")
    with np.load(solved / "reconstruction.npz", allow_pickle=False) as file:
        assert file["object"].dtype == np.complex64
        assert {"held_out", "epochs", "history_r_factor", "history_r_free"} <= set(file)


def test_the_course_is_kept_and_falls(solved):
    rows = _table(solved)
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3, 4, 5, 6]
    residuals = [float(row["r_factor"]) for row in rows]
    assert residuals[-1] < 0.9 * residuals[0]
    events = [json.loads(line) for line in (solved / "events.jsonl").read_text().splitlines()]
    assert [event["metrics"]["r_factor"] for event in events] == residuals
    assert {event["phase"] for event in events} == {"solve"}
    assert _metrics(solved)["residuals"]["r_factor"] == pytest.approx(residuals[-1])


def test_streams(scan, tmp_path, shell):
    argv = ("reconstruct", scan, "--backend", "stub", "--epochs", 12, "--output-dir")
    told = shell(*argv, tmp_path / "told")
    assert told.code == 0, told.err
    assert "r_factor" in told.out
    assert "12 (epochs)" in told.out
    assert "solving 25 patterns from free space, to epoch 12" in told.err
    assert "r_factor" in told.err
    machine = shell(*argv, tmp_path / "json", "--json", "--quiet")
    assert machine.err == ""
    assert machine.json["epochs"] == 12
    assert machine.json["output_dir"] == str(tmp_path / "json")


def test_settings_are_recorded_and_repeat_the_run(solved, solve, tmp_path):
    settings = yaml.safe_load((solved / "config.resolved.yaml").read_text())
    assert settings["solver"]["epochs"] == 6
    assert solve("--config", solved / "config.resolved.yaml", into="again").code == 0
    first, second = read_solution(solved), read_solution(tmp_path / "again")
    np.testing.assert_array_equal(first.reconstruction.obj, second.reconstruction.obj)
    origin = json.loads((solved / "provenance.json").read_text())
    assert origin["seeds"] == {"seed": 0, "subsample_seed": 0}
    assert origin["start"] == "free space"


def test_excluded_patterns_are_not_used(solve, tmp_path):
    outcome = solve("--exclude", "0,20-24", "--epochs", 1, "--json")
    assert outcome.json["n_patterns"] == 19
    assert len(read_solution(tmp_path / "solved").reconstruction.positions_px) == 19


def test_a_result_is_refused_forced_or_resumed(solved, solve):
    refused = solve("--epochs", 2)
    assert refused.code == 3
    assert "--force" in refused.err
    assert _metrics(solved)["epochs"] == 6
    assert solve("--epochs", 2, "--force").code == 0
    assert _metrics(solved)["epochs"] == 2


def test_resume_goes_on_with_the_same_settings(solved, solve):
    before = read_solution(solved)
    outcome = solve("--resume")
    assert outcome.code == 0, outcome.err
    assert "after 6 epochs" in outcome.err
    after = read_solution(solved)
    assert after.epochs == len(_table(solved)) == 16
    assert after.history["r_factor"][:6] == before.history["r_factor"]
    assert after.history["r_factor"][-1] < before.history["r_factor"][-1]
    np.testing.assert_array_equal(after.held_out, before.held_out)
    assert solve("--resume", "--epochs", 18).code == 0
    assert read_solution(solved).epochs == 18
    enough = solve("--resume", "--epochs", 18)
    assert enough.code == 3
    assert "--epochs" in enough.err


def test_resume_of_nothing_starts_afresh_and_says_so(solve, solved, tmp_path):
    outcome = solve("--resume", "--epochs", 6, into="new")
    assert outcome.code == 0
    assert "starting afresh" in outcome.err
    assert "starting afresh" in (tmp_path / "new" / "run.log").read_text()
    first, second = read_solution(solved), read_solution(tmp_path / "new")
    np.testing.assert_array_equal(first.reconstruction.obj, second.reconstruction.obj)


def test_resume_takes_no_image_of_a_network_and_no_other_start(
    trained, scan, solve, ptycho, tmp_path
):
    assert ptycho("infer", trained, scan, "--output-dir", tmp_path / "solved").code == 0
    outcome = solve("--resume")
    assert outcome.code == 3
    assert "--start" in outcome.err
    assert solve("--resume", "--start", tmp_path / "solved").code == 2


@pytest.mark.parametrize("by", ["folder", "file"])
def test_an_earlier_reconstruction_is_a_start(by, solved, solve, tmp_path):
    path = solved if by == "folder" else solved / "reconstruction.npz"
    outcome = solve("--start", path, "--epochs", 2, into="next")
    assert outcome.code == 0, outcome.err
    metrics = _metrics(tmp_path / "next")
    assert (metrics["epochs"], metrics["start"]) == (2, str(path))
    assert metrics["residuals"]["r_factor"] < _metrics(solved)["residuals"]["r_factor"]
    assert len(_table(tmp_path / "next")) == 2


def test_an_image_of_a_network_is_a_start(trained, scan, solve, ptycho, tmp_path):
    assert ptycho("infer", trained, scan, "--output-dir", tmp_path / "image").code == 0
    assert solve("--start", tmp_path / "image", "--epochs", 2).code == 0
    assert _metrics(tmp_path / "solved")["start"] == str(tmp_path / "image")


def test_a_start_that_is_none_or_does_not_fit(solved, solve, write_scan, tmp_path):
    missing = solve("--start", tmp_path / "nowhere", into="next")
    assert missing.code == 4
    assert "nowhere" in missing.err
    assert not (tmp_path / "next").exists()
    outcome = solve("--start", solved, "--exclude", "0", into="next")
    assert outcome.code == 4
    assert not (tmp_path / "next" / "reconstruction.npz").exists()


def test_first_interrupt_keeps_the_best(solve, tmp_path):
    outcome = solve("--seed", 668, "--epochs", 9)
    assert outcome.code == 130
    assert "saving" in outcome.err
    metrics = _metrics(tmp_path / "solved")
    assert (metrics["epochs"], metrics["stopped"]) == (1, "interrupted")
    assert solve("--resume", "--seed", 0).code == 0
    assert read_solution(tmp_path / "solved").epochs == 11


def test_max_time_stops_the_run(solve, tmp_path):
    assert solve("--epochs", 10000, "--max-time", "50ms").code == 2
    assert solve("--epochs", 10000, "--max-time", 0.05).code == 0
    assert _metrics(tmp_path / "solved")["stopped"] == "max_time"


def test_a_diverging_run_says_why(scan, tmp_path, shell):
    outcome = shell(
        *("reconstruct", scan, "--backend", "stub", "--seed", 666),
        *("--output-dir", tmp_path / "solved"),
    )
    assert outcome.code == 7
    assert "falling residual" in outcome.err
    assert {path.name for path in (tmp_path / "solved").iterdir()} == {"run.log"}
    assert "falling residual" in (tmp_path / "solved" / "run.log").read_text()


def test_several_scans_write_a_folder_each(write_scan, tmp_path, ptycho):
    scans = [write_scan("a.npz"), write_scan("b.npz")]
    outcome = ptycho(
        *("reconstruct", *scans, "--backend", "stub", "--epochs", 1),
        *("--output-dir", tmp_path / "r", "--json"),
    )
    assert [found["scan"] for found in outcome.json["scans"]] == [str(path) for path in scans]
    assert all((tmp_path / "r" / name / "reconstruction.npz").exists() for name in "ab")
    bad = ptycho(
        *("reconstruct", scans[0], tmp_path / "missing.npz", "--backend", "stub"),
        *("--output-dir", tmp_path / "none"),
    )
    assert bad.code == 4
    assert not (tmp_path / "none").exists()


def test_a_scan_without_a_probe_is_solved(write_scan, solve, tmp_path):
    outcome = solve("--epochs", 2, "--json", of=write_scan("plain.npz", probeGuess=None))
    assert outcome.code == 0, outcome.err
    assert outcome.json["probe"] == "model"


def test_faults_are_told_with_their_evidence(arrays, write_scan, solve):
    corner = np.fft.ifftshift(arrays["diffraction"], axes=(1, 2))
    outcome = solve("--epochs", 1, of=write_scan("corner.npz", diffraction=corner))
    assert outcome.code == 0
    assert "warning: " in outcome.err
    assert "fftshift" in outcome.err


def _wrong(probe):
    """A probe of half the width."""
    y, x = np.mgrid[: len(probe), : len(probe)] - len(probe) // 2
    return np.where(np.hypot(y, x) < 4, 20, 0).astype(np.complex64)


def test_train_solves_for_the_probe_where_the_file_s_does_not_do(
    arrays, write_scan, tmp_path, ptycho
):
    scan = write_scan("wrong.npz", probeGuess=_wrong(arrays["probeGuess"]))
    argv = ("train", scan, "--backend", "stub", "--epochs", 1, "--json", "--output-dir")
    outcome = ptycho(*argv, tmp_path / "auto")
    assert outcome.code == 0, outcome.err
    [chosen] = outcome.json["probes"]
    assert chosen["source"] == "solved"
    assert chosen["r_solved"] < 0.9 * chosen["r_file"]
    assert chosen["r_file"] > 2 * chosen["poisson_floor"]
    assert "probe: solved for (residual" in outcome.err
    bundle = read_bundle(tmp_path / "auto")
    assert bundle.probe_learned
    kept = ptycho(*argv, tmp_path / "file", "--probe", "file")
    assert kept.json["probes"][0]["source"] == "file"
    assert not read_bundle(tmp_path / "file").probe_learned
    right = arrays["probeGuess"] / np.linalg.norm(arrays["probeGuess"])
    found, given = (
        np.abs(np.vdot(right, p[0] / np.linalg.norm(p[0])))
        for p in (bundle.probes[0], read_bundle(tmp_path / "file").probes[0])
    )
    assert found > given + 0.1


def test_a_resumed_training_goes_on_with_the_probe_that_was_found(
    arrays, write_scan, tmp_path, ptycho
):
    scan = write_scan("wrong.npz", probeGuess=_wrong(arrays["probeGuess"]))
    argv = ("train", scan, "--backend", "stub", "--epochs", 3, "--output-dir")
    assert ptycho(*argv, tmp_path / "run", "--seed", 668).code == 130
    before = read_bundle(tmp_path / "run").probes[0]
    for folder in (tmp_path / "other", tmp_path / "run"):
        outcome = ptycho(*argv, folder, "--resume", tmp_path / "run", "--json")
        assert outcome.code == 0, outcome.err
        assert outcome.json["probes"][0]["source"] == "solved"
        assert "probe: " not in outcome.err
        np.testing.assert_allclose(read_bundle(folder).probes[0], before, rtol=1e-5)


def test_a_right_probe_is_kept(scan, tmp_path, ptycho):
    argv = ("train", scan, "--backend", "stub", "--epochs", 1, "--json")
    outcome = ptycho(*argv, "--output-dir", tmp_path / "run")
    [chosen] = outcome.json["probes"]
    assert chosen["source"] == "file"
    assert chosen["r_file"] < 2 * chosen["poisson_floor"]
    assert chosen["r_solved"] is None


def test_train_without_a_probe_solves_for_one(write_scan, tmp_path, ptycho):
    scan = write_scan("plain.npz", probeGuess=None)
    argv = ("train", scan, "--backend", "stub", "--epochs", 1, "--json")
    outcome = ptycho(*argv, "--output-dir", tmp_path / "run")
    assert outcome.json["probes"][0]["source"] == "solved"


def test_infer_solves_for_the_probe(arrays, trained, write_scan, tmp_path, ptycho):
    scan = write_scan("wrong.npz", probeGuess=_wrong(arrays["probeGuess"]))
    outcome = ptycho("infer", trained, scan, "--json", "--output-dir", tmp_path / "auto")
    assert outcome.code == 0, outcome.err
    assert outcome.json["probe"] == "solved"
    assert outcome.json["probe_choice"]["r_solved"] < outcome.json["probe_choice"]["r_file"]
    kept = ptycho(
        *("infer", trained, scan, "--json", "--probe", "file", "--output-dir", tmp_path / "file")
    )
    assert kept.json["probe"] == "file"
    assert kept.json["residuals"]["r_factor"] > outcome.json["residuals"]["r_factor"]


def test_infer_refines_the_network_s_image(trained, scan, tmp_path, ptycho):
    folder = tmp_path / "recon"
    outcome = ptycho("infer", trained, scan, "--refine", 5, "--output-dir", folder)
    assert outcome.code == 0, outcome.err
    assert {path.name for path in folder.iterdir()} == RECORDS | IMAGE | COURSE
    metrics = _metrics(folder)
    assert metrics["epochs"] == 5
    assert metrics["residuals"]["r_factor"] < metrics["network"]["residuals"]["r_factor"]
    assert metrics["scores"]["phase_ssim"] > metrics["network"]["scores"]["phase_ssim"]
    assert read_solution(folder).epochs == 5
    assert len(read_solution(folder).held_out) == 0
    settings = yaml.safe_load((folder / "config.resolved.yaml").read_text())
    assert settings["inference"]["refine"] == 5
