"""The top level: help, versions, the table of commands, exit codes."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from typer.main import get_command

import ptychocli
from ptychocli import main as main_module
from ptychocli.app import COMMANDS
from ptychocli.main import EXIT_CODES, main
from ptychoconfig import errors

HEAVY = ("h5py", "lightning", "matplotlib", "numpy", "pydantic", "scipy", "tensorflow", "torch")


def test_importing_the_app_imports_nothing_heavy():
    code = f"import sys, ptychocli.app; print([m for m in {HEAVY!r} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_help_lists_every_command_without_importing_it(ptycho, monkeypatch):
    for module, _ in COMMANDS.values():
        monkeypatch.delitem(sys.modules, module, raising=False)
    outcome = ptycho("--help")
    assert outcome.code == 0
    assert all(name in outcome.out for name in COMMANDS)
    assert not [module for module, _ in COMMANDS.values() if module in sys.modules]


def test_table_names_every_command_module():
    folder = Path(ptychocli.__file__).parent / "commands"
    modules = {f"ptychocli.commands.{path.stem}" for path in folder.glob("[!_]*.py")}
    assert modules == {module for module, _ in COMMANDS.values()}


@pytest.mark.parametrize("name", COMMANDS)
def test_table_agrees_with_the_command(name, ptycho):
    module, line = COMMANDS[name]
    command = get_command(import_module(module).app)
    assert command.help, "a command explains itself"
    assert line.endswith(".")
    assert len(line) < 60
    outcome = ptycho(name, "--help")
    assert outcome.code == 0
    assert f"ptycho {name}" in outcome.out


def test_version_names_packages_and_bundle_format(ptycho):
    outcome = ptycho("-V")
    assert outcome.code == 0
    lines = dict(line.rsplit(" ", 1) for line in outcome.out.splitlines() if "not" not in line)
    assert lines["ptycho-cli"] == ptychocli.__version__
    assert {"ptycho-config", "ptycho-data", "bundle format"} <= set(lines)
    assert "ptycho-tf" in outcome.out


def test_no_command_shows_the_help_and_is_a_usage_error(ptycho):
    outcome = ptycho()
    assert outcome.code == 2
    assert "simulate" in outcome.out


def test_every_typed_error_has_its_exit_code():
    typed = {getattr(errors, name) for name in errors.__all__} - {errors.PtychoError}
    assert set(EXIT_CODES) == typed
    assert sorted(EXIT_CODES.values()) == [2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize(("error", "code"), EXIT_CODES.items())
def test_typed_error_is_one_message(error, code, monkeypatch, capsys):
    monkeypatch.setattr(main_module, "_call", _raising(error("expected this, found that")))
    assert main([]) == code
    assert capsys.readouterr().err == "error: expected this, found that\n"


def test_bug_shows_its_traceback(monkeypatch, capsys):
    monkeypatch.setattr(main_module, "_call", _raising(ZeroDivisionError("oops")))
    assert main([]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_interrupt_has_its_code(monkeypatch, capsys):
    monkeypatch.setattr(main_module, "_call", _raising(KeyboardInterrupt()))
    assert main([]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_a_reader_that_closes_early_is_no_error(tmp_path):
    command = f"{sys.executable} -m ptychocli config schema; echo $? >{tmp_path / 'code'}"
    shell = subprocess.Popen(
        ["sh", "-c", command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert shell.stdout is not None
    assert shell.stderr is not None
    shell.stdout.close()
    complaints = shell.stderr.read()
    shell.stderr.close()
    shell.wait(timeout=60)
    assert (tmp_path / "code").read_text().strip() == "0"
    assert complaints == ""


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["trian"], "train"),
        (["train", "x.npz", "--output-dir", "o", "--epoch", "3"], "--epoch"),
        (["train", "x.npz", "--output-dir", "o", "--epochs", "many"], "--epochs"),
        (["train", "x.npz", "--output-dir", "o", "--optimizer", "lbfgs"], "adamw"),
        (["train", "x.npz", "--output-dir", "o", "--max-time", "soon"], "15min"),
        (["train", "x.npz", "--output-dir", "o", "--N", "64"], "--N"),
        (["train", "x.npz"], "--output-dir"),
        (["config"], "config --help"),
    ],
)
def test_usage_errors(argv, told, ptycho):
    outcome = ptycho(*argv)
    assert outcome.code == 2
    assert told in outcome.err
    assert outcome.err.startswith("error: ")
    assert "Traceback" not in outcome.err


def _raising(error):
    def call(argv):
        raise error

    return call
