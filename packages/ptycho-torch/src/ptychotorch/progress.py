"""How far a training run is: told to the caller, kept as history, ended when asked."""

import csv
import time
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from ptychodata.backends import Progress, Report, ShouldStop
from ptychodata.files import atomic_path

from .batches import Batch

__all__ = ["Mean", "Reporter"]


class Mean:
    """A weighted mean that survives interruption and is one over all ranks."""

    def __init__(self) -> None:
        self.parts = [0.0, 0.0]

    def add(self, value: float, weight: float) -> None:
        """Count a value, weighted."""
        self.parts[0] += value * weight
        self.parts[1] += weight

    def take(self, module: LightningModule) -> float:
        """The mean over all ranks; begins anew."""
        parts = torch.tensor(self.parts, dtype=torch.float64)
        if module.trainer.world_size > 1:
            parts = parts.to(module.device)
            parts = module.trainer.strategy.reduce(parts, reduce_op="sum")  # type: ignore[assignment]
        self.parts = [0.0, 0.0]
        return float(parts[0] / parts[1])


class Reporter(Callback):
    """Tells the caller how far the run is, keeps the history, and ends the run when asked.

    ``epoch`` and ``batch`` are where the weights stand: batches of the epoch that went into them.
    While gradients are being summed they lag behind, because the sum is not part of a checkpoint.

    Args:
        report: called after each batch.
        should_stop: asked after each optimiser step.
        epochs: number of epochs of the run.
        batches: number of batches in an epoch.
        table: file for the figures of each epoch; None for no file.
    """

    def __init__(
        self,
        report: Report,
        should_stop: ShouldStop,
        epochs: int,
        batches: int,
        table: Path | None,
    ) -> None:
        self.report, self.should_stop = report, should_stop
        self.epochs, self.batches, self.table = epochs, batches, table
        self.history: dict[str, list[float]] = {}
        self.loss = Mean()
        self.epoch = self.batch = 0
        self.stepped = self.interrupted = self.finished = False
        self.begun = self.started = time.monotonic()
        self._elapsed, self._first, self._seen = 0.0, 0, 0

    def state_dict(self) -> dict[str, Any]:
        """What a later run needs to go on."""
        return {
            "history": self.history,
            "loss": self.loss.parts,
            "epoch": self.epoch,
            "batch": self.batch,
            "finished": self.finished,
            "elapsed_s": time.monotonic() - self.started,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where ``state_dict`` was taken."""
        self.history, self.loss.parts = state_dict["history"], state_dict["loss"]
        self.epoch, self.batch = state_dict["epoch"], state_dict["batch"]
        self._elapsed, self._first = state_dict["elapsed_s"], self.batch

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self.begun = time.monotonic()
        self.started = self.begun - self._elapsed  # as if never interrupted
        pl_module.started = self.started  # type: ignore[assignment]

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count a new epoch."""
        if trainer.current_epoch > self.epoch:  # else a resumed one goes on within
            self.epoch, self.batch, self._first = trainer.current_epoch, 0, 0

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Tell how far the run is, and end it if asked."""
        self._seen += len(batch)
        self.loss.add(float(outputs["final"]), batch.weight)
        done = self._first + batch_idx + 1
        self.stepped = done == self.batches or done % trainer.accumulate_grad_batches == 0
        self.batch = done if self.stepped else self.batch
        self._tell("train", done, {"loss": float(outputs["loss"])}, trainer)
        if self.stepped and trainer.strategy.reduce_boolean_decision(self.should_stop(), all=False):
            trainer.should_stop = True
            self.interrupted = True
            if done < self.batches:
                trainer.limit_val_batches = 0

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the epoch's figures to the history."""
        metrics = {
            "train_loss": self.loss.take(pl_module),
            "learning_rate": float(trainer.optimizers[0].param_groups[0]["lr"]),
        }
        pl_module.log_dict(metrics)
        if "val_loss" in trainer.callback_metrics and trainer.limit_val_batches:
            metrics["val_loss"] = float(trainer.callback_metrics["val_loss"])
        for name, value in metrics.items():
            self.history.setdefault(name, []).append(value)
        if self.table is not None and trainer.is_global_zero:
            self._write_table(self.table)
        self._tell("epoch", self.batch or self.batches, metrics, trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say whether anything is left to do."""
        all_done = self.epoch + 1 == self.epochs and self.batch == self.batches
        self.finished = all_done or not self.interrupted

    def _write_table(self, path: Path) -> None:
        with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["epoch", *self.history])
            figures = zip_longest(*self.history.values(), fillvalue="")
            rows.writerows([epoch, *row] for epoch, row in enumerate(figures, start=1))

    def _tell(self, phase: str, batches: int, metrics: dict[str, float], trainer: Trainer) -> None:
        now = time.monotonic()
        elapsed = max(1e-9, now - self.started)
        done = trainer.current_epoch + batches / self.batches
        left, limit = elapsed * (self.epochs - done) / done, _max_time(trainer)
        self.report(
            Progress(
                phase=phase,
                done=batches,
                total=self.batches,
                epoch=trainer.current_epoch + 1,
                epochs=self.epochs,
                metrics=metrics,
                patterns_per_s=self._seen * trainer.world_size / max(1e-9, now - self.begun),
                seconds_left=left if limit is None else max(0.0, min(left, limit - elapsed)),
            )
        )


def _max_time(trainer: Trainer) -> float | None:
    limit: float | None = trainer.lightning_module.config.max_time  # type: ignore[assignment, union-attr]
    return limit
