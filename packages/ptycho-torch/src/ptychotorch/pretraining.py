r"""Pretraining: an endless stream of simulated scans, whose objects are known.

Every step draws a few scans of the corpus (``ptychodata.corpus``); the network makes an object of
each, as inference does, or in some draws of single patterns, and after each pass the loss is

.. math::
    \log\bigl(\varepsilon + 0.002\bigr)

with the error ε of ``training.object_error``.  Where the power of the probe is not known it
is taken from the patterns, as if the object absorbed nothing; a probe that is a times too weak asks
for the object Y/a, and Y stands for that.  The logarithm makes an error of a hundredth that is
halved count as much as one of a half.  A known object tells what a likelihood hardly does: the low
frequencies, and what is noise.

Every draw is a function of (seed, step), so that a run goes on where it was left, days later.  What
is shipped is the mean of the weights over the last steps (B. Polyak & A. Juditsky, SIAM J. Control
Optim. 30, 838 (1992)), which needs no schedule that knows the end.
"""

import copy
import time
from collections import deque
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptychoconfig.payloads import TrainingPayload
from ptychodata.backends import LAST_CHECKPOINT, Progress, Report, ShouldStop
from ptychodata.bundle import Bundle
from ptychodata.contracts import Scan
from ptychodata.corpus import CorpusRanges, draw_scan
from ptychodata.grouping import redundancy
from ptychodata.physics import split_positions
from ptychodata.stitching import plan_canvas
from ptychodata.training.checkpoints import identity
from ptychodata.training.outcome import trained_bundle
from ptychodata.training.schedule import mean_share
from ptychodata.unrolled import LEAST_ERROR

from . import __version__, physics
from .batches import Batch, GroupDataset, make_batch
from .checkpoints import AtomicCheckpointIO, read_place
from .clipping import clip_gradients
from .device import choose_device, choose_dtype
from .merging import canvases
from .networks import build_network
from .optimizers import build_optimizer
from .training import object_error
from .weights import from_arrays, move_mean, to_arrays

__all__ = ["known_batch", "pretrain"]

SCANS_PER_STEP = 2
SINGLE_SHOT, SINGLES = 0.08, 8
"""Share of draws that look at single patterns, and at how many of a scan."""

WARMUP_STEPS = 100
MEAN_DECAY = 0.998
"""Of the mean of the weights, in a step."""

_RANGES = CorpusRanges()
_STATISTICS_OF = 128  # scans that the statistics in the bundle are taken from


def pretrain(
    payload: TrainingPayload,
    run_dir: Path,
    report: Report,
    should_stop: ShouldStop,
    resume: Path | None = None,
    start: Bundle | None = None,
    ranges: CorpusRanges = _RANGES,
) -> Bundle:
    """Train on the corpus until ``max_time`` is over; see ``ptychodata.backends.Pretrainer``."""
    torch.manual_seed(payload.training.seed)
    run = _Run(payload, run_dir, ranges)
    if resume is not None:
        run.load(resume)
    elif start is not None:
        run.begin_from(start)
    limit = payload.training.max_time or float("inf")
    while run.seconds < limit and not should_stop():
        run.take_step()
        report(run.progress(limit))
        run.keep(payload.execution.checkpoint_interval)
    run.keep(0.0)
    return run.bundle()


