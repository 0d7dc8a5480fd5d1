"""Checkpoints: what a killed run goes on from, bit for bit.

A checkpoint is taken between two optimiser steps and says how many batches of the epoch went into
the weights.  The batches and every random draw are functions of (seed, epoch, batch), so nothing
else needs to be restored but weights, optimiser, schedule and the figures of the run so far.
Lightning's own place in its loops is not kept: a resumed run starts a fresh, shorter epoch.
"""

import hashlib
import io
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from ptychoconfig.describe import flag_name
from ptychoconfig.errors import ConfigError
from ptychoconfig.payloads import TrainingPayload
from ptychodata.backends import LAST_CHECKPOINT
from ptychodata.contracts import Scan
from ptychodata.files import atomic_path

from .progress import Reporter

__all__ = ["AtomicCheckpointIO", "Checkpoints", "Place", "identity", "read_place"]

_KEY, _FORMAT = "ptycho", 1


@dataclass(frozen=True)
class Place:
    """Where a run stands: ``batch`` batches of ``epoch`` are in the weights.

    Args:
        epoch, batch: counted from 0.
        finished: the run came to its end.
        path: the checkpoint it was read from; None at the start.
    """

    epoch: int = 0
    batch: int = 0
    finished: bool = False
    path: Path | None = None


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
        run_dir: folder of the run.
        progress: knows where the run stands.
        payload: settings of the run.
        origin: what a checkpoint belongs to, from ``identity``.
        monitor: figure that ranks the epochs.
    """

    def __init__(
        self,
        run_dir: Path,
        progress: Reporter,
        payload: TrainingPayload,
        origin: dict[str, Any],
        monitor: str,
    ) -> None:
        self.last = run_dir / LAST_CHECKPOINT
        self.progress, self.origin, self.monitor = progress, origin, monitor
        self.keep = payload.execution.checkpoint_save_top_k
        self.sign = 1 if payload.execution.checkpoint_mode == "min" else -1
        self.interval = payload.execution.checkpoint_interval
        self.best: list[list[Any]] = []  # [figure, file name], the best first
        self._resumed, self._first = False, 0
        self._saved = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        """The best epochs so far."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Know the best epochs of the run before it was interrupted."""
        self.best, self._resumed = state_dict["best"], True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the folder, and leave nothing of another run in it."""
        if trainer.is_global_zero:
            self.last.parent.mkdir(exist_ok=True)
            self._clear()
        self._first, self._saved = self.progress.epoch, time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save when it is time, between two optimiser steps."""
        if not self.progress.stepped or self.progress.batch == self.progress.batches:
            return  # gradients are being summed, or the epoch is about to be closed
        late = time.monotonic() - self._saved >= self.interval
        if self.progress.interrupted or trainer.strategy.reduce_boolean_decision(late, all=False):
            self._save(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save once all is done that ends an epoch: validation, ranking, the plateau schedule."""
        if trainer.current_epoch > self._first:
            self._close_epoch(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save what the run ended with, unless it was interrupted and that is saved."""
        if self.progress.batch == self.progress.batches:
            self.progress.epoch, self.progress.batch = self.progress.epoch + 1, 0
            self._close_epoch(trainer)
        elif self.progress.finished:
            self._save(trainer)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Say what the checkpoint belongs to, and where the run stands in our own terms."""
        progress = self.progress
        checkpoint[_KEY] = {
            **self.origin,
            "epoch": progress.epoch,
            "batch": progress.batch,
            "finished": progress.finished,
        }
        steps = "epoch_loop.automatic_optimization.optim_progress"
        loop = checkpoint["loops"]["fit_loop"]
        closed = dict.fromkeys(("ready", "started", "processed", "completed"), progress.epoch)
        checkpoint["loops"]["fit_loop"] = {
            "state_dict": {},
            "epoch_progress": {"total": closed, "current": dict(closed)},
            "epoch_loop.state_dict": {"_batches_that_stepped": trainer.global_step},
            steps: loop[steps],
        }

    def _close_epoch(self, trainer: Trainer) -> None:
        figure = float(trainer.callback_metrics[self.monitor])
        name = f"epoch={self.progress.epoch:04d}-{self.monitor}={figure:.4g}.ckpt"
        ranked = sorted([*self.best, [figure, name]], key=lambda entry: self.sign * entry[0])
        self.best = ranked if self.keep == -1 else ranked[: self.keep]
        self._save(trainer)
        if trainer.is_global_zero:
            if [figure, name] in self.best:
                with atomic_path(self.last.with_name(name)) as temporary:
                    shutil.copyfile(self.last, temporary)
            self._clear()

    def _save(self, trainer: Trainer) -> None:
        trainer.save_checkpoint(self.last)
        self._saved = time.monotonic()

    def _clear(self) -> None:
        """Remove epochs that are not among the best, and all of a run that is not continued."""
        kept = {name for _, name in self.best}
        for path in self.last.parent.glob("*.ckpt"):
            if path.name not in kept and (
                path != self.last or not (self._resumed or self.progress.history)
            ):
                path.unlink()


def identity(scans: Sequence[Scan], payload: TrainingPayload) -> dict[str, Any]:
    """What a checkpoint belongs to: the settings that change the result, and the data."""
    digest = hashlib.sha256()
    for scan in scans:
        for array in (scan.positions_px, scan.photons, scan.photon_probe):
            digest.update(array.tobytes())
    settings = {
        f"{name}.{field}": value
        for name in ("model", "data", "training")
        for field, value in getattr(payload, name).model_dump(mode="json").items()
    }
    return {"format": _FORMAT, "data": digest.hexdigest(), "settings": settings}


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
        raise ConfigError(
            f"--resume {path}: expected a checkpoint of `ptycho train`, found none "
            f"({type(error).__name__}); leave --resume out to start afresh"
        ) from error
    if found["format"] != _FORMAT:
        raise ConfigError(
            f"--resume {path}: expected a checkpoint of format {_FORMAT}, found "
            f"{found['format']}; continue it with the version of ptycho that wrote it"
        )
    if found["data"] != origin["data"]:
        raise ConfigError(
            f"--resume {path}: expected a checkpoint of these scans, found one of others; give "
            "the scans that it was trained on, or leave --resume out to start afresh"
        )
    for key, value in origin["settings"].items():
        if (before := found["settings"].get(key, value)) != value:
            raise ConfigError(
                f"{flag_name(key.partition('.')[2])}: expected {before!r}, as in the checkpoint "
                f"{path}, found {value!r}; give the same settings, or leave --resume out"
            )
    return Place(found["epoch"], found["batch"], found["finished"], path)
