"""Recognising a training that collapses: a network that says the same whatever it sees.

The usual ends are an object that is the same for every pattern, an amplitude that has stuck at a
bound, layers whose units are all silent, and light that runs away.  Losses do not show it: a flat
object explains much of a pattern.  Four figures of a batch do, and they cost little beside a step,
so they are taken a few times in the first epoch and once in each later one.  What is seen in
several checks on end, and not before half an epoch, is told.
"""

import logging
from contextlib import ExitStack
from dataclasses import dataclass, fields
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn

from ptychoconfig.errors import NumericalError
from ptychoconfig.payloads import TrainingPayload

from . import physics
from .batches import Batch
from .networks import build_network
from .networks._base import PatternNetwork
from .networks.unrolled import RmsNormSiLU

__all__ = ["Figures", "HealthMonitor", "faults", "figures"]

_LOG = logging.getLogger(__name__)

MIN_VARIATION, MIN_CONTRAST, MAX_DEAD, MAX_LIGHT = 0.02, 1e-3, 0.9, 100.0
"""Bounds on the figures (see ``Figures``); ``docs/performance.md`` has what healthy runs show."""

CHECKS, PATIENCE, RESTARTS = 12, 3, 3
"""Checks in the first epoch; how many on end make a fault; how often to begin anew."""

_FEWEST = 4  # groups that have a variation to speak of
_TINY = 1e-30
_ACTIVATIONS = (nn.ReLU, nn.GELU, nn.SiLU, RmsNormSiLU)


@dataclass(frozen=True)
class Figures:
    """What a batch of patches says of a network's health.

    Args:
        variation: how far patches differ from each other, over how far patterns do.
        contrast: standard deviation of a patch's amplitude over its mean, the mean of all.
        dead: share of the channels behind an activation that are the same everywhere.
        light: photons that the patches let through, over those measured.
    """

    variation: float
    contrast: float
    dead: float
    light: float

    def __str__(self) -> str:
        return ", ".join(f"{f.name} {getattr(self, f.name):.3g}" for f in fields(self))


def figures(
    patches: Tensor,
    shifted_probe: Tensor,
    batch: Batch,
    dead: float,
    answers: Tensor | None = None,
) -> Figures:
    """Take the figures where the probe shines.

    Args:
        patches: (B, N, N) complex object patches.
        shifted_probe: (B, M, N, N) modes in √photons.
        batch: their patterns.
        dead: share of dead channels.
        answers: (G, N, N) what the network said before it was moved by fractions of a pixel,
            which alone makes patches differ; None = ``patches``.
    """
    power = physics.coverage(shifted_probe)
    weight = power.mean(0) / power.mean(0).sum()  # (N, N)
    modulus = patches.abs()
    mean = (weight * modulus).sum((1, 2), keepdim=True)
    deviation = (weight * (modulus - mean).square()).sum((1, 2)).sqrt()
    varied = _variance(patches if answers is None else answers, weight)
    return Figures(
        variation=float((varied / _data_variance(batch)).sqrt()),
        contrast=float((deviation / mean[:, 0, 0].clamp_min(_TINY)).mean()),
        dead=dead,
        light=float((power * modulus.square()).sum() / batch.counts.sum().clamp_min(_TINY)),
    )


def _variance(images: Tensor, weight: Tensor) -> Tensor:
    """Mean square of what sets images (B, N, N) apart, over their mean square."""
    spread = (images - images.mean(0)).abs().square().mean(0)
    return (weight * spread).sum() / (weight * images.abs().square()).sum((1, 2)).mean()


def _data_variance(batch: Batch) -> Tensor:
    """The same of the measured amplitudes, less what photon noise adds to it.

    Amplitudes differ no more than the waves do, | |a| − |b| | ≤ |a − b|, so an object that
    explains the patterns varies at least as much.  The root of a Poisson count has the variance
    1/4, and less below one photon.
    """
    amplitude = batch.counts.sqrt()
    noise = batch.counts.clamp_max(1).sum() / (4 * batch.counts.sum().clamp_min(_TINY))
    return (_variance(amplitude, torch.ones_like(amplitude[0])) - noise).clamp_min(_TINY)


def faults(found: Figures) -> dict[str, str]:
    """What is wrong: name of the figure → a sentence's worth."""
    wrong = {
        "variation": (
            not found.variation >= MIN_VARIATION,
            f"the object is the same for every pattern (it varies {found.variation:.2g} times as "
            f"much as the patterns do, expected at least {MIN_VARIATION:g})",
        ),
        "contrast": (
            not found.contrast >= MIN_CONTRAST,
            f"the amplitude is constant (contrast {found.contrast:.2g}, expected at least "
            f"{MIN_CONTRAST:g})",
        ),
        "dead": (
            not found.dead <= MAX_DEAD,
            f"{found.dead:.0%} of the channels are dead (expected at most {MAX_DEAD:.0%})",
        ),
        "light": (
            not 1 / MAX_LIGHT <= found.light <= MAX_LIGHT,
            f"the expected rate is {found.light:.3g} times the measured one (expected "
            f"{1 / MAX_LIGHT:g} to {MAX_LIGHT:g})",
        ),
    }
    return {name: text for name, (is_wrong, text) in wrong.items() if is_wrong}


