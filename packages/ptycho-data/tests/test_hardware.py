"""What keeps a framework from a GPU is told apart, each with its remedy."""

import pytest

from ptychodata import hardware
from ptychodata.hardware import gpu_advice

REMEDY = "choose another build"


@pytest.mark.parametrize(
    ("built_for", "driver", "says"),
    [
        (None, "12.4", "built for a CPU alone"),
        ("13.0", "12.4", "older than the 13.0"),
        ("12.8", "12.4", "finds no GPU that works"),  # minor versions are compatible
        ("12.4", "13.0", "finds no GPU that works"),
        ("13.0", "unknown", "finds no GPU that works"),
    ],
)
def test_the_advice_names_the_cause_and_the_remedy(built_for, driver, says):
    advice = gpu_advice("Torch", built_for, driver, REMEDY)
    assert says in advice and REMEDY in advice


def test_without_a_driver_there_is_nothing_to_advise():
    assert gpu_advice("Torch", "13.0", None, REMEDY) is None


def test_the_driver_tells_the_newest_cuda_that_it_runs(monkeypatch):
    class Driver:
        def cuDriverGetVersion(self, pointer):
            pointer._obj.value = 12040
            return 0

    monkeypatch.setattr(hardware.ctypes, "CDLL", lambda name: Driver())
    assert hardware.cuda_driver() == "12.4"


def test_a_driver_that_does_not_tell_is_unknown(monkeypatch, tmp_path):
    def missing(name):
        raise OSError(name)

    monkeypatch.setattr(hardware.ctypes, "CDLL", missing)
    monkeypatch.setattr(hardware, "_MODULE", tmp_path)
    assert hardware.cuda_driver() == "unknown"
    monkeypatch.setattr(hardware, "_MODULE", tmp_path / "none")
    assert hardware.cuda_driver() is None
