"""Applying a trained network to a scan: a pass over its patterns per step, summed on one canvas.

With ``merge="scan"`` a batch of windows is cut out of the object, seen, and what it says is added
to the sums; after the pass the network updates the object once.  Memory is bounded by the batch
and the canvas, whatever the number of patterns.  The next batch is read while one is computed.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow import Tensor

from ptychoconfig.payloads import InferencePayload
from ptychodata.applying import Application
from ptychodata.backends import Report
from ptychodata.bundle import Bundle
from ptychodata.contracts import Reconstruction, Scan
from ptychodata.grouping import deal, group_redundancy
from ptychodata.patterns import ahead
from ptychodata.probes import probe_for
from ptychodata.stitching import nearest_pattern
from ptychodata.training.batches import Batch, GroupReader, Rows, read_batch

from . import physics
from .batches import batch_of, tensors_of
from .device import choose_device, choose_dtype
from .merging import refine
from .networks import FIELDS, Network, State, Sums, build_network, fields_of, merge_weight
from .weights import from_arrays

__all__ = ["infer"]


def infer(bundle: Bundle, scan: Scan, payload: InferencePayload, report: Report) -> Reconstruction:
    """Reconstruct a scan; see ``ptychodata.backends.Backend.infer``."""
    device = choose_device(payload.execution)
    with tf.device(device):
        network = build_network(payload.applied_model)
        from_arrays(network, dict(bundle.weights))
        network.compute_dtype = choose_dtype(payload.execution, device)
        chosen = probe_for(scan, bundle, payload.inference.probe)
        run = _Run(network, scan, chosen[0], payload, report)
        obj, sums = run.by_scan() if payload.inference.merge == "scan" else run.by_group()
        weight, apart = sums.weight.numpy(), sums.disagreement().numpy()
    return run.result(obj.numpy(), weight, apart, chosen)


class _Run(Application):
    """One application of a network to a scan."""

    def __init__(
        self,
        network: Network,
        scan: Scan,
        probe: NDArray[np.complex64],
        payload: InferencePayload,
        report: Report,
    ) -> None:
        group_size, steps = network.group_size, network.steps
        super().__init__(scan, probe, payload, report, group_size=group_size, steps=steps)
        self.network, self.probe = network, tf.constant(probe)
        self._said = tf.function(self._fields, autograph=False, reduce_retracing=True)

    def by_scan(self) -> tuple[Tensor, Sums]:
        """One pass per step over the whole scan: (H, W) object, and the last sums."""
        state = State.free_space((1, *self.shape), self.redundancy)
        total = self._canvas()
        for step in range(self.network.steps):
            parts = deal(
                self.scan.positions_px, self.network.rounds(step, self.redundancy), seed=step
            )
            total[:] = 0
            for part in parts:
                canvas = self._canvas() if len(parts) > 1 else total
                self._see(step, part, state.obj, canvas)
                said, share = Sums(tf.constant(canvas[None])), 1 / len(parts)
                state = self.network.advance(step, state, said, share)
                if len(parts) > 1:
                    total += canvas
            state = self.network.correct(step, state, Sums(tf.constant(total[None])))
        return state.obj[0], Sums(tf.constant(total))

    def _see(
        self, step: int, part: NDArray[np.int64], obj: Tensor, canvas: NDArray[np.float64]
    ) -> None:
        """Add to a canvas what the patterns of a part say."""
        for batch in self._batches(self.rows[part]):
            fields = self._said(tf.constant(step), obj, tensors_of(batch))
            physics.add_windows(canvas, fields.numpy(), batch.pixel)
            self.tell(len(batch) // self.group_size)

    def _fields(self, step: Tensor, obj: Tensor, given: dict[str, Tensor]) -> Tensor:
        """What the patterns of a batch say of an object, (1, H, W): (B, N, N, 5)."""
        batch = batch_of(given, self.shape, self.group_size)
        shifted = physics.shift_probe(self.probe, batch.fraction)
        patches = physics.extract(obj[0], batch.pixel, self.scan.N)
        return self.network.see(step, patches, shifted, batch)

    def _batches(self, rows: NDArray[np.int64]) -> Iterator[Batch[NDArray[Any]]]:
        """The patterns of some groups, (G, C), on the whole scan's canvas."""

        def read(chunk: slice) -> Batch[NDArray[Any]]:
            index = rows[chunk].reshape(-1)
            return read_batch(self.scan, index, self.pixel[index], self.shape)

        return ahead(map(read, self.chunks(*rows.shape)))

    def by_group(self) -> tuple[Tensor, Sums]:
        """Every pattern with its neighbours, or alone; the whole scan is merged at the end only."""
        groups, side = self.separate_groups()
        reader = GroupReader([self.scan], side=side)  # the same side whatever the batch
        members = groups.shape[1]
        canvas, made_of = (
            self._canvas(),
            tf.function(self._anchors, autograph=False, reduce_retracing=True),
        )
        chunks = list(self.chunks(*groups.shape))
        read = ahead(reader.read(Rows(0, groups[chunk])) for chunk in chunks)
        for chunk, batch in zip(chunks, read, strict=True):
            given = tensors_of(batch) | {"shape": tf.constant(batch.shape, tf.int64)}
            patches, weight = made_of(members, given)
            index = groups[chunk, 0]
            if self.alone:
                mine = nearest_pattern(self.scan.positions_px, index, self.scan.N)
                weight = weight * tf.constant(mine, weight.dtype)
            physics.add_windows(canvas, fields_of(patches, weight).numpy(), self.pixel[index])
            self.tell(len(index))
        sums = Sums(tf.constant(canvas))
        return tf.where(sums.weight > 0, sums.mean(), 1.0), sums

    def _anchors(self, members: int, given: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The windows of the first patterns of some groups, and how much each speaks for them."""
        batch = batch_of(given, tuple(tf.unstack(given["shape"])), members)
        shifted = physics.shift_probe(self.probe, batch.fraction)
        overlap = group_redundancy(self.redundancy, members, members - 1)
        patches = refine(self.network, shifted, batch, overlap)
        return patches[::members], merge_weight(shifted[::members])

    def _canvas(self) -> NDArray[np.float64]:
        """Where fields are summed, in double precision."""
        return np.zeros((*self.shape, FIELDS))
