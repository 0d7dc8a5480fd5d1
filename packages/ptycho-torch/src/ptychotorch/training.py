"""Training: minimise the misfit of the patterns that the network's object implies.

No ground truth is used.  In each step the network improves the patches of a few groups, the
overlapping patches of a group are merged and cut out again, and the forward model predicts the
patterns; the loss of every update step counts, the last one most.
"""

import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from numpy.typing import NDArray
from torch import Tensor, nn

import ptychoconfig
import ptychodata
from ptychoconfig.errors import NumericalError
from ptychoconfig.payloads import TrainingPayload
from ptychoconfig.schema import TrainingConfig
from ptychodata.backends import Progress, Report, ShouldStop
from ptychodata.bundle import Bundle
from ptychodata.contracts import Scan
from ptychodata.trust import training_statistics

from . import __version__, physics
from .batches import Batch, split_scans, training_loader, validation_loader
from .device import choose_device, choose_dtype
from .merging import refine
from .networks import Network, build_network
from .weights import to_arrays

__all__ = ["train"]

_STEP_DISCOUNT = 0.5  # weight of a step's loss relative to the next step's


def train(
    scans: Sequence[Scan],
    payload: TrainingPayload,
    run_dir: Path,
    report: Report,
    should_stop: ShouldStop = lambda: False,
) -> Bundle:
    """Train a network on the patterns of ``scans``; see ``ptychodata.backends.Backend.train``."""
    lightning.seed_everything(payload.training.seed, verbose=False)
    device = choose_device(payload.execution)
    network = build_network(payload.model)
    network.compute_dtype = choose_dtype(payload.execution, device)
    kept, held_out = split_scans(scans, payload)
    batches = training_loader(scans, kept, payload)
    held = validation_loader(scans, held_out, payload) if any(map(len, held_out)) else None
    model = _Training(network, scans, payload, "train_loss" if held is None else "val_loss")
    progress = _Reporter(report, should_stop)
    with _quiet_lightning():
        epochs = payload.training.epochs_of(len(batches))
        trainer = _trainer(payload, device, run_dir, progress, epochs, validates=held is not None)
        trainer.fit(model, batches, held)
    return _bundle(model, scans, payload, progress.history)


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
    """Network and probes, their loss and their optimiser."""

    def __init__(
        self, network: Network, scans: Sequence[Scan], payload: TrainingPayload, monitor: str
    ) -> None:
        super().__init__()
        self.network = network
        self.config: TrainingConfig = payload.training
        self.probes = nn.ModuleList(
            ProbeParameter(scan.photon_probe, payload.training.probe_trainable) for scan in scans
        )
        self.mean_photons = [scan.mean_photons for scan in scans]
        self.monitor = monitor
        self.started = time.monotonic()

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        losses = [self._misfit(rate, batch) for rate in self._rates(batch)]
        discounts = [_STEP_DISCOUNT**k for k in reversed(range(len(losses)))]
        loss: Tensor = sum(d * x for d, x in zip(discounts, losses, strict=True))  # type: ignore[assignment]
        if not torch.isfinite(loss):
            raise NumericalError(
                f"expected a finite loss, found {float(loss)} at step {self.global_step}; lower "
                "--learning-rate, or check the scan with `ptycho inspect`"
            )
        self.log("train_loss", losses[-1], on_step=False, on_epoch=True, batch_size=len(batch))
        return loss

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """The misfit of the held-out patterns, which are the anchors of their groups."""
        *_, rate = self._rates(batch)
        loss = self._misfit(rate, batch, anchors_only=True)
        self.log("val_loss", loss, batch_size=len(batch) // batch.per_group)

    def _rates(self, batch: Batch) -> Iterator[Tensor]:
        """Expected counts after each update step: (B, N, N), DC at ``[0, 0]``."""
        shifted = physics.shift_probe(self.probes[batch.scan](), batch.fraction)
        for patches in refine(self.network, shifted.detach(), batch):
            waves = physics.far_field(physics.exit_waves(shifted, patches), corner=True)
            yield physics.intensity(waves, batch.background)

    def _misfit(self, rate: Tensor, batch: Batch, anchors_only: bool = False) -> Tensor:
        stride = batch.per_group if anchors_only else 1
        counts, rate, valid = batch.counts[::stride], rate[::stride], batch.valid
        valid = valid[::stride] if valid is not None and valid.ndim == 3 else valid
        terms = (
            (self.config.poisson_weight, physics.poisson_deviance),
            (self.config.amplitude_weight, physics.amplitude_mse),
            (self.config.mae_weight, physics.amplitude_mae),
        )
        mean = self.mean_photons[batch.scan]
        parts = [w * loss(rate, counts, mean, valid) for w, loss in terms if w]
        return torch.stack(parts).sum()

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, loader: int) -> Batch:
        return batch.to(device)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        if self.config.probe_trainable:
            factor = self.trainer.optimizers[0].param_groups[0]["lr"] / self.config.learning_rate
            for probe in self._probes():
                probe.descend(self.config.probe_learning_rate * factor)

    def _probes(self) -> Iterator[ProbeParameter]:
        return (probe for probe in self.probes if isinstance(probe, ProbeParameter))

    def configure_gradient_clipping(self, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        """Clip the network's gradient alone: the probe's has another unit."""
        bound = self.config.gradient_clip_val
        if bound is None:
            return
        if self.config.gradient_clip_algorithm == "norm":
            nn.utils.clip_grad_norm_(self.network.parameters(), bound)
        else:
            nn.utils.clip_grad_value_(self.network.parameters(), bound)

    def configure_optimizers(self) -> Any:
        config = self.config
        shared: dict[str, Any] = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
        weights, betas = self.network.parameters(), (config.beta1, config.beta2)
        optimizer: torch.optim.Optimizer
        if config.optimizer == "sgd":
            optimizer = torch.optim.SGD(weights, momentum=config.momentum, **shared)
        else:
            kind = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
            optimizer = kind(weights, betas=betas, **shared)
        return {"optimizer": optimizer, "lr_scheduler": self._scheduler(optimizer)}

    def _scheduler(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        config = self.config
        if config.scheduler != "plateau":
            schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._rate_factor())
            return {"scheduler": schedule, "interval": "step"}
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer,
            factor=config.plateau_factor,
            patience=config.plateau_patience,
            threshold=config.plateau_threshold,
            min_lr=config.plateau_min_lr,
        )
        return {"scheduler": plateau, "interval": "epoch", "monitor": self.monitor}

    def _rate_factor(self) -> Callable[[int], float]:
        """Learning rate at a step, as a fraction of the peak."""
        config, total = self.config, max(1, int(self.trainer.estimated_stepping_batches))
        per_epoch = max(1, total // (self.trainer.max_epochs or 1))
        warmup = min(config.warmup_steps, total // 4)

        def warmup_cosine(step: int) -> float:
            done = step / total
            if config.max_time is not None:  # a run that time will cut short anneals in time
                done = max(done, (time.monotonic() - self.started) / config.max_time)
            cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
            warm = min(1.0, (step + 1) / (warmup + 1))
            return warm * (config.min_lr_ratio + (1 - config.min_lr_ratio) * cosine)

        factors: dict[str, Callable[[int], float]] = {
            "constant": lambda step: 1.0,
            "exponential": lambda step: config.lr_gamma ** (step // per_epoch),
            "warmup-cosine": warmup_cosine,
        }
        return factors[config.scheduler]


class _Reporter(Callback):
    """Tells the caller how far the run is, keeps the history, and ends the run when asked."""

    def __init__(self, report: Report, should_stop: ShouldStop) -> None:
        self.report, self.should_stop = report, should_stop
        self.history: dict[str, list[float]] = {}
        self.started = time.monotonic()
        self.seen = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.started = time.monotonic()
        pl_module.started = self.started  # type: ignore[assignment]

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        self.seen += len(batch)
        loss = float(outputs["loss"])
        self._tell("train", trainer, batch_idx + 1, {"loss": loss})
        if self.should_stop():
            trainer.should_stop = True
            trainer.limit_val_batches = 0

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        metrics = {k: float(v) for k, v in trainer.callback_metrics.items()} | {
            "learning_rate": rate
        }
        for name, value in metrics.items():
            self.history.setdefault(name, []).append(value)
        self._tell("epoch", trainer, int(trainer.num_training_batches), metrics)

    def _tell(self, phase: str, trainer: Trainer, batches: int, metrics: dict[str, float]) -> None:
        per_epoch, epochs = int(trainer.num_training_batches), trainer.max_epochs or 1
        elapsed = max(1e-9, time.monotonic() - self.started)
        done = trainer.current_epoch + batches / per_epoch
        left = elapsed * (epochs - done) / done
        limit = _max_time(trainer)
        self.report(
            Progress(
                phase=phase,
                done=batches,
                total=per_epoch,
                epoch=trainer.current_epoch + 1,
                epochs=epochs,
                metrics=metrics,
                patterns_per_s=self.seen / elapsed,
                seconds_left=left if limit is None else max(0.0, min(left, limit - elapsed)),
            )
        )


def _max_time(trainer: Trainer) -> float | None:
    config: TrainingConfig = trainer.lightning_module.config  # type: ignore[assignment]
    return config.max_time


def _trainer(
    payload: TrainingPayload,
    device: torch.device,
    run_dir: Path,
    progress: Callback,
    epochs: int,
    validates: bool,
) -> Trainer:
    training, execution = payload.training, payload.execution
    callbacks: list[Callback] = [progress]
    if execution.enable_checkpointing:
        callbacks.append(
            ModelCheckpoint(
                dirpath=run_dir / "checkpoints",
                monitor=execution.checkpoint_monitor if validates else "train_loss",
                mode=execution.checkpoint_mode,
                save_top_k=execution.checkpoint_save_top_k,
                save_last=True,
            )
        )
    if training.early_stop_patience is not None and validates:
        callbacks.append(EarlyStopping("val_loss", patience=training.early_stop_patience))
    return Trainer(
        accelerator={"cuda": "cuda", "mps": "mps"}.get(device.type, "cpu"),
        devices=execution.devices,
        precision="16-mixed" if execution.precision == "16-mixed" else "32-true",
        max_epochs=epochs,
        max_time=None if training.max_time is None else timedelta(seconds=training.max_time),
        accumulate_grad_batches=training.accumulate_grad_batches,
        deterministic=execution.deterministic,
        callbacks=callbacks,
        enable_checkpointing=execution.enable_checkpointing,
        logger=CSVLogger(run_dir, name="", version="") if execution.logger == "csv" else False,
        log_every_n_steps=1,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=run_dir,
    )


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Keep Lightning's advice on workers and loggers, which does not apply here, to itself."""
    import logging

    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            yield
    finally:
        logger.setLevel(level)


def _bundle(
    model: _Training,
    scans: Sequence[Scan],
    payload: TrainingPayload,
    history: Mapping[str, list[float]],
) -> Bundle:
    photons = np.concatenate([scan.photons for scan in scans])
    return Bundle(
        backend="torch",
        config={
            name: getattr(payload, name).model_dump(mode="json")
            for name in ("model", "data", "training")
        },
        weights=to_arrays(model.network),
        probes=tuple(probe().detach().cpu().numpy() for probe in model.probes),
        probe_learned=payload.training.probe_trainable,
        history=dict(history),
        statistics={
            "mean_photons": float(photons.mean()),
            "n_patterns": float(len(photons)),
            "n_scans": float(len(scans)),
            **training_statistics(scans),
        },
        versions={
            "ptycho-config": ptychoconfig.__version__,
            "ptycho-data": ptychodata.__version__,
            "ptycho-torch": __version__,
            "torch": torch.__version__,
            "lightning": lightning.__version__,
        },
    )
