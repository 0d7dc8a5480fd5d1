"""Applying a trained network to a scan, in batches, into one canvas.

With ``merge="scan"`` there is one pass over the scan per update step: a batch of patches is cut
out of the finished canvas, improved, and added to the next one.  Memory is bounded by the batch
and two canvases, whatever the number of patterns.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow import Tensor

from ptychoconfig.errors import ConfigError, NumericalError
from ptychoconfig.payloads import InferencePayload
from ptychodata.backends import Progress, Report
from ptychodata.bundle import Bundle
from ptychodata.contracts import Reconstruction, Scan
from ptychodata.grouping import group_indices
from ptychodata.physics import split_positions
from ptychodata.probes import probe_for
from ptychodata.stitching import Canvas, nearest_pattern, plan_canvas
from ptychodata.training.batches import GroupReader, Rows

from . import physics
from .batches import in_tensors, make_batch
from .device import choose_device, choose_dtype
from .merging import merge_weight, refine
from .networks import Network, build_network
from .weights import from_arrays

__all__ = ["infer"]


def infer(bundle: Bundle, scan: Scan, payload: InferencePayload, report: Report) -> Reconstruction:
    """Reconstruct a scan; see ``ptychodata.backends.Backend.infer``."""
    device = choose_device(payload.execution)
    with tf.device(device):
        network = build_network(payload.model)
        from_arrays(network, dict(bundle.weights))
        network.compute_dtype = choose_dtype(payload.execution, device)
        probe, source = probe_for(scan, bundle, payload.inference.probe)
        run = _Run(network, scan, tf.constant(probe), payload, report)
        canvas = run.by_scan() if payload.inference.merge == "scan" else run.by_group()
    obj = canvas.object()
    if not np.isfinite(obj).all():
        raise NumericalError(
            f"{scan.name}: expected a finite object, found NaN or infinity; check the scan with "
            "`ptycho inspect`, or use --precision 32-true"
        )
    return Reconstruction(
        obj=obj.astype(np.complex64),
        coverage=canvas.relative_coverage(),
        origin_yx_px=canvas.origin_yx_px.astype(np.float64),
        positions_px=scan.positions_px,
        probe=probe,
        pixel_size_m=scan.object_pixel_m,
        probe_source=source,
        disagreement=canvas.disagreement(),
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
    ) -> None:
        self.network, self.scan, self.probe, self.report = network, scan, probe, report
        self.payload, self.size = payload, payload.inference.batch_size
        self.shape, self.origin = plan_canvas(scan.positions_px, scan.N)
        self.pixel = split_positions(scan.positions_px)[0] - self.origin
        self.started = time.monotonic()

    def by_scan(self) -> Canvas:
        """One pass per update step, merging the whole scan in between."""
        canvas, current = Canvas(self.shape, self.origin), _in_tensor(np.ones(self.shape))
        rows = self._groups(self.network.group_size)
        for step in range(self.network.steps):
            last = step == self.network.steps - 1
            canvas = Canvas(self.shape, self.origin, spread=last)
            for chunk in self._chunks(step, self.network.steps, rows.shape[1]):
                index = rows[chunk].reshape(-1)
                batch = make_batch(self.scan, index, self.pixel[index], self.shape)
                batch = replace(batch, per_group=rows.shape[1])
                shifted = physics.shift_probe(self.probe, batch.fraction)
                patches = physics.extract(current, batch.pixel, self.scan.N)
                patches = self.network(step, patches, shifted, batch)
                canvas.add(patches.numpy(), self.pixel[index], merge_weight(shifted).numpy())
            current = _in_tensor(canvas.object())
        return canvas

    def by_group(self) -> Canvas:
        """Every pattern with its neighbours, or alone; the whole scan is merged at the end only."""
        alone = self.payload.inference.merge == "none"
        if alone and self.network.group_size > 1:
            raise ConfigError(
                f"--merge none: expected a network that looks at one pattern alone, found "
                f"{self.payload.model.architecture} of gridsize {self.payload.model.gridsize}, "
                "which needs a group; use --merge scan, or train with --gridsize 1"
            )
        groups = self._groups(1 if alone else self.payload.model.C)
        reader = GroupReader([self.scan])
        canvas = Canvas(self.shape, self.origin, spread=not alone)
        for index in self._chunks(0, 1, per_pattern=groups.shape[1]):
            batch = in_tensors(reader.read(Rows(0, groups[index])))
            shifted = physics.shift_probe(self.probe, batch.fraction)
            *_, patches = refine(self.network, shifted, batch)
            patches, shifted = patches[:: batch.per_group], shifted[:: batch.per_group]
            weight = merge_weight(shifted).numpy()
            if alone:
                weight = weight * nearest_pattern(self.scan.positions_px, index, self.scan.N)
            canvas.add(patches.numpy(), self.pixel[index], weight)
        return canvas

    def _groups(self, size: int) -> NDArray[np.int64]:
        """Every pattern with its nearest neighbours: (P, size) indices, itself first."""
        return group_indices(
            self.scan.positions_px,
            math.isqrt(size),
            max(1, size - 1),
            np.random.default_rng(0),
            sequential=True,
        )

    def _chunks(self, part: int, parts: int, per_pattern: int = 1) -> Iterator[NDArray[np.int64]]:
        """Indices of the patterns to compute together, telling how far the run is."""
        count, size = len(self.scan), max(1, self.size // per_pattern)
        for start in range(0, count, size):
            index = np.arange(start, min(start + size, count))
            yield index
            done = part * count + int(index[-1]) + 1
            elapsed = max(1e-9, time.monotonic() - self.started)
            self.report(
                Progress(
                    phase="infer",
                    done=done,
                    total=parts * count,
                    epoch=1,
                    epochs=1,
                    metrics={},
                    patterns_per_s=done / parts / elapsed,
                    seconds_left=elapsed * (parts * count - done) / done,
                )
            )


def _in_tensor(obj: NDArray[Any]) -> Tensor:
    return tf.constant(obj.astype(np.complex64))
