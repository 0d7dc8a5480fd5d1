"""Applying a trained network to a scan: a pass over its patterns per step, summed on one canvas.

With ``merge="scan"`` a batch of windows is cut out of the object, seen, and what it says is added
to the sums; after the pass the network updates the object once.  Memory is bounded by the batch
and the canvas, whatever the number of patterns.  The next batch is read while one is computed.  Of
several processes each takes its part of the batches, and the sums are those of all.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptychoconfig.errors import ConfigError, NumericalError
from ptychoconfig.payloads import InferencePayload
from ptychodata.backends import Progress, Report
from ptychodata.bundle import Bundle
from ptychodata.contracts import Reconstruction, Scan
from ptychodata.grouping import deal, group_indices, group_redundancy, redundancy
from ptychodata.patterns import ahead
from ptychodata.physics import split_positions
from ptychodata.probes import probe_for
from ptychodata.stitching import nearest_pattern, plan_canvas

from . import physics
from .batches import Batch, GroupDataset, make_batch
from .device import choose_device, choose_dtype
from .merging import refine
from .networks import FIELDS, Network, State, Sums, build_network, fields_of, merge_weight
from .ranks import Ranks, join
from .weights import from_arrays

__all__ = ["infer"]


@torch.inference_mode()
def infer(bundle: Bundle, scan: Scan, payload: InferencePayload, report: Report) -> Reconstruction:
    """Reconstruct a scan; see ``ptychodata.backends.Backend.infer``."""
    found = choose_device(payload.execution, several=True)
    ranks = join(payload.execution)
    device = ranks.device(found)
    network = build_network(payload.applied_model)
    from_arrays(network, dict(bundle.weights))
    network.compute_dtype = choose_dtype(payload.execution, device)
    network.to(device).eval()
    probe, source = probe_for(scan, bundle, payload.inference.probe)
    run = _Run(network, scan, torch.from_numpy(probe).to(device), payload, report, ranks)
    whole = payload.inference.merge == "scan"
    obj, sums = run.by_scan() if whole else run.by_group()
    if not torch.isfinite(torch.view_as_real(obj)).all():
        raise NumericalError(
            f"{scan.name}: expected a finite object, found NaN or infinity; check the scan with "
            "`ptycho inspect`, or use --precision 32-true"
        )
    coverage = sums.weight / sums.weight.max()
    alone = payload.inference.merge == "none"
    return Reconstruction(
        obj=obj.cpu().numpy().astype(np.complex64),
        coverage=coverage.cpu().numpy().astype(np.float32),
        origin_yx_px=run.origin.astype(np.float64),
        positions_px=scan.positions_px,
        probe=probe,
        pixel_size_m=scan.object_pixel_m,
        probe_source=source,
        disagreement=None if alone else sums.disagreement().cpu().numpy().astype(np.float32),
    )


class _Run:
    """One application of a network to a scan."""

    def __init__(
        self,
        network: Network,
        scan: Scan,
        probe: Tensor,
        payload: InferencePayload,
        report: Report,
        ranks: Ranks,
    ) -> None:
        self.network, self.scan, self.probe, self.report = network, scan, probe, report
        self.ranks = ranks
        self.payload, self.size = payload, payload.inference.batch_size
        self.shape, self.origin = plan_canvas(scan.positions_px, scan.N)
        self.pixel = split_positions(scan.positions_px)[0] - self.origin
        self.rows = self._groups(network.group_size)
        self.redundancy = redundancy(probe.cpu().numpy(), scan.positions_px)
        whole = payload.inference.merge == "scan"
        self.passes, self.done = network.steps if whole else 1, 0
        self.started = time.monotonic()

    def by_scan(self) -> tuple[Tensor, Sums]:
        """One pass per step over the whole scan: (H, W) object, and the last sums."""
        state = State.free_space((1, *self.shape), self.probe.device, self.redundancy)
        total = self._canvas()
        for step in range(self.network.steps):
            parts = deal(
                self.scan.positions_px, self.network.rounds(step, self.redundancy), seed=step
            )
            total.zero_()
            for part in parts:
                canvas = self._canvas() if len(parts) > 1 else total
                self._see(step, part, state, canvas)
                state = self.network.advance(step, state, Sums(canvas[None]))
                if len(parts) > 1:
                    total += canvas
            state = self.network.correct(step, state, Sums(total[None]))
        return state.obj[0], Sums(total)

    def _see(self, step: int, part: NDArray[np.int64], state: State, canvas: Tensor) -> None:
        """Add to a canvas what the patterns of a part say."""
        for batch in self._batches(self.rows[part]):
            shifted = physics.shift_probe(self.probe, batch.fraction)
            windows = physics.window_index(batch.pixel, self.scan.N, self.shape)
            patches = physics.gather(state.obj, windows)
            fields = self.network.see(step, patches, shifted, batch)
            physics.add_windows(canvas, fields, windows, batch.pixel)
            self._tell(len(batch) // batch.per_group)
        self.ranks.sum(canvas)

    def _batches(self, rows: NDArray[np.int64]) -> Iterator[Batch]:
        """The patterns of some groups, (G, C), on the whole scan's canvas."""

        def read(chunk: slice) -> Batch:
            index = rows[chunk].reshape(-1)
            batch = make_batch(self.scan, index, self.pixel[index], self.shape)
            return replace(batch, per_group=rows.shape[1])

        chunks = self._chunks(len(rows), rows.shape[1])
        return (batch.to(self.probe.device) for batch in ahead(map(read, chunks)))

    def by_group(self) -> tuple[Tensor, Sums]:
        """Every pattern with its neighbours, or alone; the whole scan is merged at the end only."""
        alone = self.payload.inference.merge == "none"
        if alone and self.network.group_size > 1:
            raise ConfigError(
                f"--merge none: expected a network that looks at one pattern alone, found "
                f"{self.payload.model.architecture} of gridsize {self.payload.model.gridsize}, "
                "which needs a group; use --merge scan, or train with --gridsize 1"
            )
        groups = self._groups(1 if alone else self.payload.model.C)
        side = int(np.ptp(self.pixel[groups], axis=1).max()) + self.scan.N
        dataset = GroupDataset([self.scan], side=side)  # the same side whatever the batch
        members = groups.shape[1]
        overlap = group_redundancy(self.redundancy, members, members - 1)
        canvas = self._canvas()
        chunks = list(self._chunks(len(self.scan), groups.shape[1]))
        read = ahead(dataset[0, groups[chunk]] for chunk in chunks)
        for chunk, made in zip(chunks, read, strict=True):
            batch = made.to(self.probe.device)
            shifted = physics.shift_probe(self.probe, batch.fraction)
            *_, patches = refine(self.network, shifted, batch, overlap)
            patches, shifted = patches[:: batch.per_group], shifted[:: batch.per_group]
            weight = merge_weight(shifted)
            index = groups[chunk, 0]
            if alone:
                mine = nearest_pattern(self.scan.positions_px, index, self.scan.N)
                weight = weight * torch.from_numpy(mine).to(weight)
            pixel = torch.from_numpy(self.pixel[index]).to(patches.device)
            windows = physics.window_index(pixel, self.scan.N, self.shape)
            physics.add_windows(canvas, fields_of(patches, weight), windows, pixel)
            self._tell(len(index))
        self.ranks.sum(canvas)
        sums = Sums(canvas)
        return torch.where(sums.weight > 0, sums.mean(), 1.0), sums

    def _canvas(self) -> Tensor:
        """Where fields are summed, in double precision."""
        return torch.zeros(*self.shape, FIELDS, dtype=torch.float64, device=self.probe.device)

    def _groups(self, size: int) -> NDArray[np.int64]:
        """Every pattern with its nearest neighbours: (P, size) indices, itself first."""
        return group_indices(
            self.scan.positions_px,
            math.isqrt(size),
            max(1, size - 1),
            np.random.default_rng(0),
            sequential=True,
        )

    def _chunks(self, count: int, per_pattern: int) -> Iterator[slice]:
        """Which of ``count`` groups this process computes together."""
        size = max(1, self.size // per_pattern)
        return self.ranks.mine(slice(at, min(at + size, count)) for at in range(0, count, size))

    def _tell(self, patterns: int) -> None:
        """Say how far the run is, after so many more patterns of this process."""
        total = self.passes * len(self.scan)
        self.done = min(total, self.done + patterns * self.ranks.count)
        elapsed = max(1e-9, time.monotonic() - self.started)
        self.report(
            Progress(
                phase="infer",
                done=self.done,
                total=total,
                epoch=1,
                epochs=1,
                metrics={},
                patterns_per_s=self.done / self.passes / elapsed,
                seconds_left=elapsed * (total - self.done) / self.done,
            )
        )
