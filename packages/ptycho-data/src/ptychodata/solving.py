"""How a solver begins, how far it steps and when it ends: what both backends share.

Nothing here touches a pattern more than once; the steps themselves are a backend's ``solver``.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ptychoconfig.errors import DataError
from ptychoconfig.schema import SolverConfig

from .contracts import Scan, Solution
from .grouping import hold_out_interior, redundancy
from .inspection import nearest_px
from .patterns import blocks
from .stitching import plan_canvas

__all__ = ["FEW_PHOTONS", "Schedule", "SolverPlan", "model_probe", "plan_solution", "with_modes"]

Complex64 = NDArray[np.complex64]

_MARGIN_PX = 8
"""Free pixels around the canvas, by which positions may drift."""

FEW_PHOTONS = 10.0
"""Mean counts per detector pixel below which the likelihood is Poisson's."""

_MODE_POWER = 0.02
"""Power of an added probe mode, relative to the mode that it is derived from."""


@dataclass(frozen=True, eq=False)
class SolverPlan:
    """What a solver starts from.

    Args:
        obj: (H, W) complex64 object.
        origin_yx_px: (2,) float64 position, in the scan's coordinates, of its pixel [0, 0].
        positions_px: (P, 2) float64 positions on the canvas.
        probe: (M, N, N) complex64 modes in √photons.
        probe_source: ``file``, ``model`` or what the start says.
        refine_probe: ``now``, ``later`` (if the object alone does not explain the patterns) or
            ``never``.
        likelihood: what is assumed of the noise.
        batch_size: patterns per step.
        kept, held_out: (K,) and (R,) int64 patterns to learn from, and to measure R_free on.
        started: whether the object is known in part, as a network's is that no solver has seen.
    """

    obj: Complex64
    origin_yx_px: NDArray[np.float64]
    positions_px: NDArray[np.float64]
    probe: Complex64
    probe_source: str
    refine_probe: Literal["now", "later", "never"]
    likelihood: Literal["amplitude", "poisson"]
    batch_size: int
    kept: NDArray[np.int64]
    held_out: NDArray[np.int64]
    started: bool


