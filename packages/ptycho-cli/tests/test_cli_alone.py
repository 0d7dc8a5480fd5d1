"""One run at a time in an output folder, and nothing left of killed ones."""

import fcntl
import os

import pytest

from ptychocli.rundir import open_run_dir
from ptychoconfig.errors import ConfigError


def test_a_second_run_in_a_folder_is_refused(tmp_path):
    with open_run_dir(tmp_path / "run", force=False) as run:
        run.begin()
        with (
            pytest.raises(ConfigError, match="no other run writes to"),
            open_run_dir(tmp_path / "run", force=True),
        ):
            pass
    with open_run_dir(tmp_path / "run", force=True):  # once the first has ended
        pass


def test_the_second_command_ends_in_code_3_and_the_first_goes_on(shell, scan, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    holder = os.open(run, os.O_RDONLY)
    fcntl.flock(holder, fcntl.LOCK_EX)
    train = ("train", scan, "--backend", "stub", "--epochs", 2, "--output-dir", run, "--force")
    outcome = shell(*train)
    os.close(holder)
    assert outcome.code == 3
    assert "another folder" in outcome.err
    assert not list(run.iterdir())
    assert shell(*train).code == 0


def test_a_file_system_without_locks_is_written_to(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("no locks")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with open_run_dir(tmp_path / "run", force=False) as run:
        run.begin()
    assert (tmp_path / "run" / "run.log").exists()


def test_temporary_files_of_killed_runs_go_and_others_stay(tmp_path):
    names = [
        ".wts.h5.0123abcd.zip",
        "checkpoints/.last.00ff00ff.ckpt",
        ".mine",
        "recon/.a.01234567",
    ]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with open_run_dir(tmp_path, force=True):
        there = [(tmp_path / name).exists() for name in names]
    assert there == [False, False, True, True]


def test_an_ascii_terminal_ends_no_command(shell, scan):
    outcome = shell("inspect", scan, PYTHONIOENCODING="ascii")
    assert outcome.code == 0, outcome.err
    assert "Traceback" not in outcome.err
