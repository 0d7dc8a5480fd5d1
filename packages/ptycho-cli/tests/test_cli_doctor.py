"""``ptycho doctor``."""

import platform

import pytest

from ptychocli import diagnosis
from ptychodata.backends import installed_backends

SMALL = ("stub", "broken")


@pytest.fixture(autouse=True)
def without_frameworks(monkeypatch):
    """Each framework takes seconds to start."""
    found = {name: entries for name, entries in installed_backends().items() if name in SMALL}
    monkeypatch.setattr(diagnosis, "installed_backends", lambda: found)
    monkeypatch.setattr(diagnosis, "KNOWN_BACKENDS", {"stub": "stub"})


def test_doctor_shows_what_there_is_and_why_a_backend_does_not_load(ptycho):
    outcome = ptycho("doctor")
    assert outcome.code == 0, outcome.err
    lines = [line.split() for line in outcome.out.splitlines()]
    assert ["python", "version", platform.python_version()] in lines
    [stub] = [line for line in lines if line[:2] == ["backends", "stub"]]
    assert stub[2:8] == ["installed", "yes", "loads", "yes", "networks", "unrolled"]
    assert stub[8:12] == ["lacks", "fno", "(torch", "only),"]
    assert any(line[:5] == ["backends", "broken", "installed", "yes", "loads"] for line in lines)
    assert "advice: --backend broken: the package is installed but does not load" in outcome.out


def test_doctor_for_machines(ptycho):
    outcome = ptycho("doctor", "--json")
    assert set(outcome.json) == {"python", "package", "backends", "device", "disk", "advice"}
    assert outcome.json["device"]["cpu"]["cores"] >= 1


def test_no_backend_at_all_is_code_5(ptycho, monkeypatch):
    monkeypatch.setattr(diagnosis, "KNOWN_BACKENDS", {"broken": "broken"})
    monkeypatch.setattr(diagnosis, "installed_backends", lambda: {"broken": []})
    outcome = ptycho("doctor")
    assert outcome.code == 5
    assert "pip install" in outcome.err


@pytest.mark.parametrize("free", [0.5, 50.0])
def test_a_full_disk_is_advised_on(free, ptycho, monkeypatch):
    usage = diagnosis.shutil.disk_usage(".")._replace(free=int(free * 1e9))
    monkeypatch.setattr(diagnosis.shutil, "disk_usage", lambda _: usage)
    advice = ptycho("doctor", "--json").json["advice"]
    assert any("--output-dir" in line for line in advice) == (free < 1)
