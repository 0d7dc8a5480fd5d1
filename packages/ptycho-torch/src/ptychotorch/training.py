"""Training: minimise the misfit of the patterns that the network's object implies.

No ground truth is used.  In each step the network makes objects of a few groups of patterns, and
the forward model predicts patterns of the same groups that the network was not shown; the loss
after every pass counts, the last one most.  Where the object is known, or a teacher's stands for
it, windows are compared with it instead; those of `unrolled`, which is shown all patterns then,
canvas by canvas, as in pretraining.
"""

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ptychoconfig.errors import NumericalError
from ptychoconfig.payloads import TrainingPayload
from ptychoconfig.schema import TrainingConfig
from ptychodata import unrolled
from ptychodata.backends import Preview, Report, ShouldStop
from ptychodata.bundle import Bundle
from ptychodata.contracts import Scan
from ptychodata.training.batches import (
    GroupSampler,
    group_redundancies,
    split_scans,
    validation_rows,
)
from ptychodata.training.checkpoints import Place, Shelf, identity
from ptychodata.training.outcome import trained_bundle
from ptychodata.training.progress import Course
from ptychodata.training.schedule import mean_share, rate_factor, step_weights
from ptychodata.training.strength import first_scale

from . import __version__, physics
from .batches import Batch, make_loader
from .checkpoints import Checkpoints, read_place
from .clipping import clip_gradients
from .compiling import compile_network
from .device import choose_device, choose_dtype
from .health import HealthMonitor
from .merging import canvases, refine, unseen
from .networks import Network, build_network, refuse_other_sizes
from .networks.unrolled import typical
from .optimizers import build_optimizer
from .previews import Previews
from .progress import Mean, Reporter
from .sharding import refuse_unshardable, shard
from .trainer import build_trainer, quiet_lightning
from .weights import from_arrays, move_mean, to_arrays

__all__ = ["label_misfit", "object_error", "train"]


def train(
    scans: Sequence[Scan],
    payload: TrainingPayload,
    run_dir: Path,
    report: Report,
    should_stop: ShouldStop = lambda: False,
    resume: Path | None = None,
    preview: Preview | None = None,
    start: Bundle | None = None,
) -> Bundle:
    """Train a network on the patterns of ``scans``; see ``ptychodata.backends.Backend.train``."""
    refuse_unshardable(payload)
    lightning.seed_everything(payload.training.seed, verbose=False)
    device = choose_device(payload.execution, several=True)
    network, scale = build_network(payload.model), first_scale(scans, payload)
    if start is None:
        network.scale_object(scale)
    else:
        from_arrays(network, dict(start.weights))
    refuse_other_sizes(network, {scan.N for scan in scans}, payload.model)
    network.compute_dtype = choose_dtype(payload.execution, device)
    if payload.execution.compile:
        compile_network(network)
    origin = identity("torch", scans, payload)
    place = Place() if resume is None else read_place(resume, origin)
    model = _Training(network, scans, payload, place)
    table = run_dir / "metrics.csv" if payload.execution.logger != "none" else None
    course = model.course = Course(report, payload, model.batches, table)
    progress = Reporter(course, should_stop)
    callbacks: list[Callback] = [progress, HealthMonitor(payload, model.probes, scale)]
    if payload.execution.enable_checkpointing:
        shelf = Shelf(run_dir, payload, model.ranked_by)
        callbacks.append(Checkpoints(shelf, progress, origin))
    whole = not model.sharded  # else the first process alone could not apply the network
    if preview is not None and payload.execution.preview_every and whole:
        callbacks.append(Previews(preview, model.outcome, model.probes[0], scans, payload))
    with quiet_lightning():
        ends = place.epoch if place.finished else course.epochs
        trainer = build_trainer(payload, device, run_dir, callbacks, ends, model.validates)
        trainer.fit(model, ckpt_path=place.path)
    return trained_bundle(
        "torch",
        scans,
        payload,
        weights=to_arrays(model.outcome),
        probes=[probe().detach().cpu().numpy() for probe in model.probes],
        history=course.history,
        versions={
            "ptycho-torch": __version__,
            "torch": torch.__version__,
            "lightning": lightning.__version__,
        },
    )


def label_misfit(patches: Tensor, label: Tensor, light: Tensor) -> Tensor:
    """Σ w (2 ||O| − |Y|| + 4 |arg O Y*|) / Σ w, the absolute errors of amplitude and phase.

    Args:
        patches: (B, N, N) complex windows O of the object.
        label: (B, N, N) the known ones, Y.
        light: (B, N, N) weights w: what is not illuminated, no pattern tells of.
    """
    error = 2 * (patches.abs() - label.abs()).abs() + 4 * (patches * label.conj()).angle().abs()
    return (light * error).sum() / light.sum()


