"""Measured amplitudes with DC at ``[0, 0]``, on the device that computes."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptychodata import descent
from ptychodata.contracts import Scan

__all__ = ["Amplitudes"]


class Amplitudes:
    """√counts of a scan, a batch at a time.

    Args:
        scan: where they come from.
        device: where they go.
    """

    def __init__(self, scan: Scan, device: torch.device) -> None:
        self._read, self._device = descent.Amplitudes(scan), device
        kept = self._read.kept
        self._kept = None if kept is None else torch.from_numpy(kept).to(device)

    def root(self, index: NDArray[np.int64]) -> Tensor:
        """√counts of some patterns: (B, N, N) float32."""
        if self._kept is not None:
            return self._kept[torch.from_numpy(index)]
        return torch.from_numpy(self._read.root(index)).to(self._device)

    def valid(self, index: NDArray[np.int64]) -> Tensor | None:
        """Weights of their pixels, (N, N) or (B, N, N) float32; None where all are valid."""
        weights = self._read.valid(index)
        return None if weights is None else torch.from_numpy(weights).to(self._device)
