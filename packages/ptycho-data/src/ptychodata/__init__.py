"""Scans, file formats, the reference physics and everything else that needs no framework.

The names listed here are loaded on first use, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .bundle import Bundle, read_bundle, write_bundle
    from .calls import read, simulate_scan
    from .contracts import Reconstruction, Scan, Solution
    from .formats import write
    from .inspection import inspect_scan
    from .residuals import solution_misfit
    from .results import read_reconstruction, read_solution, write_reconstruction, write_solution

__all__ = [
    "Bundle",
    "Reconstruction",
    "Scan",
    "Solution",
    "inspect_scan",
    "read",
    "read_bundle",
    "read_reconstruction",
    "read_solution",
    "simulate_scan",
    "solution_misfit",
    "write",
    "write_bundle",
    "write_reconstruction",
    "write_solution",
]

__version__ = "0.1.0"

_MODULES = {
    "bundle": ("Bundle", "read_bundle", "write_bundle"),
    "calls": ("read", "simulate_scan"),
    "contracts": ("Reconstruction", "Scan", "Solution"),
    "formats": ("write",),
    "inspection": ("inspect_scan",),
    "residuals": ("solution_misfit",),
    "results": ("read_reconstruction", "read_solution", "write_reconstruction", "write_solution"),
}


def __getattr__(name: str) -> object:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
