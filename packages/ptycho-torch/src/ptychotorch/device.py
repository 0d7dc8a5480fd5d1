"""Which processor computes, and in which arithmetic."""

from typing import Any

import torch

from ptychoconfig.errors import BackendError, ConfigError
from ptychoconfig.schema import ExecutionConfig
from ptychodata.hardware import SLOW_CPU, cuda_driver, gpu_advice

__all__ = ["bf16_error", "choose_device", "choose_dtype", "describe_devices"]

_TOLERATED = 0.01  # of a convolution in bf16, which rounds to 2⁻⁹ = 0.002

_DTYPES = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


def choose_device(execution: ExecutionConfig, several: bool = False) -> torch.device:
    """The device that ``--accelerator`` asks for; ``auto`` takes a GPU where one works.

    Args:
        execution: settings.
        several: whether the work can be shared among devices.

    Raises:
        ConfigError: a strategy of TensorFlow.
        BackendError: the accelerator, or so many of them, are not there.
    """
    if execution.strategy in ("mirrored", "multi-worker"):
        raise ConfigError(
            f"--strategy: expected auto or ddp, which Torch has, found {execution.strategy}; leave "
            "it out, or use --backend tf"
        )
    found = _kind(execution)
    if execution.devices * execution.num_nodes > 1 and not several:
        raise BackendError(
            f"--devices: expected 1, all that this command computes on, found {execution.devices} "
            f"on {execution.num_nodes} machines; leave --devices and --num-nodes out"
        )
    there = {"cuda": torch.cuda.device_count(), "mps": 1}.get(found.type, execution.devices)
    if execution.devices > there:
        raise BackendError(
            f"--devices: expected at most {there}, the {found.type} devices of this machine, found "
            f"{execution.devices}"
        )
    if execution.pin_memory and found.type != "cuda":
        raise BackendError(
            f"--pin-memory: expected a GPU to copy to, found --accelerator {found.type}; leave it "
            "out"
        )
    return found


def _kind(execution: ExecutionConfig) -> torch.device:
    wanted = execution.accelerator
    working = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if (
        wanted == "auto"
    ):  # MPS lacks complex arithmetic that the physics needs, so it must be asked for
        return torch.device("cuda" if working["cuda"] else "cpu")
    if wanted == "gpu":
        wanted = "cuda" if working["cuda"] or not working["mps"] else "mps"
    if not working.get(wanted, True):
        built = torch.version.cuda or "none, a CPU build"
        raise BackendError(
            f"--accelerator {execution.accelerator}: expected a working {wanted} device, found "
            f"none (Torch {torch.__version__} with CUDA {built}); use --accelerator cpu, or check "
            "the driver"
        )
    return torch.device(wanted)


def choose_dtype(execution: ExecutionConfig, device: torch.device) -> torch.dtype:
    """The arithmetic of the network; ``auto`` takes bf16 where there are matrix units for it.

    Raises:
        BackendError: 16-bit floats on a CPU, whose range the gradients leave.
    """
    if execution.precision == "16-mixed" and device.type == "cpu":
        raise BackendError(
            "--precision 16-mixed: expected a GPU, found the CPU; use --precision bf16-mixed"
        )
    if execution.precision != "auto":
        return _DTYPES[execution.precision]
    good = _has_bf16_units(device) and bf16_error(device) < _TOLERATED
    return torch.bfloat16 if good else torch.float32


@torch.no_grad()
def bf16_error(device: torch.device) -> float:
    """Relative error (L2) of a convolution in bf16, as autocast computes it, on ``device``."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(4, 32, 16, 16, generator=draw).to(device)
    weight = torch.randn(32, 32, 3, 3, generator=draw).to(device)
    exact = torch.nn.functional.conv2d(x, weight)
    with torch.autocast(device.type, torch.bfloat16):
        rounded = torch.nn.functional.conv2d(x, weight)
    return float((rounded - exact).norm() / exact.norm())


def _has_bf16_units(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    capabilities = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


def describe_devices() -> dict[str, dict[str, Any]]:
    """Processors that Torch sees, whether they have units for bf16, and advice."""
    cpu, capabilities = torch.device("cpu"), torch.cpu.get_capabilities()
    units = [name for name in ("amx_bf16", "avx512_bf16") if capabilities.get(name)]
    found: dict[str, dict[str, Any]] = {
        "torch cpu": {
            "threads": torch.get_num_threads(),
            "bf16": ", ".join(units) or "no units",
            "bf16_error": bf16_error(cpu),
        }
    }
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        found[f"torch cuda:{number}"] = {
            "name": properties.name,
            "memory_GB": round(properties.total_memory / 1e9, 1),
            "cuda": torch.version.cuda,
            "bf16": "yes" if _has_bf16_units(torch.device("cuda", number)) else "no units",
        }
    if not torch.cuda.is_available():
        built, driver = torch.version.cuda, cuda_driver()
        found["torch cuda"] = {
            "available": False,
            "driver": driver or "none",
            "built_for": built or "a CPU alone",
            "advice": gpu_advice("Torch", built, driver, "choose a build at pytorch.org"),
        }
        if not units:
            found["torch cpu"]["advice"] = SLOW_CPU
    if torch.backends.mps.is_available():
        found["torch mps"] = {"available": True, "asked_for_by": "--accelerator mps"}
    return found
