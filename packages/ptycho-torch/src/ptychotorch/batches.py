"""From scans to batches: groups of overlapping patterns, a pure function of (seed, epoch).

A group is a row of indices into its scan; patterns are read when a batch is made and never
copied before.  Every batch comes from one scan, because each scan has its own probe.  Of several
ranks each takes its part of every batch, so that together they see what one would.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from ptychoconfig.payloads import TrainingPayload
from ptychodata.contracts import Scan
from ptychodata.grouping import group_indices, split_spatially, split_validation
from ptychodata.physics import split_positions

__all__ = [
    "Batch",
    "GroupDataset",
    "GroupSampler",
    "Rows",
    "make_batch",
    "training_loader",
    "validation_loader",
]


class Rows(NamedTuple):
    """A batch before it is read.

    Args:
        scan: number of the scan.
        groups: (G, C) indices of its patterns.
        share: weight of the batch's mean loss in the mean over the ranks.
    """

    scan: int
    groups: NDArray[np.int64]
    share: float = 1.0

    def part(self, rank: int, ranks: int) -> "Rows":
        """Every ``ranks``-th group from ``rank`` on; one that does not count if there is none."""
        mine = self.groups[rank::ranks]
        share = len(mine) * ranks / len(self.groups)
        return Rows(self.scan, mine if share else self.groups[:1], share)


@dataclass(frozen=True, eq=False)
class Batch:
    """B patterns and where they lie in a canvas.

    Args:
        counts: (B, N, N) float32 photon counts, DC at ``[0, 0]``.
        valid: weights like ``counts`` or (N, N), DC at ``[0, 0]``; None = all 1.
        background: (N, N) expected counts, DC at ``[0, 0]``; None = none.
        pixel: (B, 2) int64 window centres in the canvas.
        fraction: (B, 2) float32 sub-pixel parts of the positions.
        shape: (H, W) of the canvas.
        scan: number of the scan.
        per_group: C, the patterns of a group, which stand together, the anchor first.
        share: weight of the mean loss of this batch, 1 unless several ranks share it unevenly.
    """

    counts: Tensor
    valid: Tensor | None
    background: Tensor | None
    pixel: Tensor
    fraction: Tensor
    shape: tuple[int, int]
    scan: int = 0
    per_group: int = 1
    share: float = 1.0

    def __len__(self) -> int:
        return int(self.counts.shape[0])

    @property
    def weight(self) -> int:
        """Patterns that count in a mean over ranks."""
        return len(self) if self.share else 0

    def to(self, device: torch.device) -> "Batch":
        """The same batch on ``device``."""
        moved: dict[str, Any] = {
            f.name: value.to(device, non_blocking=True)
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), Tensor)
        }
        return replace(self, **moved)

    def pin_memory(self) -> "Batch":
        """The same batch in page-locked memory; the loader calls this."""
        pinned: dict[str, Any] = {
            f.name: value.pin_memory()
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), Tensor)
        }
        return replace(self, **pinned)


def make_batch(
    scan: Scan, index: NDArray[np.int64], pixel: NDArray[np.int64], shape: tuple[int, int]
) -> Batch:
    """Read patterns and lay them into a canvas.

    Args:
        scan: where they come from.
        index: (B,) patterns to read.
        pixel: (B, 2) their window centres in the canvas.
        shape: (H, W) of the canvas.
    """
    _, fraction = split_positions(scan.positions_px[index])
    valid, background = scan.valid(index), scan.background
    return Batch(
        counts=_corner(scan.counts(index)),
        valid=None if valid is None else _corner(valid.astype(np.float32)),
        background=None if background is None else _corner(background),
        pixel=torch.from_numpy(pixel),
        fraction=torch.from_numpy(fraction.astype(np.float32)),
        shape=shape,
    )


def _corner(patterns: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.fft.ifftshift(patterns, axes=(-2, -1)))


class GroupDataset(Dataset[Batch]):
    """Reads the batch of patterns that a ``Rows`` names, each group in a square of its own."""

    def __init__(self, scans: Sequence[Scan]) -> None:
        self.scans = scans
        self.pixels = [split_positions(scan.positions_px)[0] for scan in scans]

    def __getitem__(self, rows: Rows | tuple[int, NDArray[np.int64]]) -> Batch:
        number, groups, share = Rows(*rows)
        scan, pixel = self.scans[number], self.pixels[number][groups]  # (G, C, 2)
        pixel = pixel - pixel.min(axis=1, keepdims=True) + scan.N // 2
        side = int(pixel.max()) + scan.N // 2
        pixel[..., 0] += side * np.arange(len(groups))[:, None]
        shape = (side * len(groups), side)
        batch = make_batch(scan, groups.reshape(-1), pixel.reshape(-1, 2), shape)
        return replace(batch, scan=number, per_group=groups.shape[1], share=share)


class GroupSampler(Sampler[Rows]):
    """The batches of an epoch: which groups stand together, as a function of (seed, epoch).

    Attributes:
        batches: number of batches in an epoch.
        epoch: which epoch.
        start: batches of the epoch to leave out, because an earlier run has seen them.
        rank, ranks: which part of each batch to give, of how many.
    """

    def __init__(
        self,
        scans: Sequence[Scan],
        kept: Sequence[NDArray[np.int64]],
        payload: TrainingPayload,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self.positions = [scan.positions_px[index] for scan, index in zip(scans, kept, strict=True)]
        self.kept, self.payload, self.epoch, self.start = kept, payload, 0, 0
        self.rank, self.ranks = rank, ranks
        self.batches = sum(
            -(-len(groups) // payload.training.batch_size) for groups in self._groups()
        )

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; the trainer calls this."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.batches - self.start

    def __iter__(self) -> Iterator[Rows]:
        size = self.payload.training.batch_size
        rows = [
            Rows(number, self.kept[number][groups[start : start + size]])
            for number, groups in enumerate(self._groups())
            for start in range(0, len(groups), size)
        ]
        order = np.random.default_rng([self.payload.training.seed, self.epoch, len(self.kept)])
        for i in order.permutation(len(rows))[self.start :]:
            yield rows[i].part(self.rank, self.ranks)

    def _groups(self) -> list[NDArray[np.int64]]:
        training = self.payload.training
        return [
            group_indices(
                positions,
                self.payload.model.gridsize,
                training.neighbor_count,
                np.random.default_rng([training.seed, self.epoch, number]),
                n_groups=training.n_groups,
                oversampling=training.oversampling,
                sequential=training.sequential,
            )
            for number, positions in enumerate(self.positions)
        ]


def training_loader(
    scans: Sequence[Scan], sampler: GroupSampler, payload: TrainingPayload
) -> DataLoader[Batch]:
    """The batches that ``sampler`` names."""
    return _loader(scans, sampler, payload)


def validation_loader(
    scans: Sequence[Scan],
    held_out: Sequence[NDArray[np.int64]],
    payload: TrainingPayload,
    rank: int = 0,
    ranks: int = 1,
) -> DataLoader[Batch]:
    """Batches of groups anchored at the ``held_out`` patterns, the same ones every epoch."""
    training, rows = payload.training, []
    for number, (scan, anchors) in enumerate(zip(scans, held_out, strict=True)):
        rng = np.random.default_rng([training.seed, number])
        groups = group_indices(
            scan.positions_px, payload.model.gridsize, training.neighbor_count, rng, sequential=True
        )[anchors]
        size = training.batch_size
        rows += [
            Rows(number, groups[start : start + size]).part(rank, ranks)
            for start in range(0, len(groups), size)
        ]
    return _loader(scans, rows, payload)


def _loader(scans: Sequence[Scan], rows: Any, payload: TrainingPayload) -> DataLoader[Batch]:
    execution = payload.execution
    working: dict[str, Any] = {}
    if execution.num_workers:  # which alone can prefetch and persist
        working["persistent_workers"] = execution.persistent_workers
        working["prefetch_factor"] = execution.prefetch_factor
    return DataLoader(
        GroupDataset(scans),
        sampler=rows,
        batch_size=None,
        num_workers=execution.num_workers,
        pin_memory=execution.pin_memory,
        **working,
    )


def split_scans(
    scans: Sequence[Scan], payload: TrainingPayload
) -> tuple[list[NDArray[np.int64]], list[NDArray[np.int64]]]:
    """Patterns of each scan to train on, and to hold out for validation."""
    training = payload.training
    if training.val_split == "spatial":
        pairs = [split_spatially(scan.positions_px, training.val_fraction) for scan in scans]
    else:
        pairs = [
            split_validation(len(scan), training.val_fraction, training.seed + number)
            for number, scan in enumerate(scans)
        ]
    return [kept for kept, _ in pairs], [held for _, held in pairs]
