"""The networks that this backend can build: one file each, one line in ``NETWORKS``.

A network is a module with

- ``steps``, the number of times that patches are merged, and
- ``forward(step, patches, shifted_probe, batch) -> patches``: (B, N, N) complex64 estimates in,
  better ones out, for the ``Batch`` of patterns that they belong to;

and a ``build(model: ModelConfig)`` beside it that refuses an N it cannot take.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from ptychoconfig.errors import UsageError

from . import unrolled

if TYPE_CHECKING:
    from ptychoconfig.schema import ModelConfig

    from .unrolled import Unrolled

__all__ = ["NETWORKS", "build_network"]

NETWORKS: dict[str, tuple[Callable[["ModelConfig"], "Unrolled"], str]] = {
    "unrolled": (unrolled.build, "unrolled update steps, given the probe and the Fourier transform")
}


def build_network(model: "ModelConfig") -> "Unrolled":
    """Build the network that ``model`` describes, with fresh weights.

    Raises:
        UsageError: no network of this name.
        ConfigError: the network does not take this N.
    """
    if model.architecture not in NETWORKS:
        choices = ", ".join(sorted(NETWORKS))
        raise UsageError(f"--architecture: expected one of {choices}, found {model.architecture!r}")
    return NETWORKS[model.architecture][0](model)
