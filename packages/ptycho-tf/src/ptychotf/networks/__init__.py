"""The networks that this backend can build: one file each.

A file ``cnn.py`` in this folder is the network ``cnn`` (``_`` in the name stands for ``-``), and
has

- ``SUMMARY``, one line on what it is, and
- ``build(model: ModelConfig, seed: int) -> Network``, which refuses an N that the network cannot
  take.

Files that begin with ``_`` are shared by networks.  Settings, parameter counts and names of weights
are those of the Torch backend's network of the same name.
"""

from collections.abc import Callable, Collection
from importlib import import_module
from pkgutil import iter_modules

from ptychoconfig.errors import DataError, UsageError
from ptychoconfig.schema import ModelConfig

from ._base import FIELDS, Network, State, Sums, fields_of, merge_weight

__all__ = [
    "FIELDS",
    "NETWORKS",
    "Network",
    "State",
    "Sums",
    "build_network",
    "fields_of",
    "merge_weight",
    "refuse_other_sizes",
]

Builder = Callable[[ModelConfig, int], Network]


def _find_networks() -> dict[str, tuple[Builder, str]]:
    """Networks in this folder: name → how to build it, and what it is."""
    names = sorted(module.name for module in iter_modules(__path__) if module.name[0] != "_")
    modules = {name.replace("_", "-"): import_module(f"{__name__}.{name}") for name in names}
    return {name: (module.build, module.SUMMARY) for name, module in modules.items()}


NETWORKS = _find_networks()


def build_network(model: ModelConfig, seed: int = 0) -> Network:
    """Build the network that ``model`` describes, with fresh weights.

    Raises:
        UsageError: no network of this name.
        ConfigError: the network does not take this N.
    """
    if model.architecture not in NETWORKS:
        choices = ", ".join(sorted(NETWORKS))
        raise UsageError(
            f"--architecture: expected one of {choices}, which TensorFlow has, found "
            f"{model.architecture!r}; choose one of them, or --backend torch"
        )
    return NETWORKS[model.architecture][0](model, seed)


def refuse_other_sizes(network: Network, sides: Collection[int], model: ModelConfig) -> None:
    """See that one set of weights serves patterns of every side N.

    Raises:
        DataError: the network would have other weights for another N.
        ConfigError: the network does not take an N at all.
    """
    shapes = [weight.shape for weight in network.weights.values()]
    for side in sorted(set(sides) - {model.N}):
        other = build_network(model.model_copy(update={"N": side}))
        if [weight.shape for weight in other.weights.values()] != shapes:
            raise DataError(
                f"expected scans of one pattern size for --architecture {model.architecture}, "
                f"whose weights depend on it, found N = {', '.join(map(str, sorted(sides)))}; "
                "train them apart, or crop or bin them to one size"
            )
