"""Optimisers, step for step those of the Torch backend.

Keras' own add ε to another quantity (√v before its bias is corrected), which at the small
gradients of a normalised loss gives other runs; a bundle and a curve shall not tell which backend
made them.
"""

from collections.abc import Sequence

import tensorflow as tf
from tensorflow import Tensor

from ptychoconfig.schema import TrainingConfig

__all__ = ["Optimizer"]

_EPSILON = 1e-8


class Optimizer:
    """``sgd``, ``adam`` or ``adamw``, with decayed weights.

    D. Kingma & J. Ba, ICLR (2015), alg. 1; I. Loshchilov & F. Hutter, ICLR (2019), alg. 2.

    Args:
        config: which, and its settings.
        weights: what is to be learned.

    Attributes:
        memory: one or two variables per weight: running means of the gradient and of its square.
        steps: how many it has taken.
    """

    def __init__(self, config: TrainingConfig, weights: Sequence[tf.Variable]) -> None:
        self.config, self.weights = config, list(weights)
        kinds = ("momentum",) if config.optimizer == "sgd" else ("mean", "square")
        one = tf.VariableAggregation.ONLY_FIRST_REPLICA
        self.memory = {
            kind: [tf.Variable(tf.zeros_like(w), False, aggregation=one) for w in self.weights]
            for kind in kinds
        }
        self.steps = 0

    def forget(self) -> None:
        """Begin anew, without memory."""
        self.steps = 0
        for variables in self.memory.values():
            for variable in variables:
                variable.assign(tf.zeros_like(variable))

    def next_corrections(self) -> Tensor:
        """Count a step: what its two running means, that began at zero, fall short by."""
        self.steps += 1
        config = self.config
        return tf.constant([1 - config.beta1**self.steps, 1 - config.beta2**self.steps], tf.float32)

    def apply(self, gradients: Sequence[Tensor], rate: Tensor, corrections: Tensor) -> None:
        """Take a step; in every replica alike."""
        step = self._descend if self.config.optimizer == "sgd" else self._adapt
        for number, (weight, gradient) in enumerate(zip(self.weights, gradients, strict=True)):
            if self.config.optimizer == "adamw":
                weight.assign(weight * (1 - rate * self.config.weight_decay))
            elif self.config.weight_decay:
                gradient = gradient + self.config.weight_decay * weight
            step(number, gradient, rate, corrections)

    def _descend(self, number: int, gradient: Tensor, rate: Tensor, corrections: Tensor) -> None:
        momentum = self.memory["momentum"][number]
        momentum.assign(self.config.momentum * momentum + gradient)
        self.weights[number].assign_sub(rate * momentum)

    def _adapt(self, number: int, gradient: Tensor, rate: Tensor, corrections: Tensor) -> None:
        """In one operation, which adds ε to √v as it stands, before the correction of v."""
        root = tf.sqrt(corrections[1])
        tf.raw_ops.ResourceApplyAdam(
            var=self.weights[number].handle,
            m=self.memory["mean"][number].handle,
            v=self.memory["square"][number].handle,
            beta1_power=0.0,
            beta2_power=0.0,
            lr=rate * root / corrections[0],
            beta1=self.config.beta1,
            beta2=self.config.beta2,
            epsilon=_EPSILON * root,
            grad=gradient,
        )
