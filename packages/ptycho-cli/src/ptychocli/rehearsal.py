"""What a training would take, measured on its first steps and thrown away."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ptychoconfig.payloads import TrainingPayload
    from ptychodata.backends import Backend, Progress
    from ptychodata.bundle import Bundle
    from ptychodata.contracts import Scan

__all__ = ["Rehearsal", "rehearse"]

STEPS = 4
"""Batches to measure; the first, which warms up, does not count."""


@dataclass(frozen=True)
class Rehearsal:
    """What was measured, and what follows.

    Args:
        parameters: numbers that the network learns.
        weights_bytes: what they take in the bundle.
        batches: of the whole training.
        seconds_per_batch: mean after the first one.
        seconds: of the whole training, without the check of the held-out patterns after each epoch;
            at most ``training.max_time``.
        memory_bytes: most that this process held, data and libraries included; None where the
            system does not tell.
        device_bytes: most that was held on each GPU.
    """

    parameters: int
    weights_bytes: int
    batches: int
    seconds_per_batch: float
    seconds: float
    memory_bytes: int | None
    device_bytes: dict[str, int]


def rehearse(
    engine: "Backend",
    scans: "Sequence[Scan]",
    payload: "TrainingPayload",
    start: "Bundle | None" = None,
) -> Rehearsal:
    """Train for a few batches on one device, as the training would, and keep nothing.

    A scan without a probe is given a model of one: the time does not depend on it.
    """
    seen: list[tuple[float, Progress]] = []

    def watch(progress: "Progress") -> None:
        if progress.phase == "train":
            seen.append((monotonic(), progress))

    began = monotonic()
    with TemporaryDirectory() as folder:
        bundle = engine.train(
            [_with_some_probe(scan) for scan in scans],
            _short(payload),
            Path(folder),
            watch,
            lambda: len(seen) >= STEPS,
            start=start,
        )
    last = seen[-1][1]
    one, batches = _seconds_per_batch(began, seen), last.total * last.epochs
    limit = payload.training.max_time
    seconds = one * batches if limit is None else min(one * batches, limit)
    return Rehearsal(
        parameters=sum(np.size(weight) for weight in bundle.weights.values()),
        weights_bytes=sum(np.asarray(weight).nbytes for weight in bundle.weights.values()),
        batches=batches,
        seconds_per_batch=one,
        seconds=seconds,
        memory_bytes=_most_memory(),
        device_bytes=engine.memory(),
    )


def _short(payload: "TrainingPayload") -> "TrainingPayload":
    """The same steps, without logs, checkpoints and other processes."""
    silent = {"enable_checkpointing": False, "logger": "none", "preview_every": 0}
    return replace(payload, execution=payload.execution.alone().model_copy(update=silent))


def _with_some_probe(scan: "Scan") -> "Scan":
    from ptychodata.solving import model_probe

    return scan if scan.probe is not None else scan.with_probe(model_probe(scan, "disk"))


def _seconds_per_batch(began: float, seen: "Sequence[tuple[float, Progress]]") -> float:
    (first, start), (last, end) = seen[0], seen[-1]
    done = [(p.epoch - 1) * p.total + p.done for p in (start, end)]
    if done[1] == done[0]:  # the whole training is one batch
        return (last - began) / done[0]
    return (last - first) / (done[1] - done[0])


def _most_memory() -> int | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
