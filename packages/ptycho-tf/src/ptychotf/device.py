"""Which processor computes, and in which arithmetic."""

import re
from pathlib import Path
from typing import Any

import tensorflow as tf

from ptychoconfig.errors import BackendError
from ptychoconfig.schema import ExecutionConfig

__all__ = ["bf16_error", "choose_device", "describe_devices"]

_CPU_UNITS = ("amx_bf16", "avx512_bf16")


def choose_device(execution: ExecutionConfig, several: bool = False) -> str:
    """The device that ``--accelerator`` asks for, ``/GPU:0`` or ``/CPU:0``; ``auto`` takes a GPU.

    Args:
        execution: settings.
        several: whether the work can be shared among devices.

    Raises:
        BackendError: the accelerator, or so many of them, are not there.
    """
    if execution.devices * execution.num_nodes > 1 and not several:
        raise BackendError(
            f"--devices: expected 1, all that this command computes on, found {execution.devices} "
            f"on {execution.num_nodes} machines; leave --devices and --num-nodes out"
        )
    gpus = tf.config.list_physical_devices("GPU")
    if execution.accelerator == "cpu" or (execution.accelerator == "auto" and not gpus):
        return "/CPU:0"
    if not gpus:
        raise BackendError(
            f"--accelerator {execution.accelerator}: expected a working GPU, found none "
            f"(TensorFlow {tf.__version__}); use --accelerator cpu, or check the driver"
        )
    if execution.devices > len(gpus):
        raise BackendError(
            f"--devices: expected at most {len(gpus)}, the GPUs of this machine, found "
            f"{execution.devices}"
        )
    return "/GPU:0"


def bf16_error(device: str) -> float:
    """Relative error (L2) of a convolution in bf16, on ``device``, such as ``/CPU:0``."""
    with tf.device(device):
        x = tf.random.stateless_normal((4, 16, 16, 32), (0, 0))
        kernel = tf.random.stateless_normal((3, 3, 32, 32), (0, 1))
        exact = tf.nn.conv2d(x, kernel, 1, "VALID")
        narrow = tf.nn.conv2d(tf.cast(x, tf.bfloat16), tf.cast(kernel, tf.bfloat16), 1, "VALID")
        return float(tf.norm(tf.cast(narrow, tf.float32) - exact) / tf.norm(exact))


def _cpu_units() -> list[str]:
    """Units for bf16 that the processor lists, on Linux; none known elsewhere."""
    listing = Path("/proc/cpuinfo")
    flags = re.search(r"^flags\s*:(.*)$", listing.read_text(), re.M) if listing.is_file() else None
    return [name for name in _CPU_UNITS if flags and name in flags[1].split()]


def describe_devices() -> dict[str, dict[str, Any]]:
    """Processors that TensorFlow sees, whether they have units for bf16, and advice."""
    found: dict[str, dict[str, Any]] = {
        "tf cpu": {
            "bf16": ", ".join(_cpu_units()) or "no units",
            "bf16_error": bf16_error("/CPU:0"),
        }
    }
    gpus = tf.config.list_physical_devices("GPU")
    for number, gpu in enumerate(gpus):
        details = tf.config.experimental.get_device_details(gpu)
        capability = details.get("compute_capability", (0, 0))
        found[f"tf gpu:{number}"] = {
            "name": details.get("device_name", "unknown"),
            "bf16": "yes" if capability >= (8, 0) else "no units",
        }
    if not gpus:
        driver = Path("/proc/driver/nvidia/version").exists()
        build = tf.sysconfig.get_build_info().get("cuda_version")
        found["tf gpu"] = {
            "available": False,
            "driver": driver,
            "built_for": f"CUDA {build}" if build else "a CPU alone",
        }
        if driver:
            found["tf gpu"]["advice"] = (
                "a driver is there, but TensorFlow does not use it; install its CUDA libraries: "
                "pip install 'tensorflow[and-cuda]'"
            )
    return found
