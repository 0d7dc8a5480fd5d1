"""What a machine has to compute with."""

import os
import platform
import shutil
import sys
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from ptychocli.versions import installed, package_versions
from ptychoconfig.errors import PtychoError
from ptychodata.backends import KNOWN_BACKENDS, ONE_BACKEND, installed_backends, load_backend

__all__ = ["diagnose"]

_LIBRARIES = ("numpy", "scipy", "h5py", "hdf5plugin", "scikit-image", "pydantic", "typer", "rich")
_FRAMEWORKS = ("torch", "lightning", "tensorflow", "keras")
_OPTIONAL = ("tensorboard", "mlflow")
_ROOM_GB = 2.0
"""Free disk below which a run may not find room for its checkpoints."""


def diagnose(folder: Path) -> dict[str, Any]:
    """Python, packages, backends, devices and disk, and advice for each fault.

    Args:
        folder: where results would be written.
    """
    backends = {name: _backend(name) for name in sorted({*KNOWN_BACKENDS, *installed_backends()})}
    devices = {
        name: facts for backend in backends.values() for name, facts in backend.pop("devices")
    }
    free = shutil.disk_usage(folder).free / 1e9
    found: dict[str, Any] = {
        "python": {
            "version": platform.python_version(),
            "executable": sys.executable,
            "platform": platform.platform(),
        },
        "package": {
            **package_versions(),
            **{name: installed(name) for name in (*_LIBRARIES, *_FRAMEWORKS, *_OPTIONAL)},
        },
        "backends": backends,
        "device": {"cpu": {"cores": os.cpu_count(), "processor": platform.machine()}, **devices},
        "disk": {str(folder): {"free_GB": round(free, 1), "writable": os.access(folder, os.W_OK)}},
    }
    return {**found, "advice": _advice(found, free)}


def _backend(name: str) -> dict[str, Any]:
    """Whether a backend loads, or the reason why not, its networks, and what it computes on.

    It looks in a process of its own, because two frameworks in one get into each other's way.
    """
    try:
        load_backend(name)
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            networks, devices = pool.submit(_look, name).result()
    except (PtychoError, BrokenProcessPool) as error:
        there = name in installed_backends()
        return {"installed": there, "loads": False, "reason": str(error), "devices": []}
    lacking = [f"{net} ({only} only)" for net, only in ONE_BACKEND.items() if net not in networks]
    return {
        "installed": True,
        "loads": True,
        "reason": None,
        "networks": ", ".join(networks),
        "lacks": ", ".join(lacking) or None,
        "devices": list(devices.items()),
    }


def _look(name: str) -> tuple[list[str], dict[str, Any]]:
    """Names of the networks of a backend, and the devices of one that can tell."""
    engine = load_backend(name)
    devices = getattr(engine, "devices", dict)
    return list(engine.networks()), devices()


def _advice(found: dict[str, Any], free_gb: float) -> list[str]:
    advice = [
        backend["reason"]
        for backend in found["backends"].values()
        if backend["installed"] and not backend["loads"]
    ]
    advice += [
        f"{name}: {facts['advice']}"
        for name, facts in found["device"].items()
        if facts.get("advice")
    ]
    if free_gb < _ROOM_GB:
        advice.append(
            f"disk: {free_gb:.1f} GB are free here; give --output-dir a place with at least "
            f"{_ROOM_GB:.0f} GB"
        )
    if not all(place["writable"] for place in found["disk"].values()):
        advice.append("disk: this folder cannot be written to; give --output-dir another")
    return advice