def object_error(obj: Tensor, known: Tensor, light: Tensor, *, absolute: bool = False) -> Tensor:
    r"""How far objects are from known ones, 0 for the known object: (G,).

    .. math::
        \varepsilon = \frac{\sum w\,|e^{-i\varphi} O - Y|^2}
                           {\sum w\,(|Y - \bar Y|^2 + 0.001)}, \qquad
        w = \min(W / \bar W, 1/4)

    with the mean Ȳ weighted by w, the typical illumination W̄ and the global phase
    φ = arg Σ w O Y*, which no pattern tells.

    Args:
        obj: (G, H, W) complex objects O.
        known: (G, H, W) known ones Y.
        light: (G, H, W) illumination W.
        absolute: φ = 0, for single patterns, which nothing brings to one phase afterwards.
    """
    weight = (light / typical(light)).clamp(max=0.25)
    inner = (weight * obj.detach() * known.conj()).sum((-2, -1), keepdim=True)
    phase = torch.ones_like(inner) if absolute else inner / inner.abs().clamp_min(1e-30)
    error = torch.view_as_real(obj * phase.conj() - known).square().sum(-1)
    mean = (weight * known).sum((-2, -1), keepdim=True) / weight.sum((-2, -1), keepdim=True)
    variance = (known - mean).abs().square() + unrolled.LEAST_VARIANCE
    return (weight * error).sum((-2, -1)) / (weight * variance).sum((-2, -1))


def known_canvases(batch: Batch, index: Tensor) -> Tensor:
    """Known windows put together, 0 where there are none: (G, H, W) complex.

    Args:
        batch: with labels.
        index: (B, N, N) its windows.
    """
    assert batch.label is not None
    parts = [batch.label.real, batch.label.imag, torch.ones_like(batch.label.real)]
    *sums, count = physics.scatter(torch.stack(parts, -1), index, batch.shape).unbind(-1)
    known = torch.complex(*sums) / count.clamp_min(1)
    return known.view(batch.canvases, -1, batch.shape[1])


class ProbeParameter(nn.Module):
    """A probe in √photons that may be learned, at constant power and centred.

    The parameter is the probe over its root-mean-square modulus, as real and imaginary parts, so
    that one learning rate fits any dose.
    """

    def __init__(self, probe: NDArray[np.complex64], trainable: bool) -> None:
        super().__init__()
        field = torch.view_as_real(torch.from_numpy(np.ascontiguousarray(probe)))
        self.rms = float(field.square().sum((0, -1)).mean().sqrt())
        self.field = nn.Parameter(field / self.rms, requires_grad=trainable)

    def forward(self) -> Tensor:
        """The modes in √photons: (M, N, N) complex64."""
        return torch.view_as_complex(self.field) * self.rms

    @torch.no_grad()
    def descend(self, step_length: float) -> None:
        """Take a gradient step of the given length, 1 being the classical step, and fix the gauge.

        With |O| near 1 the Hessian of the amplitude loss with respect to the normalised probe is
        2/N² on every pixel, which makes N²/2 the natural rate (A. Maiden & J. Rodenburg,
        Ultramicroscopy 109, 1256 (2009), eq. 7, with |O| = 1).  Unlike a step of Adam it leaves
        alone what the patterns say nothing about.
        """
        if self.field.grad is not None:
            self.field.sub_(self.field.grad, alpha=step_length * self.field.shape[-2] ** 2 / 2)
            self.field.grad = None
            self._fix_gauge()

    def _fix_gauge(self) -> None:
        """Restore the power, and move the centre of mass of Σ|P|² back to the middle.

        Both trade against the object, so the data do not determine them.
        """
        field = torch.view_as_complex(self.field)
        power = physics.coverage(field[None])[0]
        r = torch.arange(power.shape[-1], device=power.device) - power.shape[-1] // 2
        centre = torch.stack([(power.sum(1) * r).sum(), (power.sum(0) * r).sum()]) / power.sum()
        centred = physics.shift_probe(field, -centre[None])[0] / power.mean().sqrt()
        self.field.copy_(torch.view_as_real(centred))


