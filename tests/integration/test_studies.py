"""The short form of a study, by the real command: a regression of the network ends it in code 7."""

import json
import os
from pathlib import Path

import pytest

from ptychocli.main import main

pytestmark = pytest.mark.integration


def test_the_overlap_study_reaches_its_bounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("PTYCHO_")]:
        monkeypatch.delenv(name)
    command = ["study", "overlap", "--short", "--seeds", "1", "--quiet"]
    assert main([*command, "--output-dir", str(tmp_path)]) == 0
    summary = json.loads((tmp_path / "overlap.json").read_text())["summary"]
    found = {(row["trial"], row["method"]): row["phase_ssim"] for row in summary}
    for trial in {trial for trial, _ in found}:
        assert found[trial, "network"] > found[trial, "zero"]
