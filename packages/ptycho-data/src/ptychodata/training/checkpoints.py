"""Checkpoints of any backend: where a run stands, what it belongs to, and which files are kept.

A checkpoint is taken between two optimiser steps and says how many batches of the epoch went into
the weights.  The batches and every random draw are functions of (seed, epoch, batch), so nothing
else needs to be restored but weights, optimiser, schedule and the figures of the run so far.
"""

import hashlib
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptychoconfig.describe import flag_name
from ptychoconfig.errors import ConfigError
from ptychoconfig.payloads import TrainingPayload
from ptychodata.backends import LAST_CHECKPOINT
from ptychodata.contracts import Scan
from ptychodata.files import atomic_path

__all__ = ["Place", "Shelf", "identity", "no_checkpoint", "place_of"]

_FORMAT = 2


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


def identity(backend: str, scans: Sequence[Scan], payload: TrainingPayload) -> dict[str, Any]:
    """What a checkpoint belongs to: the backend, the settings that change the result, the data."""
    digest = hashlib.sha256()
    for scan in scans:
        for array in (scan.positions_px, scan.photons, scan.photon_probe):
            digest.update(array.tobytes())
    settings = {
        f"{name}.{field}": value
        for name in ("model", "data", "training")
        for field, value in getattr(payload, name).model_dump(mode="json").items()
    }
    origin = {"backend": backend, "data": digest.hexdigest(), "settings": settings}
    return {"format": _FORMAT, **origin}


def place_of(found: Mapping[str, Any], origin: Mapping[str, Any], path: Path) -> Place:
    """Where the run of a checkpoint stands, which must be a run of the same settings and data.

    Args:
        found: what the checkpoint says of itself: ``identity``, ``epoch``, ``batch``, ``finished``.
        origin: what this run is, from ``identity``.
        path: the checkpoint.

    Raises:
        ConfigError: it is of another version or another run.
    """
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


def no_checkpoint(backend: str, path: Path, error: Exception) -> ConfigError:
    """What to raise where a file is no checkpoint of the backend."""
    return ConfigError(
        f"--resume {path}: expected a checkpoint of `ptycho train --backend {backend}`, found "
        f"none ({type(error).__name__}); go on with the backend that wrote it, or leave --resume "
        "out to start afresh"
    )


class Shelf:
    """The files of a run's checkpoints: the last state, and the best epochs.

    Args:
        run_dir: folder of the run.
        payload: settings of the run.
        monitor: figure that ranks the epochs.

    Attributes:
        last: file of the last state.
        best: [figure, file name] of the best epochs so far, the best first.
    """

    def __init__(self, run_dir: Path, payload: TrainingPayload, monitor: str) -> None:
        execution = payload.execution
        self.last, self.monitor = run_dir / LAST_CHECKPOINT, monitor
        self.keep, self.interval = execution.checkpoint_save_top_k, execution.checkpoint_interval
        self.sign = 1 if execution.checkpoint_mode == "min" else -1
        self.best: list[list[Any]] = []
        self._saved = time.monotonic()

    def open(self, fresh: bool) -> None:
        """Make the folder, and leave nothing of another run in it; start the clock.

        Args:
            fresh: the last state there is not this run's either.
        """
        self.last.parent.mkdir(exist_ok=True)
        self.clear(fresh)
        self.saved()

    def saved(self) -> None:
        """Know that the last state was saved now."""
        self._saved = time.monotonic()

    def is_late(self) -> bool:
        """Whether it is time to save again."""
        return time.monotonic() - self._saved >= self.interval

    def rank(self, epoch: int, figure: float) -> str | None:
        """Enter an epoch into the ranking; the name for a copy of its state if it is kept."""
        name = f"epoch={epoch:04d}-{self.monitor}={figure:.4g}.ckpt"
        ranked = sorted([*self.best, [figure, name]], key=lambda entry: self.sign * entry[0])
        self.best = ranked if self.keep == -1 else ranked[: self.keep]
        return name if [figure, name] in self.best else None

    def copy(self, name: str) -> None:
        """Keep the last state under another name too."""
        with atomic_path(self.last.with_name(name)) as temporary:
            shutil.copyfile(self.last, temporary)

    def clear(self, fresh: bool = False) -> None:
        """Remove epochs that are not among the best, and the last state too if that is old."""
        kept = {name for _, name in self.best} | (set() if fresh else {self.last.name})
        for path in self.last.parent.glob("*.ckpt"):
            if path.name not in kept:
                path.unlink()
