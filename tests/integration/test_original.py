"""The benchmark of the original's lines: it goes on where it stood, to the same figures."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.slow]

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "original.py"
SMALL = ("--side", "6", "--test-side", "3")


@pytest.mark.parametrize("case", ["1", "3"])
def test_epochs_have_the_same_figures_whether_resumed_or_not(case: str, tmp_path: Path) -> None:
    def rows(name: str, epochs: int, *more: str) -> dict[str, object]:
        results, folder = tmp_path / f"{name}.json", tmp_path / name
        command = [sys.executable, str(SCRIPT), str(results), "--folder", str(folder), *SMALL]
        command += ["--case", case, "--epochs", str(epochs), *more]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"case {case}, {epochs}, tiles" in done.stdout
        found: dict[str, object] = json.loads(results.read_text())[f"case {case}"]["rows"]
        return found

    first = rows("resumed", 1)
    assert list(first) == ["0", "1", "baselines"] and first["0"] != first["1"]
    picture = tmp_path / "figure.png"
    resumed = rows("resumed", 2, "--figure", str(picture))
    assert picture.stat().st_size > 1000
    assert resumed == rows("whole", 2)
    assert resumed["1"] == first["1"] != resumed["2"]
