"""Which processor computes, and in which arithmetic."""

import torch

from ptychoconfig.errors import BackendError
from ptychoconfig.schema import ExecutionConfig

__all__ = ["choose_device", "choose_dtype"]

_DTYPES = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


def choose_device(execution: ExecutionConfig) -> torch.device:
    """The device that ``--accelerator`` asks for; ``auto`` takes a GPU where one works.

    Raises:
        BackendError: the accelerator is not there, or several devices are asked for.
    """
    if execution.devices != 1:
        raise BackendError(
            f"--devices: expected 1, all that this backend computes on, found {execution.devices}"
        )
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
    return torch.bfloat16 if _has_bf16_units(device) else torch.float32


def _has_bf16_units(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    capabilities = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))
