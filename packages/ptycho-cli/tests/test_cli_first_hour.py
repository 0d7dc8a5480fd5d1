"""What a newcomer tries first: settings files, a dry run, completion; each as a process."""

import json
import os
import re
from pathlib import Path

import pytest
import yaml

from ptychoconfig.schema import SECTIONS


def _tree(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_config_init_declares_every_setting_and_sets_none(shell, tmp_path):
    target = tmp_path / "settings.yaml"
    assert shell("config", "init", target).code == 0
    text = target.read_text(encoding="utf-8")
    assert set(yaml.safe_load(text)) == set(SECTIONS)
    for section, model in SECTIONS.items():
        for field, declared in model.model_fields.items():
            assert re.search(rf"^  #{field}: ", text, re.M), f"{section}.{field}"
            assert str(declared.description) in text
    assert shell("config", "validate", target).out.strip() == f"{target}: valid, 0 settings"


def test_every_line_of_config_init_works_once_it_is_uncommented(shell, tmp_path):
    target = tmp_path / "settings.yaml"
    target.write_text(re.sub(r"^  #(?=\w)", "  ", shell("config", "init").out, flags=re.M))
    count = sum(len(model.model_fields) for model in SECTIONS.values())
    assert shell("config", "validate", target).out.strip() == f"{target}: valid, {count} settings"


def test_a_dry_run_tells_settings_and_cost_and_leaves_nothing(shell, scan, tmp_path):
    (tmp_path / "settings.yaml").write_text("training:\n  learning_rate: 1e-3\n")
    before = _tree(tmp_path)
    run = tmp_path / "run"
    train = ("train", scan, "--backend", "stub", "--config", tmp_path / "settings.yaml")
    outcome = shell(*train, "--epochs", 7, "--output-dir", run, "--dry-run", PTYCHO_SEED="3")
    assert outcome.code == 0, outcome.err
    for line, source in (
        ("epochs: 7", "flag"),
        ("seed: 3", "environment PTYCHO_SEED"),
        ("learning_rate: 0.001", f"file {tmp_path / 'settings.yaml'}"),
        ("N: 32", "data"),
        ("batch_size: 6", "default"),
    ):
        assert re.search(rf"^  {line} +# {source}$", outcome.out, re.M), outcome.out
    assert "network: 1 parameters" in outcome.out
    assert re.search("^time: about .* batches of ", outcome.out, re.M)
    assert re.search("^memory: .* GB in this process", outcome.out, re.M)
    assert not run.exists()
    assert _tree(tmp_path) == before


def test_a_dry_run_for_machines(shell, scan, tmp_path):
    train = ("train", scan, "--backend", "stub", "--epochs", 7, "--output-dir", tmp_path / "run")
    found = json.loads(shell(*train, "--dry-run", "--json").out)
    assert found["settings"]["training.epochs"] == {"value": 7, "source": "flag"}
    estimate = found["estimate"]
    assert estimate["seconds"] == pytest.approx(
        estimate["batches"] * estimate["seconds_per_batch"], rel=1e-6
    )


@pytest.mark.parametrize(
    ("flags", "code"),
    [(("--epochs", "0"), 3), (("--architecture", "cnn"), 2), (("--n-groups", "-1"), 3)],
)
def test_a_dry_run_refuses_what_the_run_would(flags, code, shell, scan, tmp_path):
    train = ("train", scan, "--backend", "stub", "--output-dir", tmp_path / "run")
    outcome = shell(*train, *flags, "--dry-run")
    assert outcome.code == shell(*train, *flags).code == code
    assert outcome.err.splitlines()[-1].startswith("error: ")


def test_a_dry_run_over_a_result_is_refused_like_the_run(trained, shell, scan):
    train = ("train", scan, "--backend", "stub", "--output-dir", trained, "--dry-run")
    assert shell(*train).code == 3
    assert shell(*train, "--force").code == 0


def test_a_dry_run_does_without_a_probe(shell, write_scan, tmp_path):
    scan = write_scan(probeGuess=None)
    train = ("train", scan, "--backend", "stub", "--output-dir", tmp_path / "run", "--dry-run")
    assert shell(*train).code == 0


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("tr", "train"),
        ("train --learning-r", "--learning-rate"),
        ("train --scheduler war", "warmup-cosine"),
        ("config in", "init"),
    ],
)
def test_a_shell_is_told_what_can_follow(typed, offered, shell):
    words = f"ptycho {typed}"
    asked = {"COMP_WORDS": words, "COMP_CWORD": str(len(typed.split()))}
    outcome = shell(_PTYCHO_COMPLETE="complete_bash", **asked)
    assert (outcome.code, outcome.err) == (0, "")
    assert offered in outcome.out.split()


def test_completion_is_installed_for_the_shell_that_asks(shell, tmp_path):
    quiet = {"HOME": str(tmp_path), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    outcome = shell("--install-completion", "bash", **quiet)
    assert outcome.code == 0, outcome.err
    script = tmp_path / ".bash_completions" / "ptycho.sh"
    assert str(script) in (tmp_path / ".bashrc").read_text()
    assert "_PTYCHO_COMPLETE=complete_bash" in script.read_text()
    assert os.fspath(script) in outcome.out
