"""From scans to batches: groups of overlapping patterns, a pure function of (seed, epoch).

A group is a row of indices into its scan; patterns are read when a batch is made and never
copied before.  Every batch comes from one scan, because each scan has its own probe.  Of several
ranks each takes its part of every batch, so that together they see what one would.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, NamedTuple, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from ptychoconfig.payloads import TrainingPayload
from ptychodata.contracts import Scan
from ptychodata.grouping import (
    group_indices,
    group_redundancy,
    redundancy,
    split_spatially,
    split_validation,
)
from ptychodata.physics import split_positions
from ptychodata.training.labels import known_windows

__all__ = [
    "Batch",
    "GroupReader",
    "GroupSampler",
    "Rows",
    "group_redundancies",
    "hidden_members",
    "read_batch",
    "split_scans",
    "validation_rows",
]

Array = TypeVar("Array")


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
class Batch(Generic[Array]):
    """B patterns and where they lie in a canvas, in arrays of NumPy or of a framework.

    Args:
        counts: (B, N, N) float32 photon counts, DC at ``[0, 0]``.
        valid: weights like ``counts`` or (N, N), DC at ``[0, 0]``; None = all 1.
        background: (N, N) expected counts, DC at ``[0, 0]``; None = none.
        pixel: (B, 2) int64 window centres in the canvas.
        fraction: (B, 2) float32 sub-pixel parts of the positions.
        shape: (H, W) of the canvas.
        scan: number of the scan.
        per_group: C, the patterns of a group, which stand together, the anchor first.
        canvases: of how many canvases, one above the other, the canvas is made.
        share: weight of the mean loss of this batch, 1 unless several ranks share it unevenly.
        label: (B, N, N) complex64 known windows of the object, for supervised training.
    """

    counts: Array
    valid: Array | None
    background: Array | None
    pixel: Array
    fraction: Array
    shape: tuple[int, int]
    scan: int = 0
    per_group: int = 1
    canvases: int = 1
    share: float = 1.0
    label: Array | None = None

    def __len__(self) -> int:
        return int(self.counts.shape[0])  # type: ignore[attr-defined]  # of an array

    @property
    def weight(self) -> int:
        """Patterns that count in a mean over ranks."""
        return len(self) if self.share else 0

    @staticmethod
    def take(array: Any, index: Any) -> Any:
        """Some rows of an array; a framework whose tensors take no index has its own."""
        return array[index]

    def part(self, index: Any) -> Self:
        """Some of the patterns, on the same canvas."""
        fields, valid = dict(vars(self)), self.valid
        whole = valid is None or len(valid.shape) == 2  # type: ignore[attr-defined]  # of an array
        for name in ("counts", "pixel", "fraction", "label", *([] if whole else ["valid"])):
            fields[name] = None if fields[name] is None else self.take(fields[name], index)
        return type(self)(**fields)

    def mapped(self, change: Callable[[Array], Any]) -> dict[str, Any]:
        """Every field by its name, arrays changed: what a batch of another kind is made from."""
        fields = dict(vars(self))
        for name in ("counts", "valid", "background", "pixel", "fraction", "label"):
            if fields[name] is not None:
                fields[name] = change(fields[name])
        return fields


def read_batch(
    scan: Scan, index: NDArray[np.int64], pixel: NDArray[np.int64], shape: tuple[int, int]
) -> Batch[NDArray[Any]]:
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
        pixel=pixel,
        fraction=fraction.astype(np.float32),
        shape=shape,
    )


def _corner(patterns: NDArray[Any]) -> NDArray[Any]:
    return np.fft.ifftshift(patterns, axes=(-2, -1))


class GroupReader:
    """Reads the batch of patterns that a ``Rows`` names, each group in a square of its own.

    Args:
        scans: where the patterns come from.
        multiple: the squares' side is rounded up to a multiple of it.
        side: the squares' side; None = the least that holds the groups of a batch.
        labelled: read the known windows of the object too.
    """

    def __init__(
        self,
        scans: Sequence[Scan],
        multiple: int = 1,
        *,
        side: int | None = None,
        labelled: bool = False,
    ) -> None:
        self.scans, self.multiple, self.side, self.labelled = scans, multiple, side, labelled
        self.pixels = [split_positions(scan.positions_px)[0] for scan in scans]

    def read(self, rows: Rows) -> Batch[NDArray[Any]]:
        """The batch, in NumPy's arrays."""
        number, groups, share = rows
        scan, pixel = self.scans[number], self.pixels[number][groups]  # (G, C, 2)
        pixel = pixel - pixel.min(axis=1, keepdims=True) + scan.N // 2
        side = self.side or int(pixel.max()) + scan.N // 2
        side += -side % self.multiple
        pixel[..., 0] += side * np.arange(len(groups))[:, None]
        shape = (side * len(groups), side)
        index = groups.reshape(-1)
        batch = read_batch(scan, index, pixel.reshape(-1, 2), shape)
        label = known_windows(scan, index) if self.labelled else None
        return replace(
            batch,
            scan=number,
            per_group=groups.shape[1],
            canvases=len(groups),
            share=share,
            label=label,
        )


class GroupSampler:
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
        """Choose the epoch; a trainer calls this."""
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


_ONE_IN = 4


def hidden_members(per_group: int, together: bool = False) -> NDArray[np.int64]:
    """Members of a group that a network is not shown in training, and is to predict.

    One in four, the anchor among them: a network that is judged by the patterns that it was shown
    learns to reproduce their noise (J. Lehtinen et al., ICML (2018)).  None where a group has
    fewer, or the network takes it together.

    Args:
        per_group: C.
        together: whether the network must be given a group whole.
    """
    shows_all = together or per_group < _ONE_IN
    return np.arange(0, 0 if shows_all else per_group, _ONE_IN)


def group_redundancies(scans: Sequence[Scan], payload: TrainingPayload) -> list[float]:
    """How many probes of a training's group light a pixel, in each scan."""
    members, neighbors = payload.model.C, payload.training.neighbor_count
    return [
        group_redundancy(redundancy(scan.photon_probe, scan.positions_px), members, neighbors)
        for scan in scans
    ]


def validation_rows(
    scans: Sequence[Scan],
    held_out: Sequence[NDArray[np.int64]],
    payload: TrainingPayload,
    rank: int = 0,
    ranks: int = 1,
) -> list[Rows]:
    """Batches of groups anchored at the ``held_out`` patterns, the same ones every epoch."""
    training, rows = payload.training, []
    for number, (scan, anchors) in enumerate(zip(scans, held_out, strict=True)):
        rng = np.random.default_rng([training.seed, number])
        groups = group_indices(
            scan.positions_px, payload.model.gridsize, training.neighbor_count, rng, sequential=True
        )[anchors]
        # Large groups see the scan over and over: about twice is enough to tell by.
        groups = groups[:: max(1, groups.size // (2 * len(scan)))]
        size = training.batch_size
        rows += [
            Rows(number, groups[start : start + size]).part(rank, ranks)
            for start in range(0, len(groups), size)
        ]
    return rows


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
