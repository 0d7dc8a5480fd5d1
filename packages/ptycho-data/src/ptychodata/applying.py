"""How a network is led over a scan: canvas, groups, chunks and progress, alike on every backend."""

import math
import time
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ptychoconfig.errors import ConfigError, NumericalError
from ptychoconfig.payloads import InferencePayload

from .backends import Progress, Report
from .contracts import Reconstruction, Scan
from .grouping import group_indices, redundancy
from .physics import split_positions
from .stitching import plan_canvas

__all__ = ["Application"]


class Application:
    """One application of a network to a scan.

    Args:
        scan: what it is applied to.
        probe: (M, N, N) modes, √photons.
        payload: settings.
        report: told how far it is.
        group_size: patterns that the network must be given together.
        steps: passes that it makes over the patterns.
        workers: processes that share the work, this one included.

    Attributes:
        shape: (H, W) of the canvas.
        origin: (2,) int64 position of its pixel [0, 0].
        pixel: (P, 2) int64 window centres in it.
        rows: (P, group_size) every pattern with its nearest neighbours.
        redundancy: how many probes light a pixel.

    Raises:
        DataError: the canvas would be absurdly large.
    """

    def __init__(
        self,
        scan: Scan,
        probe: NDArray[np.complex64],
        payload: InferencePayload,
        report: Report,
        *,
        group_size: int,
        steps: int,
        workers: int = 1,
    ) -> None:
        self.scan, self.payload, self.report = scan, payload, report
        self.shape, self.origin = plan_canvas(scan.positions_px, scan.N)
        self.pixel = split_positions(scan.positions_px)[0] - self.origin
        self.group_size, self.rows = group_size, self._groups(group_size)
        self.redundancy = redundancy(probe, scan.positions_px)
        self.passes = steps if payload.inference.merge == "scan" else 1
        self.workers, self.done, self.started = workers, 0, time.monotonic()

    @property
    def alone(self) -> bool:
        """Whether every pattern is looked at alone (``merge="none"``)."""
        return self.payload.inference.merge == "none"

    def separate_groups(self) -> tuple[NDArray[np.int64], int]:
        """Groups that are not merged while the network works, (P, C), and a side that holds each.

        Raises:
            ConfigError: every pattern is to be looked at alone, and the network cannot.
        """
        if self.alone and self.group_size > 1:
            raise ConfigError(
                f"--merge none: expected a network that looks at one pattern alone, found "
                f"{self.payload.model.architecture} of gridsize {self.payload.model.gridsize}, "
                "which needs a group; use --merge scan, or train with --gridsize 1"
            )
        groups = self._groups(1 if self.alone else self.payload.model.C)
        return groups, int(np.ptp(self.pixel[groups], axis=1).max()) + self.scan.N

    def chunks(self, count: int, members: int) -> Iterator[slice]:
        """Which of ``count`` groups of so many members are computed together."""
        size = max(1, self.payload.inference.batch_size // members)
        return (slice(at, min(at + size, count)) for at in range(0, count, size))

    def tell(self, patterns: int) -> None:
        """Say how far the run is, after so many more patterns of this process."""
        total = self.passes * len(self.scan)
        self.done = min(total, self.done + patterns * self.workers)
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

    def result(
        self,
        obj: NDArray[np.complexfloating],
        weight: NDArray[np.floating],
        disagreement: NDArray[np.floating],
        probe: tuple[NDArray[np.complex64], str],
    ) -> Reconstruction:
        """The image, of arrays (H, W).

        Args:
            obj: the object.
            weight: how much the patterns spoke for a pixel.
            disagreement: by how much they differed; left out where each spoke alone.
            probe: its modes, and where they came from.

        Raises:
            NumericalError: the object is not finite.
        """
        if not np.isfinite(obj).all():
            raise NumericalError(
                f"{self.scan.name}: expected a finite object, found NaN or infinity; check the "
                "scan with `ptycho inspect`, or use --precision 32-true"
            )
        return Reconstruction(
            obj=obj.astype(np.complex64),
            coverage=(weight / weight.max()).astype(np.float32),
            origin_yx_px=self.origin.astype(np.float64),
            positions_px=self.scan.positions_px,
            probe=probe[0],
            pixel_size_m=self.scan.object_pixel_m,
            probe_source=probe[1],
            disagreement=None if self.alone else disagreement.astype(np.float32),
        )

    def _groups(self, size: int) -> NDArray[np.int64]:
        """Every pattern with its nearest neighbours: (P, size) indices, itself first."""
        return group_indices(
            self.scan.positions_px,
            math.isqrt(size),
            max(1, size - 1),
            np.random.default_rng(0),
            sequential=True,
        )
