"""Batches in Torch's tensors, read by its loader; what stands in them ``ptychodata`` decides."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ptychoconfig.payloads import TrainingPayload
from ptychodata.contracts import Scan
from ptychodata.training import batches
from ptychodata.training.batches import GroupReader, Rows, read_batch

__all__ = ["Batch", "GroupDataset", "make_batch", "make_loader"]


class Batch(batches.Batch[Tensor]):
    """B patterns and where they lie in a canvas, as tensors of one device."""

    def to(self, device: torch.device) -> "Batch":
        """The same batch on ``device``."""
        return Batch(**self.mapped(lambda tensor: tensor.to(device, non_blocking=True)))

    def pin_memory(self) -> "Batch":
        """The same batch in page-locked memory; the loader calls this."""
        return Batch(**self.mapped(Tensor.pin_memory))


def make_batch(
    scan: Scan, index: NDArray[np.int64], pixel: NDArray[np.int64], shape: tuple[int, int]
) -> Batch:
    """Read the patterns ``index`` and lay them into a canvas; see ``read_batch``."""
    return Batch(**read_batch(scan, index, pixel, shape).mapped(torch.from_numpy))


class GroupDataset(Dataset[Batch]):
    """Reads the batch of patterns that a ``Rows`` names, each group in a square of its own."""

    def __init__(
        self, scans: Sequence[Scan], *, side: int | None = None, labelled: bool = False
    ) -> None:
        self.reader = GroupReader(scans, side=side, labelled=labelled)

    def __getitem__(self, rows: Rows | tuple[int, NDArray[np.int64]]) -> Batch:
        return Batch(**self.reader.read(Rows(*rows)).mapped(torch.from_numpy))


def make_loader(
    scans: Sequence[Scan], rows: Iterable[Rows], payload: TrainingPayload
) -> DataLoader[Batch]:
    """Reads the batches ``rows``, a sampler or a list, in as many processes as are set."""
    execution = payload.execution
    working: dict[str, Any] = {}
    if execution.num_workers:  # which alone can prefetch and persist
        working["persistent_workers"] = execution.persistent_workers
        working["prefetch_factor"] = execution.prefetch_factor
    return DataLoader(
        GroupDataset(scans, labelled=payload.training.labelled),
        sampler=rows,
        batch_size=None,
        num_workers=execution.num_workers,
        pin_memory=execution.pin_memory,
        **working,
    )
