"""A look at what a network makes of a small part of the scan, every few epochs of its training."""

import logging
from collections.abc import Sequence

from ptychoconfig.payloads import TrainingPayload
from ptychodata.backends import Preview
from ptychodata.contracts import Reconstruction, Scan
from ptychodata.training.previews import as_it_stands, small_part

from .inference import infer
from .learner import Learner
from .logs import Log
from .weights import to_arrays

__all__ = ["Previews"]

_LOG = logging.getLogger(__name__)


class Previews:
    """Reconstructs the middle of the first scan, and hands the image on to be drawn and logged.

    It changes nothing in the training; what goes wrong in it is told and forgotten.

    Args:
        preview: draws an image; None for no previews.
        learner: what is trained.
        scans: what it is trained on.
        payload: settings of the run.
        log: takes the pictures.
    """

    def __init__(
        self,
        preview: Preview | None,
        learner: Learner,
        scans: Sequence[Scan],
        payload: TrainingPayload,
        log: Log,
    ) -> None:
        self.preview, self.learner, self.payload, self.log = preview, learner, payload, log
        self.every = payload.execution.preview_every if preview is not None else 0
        if self.every:
            self.part = small_part(scans[0])

    def draw(self, epoch: int) -> None:
        """Look after an epoch, counted from 0, if it is time."""
        if self.preview is None or not self.every or epoch % self.every:
            return
        try:
            self.log.show(epoch + 1, self.preview(epoch + 1, self._image()))
        except Exception as error:  # noqa: BLE001 - drawing and logging can raise anything
            _LOG.warning("no preview of epoch %d: %s: %s", epoch + 1, type(error).__name__, error)

    def _image(self) -> Reconstruction:
        """What the network as it stands makes of the part."""
        learner = self.learner
        weights, probe = to_arrays(learner.outcome), learner.probes[0].modes()
        bundle, settings = as_it_stands("tf", self.payload, weights, probe)
        return infer(bundle, self.part, settings, lambda _: None)
