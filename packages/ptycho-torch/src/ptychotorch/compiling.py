"""Compiling a network, where the machine can."""

import os
import shutil

from torch import nn

from ptychoconfig.errors import BackendError

__all__ = ["compile_network"]


def compile_network(network: nn.Module) -> None:
    """Compile the parts of a network, in place; their weights keep their names.

    Raises:
        BackendError: there is no C++ compiler, which Torch needs for it on any device.
    """
    candidates = [os.environ.get("CXX"), "c++", "g++", "clang++", "cl"]
    if not any(shutil.which(name) for name in candidates if name):
        raise BackendError(
            "--compile: expected a C++ compiler (g++ or clang++ on the PATH, or its name in CXX), "
            "found none; install one, or leave --compile out"
        )
    for part in network.children():
        for module in part if isinstance(part, nn.ModuleList) else [part]:
            module.compile()
