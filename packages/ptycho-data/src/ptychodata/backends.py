"""The contract between the command and the backends, and how a backend is found.

A backend is a package that registers a class in the entry-point group ``ptycho.backends``.
Listing them imports nothing; only the chosen one is loaded.
"""

import gc
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ptychoconfig.errors import BackendError, UsageError
from ptychoconfig.payloads import InferencePayload, SolverPayload, TrainingPayload
from ptychodata.bundle import Bundle
from ptychodata.contracts import Reconstruction, Scan, Solution

__all__ = [
    "KNOWN_BACKENDS",
    "LAST_CHECKPOINT",
    "ONE_BACKEND",
    "Backend",
    "Pretrainer",
    "Preview",
    "Progress",
    "Report",
    "ShouldStop",
    "Solver",
    "find_backend",
    "importing",
    "installed_backends",
    "load_backend",
]

ENTRY_POINT_GROUP = "ptycho.backends"

KNOWN_BACKENDS = {"torch": "ptycho-torch", "tf": "ptycho-tf"}
"""Backends of this project: name → distribution that brings it."""

ONE_BACKEND = dict.fromkeys(("fno", "ffno", "hybrid-resnet"), "torch")
"""Networks that one backend alone builds; the others say whose they are."""

LAST_CHECKPOINT = Path("checkpoints", "last.ckpt")
"""File in the run directory that an interrupted training goes on from."""


@dataclass(frozen=True)
class Progress:
    """How far a run has come, for a person or a log.

    Args:
        phase: ``train``, ``validate``, ``infer`` or ``solve``.
        done, total: work done and to do, in patterns.
        epoch, epochs: current pass, from 1, and the number of passes (1 when inferring).
        metrics: named figures, such as ``train_loss``.
        patterns_per_s: speed since the start of the phase.
        seconds_left: estimate to the end of the run.
    """

    phase: str
    done: int
    total: int
    epoch: int
    epochs: int
    metrics: dict[str, float]
    patterns_per_s: float
    seconds_left: float

    def __str__(self) -> str:
        share = 100 * self.done / max(self.total, 1)
        figures = "".join(f"  {name} {value:.4g}" for name, value in self.metrics.items())
        where = f"{self.phase} {self.epoch}/{self.epochs} {share:3.0f} %"
        return f"{where}{figures}  {self.seconds_left:.0f} s left"


Report = Callable[[Progress], None]

ShouldStop = Callable[[], bool]
"""Asked after every step; once True, the run ends early and returns what it has."""

Preview = Callable[[int, Reconstruction], NDArray[np.uint8]]
"""Draws the image after an epoch, counted from 1; returns the picture, (h, w, 4), for loggers."""


class Solver(Protocol):
    """What solves a scan without training: a backend, or another engine."""

    name: str

    def reconstruct(
        self,
        scan: Scan,
        payload: SolverPayload,
        report: Report,
        should_stop: ShouldStop,
        start: Solution | None = None,
    ) -> Solution:
        """Solve a scan for its object, and for what else ``payload.solver`` asks, without training.

        Args:
            scan: patterns and positions; a probe is made up where there is none.
            payload: resolved configuration.
            report: called as the run proceeds.
            should_stop: True ends the run early with the best so far.
            start: where to begin; its passes count, free space without it.

        Raises:
            DataError: the start does not fit the scan.
            NumericalError: the residual diverges.
        """


