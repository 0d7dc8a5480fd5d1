"""What the command sees of this package: the entry point ``torch`` of ``ptycho.backends``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ptychoconfig.payloads import InferencePayload, SolverPayload, TrainingPayload
from ptychodata.backends import Preview, Report, ShouldStop, importing
from ptychodata.bundle import Bundle
from ptychodata.contracts import Reconstruction, Scan, Solution
from ptychodata.training.teacher import taught

__all__ = ["TorchBackend"]


class TorchBackend:
    """The Torch implementation of ``ptychodata.backends.Backend``.

    Lightning takes seconds to import and only training needs it, so each method imports its own.
    """

    name = "torch"

    def networks(self) -> dict[str, str]:
        """Networks that this backend can build: name → one line."""
        with importing("torch", "Torch"):
            from .networks import NETWORKS

        return {name: line for name, (_, line) in NETWORKS.items()}

    def devices(self) -> dict[str, dict[str, Any]]:
        """What Torch can compute on here, and what to do about what it cannot."""
        with importing("torch", "Torch"):
            from .device import describe_devices

        return describe_devices()

    def memory(self) -> dict[str, int]:
        """Most bytes that this process has held on each GPU."""
        import torch

        count = torch.cuda.device_count() if torch.cuda.is_initialized() else 0
        return {f"cuda:{n}": torch.cuda.max_memory_allocated(n) for n in range(count)}

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
        """Train a network; see ``ptychodata.backends.Backend``."""
        with importing("torch", "Torch"):
            from .training import train

        scans = taught(self.infer, scans, payload, start, report)
        return train(scans, payload, run_dir, report, should_stop, resume, preview, start)

    def pretrain(
        self,
        payload: TrainingPayload,
        run_dir: Path,
        report: Report,
        should_stop: ShouldStop,
        resume: Path | None = None,
        start: Bundle | None = None,
    ) -> Bundle:
        """Train on simulated scans; see ``ptychodata.backends.Pretrainer``."""
        with importing("torch", "Torch"):
            from .pretraining import pretrain

        return pretrain(payload, run_dir, report, should_stop, resume, start)

    def infer(
        self, bundle: Bundle, scan: Scan, payload: InferencePayload, report: Report
    ) -> Reconstruction:
        """Reconstruct a scan; see ``ptychodata.backends.Backend``."""
        with importing("torch", "Torch"):
            from .inference import infer

        return infer(bundle, scan, payload, report)

    def reconstruct(
        self,
        scan: Scan,
        payload: SolverPayload,
        report: Report,
        should_stop: ShouldStop,
        start: Solution | None = None,
    ) -> Solution:
        """Solve a scan without training; see ``ptychodata.backends.Backend``."""
        with importing("torch", "Torch"):
            from .solver import solve

        return solve(scan, payload, report, should_stop, start)
