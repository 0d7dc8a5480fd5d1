"""Lightning's trainer tells the course of the run, and ends it when asked."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from ptychodata.backends import ShouldStop
from ptychodata.training import progress
from ptychodata.training.progress import Course

from .batches import Batch

__all__ = ["Mean", "Reporter"]


class Mean(progress.Mean):
    """A weighted mean that survives interruption and is one over all ranks."""

    def take_of_all(self, module: LightningModule) -> float:
        """The mean over all ranks; begins anew."""
        if module.trainer.world_size > 1:
            parts = torch.tensor(self.parts, dtype=torch.float64, device=module.device)
            parts = module.trainer.strategy.reduce(parts, reduce_op="sum")  # type: ignore[assignment]
            self.parts = parts.tolist()
        return self.take()


class Reporter(Callback):
    """Keeps the course of the run.

    Args:
        course: where the run stands.
        should_stop: asked after each optimiser step.
    """

    def __init__(self, course: Course, should_stop: ShouldStop) -> None:
        self.course, self.should_stop, self.loss = course, should_stop, Mean()

    def state_dict(self) -> dict[str, Any]:
        """What a later run needs to go on."""
        return {**self.course.state(), "loss": self.loss.parts}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where ``state_dict`` was taken."""
        self.course.load_state(state_dict)
        self.loss.parts = state_dict["loss"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self.course.ranks = trainer.world_size
        self.course.begin()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count a new epoch."""
        self.course.begin_epoch(trainer.current_epoch)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Tell how far the run is, and end it if asked."""
        self.loss.add(float(outputs["final"]), batch.weight)
        self.course.count(batch_idx, len(batch), float(outputs["loss"]))
        if self.course.stepped and trainer.strategy.reduce_boolean_decision(
            self.should_stop(), all=False
        ):
            trainer.should_stop = True
            if self.course.interrupt():
                trainer.limit_val_batches = 0

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the epoch's figures to the history."""
        metrics = {
            "train_loss": self.loss.take_of_all(pl_module),
            "learning_rate": float(trainer.optimizers[0].param_groups[0]["lr"]),
        }
        pl_module.log_dict(metrics)
        if "val_loss" in trainer.callback_metrics and trainer.limit_val_batches:
            metrics["val_loss"] = float(trainer.callback_metrics["val_loss"])
        self.course.close_epoch(metrics, writes=trainer.is_global_zero)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say whether anything is left to do."""
        self.course.end()