class Backend(Solver, Protocol):
    """What a backend offers; arrays go in and out, no framework's objects."""

    def networks(self) -> dict[str, str]:
        """Networks that this backend can build: name → one line."""

    def memory(self) -> dict[str, int]:
        """Most bytes that this process has held on each GPU; empty where it used none."""

    def train(
        self,
        scans: Sequence[Scan],
        payload: TrainingPayload,
        run_dir: Path,
        report: Report,
        should_stop: ShouldStop,
        resume: Path | None = None,
        preview: Preview | None = None,
        start: Bundle | None = None,
    ) -> Bundle:
        """Train a network on the patterns of ``scans``.

        Args:
            scans: one or more scans, each with its probe and dose; of one N where the network's
                weights depend on it.
            payload: resolved configuration.
            run_dir: existing folder for ``checkpoints/`` and ``metrics.csv``.
            report: called as the run proceeds.
            should_stop: True ends the run early, as the first Ctrl-C does.
            resume: checkpoint to go on from, bit for bit; None starts afresh.
            preview: called every ``execution.preview_every`` epochs with the image of a small part
                of the first scan; what it raises is logged and ends nothing.
            start: bundle whose weights to begin with; None draws them.

        Raises:
            ConfigError: a setting that this backend or network cannot honour, a checkpoint of
                another run, or no room for the next one.
            NumericalError: the loss is no longer finite.
        """

    def infer(
        self, bundle: Bundle, scan: Scan, payload: InferencePayload, report: Report
    ) -> Reconstruction:
        """Reconstruct a scan with the network of a bundle.

        Raises:
            BundleError: the bundle's weights do not fit its network.
            NumericalError: the object is not finite.
        """


@runtime_checkable
class Pretrainer(Protocol):
    """A backend that can train on simulated scans without end."""

    def pretrain(
        self,
        payload: TrainingPayload,
        run_dir: Path,
        report: Report,
        should_stop: ShouldStop,
        resume: Path | None = None,
        start: Bundle | None = None,
    ) -> Bundle:
        """Train on the corpus until ``training.max_time`` is over.

        Args:
            payload: network, training and execution; the seed is the corpus's too.
            run_dir: takes the checkpoint.
            report: called after every step.
            should_stop: True ends the run with what it has.
            resume: checkpoint to go on from.
            start: bundle whose weights to begin with; None draws them.

        Raises:
            ConfigError: the checkpoint belongs to another run.
        """
        ...


def installed_backends() -> dict[str, list[EntryPoint]]:
    """Registered backends by name, without importing any."""
    found: dict[str, list[EntryPoint]] = {}
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        found.setdefault(entry.name, []).append(entry)
    return found


def find_backend(name: str) -> EntryPoint:
    """Find the backend ``name`` without importing it.

    Raises:
        UsageError: no backend of this name is known.
        BackendError: it is not installed, or claimed twice.
    """
    found = installed_backends()
    if name not in found and name not in KNOWN_BACKENDS:
        choices = ", ".join(sorted({*found, *KNOWN_BACKENDS}))
        raise UsageError(f"--backend: expected one of {choices}, found {name!r}")
    if name not in found:
        have = ", ".join(sorted(found)) or "none"
        raise BackendError(
            f"--backend {name}: expected the package {KNOWN_BACKENDS[name]}, found it is not "
            f"installed (installed backends: {have}); run: pip install 'ptycho-cli[{name}]'"
        )
    if len(found[name]) > 1:
        packages = ", ".join(sorted(str(e.dist.name) if e.dist else e.value for e in found[name]))
        raise BackendError(
            f"--backend {name}: expected one package of this name, found {packages}; "
            "uninstall all but one"
        )
    return found[name][0]


def load_backend(name: str) -> Backend:
    """Load the backend ``name``.

    Raises:
        UsageError: no backend of this name is known.
        BackendError: it is not installed, claimed twice, or does not load.
    """
    entry = find_backend(name)
    try:
        backend: Backend = entry.load()()
    except Exception as error:  # a broken installation can raise anything on import
        raise BackendError(
            f"--backend {name}: the package is installed but does not load "
            f"({type(error).__name__}: {error}); reinstall it with: "
            f"pip install --force-reinstall 'ptycho-cli[{name}]'"
        ) from error
    return backend


@contextmanager
def importing(name: str, framework: str) -> Iterator[None]:
    """Import what the backend ``name`` needs of its ``framework``, without looking for garbage.

    That takes a fifth of the time and finds hardly any.  What modules are made of stays for good,
    so that later searches leave it out.

    Raises:
        BackendError: the framework is not installed, or broken.
    """
    enabled, known = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
    except ImportError as error:
        raise BackendError(
            f"--backend {name}: expected a {framework} that can be imported, found {error}; run: "
            f"pip install 'ptycho-cli[{name}]'"
        ) from error
    finally:
        if len(sys.modules) > known:
            gc.freeze()
        if enabled:
            gc.enable()