class _Run:
    """Network, optimiser and mean of the weights; where the run stands."""

    def __init__(self, payload: TrainingPayload, run_dir: Path, ranges: CorpusRanges) -> None:
        self.payload, self.path, self.ranges = payload, run_dir / LAST_CHECKPOINT, ranges
        self.device = choose_device(payload.execution)
        self.network = build_network(payload.model).to(self.device)
        self.network.compute_dtype = choose_dtype(payload.execution, self.device)
        self.mean = copy.deepcopy(self.network)
        training = payload.training
        self.optimizer = build_optimizer(self.network.parameters(), training)
        self.step, self.patterns, self.before = 0, 0, 0.0
        self.history: dict[str, list[float]] = {"train_loss": [], "object_error": []}
        self._recent: deque[tuple[float, float]] = deque(maxlen=100)
        timeless = training.model_copy(update={"max_time": None})
        self.origin = identity("torch", [], replace(payload, training=timeless))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.started = self.kept = time.monotonic()
        self._first = 0

    @property
    def seconds(self) -> float:
        """Since this run, or its continuation, began."""
        return time.monotonic() - self.started

    def take_step(self) -> None:
        """Draw scans, learn from them, and move the mean of the weights."""
        self.optimizer.zero_grad(set_to_none=True)
        for number in range(SCANS_PER_STEP):
            index = self.step * SCANS_PER_STEP + number
            scan = draw_scan(index, self.payload.training.seed, self.ranges)
            self._learn(scan, np.random.default_rng([self.payload.training.seed, index]))
        training = self.payload.training
        if training.gradient_clip_val is not None:
            clip_gradients(
                self.network.parameters(),
                training.gradient_clip_algorithm,
                training.gradient_clip_val,
            )
        warm = min(1.0, (self.step + 1) / WARMUP_STEPS)
        self.optimizer.param_groups[0]["lr"] = warm * training.learning_rate
        self.optimizer.step()
        move_mean(self.mean, self.network, mean_share(self.step, MEAN_DECAY))
        self.step += 1
        if self.step % 50 == 0:
            for name, value in self._figures().items():
                self.history[name].append(value)

    def _learn(self, scan: Scan, rng: np.random.Generator) -> None:
        alone = rng.random() < SINGLE_SHOT
        index = rng.permutation(len(scan))[:SINGLES] if alone else np.arange(len(scan))
        batch, known = known_batch(scan, index, alone=alone)
        batch, known = batch.to(self.device), known.to(self.device)
        probe = torch.from_numpy(scan.photon_probe).to(self.device)
        overlap = 1.0 if alone else redundancy(scan.photon_probe, scan.positions_px)
        losses, errors = [], []
        shifted = physics.shift_probe(probe, batch.fraction)
        for state, sums in canvases(self.network, shifted, batch, overlap, rng=rng):
            error = object_error(state.obj, known, sums.weight)
            loss = torch.log(error + LEAST_ERROR).mean()
            (loss / (SCANS_PER_STEP * self.network.steps)).backward()
            losses.append(float(loss.detach()))
            errors.append(float(error.detach().median()))
        self.patterns += len(index)
        self._recent.append((float(np.mean(losses)), errors[-1]))

    def _figures(self) -> dict[str, float]:
        """Loss and error of the last hundred scans."""
        losses, errors = zip(*self._recent, strict=True)
        return {"train_loss": float(np.mean(losses)), "object_error": float(np.median(errors))}

    def progress(self, limit: float) -> Progress:
        """How far the run is, by time."""
        share = min(1.0, self.seconds / limit)
        return Progress(
            phase="train",
            done=self.patterns,
            total=max(self.patterns, round(self.patterns / max(share, 1e-6))),
            epoch=1,
            epochs=1,
            metrics=self._figures(),
            patterns_per_s=(self.patterns - self._first) / max(self.seconds, 1e-9),
            seconds_left=max(0.0, limit - self.seconds),
        )

    def keep(self, interval: float) -> None:
        """Write a checkpoint if the last one is so many seconds old."""
        if time.monotonic() - self.kept < interval:
            return
        content = {
            "ptycho": {**self.origin, "epoch": 0, "batch": self.step, "finished": False},
            "network": self.network.state_dict(),
            "mean": self.mean.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "history": self.history,
            "patterns": self.patterns,
            "seconds": self.before + self.seconds,
        }
        AtomicCheckpointIO().save_checkpoint(content, self.path)
        self.kept = time.monotonic()

    def begin_from(self, bundle: Bundle) -> None:
        """Take the weights of a bundle."""
        for network in (self.network, self.mean):
            from_arrays(network, dict(bundle.weights))

    def load(self, path: Path) -> None:
        """Go on from a checkpoint."""
        self.step = read_place(path, self.origin).batch
        found = AtomicCheckpointIO().load_checkpoint(path, map_location=self.device)
        self.network.load_state_dict(found["network"])
        self.mean.load_state_dict(found["mean"])
        self.optimizer.load_state_dict(found["optimizer"])
        self.history, self.patterns = found["history"], found["patterns"]
        self.before, self._first = found["seconds"], found["patterns"]

    def bundle(self) -> Bundle:
        """The mean of the weights, with statistics of some scans of the corpus."""
        seed = self.payload.training.seed
        scans = [draw_scan(index, seed, self.ranges) for index in range(_STATISTICS_OF)]
        made = trained_bundle(
            "torch",
            scans,
            self.payload,
            weights=to_arrays(self.mean),
            probes=[],
            history=self.history,
            versions={"ptycho-torch": __version__, "torch": torch.__version__},
        )
        course = {
            "pretraining_steps": float(self.step),
            "pretraining_patterns": float(self.patterns),
            "pretraining_s": self.before + self.seconds,
        }
        return replace(made, statistics={**made.statistics, **course})


def known_batch(scan: Scan, index: NDArray[np.int64], *, alone: bool) -> tuple[Batch, Tensor]:
    """Patterns on one canvas, or each on its own, and the known object there: (G, H, W).

    The object is as strong as the probe that the network is given makes it.

    Args:
        scan: of the corpus.
        index: (B,) patterns.
        alone: whether each has a canvas of its own.
    """
    power = scan.provenance["corpus"]["probe_photons"]
    strength = float(np.sqrt(power / np.sum(np.abs(scan.photon_probe) ** 2)))
    if alone:
        batch = GroupDataset([scan], labelled=True)[0, index[:, None]]
        assert batch.label is not None
        return batch, strength * batch.label
    (height, width), (y, x) = shape, origin = plan_canvas(scan.positions_px, scan.N)
    pixel = split_positions(scan.positions_px)[0] - origin
    assert scan.truth is not None
    known = strength * torch.from_numpy(scan.truth[y : y + height, x : x + width])
    return replace(make_batch(scan, index, pixel, shape), per_group=len(scan)), known[None]
