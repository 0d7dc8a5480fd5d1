"""What the command sees of this package: the entry point ``tf`` of ``ptycho.backends``."""

from typing import Any

from ptychoconfig.payloads import SolverPayload
from ptychodata.backends import Report, ShouldStop
from ptychodata.contracts import Scan, Solution

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
