"""The five packages build to the same bytes every time, and fit each other."""

import email
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = sorted(ROOT.glob("packages/*"))
NAMES = [package.name for package in PACKAGES]
FRAMEWORKS = {"jax", "keras", "lightning", "tensorflow", "torch"}


def _project(package: Path) -> dict[str, object]:
    return tomllib.loads((package / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def _build(package: Path, folder: Path, mode: int) -> dict[str, bytes]:
    """Wheel and sdist of a copy of the package whose files have a time and a mode of their own."""
    copy, out = folder / "copy", folder / "out"
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
    shutil.copytree(package, copy, ignore=ignored, copy_function=shutil.copyfile)
    for file in copy.rglob("*"):
        os.utime(file, (mode, 1_000_000_000 + mode))
        if file.is_file():
            file.chmod(mode)
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(out)]
    environment = os.environ | {"SOURCE_DATE_EPOCH": "1795500000"}
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {file.name: file.read_bytes() for file in out.iterdir()}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[dict[str, bytes], ...]]:
    pytest.importorskip("hatchling")
    return {
        package.name: tuple(
            _build(package, tmp_path_factory.mktemp(package.name), mode) for mode in (0o644, 0o664)
        )
        for package in PACKAGES
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_two_builds_are_the_same_bytes(name: str, built: dict[str, tuple[dict, dict]]) -> None:
    first, second = built[name]
    assert sorted(Path(file).suffix for file in first) == [".gz", ".whl"]
    assert first == second


@pytest.mark.slow
def test_no_two_wheels_hold_the_same_file(
    built: dict[str, tuple[dict, dict]], tmp_path: Path
) -> None:
    """So the order in which they are installed makes no difference."""
    owners: dict[str, str] = {}
    for name, (files, _) in built.items():
        [wheel] = [content for file, content in files.items() if file.endswith(".whl")]
        (tmp_path / name).write_bytes(wheel)
        for member in zipfile.ZipFile(tmp_path / name).namelist():
            assert owners.setdefault(member, name) == name
    assert {path.split("/")[0] for path in owners if ".dist-info" not in path} == {
        "ptychocli", "ptychoconfig", "ptychodata", "ptychotf", "ptychotorch",
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_wheel_says_what_it_needs(
    name: str, built: dict[str, tuple[dict, dict]], tmp_path: Path
) -> None:
    [wheel] = [content for file, content in built[name][0].items() if file.endswith(".whl")]
    (tmp_path / name).write_bytes(wheel)
    with zipfile.ZipFile(tmp_path / name) as archive:
        [metadata] = [m for m in archive.namelist() if m.endswith(".dist-info/METADATA")]
        told = email.message_from_bytes(archive.read(metadata))
        assert any(member.endswith("licenses/LICENSE") for member in archive.namelist())
    assert told["Requires-Python"] == ">=3.11"
    for minor in (11, 12, 13):
        assert f"Programming Language :: Python :: 3.{minor}" in told.get_all("Classifier")
    needed = {re.split("[^A-Za-z0-9-]", line)[0] for line in told.get_all("Requires-Dist")}
    if name in ("ptycho-config", "ptycho-data"):
        assert not FRAMEWORKS & needed


@pytest.mark.parametrize("package", PACKAGES, ids=NAMES)
def test_every_dependency_has_a_lower_bound_that_the_page_names(package: Path) -> None:
    page = (ROOT / "docs" / "compatibility.md").read_text(encoding="utf-8")
    for dependency in _project(package)["dependencies"]:
        name, _, bound = dependency.partition(">=")
        assert bound, f"{package.name}: {dependency} has none"
        assert f"| {name} | {bound} |" in page or name.startswith("ptycho-"), dependency


def test_the_siblings_that_are_asked_for_are_those_that_are_here() -> None:
    versions = {
        package.name: re.search(
            '__version__ = "(.+)"', next(package.glob("src/*/__init__.py")).read_text()
        )[1]
        for package in PACKAGES
    }
    for package in PACKAGES:
        for dependency in _project(package)["dependencies"]:
            name, _, bounds = dependency.partition(">=")
            if name in versions:
                low, high = (tuple(map(int, b.split("."))) for b in bounds.split(",<"))
                assert low <= tuple(map(int, versions[name].split("."))) < high
