"""What keeps a framework from the hardware of a machine, and what to do about it."""

import ctypes
from contextlib import suppress
from pathlib import Path

__all__ = ["SLOW_CPU", "cuda_driver", "gpu_advice"]

SLOW_CPU = (
    "it has no matrix units for bf16, so networks compute in 32 bits, slowly; begin with the "
    "pretrained network (ptycho infer SCAN), bound a training with --max-time, or use a GPU"
)
"""Advice for a processor that trains slowly."""

_LIBRARIES = ("libcuda.so.1", "nvcuda.dll")
_MODULE = Path("/proc/driver/nvidia/version")


def cuda_driver() -> str | None:
    """The newest CUDA that the driver of this machine runs, ``12.4``.

    ``unknown`` if a driver is there and does not tell; None if there is none.
    """
    for name in _LIBRARIES:
        with suppress(OSError, AttributeError):
            found = ctypes.c_int(0)
            if ctypes.CDLL(name).cuDriverGetVersion(ctypes.byref(found)) == 0 and found.value:
                return f"{found.value // 1000}.{found.value % 1000 // 10}"
    return "unknown" if _MODULE.exists() else None


def gpu_advice(
    framework: str, built_for: str | None, driver: str | None, remedy: str
) -> str | None:
    """Why a framework uses no GPU, and what to do; None where there is no driver to use.

    A build runs on every driver for its major version of CUDA or a newer one.

    Args:
        framework: its name.
        built_for: version of CUDA that it was built for; None for a CPU alone.
        driver: as ``cuda_driver`` tells.
        remedy: how to install another build of it.
    """
    if driver is None:
        return None
    if not built_for:
        return f"a driver is there, but {framework} is built for a CPU alone; {remedy}"
    if driver != "unknown" and int(driver.split(".")[0]) < int(built_for.split(".")[0]):
        return (
            f"the driver runs CUDA up to {driver}, older than the {built_for} that {framework} is "
            f"built for; update the driver, or install a build for CUDA {driver}: {remedy}"
        )
    return (
        f"a driver for CUDA {driver} is there, but {framework} (built for CUDA {built_for}) finds "
        f"no GPU that works; see what nvidia-smi lists and whether CUDA_VISIBLE_DEVICES hides it, "
        f"else {remedy}"
    )