class _Training(LightningModule):
    """Network and probes, their batches, their loss and their optimiser.

    Every random draw is a function of (seed, epoch, batch), so that a run can be taken up at any
    ``place``.
    """

    def __init__(
        self, network: Network, scans: Sequence[Scan], payload: TrainingPayload, place: Place
    ) -> None:
        super().__init__()
        self.scans, self.payload, self.place = scans, payload, place
        self.config: TrainingConfig = payload.training
        self.network = network
        self.mean = copy.deepcopy(network).requires_grad_(False) if self.config.ema_decay else None
        self.probes = nn.ModuleList(
            ProbeParameter(scan.photon_probe, payload.training.probe_trainable) for scan in scans
        )
        self.mean_photons = [scan.mean_photons for scan in scans]
        self.kept, self.held_out = split_scans(scans, payload)
        self.batches = GroupSampler(scans, self.kept, payload).batches
        self.validates = any(map(len, self.held_out))
        self.redundancies = group_redundancies(scans, payload)
        self.by_canvas = self.config.labelled and network.free_phase
        self.held_loss = Mean()
        self.sharded = payload.execution.strategy == "fsdp"
        self.last: tuple[Tensor, Tensor, Batch] | None = None
        self.course: Course

    @property
    def outcome(self) -> Network:
        """What is validated and kept: the network, or the one of its mean weights."""
        return self.mean or self.network

    @property
    def monitor(self) -> str:
        """The figure that tells whether the network still improves."""
        return "val_loss" if self.validates else "train_loss"

    @property
    def ranked_by(self) -> str:
        """The figure that ranks checkpoints."""
        return self.payload.execution.checkpoint_monitor if self.validates else "train_loss"

    def train_dataloader(self) -> DataLoader[Batch]:
        """The batches of this epoch that no earlier run has seen."""
        trainer, place = self.trainer, self.place
        rank, ranks = trainer.global_rank, trainer.world_size
        self.sampler = GroupSampler(self.scans, self.kept, self.payload, rank, ranks)
        self.sampler.epoch = trainer.current_epoch
        self.sampler.start = place.batch if trainer.current_epoch == place.epoch else 0
        # A shorter epoch needs a loader of its own; one for all others keeps its workers.
        shorter = self.sampler.start > 0
        trainer.reload_dataloaders_every_n_epochs = int(shorter)  # type: ignore[attr-defined]
        return make_loader(self.scans, self.sampler, self.payload)

    def val_dataloader(self) -> DataLoader[Batch] | list[Any]:
        """The held-out patterns, if there are any."""
        if not self.validates:
            return []
        rank, ranks = self.trainer.global_rank, self.trainer.world_size
        rows = validation_rows(self.scans, self.held_out, self.payload, rank, ranks)
        return make_loader(self.scans, rows, self.payload)

    def on_train_batch_start(self, batch: Batch, batch_index: int) -> None:
        """Draw what is random in the network from (seed, epoch, batch, rank)."""
        epoch, done = self.trainer.current_epoch, self.sampler.start + batch_index
        draw = [self.config.seed, epoch, done, self.trainer.global_rank]
        torch.manual_seed(int(np.random.SeedSequence(draw).generate_state(1)[0]))
        self.draws = np.random.default_rng(draw)

    def training_step(self, batch: Batch, batch_index: int) -> dict[str, Tensor]:
        losses = list(self._known(batch) if self.by_canvas else self._learned(batch))
        weights = step_weights(len(losses), even=self.by_canvas)
        loss: Tensor = sum(w * x for w, x in zip(weights, losses, strict=True))  # type: ignore[assignment]
        if not torch.isfinite(loss):
            raise NumericalError(
                f"expected a finite loss, found {float(loss)} at step {self.global_step}; lower "
                "--learning-rate, or check the scan with `ptycho inspect`"
            )
        return {"loss": loss * batch.share, "final": losses[-1].detach()}

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """The misfit of the held-out patterns, the anchors of groups, or the error around them."""
        if self.by_canvas:
            *_, loss = self._errors(self.outcome, batch)
        else:
            anchors = torch.arange(0, len(batch), batch.per_group)
            hidden = unseen(self.outcome, batch)
            *_, loss = self._misfits(self.outcome, batch, hidden, anchors)
        self.held_loss.add(float(loss), batch.weight / batch.per_group)

    def on_validation_epoch_end(self) -> None:
        """Tell the mean over the held-out patterns of all ranks."""
        self.log("val_loss", self.held_loss.take_of_all(self))

    def _learned(self, batch: Batch) -> Iterator[Tensor]:
        """The loss after each pass, of what the network was not shown, if there is any."""
        hidden = unseen(self.network, batch)
        judged = hidden if hidden.any() else ~hidden
        return self._misfits(self.network, batch, hidden, judged)

    def _known(self, batch: Batch) -> Iterator[Tensor]:
        """The error after each pass, the patterns of a round being other ones in each."""
        return self._errors(self.network, batch, self.draws)

    def _errors(
        self, network: Network, batch: Batch, rng: np.random.Generator | None = None
    ) -> Iterator[Tensor]:
        """The logarithm of the error after each pass, all patterns being shown."""
        shifted = physics.shift_probe(self.probes[batch.scan](), batch.fraction).detach()
        index = physics.window_index(batch.pixel, shifted.shape[-1], batch.shape)
        known = known_canvases(batch, index)
        overlap = self.redundancies[batch.scan]
        for state, sums in canvases(network, shifted, batch, overlap, rng=rng):
            self.last = physics.gather(state.obj.detach(), index), shifted, batch
            error = object_error(state.obj, known, sums.weight, absolute=batch.per_group == 1)
            yield torch.log(error + unrolled.LEAST_ERROR).mean()

    def _misfits(
        self, network: Network, batch: Batch, hidden: Tensor, judged: Tensor
    ) -> Iterator[Tensor]:
        """The loss after each pass, of the patterns ``judged``, when some are ``hidden``."""
        shifted = physics.shift_probe(self.probes[batch.scan](), batch.fraction)
        counted, overlap = batch.part(judged), self.redundancies[batch.scan]
        for patches in refine(network, shifted.detach(), batch, overlap, hidden):
            self.last = patches.detach(), shifted.detach(), batch
            if counted.label is not None:
                light = physics.coverage(shifted[judged])
                yield label_misfit(patches[judged], counted.label, light)
            else:
                yield self._misfit(patches[judged], shifted[judged], counted)

    def _misfit(self, patches: Tensor, shifted: Tensor, batch: Batch) -> Tensor:
        waves = physics.far_field(physics.exit_waves(shifted, patches), corner=True)
        rate = physics.intensity(waves, batch.background)
        terms = (
            (self.config.poisson_weight, physics.poisson_deviance),
            (self.config.amplitude_weight, physics.amplitude_mse),
            (self.config.mae_weight, physics.amplitude_mae),
        )
        mean = self.mean_photons[batch.scan]
        parts = [w * loss(rate, batch.counts, mean, batch.valid) for w, loss in terms if w]
        return torch.stack(parts).sum()

    def configure_model(self) -> None:
        """Divide the network among the devices, if it is to be; the trainer calls this."""
        if self.sharded:
            for network in filter(None, (self.network, self.mean)):
                shard(network, self.device_mesh["data_parallel"])  # type: ignore[index]

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, loader: int) -> Batch:
        return batch.to(device)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        step = self.global_step
        super().optimizer_step(*args, **kwargs)
        if self.mean is not None:
            move_mean(self.mean, self.network, mean_share(step, self.config.ema_decay))
        if self.config.probe_trainable:
            factor = self.trainer.optimizers[0].param_groups[0]["lr"] / self.config.learning_rate
            for probe in self._probes():
                if self.sharded and probe.field.grad is not None:  # which is not divided
                    probe.field.grad = self.trainer.strategy.reduce(probe.field.grad)  # type: ignore[assignment]
                probe.descend(self.config.probe_learning_rate * factor)

    def _probes(self) -> Iterator[ProbeParameter]:
        return (probe for probe in self.probes if isinstance(probe, ProbeParameter))

    def configure_gradient_clipping(self, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        """Clip the network's gradient alone: the probe's has another unit."""
        bound = self.config.gradient_clip_val
        if bound is None:
            return
        clip_gradients(self.network.parameters(), self.config.gradient_clip_algorithm, bound)

    def configure_optimizers(self) -> Any:
        optimizer = build_optimizer(self.network.parameters(), self.config)
        return {"optimizer": optimizer, "lr_scheduler": self._scheduler(optimizer)}

    def _scheduler(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        config = self.config
        if config.scheduler != "plateau":
            factor = rate_factor(config, self.batches, self.course.elapsed_s)
            schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
            return {"scheduler": schedule, "interval": "step"}
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer,
            factor=config.plateau_factor,
            patience=config.plateau_patience,
            threshold=config.plateau_threshold,
            min_lr=config.plateau_min_lr,
        )
        return {"scheduler": plateau, "interval": "epoch", "monitor": self.monitor}
