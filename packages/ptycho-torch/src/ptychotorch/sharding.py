"""Weights that several devices share, each keeping a part: fully sharded data parallelism.

A part of the network is put together when it computes and taken apart afterwards; gradients are
summed in the same way, and each device steps its own part.
"""

from typing import Any

from torch import nn
from torch.distributed.fsdp import fully_shard

from ptychoconfig.errors import ConfigError
from ptychoconfig.payloads import TrainingPayload

__all__ = ["refuse_unshardable", "shard"]


def refuse_unshardable(payload: TrainingPayload) -> None:
    """See that what is asked for can be done with sharded weights.

    Raises:
        ConfigError: there is one device, or a setting needs the whole network in one place.
    """
    execution = payload.execution
    if execution.strategy != "fsdp":
        return
    place = "--strategy fsdp: expected"
    if execution.devices * execution.num_nodes == 1:
        raise ConfigError(f"{place} several devices, found one; raise --devices, or leave it out")
    if payload.training.on_collapse == "restart":
        raise ConfigError(
            f"{place} --on-collapse warn or stop, found restart, which draws the whole network "
            "anew; use --strategy ddp"
        )
    if execution.compile or execution.precision == "16-mixed":
        found = "--compile" if execution.compile else "--precision 16-mixed"
        raise ConfigError(f"{place} a network in 32 or bf16 bits, found {found}; use ddp")


def shard(network: nn.Module, mesh: Any) -> None:
    """Divide the weights of ``network`` among the devices of ``mesh``, part by part, in place."""
    for weight in network.parameters():
        weight.data = weight.data.contiguous()  # what can be divided
    for part in network.children():
        for module in part if isinstance(part, nn.ModuleList) else [part]:
            fully_shard(module, mesh=mesh)
    fully_shard(network, mesh=mesh)
