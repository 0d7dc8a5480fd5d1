"""Checkpoints of Lightning's trainer: what a killed run goes on from, bit for bit.

Lightning's own place in its loops is not kept: a resumed run starts a fresh, shorter epoch.
"""

import io
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from ptychodata.files import atomic_path
from ptychodata.training.checkpoints import Place, Shelf, no_checkpoint, place_of

from .progress import Reporter

__all__ = ["AtomicCheckpointIO", "Checkpoints", "read_place"]

_KEY = "ptycho"


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint whole or not at all, and reads tensors and plain values only."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Write ``checkpoint``; the one before survives a full disk or a kill.

        Raises:
            ConfigError: the folder is gone or the disk is full.
        """
        buffer = io.BytesIO()  # Torch's own writer hides why it could not write
        torch.save(checkpoint, buffer)
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            file.write(buffer.getbuffer())

    def load_checkpoint(
        self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Read a checkpoint without executing anything in it."""
        loaded: dict[str, Any] = torch.load(path, map_location=map_location, weights_only=True)
        return loaded


class Checkpoints(Checkpoint):
    """Keeps the last state and the best ones.

    Args:
        shelf: the files.
        progress: knows where the run stands.
        origin: what a checkpoint belongs to, from ``identity``.
    """

    def __init__(self, shelf: Shelf, progress: Reporter, origin: dict[str, Any]) -> None:
        self.shelf, self.progress, self.origin = shelf, progress, origin
        self._resumed, self._first = False, 0

    def state_dict(self) -> dict[str, Any]:
        """The best epochs so far."""
        return {"best": self.shelf.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Know the best epochs of the run before it was interrupted."""
        self.shelf.best, self._resumed = state_dict["best"], True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the folder, and leave nothing of another run in it."""
        if trainer.is_global_zero:
            self.shelf.open(fresh=not self._resumed)
        self._first = self.progress.course.epoch
        self.shelf.saved()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save when it is time, between two optimiser steps."""
        course = self.progress.course
        if not course.stepped or course.batch == course.batches:
            return  # gradients are being summed, or the epoch is about to be closed
        late = trainer.strategy.reduce_boolean_decision(self.shelf.is_late(), all=False)
        if course.interrupted or late:
            self._save(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save once all is done that ends an epoch: validation, ranking, the plateau schedule."""
        if trainer.current_epoch > self._first:
            self._close_epoch(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save what the run ended with, unless it was interrupted and that is saved."""
        course = self.progress.course
        if course.batch == course.batches:
            course.epoch, course.batch = course.epoch + 1, 0
            self._close_epoch(trainer)
        elif course.finished:
            self._save(trainer)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Say what the checkpoint belongs to, and where the run stands in our own terms."""
        course = self.progress.course
        checkpoint[_KEY] = {
            **self.origin,
            "epoch": course.epoch,
            "batch": course.batch,
            "finished": course.finished,
        }
        steps = "epoch_loop.automatic_optimization.optim_progress"
        loop = checkpoint["loops"]["fit_loop"]
        closed = dict.fromkeys(("ready", "started", "processed", "completed"), course.epoch)
        checkpoint["loops"]["fit_loop"] = {
            "state_dict": {},
            "epoch_progress": {"total": closed, "current": dict(closed)},
            "epoch_loop.state_dict": {"_batches_that_stepped": trainer.global_step},
            steps: loop[steps],
        }

    def _close_epoch(self, trainer: Trainer) -> None:
        figure = float(trainer.callback_metrics[self.shelf.monitor])
        name = self.shelf.rank(self.progress.course.epoch, figure)
        self._save(trainer)
        if trainer.is_global_zero:
            if name is not None:
                self.shelf.copy(name)
            self.shelf.clear()

    def _save(self, trainer: Trainer) -> None:
        trainer.save_checkpoint(self.shelf.last)
        self.shelf.saved()


def read_place(path: Path, origin: dict[str, Any]) -> Place:
    """Where the run of a checkpoint stands, which must be a run of the same settings and data.

    Args:
        path: the checkpoint.
        origin: what this run is, from ``identity``.

    Raises:
        ConfigError: it is no checkpoint of this version, or of another run.
    """
    try:
        found = AtomicCheckpointIO().load_checkpoint(path)[_KEY]
    except Exception as error:  # a damaged file can raise anything
        raise no_checkpoint("torch", path, error) from error
    return place_of(found, origin, path)
