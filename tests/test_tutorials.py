"""What the README and the tutorials tell a reader to type is typed, in their order."""

import bz2
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from ptychodata import simulate_scan, write

pytestmark = [pytest.mark.integration, pytest.mark.slow]

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", DOCS / "star.md", DOCS / "tutorial-simulated.md"]

SHORT = {
    "PTYCHO_EPOCHS": "1",
    "PTYCHO_N_GROUPS": "6",
    "PTYCHO_PREVIEW_EVERY": "0",
    "PTYCHO_ACCELERATOR": "cpu",
    "OMP_NUM_THREADS": "1",
    "MPLBACKEND": "Agg",
}
"""Weaker than the flags on the pages, which stay as they are; the rest is made short."""

SCANS = ("measured.npz.bz2", "siemens-star-small.npz.bz2")
"""What the pages begin with; a small simulated scan in tike's format stands for it."""


def _lines(page: Path, program: str) -> list[str]:
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    return re.findall(rf"^    ({program} .+)$", text, re.M)


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("scan")
    write(simulate_scan(N=32, n_patterns=64, nphotons=1e6, seed=2), folder / "a.npz", "tike")
    return bz2.compress((folder / "a.npz").read_bytes())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_of_a_page_work_one_after_the_other(
    page: Path, scan: bytes, tmp_path: Path
) -> None:
    for name in SCANS:
        (tmp_path / name).write_bytes(scan)
    commands = [line for line in _lines(page, "ptycho") if "…" not in line]
    assert len(commands) >= 5
    for line in commands:
        words = [sys.executable, "-m", "ptychocli", *shlex.split(line, comments=True)[1:]]
        done = subprocess.run(
            words,
            cwd=tmp_path,
            env={**os.environ, **SHORT},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"


def test_the_install_lines_of_the_readme_are_accepted_by_pip() -> None:
    pytest.importorskip("hatchling")
    lines = [
        line for line in _lines(ROOT / "README.md", "python -m pip install") if "nox" not in line
    ]
    local = [line for line in lines if "packages/" in line]
    assert len(local) == 4
    for line in local:
        words = shlex.split(line)[4:]
        check = ["--dry-run", "--no-deps", "--no-build-isolation", "-q", "--ignore-installed"]
        pip = [sys.executable, "-m", "pip", "install", *check, *words]
        done = subprocess.run(pip, cwd=ROOT, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
    constraints = (ROOT / "constraints.txt").read_text().splitlines()
    for line in set(lines) - set(local):
        assert next(word for word in shlex.split(line) if "==" in word) in constraints


def _notebook_module():  # type: ignore[no-untyped-def]
    spec = importlib.util.spec_from_file_location("notebook", DOCS / "notebook.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_notebook_is_that_of_its_page_and_was_executed() -> None:
    module = _notebook_module()
    for page in module.PAGES:
        found = json.loads(page.with_suffix(".ipynb").read_text(encoding="utf-8"))["cells"]
        cells = [(cell["cell_type"], "".join(cell["source"])) for cell in found]
        stale = "run: python -m nox -s notebook"
        assert cells == module.cells(page.read_text(encoding="utf-8")), stale
        outputs = [output for cell in found for output in cell.get("outputs", ())]
        assert outputs and not any(output["output_type"] == "error" for output in outputs)
        assert any("image/png" in output.get("data", {}) for output in outputs)


def test_the_code_of_the_tutorial_runs(tmp_path: Path) -> None:
    code = "\n".join(
        text
        for kind, text in _notebook_module().cells(
            (DOCS / "tutorial-simulated.md").read_text(encoding="utf-8")
        )
        if kind == "code"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=tmp_path,
        env={**os.environ, **SHORT, "PTYCHO_MAX_TIME": "20s"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"R 0\.\d+, noise alone 0\.\d+", done.stdout)) == 3
    assert not list(tmp_path.iterdir())
