"""The networks that this backend can build: one file each.

A file ``fno.py`` in this folder is the network ``fno`` (``_`` in the name stands for ``-``), and
has

- ``SUMMARY``, one line on what it is, and
- ``build(model: ModelConfig) -> Network``, which refuses an N that the network cannot take.

Files that begin with ``_`` are shared by networks.  Settings of a network are declared in
``ptychoconfig.schema`` like any other.
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
    "find_networks",
    "merge_weight",
    "refuse_other_sizes",
]

Builder = Callable[[ModelConfig], Network]


def find_networks() -> dict[str, tuple[Builder, str]]:
    """Networks in this folder: name → how to build it, and what it is."""
    names = sorted(module.name for module in iter_modules(__path__) if module.name[0] != "_")
    modules = {name.replace("_", "-"): import_module(f"{__name__}.{name}") for name in names}
    return {name: (module.build, module.SUMMARY) for name, module in modules.items()}


NETWORKS = find_networks()


def build_network(model: ModelConfig) -> Network:
    """Build the network that ``model`` describes, with fresh weights.

    Raises:
        UsageError: no network of this name.
        ConfigError: the network does not take this N.
    """
    if model.architecture not in NETWORKS:
        choices = ", ".join(sorted(NETWORKS))
        raise UsageError(f"--architecture: expected one of {choices}, found {model.architecture!r}")
    return NETWORKS[model.architecture][0](model)


def refuse_other_sizes(network: Network, sides: Collection[int], model: ModelConfig) -> None:
    """See that one set of weights serves patterns of every side N.

    Raises:
        DataError: the network would have other weights for another N.
        ConfigError: the network does not take an N at all.
    """
    shapes = [weight.shape for weight in network.parameters()]
    for side in sorted(set(sides) - {model.N}):
        other = build_network(model.model_copy(update={"N": side}))
        if [weight.shape for weight in other.parameters()] != shapes:
            raise DataError(
                f"expected scans of one pattern size for --architecture {model.architecture}, "
                f"whose weights depend on it, found N = {', '.join(map(str, sorted(sides)))}; "
                "train them apart, or crop or bin them to one size"
            )
