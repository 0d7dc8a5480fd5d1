"""The package beside others: what it imports, and what it says where TensorFlow is missing."""

import subprocess
import sys

import pytest

from ptychoconfig.errors import BackendError
from ptychodata.backends import ONE_BACKEND, installed_backends, load_backend
from ptychotf import _start


def test_backend_is_found_by_its_name():
    assert [entry.value for entry in installed_backends()["tf"]] == [
        "ptychotf.backend:TensorFlowBackend"
    ]
    assert load_backend("tf").name == "tf"


def test_loading_imports_no_tensorflow_and_working_imports_no_torch():
    code = """
import sys
from ptychodata.backends import load_backend
backend = load_backend("tf")
assert not {"tensorflow", "keras", "torch"} & set(sys.modules)
backend.devices()
assert "tensorflow" in sys.modules and not {"torch", "lightning"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_missing_tensorflow_is_told_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)  # which makes its import fail
    with pytest.raises(BackendError, match=r"--backend tf.*pip install 'ptycho-cli\[tf\]'"):
        _start.start_tensorflow()


def test_devices_say_how_accurate_bf16_is():
    devices = load_backend("tf").devices()
    assert 1e-4 < devices["tf cpu"]["bf16_error"] < 0.01


def test_it_has_no_network_that_is_said_to_be_torch_only():
    assert not {name for name in load_backend("tf").networks() if ONE_BACKEND.get(name) == "torch"}
