"""Which processor computes, and in which arithmetic."""

import re
from pathlib import Path
from typing import Any

import tensorflow as tf

from ptychoconfig.describe import flag_name
from ptychoconfig.errors import BackendError, ConfigError
from ptychoconfig.schema import ExecutionConfig
from ptychodata.hardware import SLOW_CPU, cuda_driver, gpu_advice

__all__ = ["bf16_error", "choose_device", "choose_dtype", "describe_devices"]

_TOLERATED = 0.01  # of a convolution in bf16, which rounds to 2⁻⁹ = 0.002

_CPU_UNITS = ("amx_bf16", "avx512_bf16")

_FOREIGN: dict[str, dict[Any, str]] = {
    "accelerator": {"mps": "use --accelerator cpu"},
    "strategy": dict.fromkeys(("ddp", "fsdp"), "use --strategy mirrored or multi-worker"),
    "precision": {"16-mixed": "use --precision bf16-mixed"},
    "logger": {"mlflow": "use --logger csv or tensorboard"},
    "pin_memory": {True: "leave --pin-memory out"},
    "persistent_workers": {False: "leave --no-persistent-workers out"},
}
"""Settings that mean nothing to TensorFlow: name → value → what to do instead."""


def choose_device(execution: ExecutionConfig, several: bool = False) -> str:
    """The device that ``--accelerator`` asks for, ``/GPU:0`` or ``/CPU:0``; ``auto`` takes a GPU.

    Args:
        execution: settings.
        several: whether the work can be shared among devices.

    Raises:
        ConfigError: a setting means nothing to TensorFlow.
        BackendError: the accelerator, or so many of them, are not there.
    """
    _refuse_foreign(execution)
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


def _refuse_foreign(execution: ExecutionConfig) -> None:
    for name, values in _FOREIGN.items():
        value = getattr(execution, name)
        if value in values:
            raise ConfigError(
                f"{flag_name(name)}: expected a value that has a meaning for --backend tf, found "
                f"{value!r}; {values[value]}, or --backend torch"
            )
    for name in ("num_workers", "prefetch_factor"):
        if getattr(execution, name):
            raise ConfigError(
                f"{flag_name(name)}: expected none, for TensorFlow prepares batches in threads, "
                f"found {getattr(execution, name)}; leave it out, or use --backend torch"
            )


def choose_dtype(execution: ExecutionConfig, device: str) -> tf.DType:
    """The arithmetic of the network; ``auto`` takes bf16 where there are matrix units for it."""
    if execution.precision != "auto":
        return tf.bfloat16 if execution.precision == "bf16-mixed" else tf.float32
    good = _has_bf16_units(device) and bf16_error(device) < _TOLERATED
    return tf.bfloat16 if good else tf.float32


def _has_bf16_units(device: str) -> bool:
    if "CPU" in device:
        return bool(_cpu_units())
    return any(_capability(gpu) >= (8, 0) for gpu in tf.config.list_physical_devices("GPU")[:1])


def _capability(gpu: tf.config.PhysicalDevice) -> tuple[int, int]:
    details = tf.config.experimental.get_device_details(gpu)
    capability: tuple[int, int] = details.get("compute_capability", (0, 0))
    return capability


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
        found[f"tf gpu:{number}"] = {
            "name": details.get("device_name", "unknown"),
            "bf16": "yes" if _capability(gpu) >= (8, 0) else "no units",
        }
    if not gpus:
        built, driver = tf.sysconfig.get_build_info().get("cuda_version"), cuda_driver()
        remedy = "install its CUDA libraries: pip install 'tensorflow[and-cuda]'"
        found["tf gpu"] = {
            "available": False,
            "driver": driver or "none",
            "built_for": f"CUDA {built}" if built else "a CPU alone",
            "advice": gpu_advice("TensorFlow", built, driver, remedy),
        }
        if not _cpu_units():
            found["tf cpu"]["advice"] = SLOW_CPU
    return found
