"""How the learning rate goes along a run, and how much the loss of each update step counts."""

import math
from collections.abc import Callable

from ptychoconfig.schema import TrainingConfig

__all__ = ["mean_share", "optimizer_steps", "rate_factor", "step_weights"]

_STEP_DISCOUNT = 0.5  # weight of an update step's loss relative to the next one's

_RISE, _FIRST, _LAST = 0.3, 1 / 25, 1 / 25e4  # of `one-cycle`: when it peaks, where it starts, ends


def step_weights(steps: int, *, even: bool = False) -> list[float]:
    """Weight of the loss after each of a network's update steps: the last one counts 1.

    Args:
        steps: how many.
        even: for logarithms of errors, in which a late step does not count less than an early one.
    """
    if even:
        return [1.0] * steps
    return [_STEP_DISCOUNT**k for k in reversed(range(steps))]


def mean_share(step: int, decay: float) -> float:
    """Share of the newest weights in their running mean, which begins as a plain mean.

    B. Polyak & A. Juditsky, SIAM J. Control Optim. 30, 838 (1992), with a memory of 1/(1 − decay)
    steps.

    Args:
        step: that has just been taken, from 0.
        decay: of the mean, in a step.
    """
    return max(1 - decay, 10 / (step + 10))


def optimizer_steps(training: TrainingConfig, batches: int) -> int:
    """Optimiser steps in an epoch of so many batches."""
    return -(-batches // training.accumulate_grad_batches)


def rate_factor(
    training: TrainingConfig, batches: int, elapsed_s: Callable[[], float]
) -> Callable[[int], float]:
    """Learning rate at an optimiser step, from 0, as a fraction of the peak.

    On a plateau (``plateau``) it is lowered by what happens, so that the factor here is 1.

    Args:
        training: scheduler and its settings.
        batches: number of batches in an epoch.
        elapsed_s: time since the run began, which ``max_time`` is measured against.
    """
    per_epoch = optimizer_steps(training, batches)
    total = training.epochs_of(batches) * per_epoch
    warmup = min(training.warmup_steps, total // 4)

    def warmup_cosine(step: int) -> float:
        done = step / total
        if training.max_time is not None:  # a run that time will cut short anneals in time
            done = max(done, elapsed_s() / training.max_time)
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
        warm = min(1.0, (step + 1) / (warmup + 1))
        return warm * (training.min_lr_ratio + (1 - training.min_lr_ratio) * cosine)

    def one_cycle(step: int) -> float:
        peak = _RISE * total - 1
        if step <= peak:
            return _cosine(_FIRST, 1.0, step / peak)
        return _cosine(1.0, _LAST, min(1.0, (step - peak) / (total - 1 - peak)))

    factors: dict[str, Callable[[int], float]] = {
        "constant": lambda step: 1.0,
        "plateau": lambda step: 1.0,
        "exponential": lambda step: training.lr_gamma ** (step // per_epoch),
        "warmup-cosine": warmup_cosine,
        "one-cycle": one_cycle,
    }
    return factors[training.scheduler]


def _cosine(start: float, end: float, done: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * done))
