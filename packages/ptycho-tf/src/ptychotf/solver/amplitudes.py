"""Measured amplitudes with DC at ``[0, 0]``, in batches of one size, as compiled programs need."""

import numpy as np
from numpy.typing import NDArray

from ptychodata import descent
from ptychodata.contracts import Scan

__all__ = ["Amplitudes"]


class Amplitudes:
    """√counts of a scan, a batch at a time; a short one is filled up with nothing.

    Args:
        scan: where they come from.
        size: B, patterns in each batch.
    """

    def __init__(self, scan: Scan, size: int) -> None:
        self._read, self.size = descent.Amplitudes(scan), size

    def chosen(self, index: NDArray[np.int64]) -> NDArray[np.int64]:
        """Numbers of the patterns of a batch, the first repeated to fill it up: (B,)."""
        return np.concatenate([index, np.full(self.size - len(index), index[0])])

    def root(self, index: NDArray[np.int64]) -> NDArray[np.float32]:
        """√counts: (B, N, N); 0 where it is filled up."""
        return self._filled(self._read.root(index))

    def weight(self, index: NDArray[np.int64]) -> NDArray[np.float32]:
        """Weights of the pixels, (B, N, N) or (B, 1, 1); 0 where it is filled up."""
        valid = self._read.valid(index)
        valid = np.ones((1, 1), np.float32) if valid is None else valid
        return self._filled(np.broadcast_to(valid, (len(index), *valid.shape[-2:])))

    def _filled(self, part: NDArray[np.float32]) -> NDArray[np.float32]:
        missing = self.size - len(part)
        return np.pad(part, [(0, missing), (0, 0), (0, 0)]) if missing else part
