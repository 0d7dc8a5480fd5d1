"""Bad input: one message, the documented exit code, no traceback, nothing half-written."""

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

CONFIG, DATA, BACKEND, BUNDLE = 3, 4, 5, 6


def _spoiled(patterns: np.ndarray, value: float) -> np.ndarray:
    spoiled = patterns.copy()
    spoiled[3, 4, 5] = value
    return spoiled


BAD_ARRAYS = {
    "probe without power": lambda probeGuess, **_: {"probeGuess": 0 * probeGuess},
    "no positions": lambda diffraction, **_: {"xcoords": None},
    "no patterns": lambda diffraction, **_: {"diffraction": None},
    "patterns of two dimensions": lambda diffraction, **_: {"diffraction": diffraction[0]},
    "odd patterns": lambda diffraction, probeGuess, **_: {
        "diffraction": diffraction[:, 1:, 1:],
        "probeGuess": probeGuess[1:, 1:],
    },
    "NaN": lambda diffraction, **_: {"diffraction": _spoiled(diffraction, np.nan)},
    "negative counts": lambda diffraction, **_: {"diffraction": _spoiled(diffraction, -1)},
    "fewer positions than patterns": lambda xcoords, ycoords, **_: {
        "xcoords": xcoords[:20],
        "ycoords": ycoords[:20],
    },
    "x and y of two lengths": lambda xcoords, **_: {"xcoords": xcoords[:-2]},
    "NaN position": lambda ycoords, **_: {"ycoords": np.full_like(ycoords, np.nan)},
    "probe of another size": lambda probeGuess, **_: {"probeGuess": probeGuess[:16, :16]},
    "pickled patterns": lambda **_: {"diffraction": np.array([{}, {}], dtype=object)},
}


def _check(outcome, code: int, told: str = "") -> None:
    assert outcome.code == code, outcome.err
    [message] = [line for line in outcome.err.splitlines() if line.startswith("error: ")]
    assert told in message
    assert "Traceback" not in outcome.err
    assert outcome.out == ""


@pytest.mark.parametrize("what", BAD_ARRAYS)
def test_bad_scan(what, arrays, write_scan, tmp_path, ptycho):
    scan = write_scan("bad.npz", **BAD_ARRAYS[what](**arrays))
    argv = ("train", scan, "--backend", "stub", "--output-dir", tmp_path / "run")
    _check(ptycho(*argv), DATA, "bad")
    assert not (tmp_path / "run").exists()


def test_no_probe_where_the_file_s_is_asked_for(write_scan, tmp_path, ptycho):
    scan = write_scan("bad.npz", probeGuess=None)
    argv = ("train", scan, "--backend", "stub", "--probe", "file", "--output-dir", tmp_path / "run")
    _check(ptycho(*argv), DATA, "probeGuess")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "what", ["probe of another size", "NaN", "no positions", "probe without power"]
)
def test_scan_that_cannot_be_reconstructed(what, arrays, write_scan, tmp_path, ptycho):
    scan = write_scan("bad.npz", **BAD_ARRAYS[what](**arrays))
    argv = ("reconstruct", scan, "--backend", "stub", "--output-dir", tmp_path / "run")
    _check(ptycho(*argv), DATA, "bad")
    assert not (tmp_path / "run").exists()


def test_more_positions_than_patterns_are_dropped_loudly_or_refused(
    arrays, write_scan, tmp_path, ptycho
):
    scan = write_scan("long.npz", diffraction=arrays["diffraction"][:-1])
    outcome = ptycho("convert", scan, tmp_path / "out.npz")
    if outcome.code:
        _check(outcome, DATA, "24")
        assert not (tmp_path / "out.npz").exists()
    else:
        assert "25" in outcome.out
        assert "24" in outcome.out


def _missing(scan: Path) -> Path:
    return scan.with_name("missing.npz")


def _text(scan: Path) -> Path:
    scan.write_text("x,y,counts\n1,2,3\n")
    return scan


def _empty(scan: Path) -> Path:
    scan.write_bytes(b"")
    return scan


def _truncated(scan: Path) -> Path:
    scan.write_bytes(scan.read_bytes()[:20_000])
    return scan


def _flipped(scan: Path) -> Path:
    content = bytearray(scan.read_bytes())
    content[5_000] ^= 255
    scan.write_bytes(content)
    return scan


def _folder(scan: Path) -> Path:
    scan.unlink()
    scan.mkdir()
    return scan


@pytest.mark.parametrize("spoil", [_missing, _text, _empty, _truncated, _flipped, _folder])
def test_file_that_is_no_scan(spoil, scan, tmp_path, shell):
    bad = spoil(scan)
    target = tmp_path / "out.npz"
    before = sorted(tmp_path.rglob("*"))
    _check(shell("convert", bad, target), DATA, bad.name)
    assert sorted(tmp_path.rglob("*")) == before


def _a_file(folder: Path) -> Path:
    folder.write_text("a file")
    return folder


def _below_a_file(folder: Path) -> Path:
    return _a_file(folder) / "run"


