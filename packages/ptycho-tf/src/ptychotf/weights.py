"""Between a network and the framework-neutral weights of a bundle.

Variables carry the neutral names and have the neutral layouts: a convolution kernel is (height,
width, in, out).
"""

import numpy as np
from numpy.typing import NDArray
from tensorflow import Tensor

from ptychoconfig.errors import BundleError

from .networks import Network

__all__ = ["from_arrays", "move_mean", "to_arrays"]


def to_arrays(network: Network) -> dict[str, NDArray[np.float32]]:
    """All weights of a network: neutral name → float32 array."""
    return {name: variable.numpy() for name, variable in network.weights.items()}


def from_arrays(network: Network, weights: dict[str, NDArray[np.float32]]) -> None:
    """Load weights into a network, strictly: every name and every shape must fit.

    Raises:
        BundleError: a weight is missing, left over, of another shape, or not finite.
    """
    names = network.weights.keys()
    missing, extra = sorted(names - weights.keys()), sorted(weights.keys() - names)
    if missing or extra:
        raise BundleError(
            f"weights.h5: expected the {len(names)} weights of the network that config.json "
            f"describes, found {len(missing)} missing {missing[:3]} and {len(extra)} unknown "
            f"{extra[:3]}; the bundle does not fit its own configuration"
        )
    for name, variable in network.weights.items():
        array = np.asarray(weights[name], dtype=np.float32)
        if array.shape != tuple(variable.shape) or not np.isfinite(array).all():
            raise BundleError(
                f"weights.h5: expected finite {name} of shape {tuple(variable.shape)}, found shape "
                f"{array.shape}"
            )
        variable.assign(array)


def move_mean(mean: Network, network: Network, share: Tensor) -> None:
    """Let the newest weights of ``network`` take a share in their running mean, in place."""
    for name, weight in network.weights.items():
        average = mean.weights[name]
        average.assign_add(share * (weight - average))
