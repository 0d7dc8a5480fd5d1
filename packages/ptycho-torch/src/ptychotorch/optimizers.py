"""The optimisers that the settings name."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from ptychoconfig.schema import TrainingConfig

__all__ = ["build_optimizer"]


def build_optimizer(
    weights: Iterable[nn.Parameter], config: TrainingConfig
) -> torch.optim.Optimizer:
    """The optimiser of ``weights``, at its peak learning rate."""
    shared: dict[str, Any] = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
    if config.optimizer == "sgd":
        return torch.optim.SGD(weights, momentum=config.momentum, **shared)
    kind = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
    return kind(weights, betas=(config.beta1, config.beta2), **shared)
