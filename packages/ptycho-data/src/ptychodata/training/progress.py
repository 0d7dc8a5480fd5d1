"""How far a training run is: told to the caller, kept as history, and taken up again."""

import csv
import time
from itertools import zip_longest
from pathlib import Path
from typing import Any

from ptychoconfig.payloads import TrainingPayload
from ptychodata.backends import Progress, Report
from ptychodata.files import atomic_path

__all__ = ["Course", "Mean"]


class Mean:
    """A weighted mean that survives interruption."""

    def __init__(self) -> None:
        self.parts = [0.0, 0.0]

    def add(self, value: float, weight: float) -> None:
        """Count a value, weighted."""
        self.parts[0] += value * weight
        self.parts[1] += weight

    def take(self) -> float:
        """The mean; begins anew."""
        total, weight = self.parts
        self.parts = [0.0, 0.0]
        return total / weight


class Course:
    """Where a run stands: tells the caller, and keeps the history.

    ``epoch`` and ``batch`` are where the weights stand: batches of the epoch that went into them.
    While gradients are being summed they lag behind, because the sum is not part of a checkpoint.

    Args:
        report: called after each batch.
        payload: settings of the run.
        batches: number of batches in an epoch.
        table: file for the figures of each epoch; None for no file.

    Attributes:
        epochs: number of epochs of the run.
        history: figure → one value per epoch.
        stepped: the last batch ended in an optimiser step.
        interrupted: the run was asked to end.
        finished: nothing is left to do.
        ranks: processes or devices that share each batch.
    """

    def __init__(
        self, report: Report, payload: TrainingPayload, batches: int, table: Path | None
    ) -> None:
        self.report, self.training = report, payload.training
        self.epochs, self.batches = payload.training.epochs_of(batches), batches
        self.table = table
        self.history: dict[str, list[float]] = {}
        self.epoch = self.batch = 0
        self.stepped = self.interrupted = self.finished = False
        self.ranks = 1
        self.begun = self.started = time.monotonic()
        self._elapsed, self._first, self._done, self._seen = 0.0, 0, 0, 0

    def state(self) -> dict[str, Any]:
        """What a later run needs to go on."""
        return {
            "history": self.history,
            "epoch": self.epoch,
            "batch": self.batch,
            "finished": self.finished,
            "elapsed_s": self.elapsed_s(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on where ``state`` was taken."""
        self.history, self.epoch, self.batch = state["history"], state["epoch"], state["batch"]
        self._elapsed, self._first = state["elapsed_s"], self.batch

    def elapsed_s(self) -> float:
        """Time since the run began, that of interrupted runs before it included."""
        return time.monotonic() - self.started

    def begin(self) -> None:
        """Start the clock."""
        self.begun = time.monotonic()
        self.started = self.begun - self._elapsed  # as if never interrupted

    def begin_epoch(self, epoch: int) -> None:
        """Count a new epoch; one that a resumed run begins within goes on."""
        if epoch > self.epoch:
            self.epoch, self.batch, self._first = epoch, 0, 0

    def count(self, number: int, patterns: int, loss: float) -> None:
        """Count a batch, and tell how far the run is.

        Args:
            number: of the batch in this run's part of the epoch, from 0.
            patterns: of this process in it.
            loss: of the batch.
        """
        self._seen += patterns
        self._done = self._first + number + 1
        steps = self.training.accumulate_grad_batches
        self.stepped = self._done == self.batches or self._done % steps == 0
        self.batch = self._done if self.stepped else self.batch
        self._tell("train", self._done, {"loss": loss})

    def interrupt(self) -> bool:
        """End the run at the caller's wish; True if that is within an epoch."""
        self.interrupted = True
        return self._done < self.batches

    def close_epoch(self, metrics: dict[str, float], writes: bool = True) -> None:
        """Add an epoch's figures to the history, and tell them."""
        for name, value in metrics.items():
            self.history.setdefault(name, []).append(value)
        if self.table is not None and writes:
            self._write_table(self.table)
        self._tell("epoch", self.batch or self.batches, metrics)

    def end(self) -> None:
        """Say whether anything is left to do."""
        all_done = self.epoch + 1 == self.epochs and self.batch == self.batches
        self.finished = all_done or not self.interrupted

    def _write_table(self, path: Path) -> None:
        with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["epoch", *self.history])
            figures = zip_longest(*self.history.values(), fillvalue="")
            rows.writerows([epoch, *row] for epoch, row in enumerate(figures, start=1))

    def _tell(self, phase: str, batches: int, metrics: dict[str, float]) -> None:
        now = time.monotonic()
        elapsed, limit = max(1e-9, now - self.started), self.training.max_time
        done = self.epoch + batches / self.batches
        left = elapsed * (self.epochs - done) / done
        self.report(
            Progress(
                phase=phase,
                done=batches,
                total=self.batches,
                epoch=self.epoch + 1,
                epochs=self.epochs,
                metrics=metrics,
                patterns_per_s=self._seen * self.ranks / max(1e-9, now - self.begun),
                seconds_left=left if limit is None else max(0.0, min(left, limit - elapsed)),
            )
        )