def plan_solution(scan: Scan, config: SolverConfig, start: Solution | None) -> SolverPlan:
    """Decide from the data whatever the settings leave open.

    Raises:
        DataError: the canvas would be absurdly large, or the start does not fit the scan.
    """
    probe, source = _start_probe(scan, config, start)
    probe = with_modes(probe, config.modes or len(probe))
    positions = scan.positions_px if start is None else start.reconstruction.positions_px
    if len(positions) != len(scan):
        raise DataError(
            f"{scan.name}: expected a start with {len(scan)} positions, as the scan has, found "
            f"{len(positions)}; give the reconstruction of this scan"
        )
    obj, origin = _canvas(scan, probe, positions, start)
    held = hold_out_interior(scan.positions_px, config.held_out_fraction, config.seed)
    if start is not None and len(start.held_out):
        held = start.held_out  # what a start has not seen stays unseen
    kept = np.setdiff1d(np.arange(len(scan)), held)
    refine: Literal["now", "later", "never"] = "never"
    if config.refine_probe != "off":
        trusted = config.refine_probe == "auto" and scan.probe_power == "absolute"
        refine = "later" if trusted and source == "file" else "now"
    few = scan.has_dose and scan.mean_photons < FEW_PHOTONS * scan.N**2
    likelihood = config.likelihood
    if likelihood == "auto":
        likelihood = "poisson" if few else "amplitude"
    started = start is not None and start.epochs == 0
    usual = _batch_size(probe, positions, likelihood)
    if started and refine == "never":
        usual = -(-len(kept) // 2)  # little but the noise is left to fit
    return SolverPlan(
        obj=obj,
        origin_yx_px=origin,
        positions_px=positions - origin,
        probe=probe,
        probe_source=source,
        refine_probe=refine,
        likelihood=likelihood,
        batch_size=min(config.batch_size or usual, len(kept)),
        kept=kept,
        held_out=held,
        started=started,
    )


def _start_probe(scan: Scan, config: SolverConfig, start: Solution | None) -> tuple[Complex64, str]:
    if start is not None:
        probe = start.reconstruction.probe
        if probe.shape[1:] != (scan.N, scan.N):
            raise DataError(
                f"{scan.name}: expected a start with a probe of {scan.N}×{scan.N} pixels, as the "
                f"patterns have, found {probe.shape[-2]}×{probe.shape[-1]}; give the "
                "reconstruction of this scan"
            )
        return probe, start.reconstruction.probe_source
    if config.probe_model == "file" or (config.probe_model == "auto" and scan.probe is not None):
        return scan.photon_probe, "file"
    kind = "disk" if config.probe_model == "auto" else config.probe_model
    return model_probe(scan, "disk" if kind == "disk" else "gaussian"), "model"


def _canvas(
    scan: Scan, probe: Complex64, positions: NDArray[np.float64], start: Solution | None
) -> tuple[Complex64, NDArray[np.float64]]:
    """The start's object, or free space of the data's power, on a canvas with a margin."""
    (height, width), corner = plan_canvas(positions, scan.N)
    shape = (height + 2 * _MARGIN_PX, width + 2 * _MARGIN_PX)
    origin = (corner - _MARGIN_PX).astype(np.float64)
    power = float(np.sum(np.abs(probe.astype(np.complex128)) ** 2))
    obj = np.full(shape, np.sqrt(scan.mean_photons / power), dtype=np.complex64)
    if start is not None:
        theirs, known = start.reconstruction.obj, start.reconstruction.coverage > 0
        offset = start.reconstruction.origin_yx_px - origin
        whole = np.floor(offset + 0.5).astype(np.int64)
        origin = origin + (offset - whole)  # a start keeps its own grid
        low, high = np.maximum(whole, 0), np.minimum(whole + theirs.shape, shape)
        if (low < high).all():
            mine = slice(low[0], high[0]), slice(low[1], high[1])
            part = tuple(slice(a - w, b - w) for a, b, w in zip(low, high, whole, strict=True))
            obj[mine] = np.where(known[part], theirs[part], obj[mine])
    return obj, origin


def _batch_size(probe: Complex64, positions: NDArray[np.float64], likelihood: str) -> int:
    """Patterns that cover the scanned area half, or once where photons are few.

    Small batches step more often, large ones average more noise (docs/solver-numerics.md).
    """
    coverage = 1.0 if likelihood == "poisson" else 0.5
    count = coverage * len(positions) / redundancy(probe, positions)
    return max(4, min(round(count), len(positions) // 8))


def with_modes(probe: Complex64, count: int) -> Complex64:
    """The first ``count`` of the modes of a probe, with weak further ones where it has fewer.

    Those are the strongest mode times y, x, y·x, … in units of its width, as a source of finite
    size adds them (Gaussian Schell-model beams: A. Starikov & E. Wolf, JOSA 72, 923 (1982)).
    """
    if count <= len(probe):
        return probe[:count]
    first = probe[0].astype(np.complex128)
    power = np.abs(first) ** 2
    r = np.arange(len(first)) - len(first) // 2
    width = np.sqrt(np.sum(power * (r[:, None] ** 2 + r**2)) / power.sum() / 2)
    orders = sorted(((i, k) for i in range(9) for k in range(9)), key=lambda o: (sum(o), o))
    added = []
    for i, k in orders[len(probe) : count]:
        mode = first * (r[:, None] / width) ** i * (r / width) ** k
        added.append(mode * np.sqrt(_MODE_POWER * power.sum() / np.sum(np.abs(mode) ** 2)))
    return np.concatenate([probe, np.stack(added).astype(np.complex64)])


def model_probe(scan: Scan, kind: Literal["disk", "gaussian"]) -> Complex64:
    """A probe for a scan that has none, of the patterns' mean power: (1, N, N) complex64.

    The mean pattern's Fourier transform is the mean autocorrelation of the exit waves; a weakly
    scattering object leaves that of the probe.  The disk has the diameter whose autocorrelation
    falls to a half where it does.  The Gaussian beam exp((−1 + iφ) r²/a²) has a = 1.5 median scan
    steps, the usual overlap, and the defocus φ whose autocorrelation, exp(−r²(1 + φ²)/2a²), does.
    """
    half = _half_width_px(scan)
    r = np.arange(scan.N) - scan.N // 2
    radius = np.hypot(r[:, None], r)
    if kind == "disk":
        edge = min(half / 0.404 / 2, scan.N / 3)
        probe = np.clip(edge + 0.5 - radius, 0, 1).astype(np.complex128)
    else:
        step = float(np.median(nearest_px(scan.positions_px))) if len(scan) > 1 else 0.0
        waist = min(max(1.5 * step, half / math.sqrt(2 * math.log(2))), scan.N / 4)
        defocus = math.sqrt(max(0.0, 2 * math.log(2) * waist**2 / half**2 - 1))
        probe = np.exp((-1 + 1j * defocus) * (radius / waist) ** 2)
    scale = np.sqrt(scan.mean_photons / np.sum(np.abs(probe) ** 2))
    return np.asarray((probe * scale)[None], dtype=np.complex64)


def _half_width_px(scan: Scan) -> float:
    """Radius at which the autocorrelation of the mean exit wave has fallen to a half."""
    total = np.zeros((scan.N, scan.N))
    for part, _ in blocks(scan.diffraction):
        counts, valid = scan.counts(part), scan.valid(part)
        total += np.sum(counts if valid is None else counts * valid, axis=0, dtype=np.float64)
    correlation = np.abs(np.fft.fft2(np.fft.ifftshift(total)))
    k = np.abs(np.fft.fftfreq(scan.N) * scan.N)
    ring = np.floor(np.hypot(k[:, None], k) + 0.5).astype(np.int64).ravel()
    profile = np.bincount(ring, correlation.ravel()) / np.bincount(ring)
    below = np.flatnonzero(profile < profile[0] / 2)
    if len(below) == 0:
        return scan.N / 4
    at = int(below[0])
    before, after = profile[at - 1], profile[at]
    return float(at - 1 + (before - profile[0] / 2) / (before - after))


class Schedule:
    """Length of the steps from epoch to epoch, and the end.

    Steps keep their full length while the misfit falls, and shrink to nothing over the last part,
    where they average the noise of the batches away.  With ``epochs`` or ``max_time`` the last
    half of the run is that part; otherwise it begins with ``cool``, which the solver calls once
    the descent has ``settled`` and it has nothing new to fit.

    Args:
        config: with ``epochs`` and ``max_time``.
        begun: passes that an earlier run has made; they count.
        started: whether the object is known in part, as a network's is: long steps would throw that
            away, so that all of a run of a given length is the last part.
        clock: seconds.
    """

    PATIENCE, GAIN, COOLING, MOST = 4, 0.005, 12, 300
    """Epochs without a relative gain that end the descent; epochs of the last part, and at most."""

    def __init__(
        self,
        config: SolverConfig,
        begun: int = 0,
        started: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config, self.epoch, self._first = config, begun, begun
        self._warm = 0.5 if started else 0.0  # share of a run that is taken as over
        self._clock, self._started = clock, clock()
        self._best, self._since = math.inf, 0
        self._cooling: tuple[int, int] | None = None  # first epoch of the last part, and its length
        self.stopped = ""

    @property
    def seconds(self) -> float:
        """Since the run began."""
        return self._clock() - self._started

    @property
    def epochs(self) -> int:
        """Passes at most."""
        return self.config.epochs or self._first + self.MOST

    @property
    def settled(self) -> bool:
        """Whether the misfit has stopped falling, so that something else may be tried."""
        return self._since >= self.PATIENCE and self._cooling is None

    def go_on(self) -> None:
        """Wait for the misfit to fall again, because something new is being fitted."""
        self._since = 0

    def length(self) -> float:
        """Length of this epoch's steps as a fraction of the full one, in (0, 1]."""
        if self._cooling is not None:
            begin, epochs = self._cooling
            progress = 0.5 + 0.5 * (self.epoch - begin + 1) / (epochs + 1)
        else:
            progress = self._progress()
        return 1.0 if progress <= 0.5 else max(0.02, math.cos(math.pi * (progress - 0.5)))

    def record(self, misfit: float) -> bool:
        """Count an epoch with its misfit; return whether it is the best so far."""
        self.epoch += 1
        better = misfit < self._best * (1 - self.GAIN)
        self._since = 0 if better else self._since + 1
        best, self._best = misfit < self._best, min(misfit, self._best)
        if self.config.max_time is not None and self.seconds >= self.config.max_time:
            self.stopped = "max_time"
        elif self.epoch >= self.epochs:
            self.stopped = "epochs" if self.config.epochs else "converged"
        elif self._cooling is not None and self.epoch >= sum(self._cooling):
            self.stopped = "converged"
        return best

    def cool(self) -> None:
        """Begin the last part, unless the number of epochs says when."""
        if self.config.epochs is None:
            self._cooling = (self.epoch, self.COOLING)

    def _progress(self) -> float:
        """Share of the run that is over, 0 … 1; 0 where nothing bounds it."""
        by_epochs = by_time = 0.0
        if self.config.epochs is not None:
            by_epochs = (self.epoch - self._first) / max(1, self.config.epochs - self._first)
        if self.config.max_time is not None:
            by_time = self.seconds / self.config.max_time
        return self._warm + (1 - self._warm) * min(1.0, max(by_epochs, by_time))
