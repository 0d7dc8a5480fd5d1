"""A backend without a framework, for the tests of the command.

Its network is one number, the object's mean transmission, learned in closed form.  Its solver takes
the updates of the reference physics from all patterns at once, weighted by illumination.
"""

import json
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ptychoconfig.errors import DataError, NumericalError
from ptychoconfig.payloads import InferencePayload, SolverPayload, TrainingPayload
from ptychodata import physics
from ptychodata.backends import LAST_CHECKPOINT, Preview, Progress, Report, ShouldStop
from ptychodata.bundle import Bundle
from ptychodata.contracts import Reconstruction, Scan, Solution
from ptychodata.grouping import hold_out_interior
from ptychodata.residuals import solution_misfit
from ptychodata.stitching import plan_canvas
from ptychodata.trust import training_statistics


class StubBackend:
    name = "stub"

    def networks(self) -> dict[str, str]:
        return {"unrolled": "A constant."}

    def memory(self) -> dict[str, int]:
        return {}

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
            every = payload.execution.preview_every
            if preview is not None and every and epoch % every == 0:
                preview(epoch + 1, _free(scans[0]).reconstruction)
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

    def reconstruct(
        self,
        scan: Scan,
        payload: SolverPayload,
        report: Report,
        should_stop: ShouldStop,
        start: Solution | None = None,
    ) -> Solution:
        solver = payload.solver
        if solver.seed == 666:
            raise NumericalError("expected a falling residual, found 3.2 after 0.4 at epoch 3")
        now = start or _free(scan)
        image = now.reconstruction
        if image.probe.shape[-1] != scan.N or len(image.positions_px) != len(scan):
            raise DataError(
                f"{scan.name}: expected a start of {len(scan)} patterns of {scan.N} pixels, found "
                f"{len(image.positions_px)} of {image.probe.shape[-1]}; start from another"
            )
        held = hold_out_interior(scan.positions_px, solver.held_out_fraction, solver.seed)
        now = replace(now, held_out=held if start is None else now.held_out)
        started, epochs = time.monotonic(), solver.epochs or now.epochs + 10
        while now.epochs < epochs:
            now = _epoch(now, scan, refine_probe=solver.refine_probe != "off")
            found = solution_misfit(now, scan).residuals
            figures = {"r_factor": found["r_factor"], "r_free": found.get("r_free", np.nan)}
            figures["seconds"] = time.monotonic() - started
            history = {name: [*now.history.get(name, ()), v] for name, v in figures.items()}
            now = replace(now, epochs=now.epochs + 1, history=history)
            report(_progress("solve", len(scan), now.epochs, epochs, figures))
            if solver.seed == 668:
                os.kill(os.getpid(), signal.SIGINT)
            if should_stop():
                return replace(now, stopped="interrupted")
            if solver.max_time is not None and figures["seconds"] > solver.max_time:
                return replace(now, stopped="max_time")
        return replace(now, stopped="epochs")


def _free(scan: Scan) -> Solution:
    shape, origin = plan_canvas(scan.positions_px, scan.N)
    probe, source = scan.probe, "file"
    if probe is None:
        y, x = np.mgrid[: scan.N, : scan.N] - scan.N // 2
        probe, source = (np.hypot(y, x) < scan.N / 4)[None].astype(np.complex64), "model"
    return Solution(
        Reconstruction(
            obj=np.ones(shape, np.complex64),
            coverage=np.ones(shape, np.float32),
            origin_yx_px=origin.astype(np.float64),
            positions_px=scan.positions_px,
            probe=replace(scan, probe=probe).photon_probe,
            pixel_size_m=scan.object_pixel_m,
            probe_source=source,
        )
    )


def _epoch(now: Solution, scan: Scan, *, refine_probe: bool) -> Solution:
    image = now.reconstruction
    seen = np.setdiff1d(np.arange(len(scan)), now.held_out)
    pixel, fraction = physics.split_positions(image.positions_px[seen] - image.origin_yx_px)
    counts, valid = scan.counts(seen), scan.valid(seen)
    shifted = physics.shift_probe(image.probe, fraction)
    lit = physics.assemble(physics.coverage(shifted), pixel, image.obj.shape)
    patches = physics.extract(image.obj, pixel, scan.N)
    step = physics.object_update(patches, shifted, counts, valid, scan.background)
    peak = physics.coverage(shifted).max(axis=(1, 2), keepdims=True)
    obj = image.obj + physics.assemble(step * peak, pixel, lit.shape) / (lit + 0.1 * lit.max())
    probe = image.probe
    if refine_probe:
        patches = physics.extract(obj, pixel, scan.N)
        waves = physics.far_field(physics.exit_waves(shifted, patches))
        misfit = np.sqrt(counts / (physics.intensity(waves, scan.background) + 1e-3)) - 1
        misfit = misfit if valid is None else misfit * valid
        back = patches.conj()[:, None] * physics.inverse_far_field(waves * misfit[:, None])
        k = np.fft.fftfreq(scan.N)
        turn = fraction[:, 0, None, None] * k[:, None] + fraction[:, 1, None, None] * k
        back = np.fft.ifft2(np.fft.fft2(back) * np.exp(2j * np.pi * turn)[:, None])
        probe = probe + back.sum(axis=0) / np.sum(np.abs(patches) ** 2, axis=0).max()
    image = replace(
        image,
        obj=obj.astype(np.complex64),
        coverage=(lit / lit.max()).astype(np.float32),
        probe=probe.astype(np.complex64),
    )
    return replace(now, reconstruction=image)


def _progress(
    phase: str, patterns: int, epoch: int, epochs: int, metrics: dict[str, float]
) -> Progress:
    return Progress(phase, patterns, patterns, epoch, epochs, metrics, 100.0, 0.0)
