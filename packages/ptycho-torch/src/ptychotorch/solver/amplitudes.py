"""Measured amplitudes with DC at ``[0, 0]``, kept in memory where they fit."""

import os
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptychodata.contracts import Scan

__all__ = ["Amplitudes"]

_SHARE = 0.4
"""Largest share of the free memory that the amplitudes of a scan may take."""

_CHUNK = 64


class Amplitudes:
    """√counts of a scan, a batch at a time.

    Args:
        scan: where they come from.
        device: where they go.
    """

    def __init__(self, scan: Scan, device: torch.device) -> None:
        self.scan, self.device = scan, device
        self._kept: Tensor | None = None
        if len(scan) * scan.N**2 * 4 <= _SHARE * _free_bytes():
            kept = torch.empty(len(scan), scan.N, scan.N)
            for begin in range(0, len(scan), _CHUNK):
                index = np.arange(begin, min(begin + _CHUNK, len(scan)))
                kept[begin : begin + len(index)] = self._read(index)
            self._kept = kept.to(device)
        mask = scan.mask
        self._shared_mask = None if mask is None or mask.ndim == 3 else self._corner(mask)

    def root(self, index: NDArray[np.int64]) -> Tensor:
        """√counts of some patterns: (B, N, N) float32."""
        if self._kept is not None:
            return self._kept[torch.from_numpy(index)]
        return self._read(index).to(self.device)

    def valid(self, index: NDArray[np.int64]) -> Tensor | None:
        """Weights of their pixels, (N, N) or (B, N, N) float32; None where all are valid."""
        if self.scan.mask is None or self._shared_mask is not None:
            return self._shared_mask
        return self._corner(self.scan.mask[index])

    def _read(self, index: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(np.fft.ifftshift(self.scan.amplitude(index), axes=(-2, -1)))

    def _corner(self, mask: NDArray[Any]) -> Tensor:
        shifted = np.fft.ifftshift(mask.astype(np.float32), axes=(-2, -1))
        return torch.from_numpy(shifted).to(self.device)


def _free_bytes() -> float:
    """Memory that the system has free; unbounded where it does not say."""
    try:
        return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):  # not a POSIX system
        return float("inf")
