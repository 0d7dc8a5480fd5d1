"""Applying a trained network to a scan: a pass over its patterns per step, summed on one canvas.

With ``merge="scan"`` a batch of windows is cut out of the object, seen, and what it says is added
to the sums; after the pass the network updates the object once.  Memory is bounded by the batch
and the canvas, whatever the number of patterns.  The next batch is read while one is computed.  Of
several processes each takes its part of the batches, and the sums are those of all.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptychoconfig.payloads import InferencePayload
from ptychodata.applying import Application
from ptychodata.backends import Report
from ptychodata.bundle import Bundle
from ptychodata.contracts import Reconstruction, Scan
from ptychodata.grouping import deal, group_redundancy
from ptychodata.patterns import ahead
from ptychodata.probes import probe_for
from ptychodata.stitching import nearest_pattern

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
    chosen = probe_for(scan, bundle, payload.inference.probe)
    run = _Run(network, scan, chosen[0], payload, report, ranks, device)
    whole = payload.inference.merge == "scan"
    obj, sums = run.by_scan() if whole else run.by_group()
    image, weight, apart = (x.cpu().numpy() for x in (obj, sums.weight, sums.disagreement()))
    return run.result(image, weight, apart, chosen)


class _Run(Application):
    """One application of a network to a scan."""

    def __init__(
        self,
        network: Network,
        scan: Scan,
        probe: NDArray[np.complex64],
        payload: InferencePayload,
        report: Report,
        ranks: Ranks,
        device: torch.device,
    ) -> None:
        super().__init__(
            scan,
            probe,
            payload,
            report,
            group_size=network.group_size,
            steps=network.steps,
            workers=ranks.count,
        )
        self.network, self.ranks = network, ranks
        self.probe = torch.from_numpy(probe).to(device)

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
                share = 1 / len(parts)
                state = self.network.advance(step, state, Sums(canvas[None]), share)
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
            self.tell(len(batch) // batch.per_group)
        self.ranks.sum(canvas)

    def _batches(self, rows: NDArray[np.int64]) -> Iterator[Batch]:
        """The patterns of some groups, (G, C), on the whole scan's canvas."""

        def read(chunk: slice) -> Batch:
            index = rows[chunk].reshape(-1)
            batch = make_batch(self.scan, index, self.pixel[index], self.shape)
            return replace(batch, per_group=rows.shape[1])

        chunks = self.ranks.mine(self.chunks(*rows.shape))
        return (batch.to(self.probe.device) for batch in ahead(map(read, chunks)))

    def by_group(self) -> tuple[Tensor, Sums]:
        """Every pattern with its neighbours, or alone; the whole scan is merged at the end only."""
        groups, side = self.separate_groups()
        dataset = GroupDataset([self.scan], side=side)  # the same side whatever the batch
        members = groups.shape[1]
        overlap = group_redundancy(self.redundancy, members, members - 1)
        canvas = self._canvas()
        chunks = list(self.ranks.mine(self.chunks(*groups.shape)))
        read = ahead(dataset[0, groups[chunk]] for chunk in chunks)
        for chunk, made in zip(chunks, read, strict=True):
            batch = made.to(self.probe.device)
            shifted = physics.shift_probe(self.probe, batch.fraction)
            *_, patches = refine(self.network, shifted, batch, overlap)
            patches, shifted = patches[:: batch.per_group], shifted[:: batch.per_group]
            weight = merge_weight(shifted)
            index = groups[chunk, 0]
            if self.alone:
                mine = nearest_pattern(self.scan.positions_px, index, self.scan.N)
                weight = weight * torch.from_numpy(mine).to(weight)
            pixel = torch.from_numpy(self.pixel[index]).to(patches.device)
            windows = physics.window_index(pixel, self.scan.N, self.shape)
            physics.add_windows(canvas, fields_of(patches, weight), windows, pixel)
            self.tell(len(index))
        self.ranks.sum(canvas)
        sums = Sums(canvas)
        return torch.where(sums.weight > 0, sums.mean(), 1.0), sums

    def _canvas(self) -> Tensor:
        """Where fields are summed, in double precision."""
        return torch.zeros(*self.shape, FIELDS, dtype=torch.float64, device=self.probe.device)