def _read_only(folder: Path) -> Path:
    if os.geteuid() == 0:
        return Path("/proc/ptycho-run")
    folder.mkdir(mode=0o500)
    return folder


@pytest.mark.skipif(sys.platform == "win32", reason="permissions of another kind")
@pytest.mark.parametrize("spoil", [_a_file, _below_a_file, _read_only])
@pytest.mark.parametrize("command", ["train", "infer", "reconstruct"])
def test_output_dir_that_cannot_be_written(command, spoil, trained, scan, tmp_path, ptycho):
    folder = spoil(tmp_path / "out")
    new = (scan, "--backend", "stub")
    argv = {"train": new, "infer": (trained, scan), "reconstruct": new}[command]
    _check(ptycho(command, *argv, "--output-dir", folder), CONFIG, "--output-dir")


def test_output_file_in_a_folder_that_is_missing(scan, tmp_path, ptycho):
    outcome = ptycho("convert", scan, tmp_path / "nowhere" / "out.npz")
    _check(outcome, CONFIG, "nowhere")


def test_subprocess_refuses_a_second_run(trained, scan, shell):
    argv = ("train", scan, "--backend", "stub", "--output-dir", trained)
    before = {path: path.read_bytes() for path in trained.rglob("*.*") if path.is_file()}
    _check(shell(*argv), CONFIG, "--force")
    assert {path: path.read_bytes() for path in trained.rglob("*.*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("argv", "code", "told"),
    [
        (("--backend", "jax"), 2, "--backend"),
        (("--backend", "broken"), BACKEND, "does not load"),
        (("--backend", "stub", "--colour", "red"), 2, "--colour"),
        (("--backend", "stub", "--learning-rate", "-1"), CONFIG, "--learning-rate"),
        (("--backend", "stub", "--gridsize", "0"), CONFIG, "--gridsize"),
        (("--backend", "stub", "--n-subsample", "99"), CONFIG, "--n-subsample"),
    ],
)
def test_bad_flags_in_a_process(argv, code, told, scan, tmp_path, shell):
    _check(shell("train", scan, "--output-dir", tmp_path / "run", *argv), code, told)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("training: {epochz: 3}", "epochs"),
        ("trainings: {epochs: 3}", "training"),
        ("training: {epochs: 0}", "epochs"),
        ("training: [1, 2", "bad.yaml"),
        ("training: {learning_rate: fast}", "learning_rate"),
    ],
)
def test_bad_settings_file(text, told, scan, tmp_path, ptycho):
    settings = tmp_path / "bad.yaml"
    settings.write_text(text)
    argv = ("train", scan, "--backend", "stub", "--output-dir", tmp_path / "run")
    _check(ptycho(*argv, "--config", settings), CONFIG, told)
    assert not (tmp_path / "run").exists()
    _check(ptycho("config", "validate", settings), CONFIG, told)


def test_bad_environment(monkeypatch, scan, tmp_path, ptycho):
    argv = ("train", scan, "--backend", "stub", "--output-dir", tmp_path / "run")
    monkeypatch.setenv("PTYCHO_EPOCHS", "-3")
    _check(ptycho(*argv), CONFIG, "PTYCHO_EPOCHS")
    monkeypatch.delenv("PTYCHO_EPOCHS")
    monkeypatch.setenv("PTYCHO_EPOCHZ", "3")
    _check(ptycho(*argv), CONFIG, "PTYCHO_EPOCHS")
    assert not (tmp_path / "run").exists()


def _no_bundle(run: Path) -> Path:
    return run / "nothing"


def _text_bundle(run: Path) -> Path:
    (run / "wts.h5.zip").write_text("no zip")
    return run


def _cut_bundle(run: Path) -> Path:
    path = run / "wts.h5.zip"
    path.write_bytes(path.read_bytes()[:-300])
    return path


@pytest.mark.parametrize("spoil", [_no_bundle, _text_bundle, _cut_bundle])
def test_bad_bundle(spoil, trained, scan, tmp_path, ptycho):
    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    outcome = ptycho("infer", spoil(copy), scan, "--output-dir", tmp_path / "out")
    _check(outcome, BUNDLE)
    assert not (tmp_path / "out").exists()


def test_poisson_loss_without_dose_is_refused(write_scan, tmp_path, ptycho):
    scan = write_scan("plain.npz", intensity_scale=None)
    argv = ("train", scan, "--backend", "stub", "--output-dir", tmp_path / "run")
    _check(ptycho(*argv, "--poisson-weight", 1), CONFIG, "--nphotons")


def test_a_bad_last_scan_is_told_before_the_first_is_reconstructed(
    trained, write_scan, tmp_path, ptycho
):
    scans = [write_scan("a.npz"), tmp_path / "missing.npz"]
    outcome = ptycho("infer", trained, *scans, "--output-dir", tmp_path / "out")
    _check(outcome, DATA, "missing.npz")
    assert not (tmp_path / "out").exists()


def test_a_bundle_without_a_scan_is_a_usage_error(trained, tmp_path, ptycho):
    outcome = ptycho("infer", trained, "--output-dir", tmp_path / "out")
    _check(outcome, 2, "scan to reconstruct")
