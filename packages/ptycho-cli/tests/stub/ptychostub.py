"""A backend without a framework, for the tests of the command.

Its network is one number, the object's mean transmission, learned in closed form.
"""

import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ptychoconfig.errors import NumericalError
from ptychoconfig.payloads import InferencePayload, TrainingPayload
from ptychodata.backends import LAST_CHECKPOINT, Progress, Report, ShouldStop
from ptychodata.bundle import Bundle
from ptychodata.contracts import Reconstruction, Scan
from ptychodata.trust import training_statistics


class StubBackend:
    name = "stub"

    def networks(self) -> dict[str, str]:
        return {"unrolled": "A constant."}

    def train(
        self,
        scans: Sequence[Scan],
        payload: TrainingPayload,
        run_dir: Path,
        report: Report,
        should_stop: ShouldStop,
        resume: Path | None = None,
    ) -> Bundle:
        epochs = payload.training.epochs_of(1)
        last = run_dir / LAST_CHECKPOINT
        losses: list[float] = json.loads(resume.read_text()) if resume else []
        if payload.training.seed == 666:
            raise NumericalError("expected a finite loss, found nan at step 3")
        if payload.training.seed == 667:
            raise RuntimeError("a bug in the backend")
        for epoch in range(len(losses), epochs):
            if payload.training.seed == 668:
                os.kill(os.getpid(), signal.SIGINT)
            losses.append(1 / (1 + epoch))
            last.parent.mkdir(exist_ok=True)
            last.write_text(json.dumps(losses))
            report(_progress("train", len(scans[0]), epoch + 1, epochs, {"loss": losses[-1]}))
            if should_stop():
                break
        (run_dir / "metrics.csv").write_text("epoch,train_loss\n")
        mean = sum(scan.mean_photons for scan in scans)
        power = sum(float(np.sum(np.abs(scan.photon_probe) ** 2)) for scan in scans)
        return Bundle(
            backend="stub",
            config={
                name: getattr(payload, name).model_dump(mode="json")
                for name in ("model", "data", "training")
            },
            weights={"transmission": np.array(np.sqrt(mean / power), dtype=np.float32)},
            probes=tuple(scan.photon_probe for scan in scans),
            probe_learned=False,
            history={"train_loss": losses},
            statistics={"n_patterns": float(sum(map(len, scans))), **training_statistics(scans)},
            versions={"ptychostub": "0.0"},
        )

    def infer(
        self, bundle: Bundle, scan: Scan, payload: InferencePayload, report: Report
    ) -> Reconstruction:
        half = scan.N // 2
        pixels = np.floor(scan.positions_px + 0.5).astype(int)
        origin = pixels.min(axis=0) - half
        height, width = np.ptp(pixels, axis=0) + scan.N
        coverage = np.zeros((height, width), dtype=np.float32)
        probe = scan.photon_probe
        for y, x in pixels - half - origin:
            coverage[y : y + scan.N, x : x + scan.N] += np.sum(np.abs(probe) ** 2, axis=0)
        report(_progress("infer", len(scan), 1, 1, {}))
        return Reconstruction(
            obj=np.full((height, width), bundle.weights["transmission"], dtype=np.complex64),
            coverage=coverage / coverage.max(),
            origin_yx_px=origin.astype(np.float64),
            positions_px=scan.positions_px,
            probe=probe,
            pixel_size_m=scan.object_pixel_m,
        )


def _progress(
    phase: str, patterns: int, epoch: int, epochs: int, metrics: dict[str, float]
) -> Progress:
    return Progress(phase, patterns, patterns, epoch, epochs, metrics, 100.0, 0.0)
