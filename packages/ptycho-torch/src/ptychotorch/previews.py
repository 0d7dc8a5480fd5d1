"""A look at what a network makes of a small part of the scan, every few epochs of its training."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger
from numpy.typing import NDArray
from torch import nn

from ptychoconfig.payloads import TrainingPayload
from ptychodata.backends import Preview
from ptychodata.contracts import Reconstruction, Scan
from ptychodata.training.previews import as_it_stands, small_part

from .inference import infer
from .networks import Network
from .weights import to_arrays

__all__ = ["Previews"]

_log = logging.getLogger(__name__)


class Previews(Callback):
    """Reconstructs the middle of the first scan, and hands the image on to be drawn and logged.

    It changes nothing in the training; what goes wrong in it is told and forgotten.

    Args:
        preview: draws an image.
        network: what is trained.
        probe: gives the modes of the first scan, (M, N, N).
        scans: what it is trained on.
        payload: settings of the run.
    """

    def __init__(
        self,
        preview: Preview,
        network: Network,
        probe: nn.Module,
        scans: Sequence[Scan],
        payload: TrainingPayload,
    ) -> None:
        self.preview, self.network, self.probe, self.payload = preview, network, probe, payload
        self.every = payload.execution.preview_every
        self.part = small_part(scans[0])

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look, if it is time and the run goes on."""
        epoch = trainer.current_epoch
        if epoch % self.every or trainer.should_stop or not trainer.is_global_zero:
            return
        try:
            with torch.random.fork_rng():
                image = self._image()
            _show(trainer, self.preview(epoch + 1, image), epoch + 1)
        except Exception as error:  # noqa: BLE001 - drawing and logging can raise anything
            _log.warning("no preview of epoch %d: %s: %s", epoch + 1, type(error).__name__, error)

    def _image(self) -> Reconstruction:
        """What the network as it stands makes of the part."""
        probe = self.probe().detach().cpu().numpy()
        weights = to_arrays(self.network)
        bundle, settings = as_it_stands("torch", self.payload, weights, probe)
        return infer(bundle, self.part, settings, lambda _: None)


def _show(trainer: Trainer, picture: NDArray[np.uint8], epoch: int) -> None:
    """Give a picture, (h, w, 4), to the logger, if that takes pictures."""
    logger: Any = trainer.logger
    if isinstance(logger, TensorBoardLogger):
        logger.experiment.add_image("preview", picture[..., :3], epoch, dataformats="HWC")
    elif isinstance(logger, MLFlowLogger):
        name = f"preview/epoch_{epoch:03d}.png"
        logger.experiment.log_image(logger.run_id, picture, artifact_file=name)
