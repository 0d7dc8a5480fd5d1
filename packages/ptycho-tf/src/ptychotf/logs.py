"""Figures and pictures for TensorBoard, in the run directory."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from ptychoconfig.errors import BackendError

__all__ = ["Log"]


class Log:
    """Writes for TensorBoard where ``--logger tensorboard`` asks for it, else nothing.

    Args:
        logger: ``execution.logger``.
        run_dir: folder of the run.

    Raises:
        BackendError: TensorBoard is not installed.
    """

    def __init__(self, logger: str, run_dir: Path) -> None:
        self._writer: Any = None
        if logger == "tensorboard":
            if not hasattr(tf.summary, "scalar"):
                raise BackendError(
                    "--logger tensorboard: expected the package tensorboard, found it is not "
                    "installed; run: pip install tensorboard, or use --logger csv"
                )
            self._writer = tf.summary.create_file_writer(str(run_dir / "tensorboard"))

    def write(self, epoch: int, figures: Mapping[str, float]) -> None:
        """Write the figures of an epoch, counted from 1."""
        if self._writer is not None:
            with self._writer.as_default(epoch):
                for name, value in figures.items():
                    tf.summary.scalar(name, value)
            self._writer.flush()

    def show(self, epoch: int, picture: NDArray[np.uint8]) -> None:
        """Write a picture, (h, w, 4), after an epoch, counted from 1."""
        if self._writer is not None:
            with self._writer.as_default(epoch):
                tf.summary.image("preview", picture[None, ..., :3])
