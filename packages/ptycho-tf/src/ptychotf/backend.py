"""What the command sees of this package: the entry point ``tf`` of ``ptycho.backends``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ptychoconfig.payloads import InferencePayload, SolverPayload, TrainingPayload
from ptychodata.backends import Preview, Report, ShouldStop
from ptychodata.bundle import Bundle
from ptychodata.contracts import Reconstruction, Scan, Solution
from ptychodata.training.teacher import taught

from ._start import start_tensorflow

__all__ = ["TensorFlowBackend"]


class TensorFlowBackend:
    """The TensorFlow implementation of ``ptychodata.backends.Backend``.

    TensorFlow takes seconds to import, so each method imports what it needs.
    """

    name = "tf"

    def networks(self) -> dict[str, str]:
        """Networks that this backend can build: name → one line."""
        start_tensorflow()
        from .networks import NETWORKS

        return {name: line for name, (_, line) in NETWORKS.items()}

    def devices(self) -> dict[str, dict[str, Any]]:
        """What TensorFlow can compute on here, and what to do about what it cannot."""
        start_tensorflow()
        from .device import describe_devices

        return describe_devices()

    def memory(self) -> dict[str, int]:
        """Most bytes that this process has held on each GPU."""
        start_tensorflow()
        import tensorflow as tf

        names = [gpu.name for gpu in tf.config.list_logical_devices("GPU")]
        peak = tf.config.experimental.get_memory_info
        return {name: peak(name.removeprefix("/device:"))["peak"] for name in names}

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
        start_tensorflow()
        from .training import train

        scans = taught(self.infer, scans, payload, start, report)
        return train(scans, payload, run_dir, report, should_stop, resume, preview, start)

    def infer(
        self, bundle: Bundle, scan: Scan, payload: InferencePayload, report: Report
    ) -> Reconstruction:
        """Reconstruct a scan; see ``ptychodata.backends.Backend``."""
        start_tensorflow()
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
        start_tensorflow()
        from .solver import solve

        return solve(scan, payload, report, should_stop, start)
