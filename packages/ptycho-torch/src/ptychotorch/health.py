"""What a collapse shows in Torch's tensors; ``ptychodata.training`` decides what it means."""

from contextlib import ExitStack
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn

from ptychoconfig.payloads import TrainingPayload
from ptychodata.training.health import CollapseWatch, Figures, is_due

from . import physics
from .batches import Batch
from .networks import build_network
from .networks._base import PatternNetwork
from .networks.unrolled import RmsNormSiLU

__all__ = ["HealthMonitor", "figures"]

_FEWEST = 4  # groups that have a variation to speak of
_TINY = 1e-30
_ACTIVATIONS = (nn.ReLU, nn.GELU, nn.SiLU, RmsNormSiLU)


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


class _Look:
    """Looks into a network during one forward pass."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.channels = self.dead = 0
        self.answers: Tensor | None = None
        self.hooks: list[Any] = []

    def __enter__(self) -> "_Look":
        layers = [m for m in self.network.modules() if isinstance(m, _ACTIVATIONS)]
        self.hooks = [layer.register_forward_hook(self._count) for layer in layers]
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

    def _listen(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self.answers = output.detach().flatten(0, 1)

    def figures(self, last: tuple[Tensor, Tensor, Batch] | None) -> Figures | None:
        """What was seen, with the last patches, their probe and their patterns.

        None where too few patterns were.
        """
        if last is None or len(last[0]) < _FEWEST * last[2].per_group:
            return None
        return figures(*last, self.dead / max(1, self.channels), self.answers)


class HealthMonitor(Callback):
    """Looks at a network while it trains, and warns, stops or begins anew when it collapses.

    Args:
        payload: the network and how it trains; ``training.on_collapse`` says what to do.
        probes: what a new beginning starts from, as it is now.
        scale: of its object (``first_scale``).
    """

    def __init__(self, payload: TrainingPayload, probes: nn.Module, scale: float) -> None:
        self.payload, self.scale = payload, scale
        self.watch = CollapseWatch(payload.training.on_collapse)
        self._stack = ExitStack()
        self._look: _Look | None = None
        self._probes = {name: tensor.clone() for name, tensor in probes.state_dict().items()}

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must know."""
        return self.watch.state()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.watch.load_state(state_dict)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Look into the network during this batch, if a check is due."""
        if is_due(trainer.current_epoch, *_place(pl_module, batch_idx)):
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
        found, self._look = self._look.figures(pl_module.last), None
        done, batches = _place(pl_module, batch_idx)
        done += trainer.current_epoch * batches + 1
        told = self.watch.judge(found, done, batches)
        if trainer.strategy.reduce_boolean_decision(bool(told), all=False):  # all ranks as one
            told = told or "seen by another process"
            if self.watch.collapsed(told, trainer.global_step, trainer.current_epoch, done):
                self._begin_anew(trainer, pl_module)

    def _begin_anew(self, trainer: Trainer, module: Any) -> None:
        """Other weights, the first probes, an optimiser without memory; the rate goes on."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.payload.training.seed + len(self.watch.seen))
            fresh = build_network(self.payload.model)
        fresh.scale_object(self.scale)
        for network in filter(None, (module.network, module.mean)):
            network.load_state_dict(fresh.state_dict())
        module.probes.load_state_dict(self._probes)
        for optimizer in trainer.optimizers:
            optimizer.state.clear()
            optimizer.zero_grad()


def _place(module: Any, batch_idx: int) -> tuple[int, int]:
    """Batches of this epoch before this one, those of an interrupted run included; and in all."""
    return module.sampler.start + batch_idx, module.batches
