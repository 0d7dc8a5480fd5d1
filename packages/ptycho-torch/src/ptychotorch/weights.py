"""Between a Torch module and the framework-neutral weights of a bundle.

A weight's name is the path of its module, ``/`` between the parts, then ``kernel``, ``bias``,
``gain`` or a name of the network's own.  A convolution kernel is stored as (height, width, in,
out), anything else as it is.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ptychoconfig.errors import BundleError

__all__ = ["from_arrays", "move_mean", "to_arrays"]


def to_arrays(network: nn.Module) -> dict[str, NDArray[np.float32]]:
    """All weights of a network: neutral name → float32 array."""
    return {
        _neutral_name(name, tensor): _to_neutral(
            name, _whole(tensor.detach()).float().cpu().numpy()
        )
        for name, tensor in network.state_dict().items()
    }


def from_arrays(network: nn.Module, weights: dict[str, NDArray[np.float32]]) -> None:
    """Load weights into a network, strictly: every name and every shape must fit.

    Raises:
        BundleError: a weight is missing, left over, of another shape, or not finite.
    """
    state = network.state_dict()
    names = {_neutral_name(name, tensor): name for name, tensor in state.items()}
    missing, extra = sorted(names.keys() - weights.keys()), sorted(weights.keys() - names.keys())
    if missing or extra:
        raise BundleError(
            f"weights.h5: expected the {len(names)} weights of the network that config.json "
            f"describes, found {len(missing)} missing {missing[:3]} and {len(extra)} unknown "
            f"{extra[:3]}; the bundle does not fit its own configuration"
        )
    for neutral, name in names.items():
        array = _from_neutral(name, np.asarray(weights[neutral], dtype=np.float32))
        if array.shape != tuple(state[name].shape) or not np.isfinite(array).all():
            raise BundleError(
                f"weights.h5: expected finite {neutral} of shape {tuple(state[name].shape)} "
                f"(Torch layout), found shape {array.shape}"
            )
        state[name] = torch.from_numpy(array)
    network.load_state_dict(state)


@torch.no_grad()
def move_mean(mean: nn.Module, network: nn.Module, share: float) -> None:
    """Let the newest weights of ``network`` take a share in their running mean, in place."""
    for average, weight in zip(mean.parameters(), network.parameters(), strict=True):
        average.lerp_(weight, share)


def _whole(tensor: Tensor) -> Tensor:
    """A tensor put together, on every device, if several share it (``sharding``)."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def _neutral_name(name: str, tensor: Tensor) -> str:
    path, _, leaf = name.rpartition(".")
    if leaf == "weight":
        leaf = "kernel" if tensor.ndim == 4 else "gain"  # of a convolution or a norm
    return "/".join([*path.split("."), leaf])


def _to_neutral(name: str, array: NDArray[np.float32]) -> NDArray[np.float32]:
    moved = array.transpose(2, 3, 1, 0) if _is_kernel(name, array) else array
    return np.ascontiguousarray(moved)


def _from_neutral(name: str, array: NDArray[np.float32]) -> NDArray[np.float32]:
    moved = array.transpose(3, 2, 0, 1) if _is_kernel(name, array) else array
    return np.ascontiguousarray(moved)


def _is_kernel(name: str, array: NDArray[np.float32]) -> bool:
    return name.endswith(".weight") and array.ndim == 4