class _Look:
    """Looks into a network during one forward pass."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.channels = self.dead = 0
        self.last: tuple[Tensor, Tensor, Batch] | None = None
        self.answers: Tensor | None = None
        self.hooks: list[Any] = []

    def __enter__(self) -> "_Look":
        layers = [m for m in self.network.modules() if isinstance(m, _ACTIVATIONS)]
        self.hooks = [layer.register_forward_hook(self._count) for layer in layers]
        self.hooks.append(self.network.register_forward_hook(self._keep))
        if isinstance(self.network, PatternNetwork):
            self.hooks.append(self.network.generator.register_forward_hook(self._listen))
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self.hooks:
            hook.remove()

    def _count(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        low, high = torch.aminmax(output.detach().transpose(0, 1).flatten(1), dim=1)
        self.channels += len(low)
        self.dead += int((high - low <= 1e-6 * high.abs().max()).sum())

    def _keep(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, _, shifted, batch = inputs
        self.last = output.detach(), shifted.detach(), batch

    def _listen(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self.answers = output.detach().flatten(0, 1)

    def figures(self) -> Figures | None:
        """What was seen; None where too few patterns were."""
        if self.last is None or len(self.last[0]) < _FEWEST * self.last[2].per_group:
            return None
        return figures(*self.last, self.dead / max(1, self.channels), self.answers)


class HealthMonitor(Callback):
    """Looks at a network while it trains, and warns, stops or begins anew when it collapses.

    Args:
        payload: the network and how it trains; ``training.on_collapse`` says what to do.
        probes: what a new beginning starts from, as it is now.

    Attributes:
        seen: a line for each collapse.
    """

    def __init__(self, payload: TrainingPayload, probes: nn.Module) -> None:
        self.payload = payload
        self.seen: list[str] = []
        self._streak: dict[str, int] = {}
        self._begun = 0  # batches before the last new beginning
        self._stack = ExitStack()
        self._look: _Look | None = None
        self._probes = {name: tensor.clone() for name, tensor in probes.state_dict().items()}

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must know: the collapses so far."""
        return {"seen": list(self.seen), "streak": dict(self._streak), "begun": self._begun}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.seen, self._streak = list(state_dict["seen"]), dict(state_dict["streak"])
        self._begun = state_dict["begun"]

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Look into the network during this batch, if a check is due."""
        if _is_due(trainer.current_epoch, *_place(pl_module, batch_idx)):
            self._look = self._stack.enter_context(_Look(pl_module.network))

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: Any,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Judge what was seen."""
        if self._look is None:
            return
        self._stack.close()
        found, self._look = self._look.figures(), None
        wrong = faults(found) if found is not None else {}
        self._streak = {name: self._streak.get(name, 0) + 1 for name in wrong}
        done, batches = _place(pl_module, batch_idx)
        seen = trainer.current_epoch * batches + done + 1
        young = 2 * (seen - self._begun) < batches  # half an epoch to find its way
        told = [t for name, t in wrong.items() if not young and self._streak[name] >= PATIENCE]
        if trainer.strategy.reduce_boolean_decision(bool(told), all=False):  # all ranks as one
            self._begun = seen
            self._collapsed(trainer, pl_module, "; ".join(told) or "seen by another process")

    def _collapsed(self, trainer: Trainer, module: Any, what: str) -> None:
        action, first = self.payload.training.on_collapse, not self.seen
        where = f"at step {trainer.global_step} (epoch {trainer.current_epoch + 1})"
        self.seen.append(f"{where}: {what}")
        self._streak = {}
        if action == "restart" and len(self.seen) <= RESTARTS:
            _LOG.warning("the training collapsed %s: %s; beginning anew", where, what)
            self._begin_anew(trainer, module)
        elif action != "warn":
            raise NumericalError(
                f"expected a training that tells its patterns apart, found it collapsed {where}: "
                f"{what}; try another --seed, a lower --learning-rate, or --architecture unrolled"
            )
        elif first:
            _LOG.warning(
                "the training is collapsing %s: %s; if it lasts, try --on-collapse restart, "
                "another --seed, a lower --learning-rate, or --architecture unrolled",
                where,
                what,
            )

    def _begin_anew(self, trainer: Trainer, module: Any) -> None:
        """Other weights, the first probes, an optimiser without memory; the rate goes on."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.payload.training.seed + len(self.seen))
            fresh = build_network(self.payload.model).state_dict()
        module.network.load_state_dict(fresh)
        module.probes.load_state_dict(self._probes)
        for optimizer in trainer.optimizers:
            optimizer.state.clear()
            optimizer.zero_grad()


def _place(module: Any, batch_idx: int) -> tuple[int, int]:
    """Batches of this epoch before this one, those of an interrupted run included; and in all."""
    return module.sampler.start + batch_idx, module.batches


def _is_due(epoch: int, done: int, batches: int) -> bool:
    """A few times in the first epoch, then near the end of each, whose last batch is short."""
    if epoch == 0:
        return done % max(1, batches // CHECKS) == 0
    return done == max(0, batches - 2)
