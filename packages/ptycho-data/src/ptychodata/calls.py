"""What the commands do, for programs and notebooks: scans in, bundles and images out, no files.

Settings have the names of the [settings page](configuration.md), are checked as there, and have the
same precedence: an argument counts as a flag does.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from ptychoconfig.payloads import (
    SolverPayload,
    TrainingPayload,
    create_inference_payload,
    create_solver_payload,
    solver_beside,
)
from ptychoconfig.resolve import resolve
from ptychoconfig.schema import DataConfig, SimulationConfig

from .backends import Backend, Progress, Report, ShouldStop
from .bundle import Bundle, read_bundle
from .contracts import Reconstruction, Scan, Solution
from .formats import read as read_file
from .grouping import draw_subsample, keep_frames
from .pretrained import PRETRAINED
from .probes import choose_probe, probe_to_choose
from .simulate import simulate
from .training.plan import plan_training

__all__ = ["Calls", "read", "simulate_scan"]

AnyPath = str | os.PathLike[str]


def read(path: AnyPath, *, name: str | None = None, **settings: Any) -> Scan:
    """Read a scan of any known format.

    Args:
        path: the file.
        name: what to call the scan; by default the file's name without suffixes.
        settings: settings of the section ``data``, such as ``nphotons=1e6`` or ``crop_px=64``.

    Returns:
        The scan, without the patterns in ``exclude``, and ``n_subsample`` of the rest. What was
        inferred or assumed stands in its ``notes``.

    Raises:
        DataError: the file is missing, broken, ambiguous, or not what its name says.
        ConfigError: a setting is unknown or out of bounds.
    """
    data = resolve(["data"], flags=settings).sections["data"]
    assert isinstance(data, DataConfig)
    scan = read_file(path, options=data, name=name)
    if data.exclude is not None:
        scan = scan.subset(keep_frames(len(scan), data.exclude))
    if data.n_subsample is not None and data.n_subsample != len(scan):
        scan = scan.subset(draw_subsample(len(scan), data.n_subsample, data.subsample_seed))
    return scan


def simulate_scan(**settings: Any) -> Scan:
    """Simulate a scan whose object is known.

    Args:
        settings: settings of the section ``simulation``, such as ``object_kind="lines"``.

    Raises:
        ConfigError: a setting is unknown, out of bounds, or contradicts another.
    """
    config = resolve(["simulation"], flags=settings).sections["simulation"]
    assert isinstance(config, SimulationConfig)
    return simulate(config)


def _silent(progress: Progress) -> None:
    """Say nothing."""


def _never() -> bool:
    return False


class Calls:
    """The calls of one backend; ``ptychotorch`` and ``ptychotf`` offer them as functions.

    Args:
        load: makes the backend.
    """

    def __init__(self, load: Callable[[], Backend]) -> None:
        self._load = load

    def train(
        self,
        scans: Scan | Sequence[Scan],
        *,
        start: Bundle | AnyPath | Literal["pretrained"] | None = None,
        run_dir: AnyPath | None = None,
        resume: AnyPath | None = None,
        config_file: AnyPath | None = None,
        report: Report = _silent,
        should_stop: ShouldStop = _never,
        **settings: Any,
    ) -> Bundle:
        """Train a network on the patterns of one or more scans; no known object is needed.

        As with ``ptycho train``, the probe is solved for first where the scan's own does not
        explain the patterns (``probe="auto"``).

        Args:
            scans: what to learn from, each with its own probe and dose.
            start: a bundle, or ``pretrained``, whose weights to begin with; `unrolled` then learns
                what many more passes over the scans come to (``model_type="distilled"``).
            run_dir: existing folder for ``checkpoints/`` and ``metrics.csv``; None keeps neither.
            resume: checkpoint in a ``run_dir`` to go on from.
            config_file: YAML file of settings.
            report: called after each step with the ``Progress``; ``print`` will do.
            should_stop: asked after each step; True ends the run and keeps what it has.
            settings: settings of the sections ``model``, ``training`` and ``execution``, such as
                ``epochs=4`` or ``probe_trainable=True``.

        Returns:
            The trained network; ``ptychodata.write_bundle`` writes it.

        Raises:
            ConfigError: a setting is unknown, out of bounds, or does not fit the scans.
            DataError: a scan cannot be trained on.
            NumericalError: the loss is no longer finite.
        """
        engine, scans = self._load(), [scans] if isinstance(scans, Scan) else list(scans)
        begin = None if start is None else _bundle(start)
        path = None if config_file is None else Path(config_file)
        payload = plan_training(scans, flags=settings, config_file=path, start=begin)
        solver = solver_beside(payload, path)
        choice = payload.training.probe
        chosen = [choose_probe(engine, s, choice, solver, report, should_stop) for s in scans]
        with _folder(run_dir, payload) as (folder, payload):
            bundle = engine.train(
                [found.scan for found in chosen],
                payload,
                folder,
                report,
                should_stop,
                None if resume is None else Path(resume),
                start=begin,
            )
        solved = any(found.source == "solved" for found in chosen)
        return replace(bundle, probe_learned=True) if solved else bundle

    def infer(
        self,
        scan: Scan,
        bundle: Bundle | AnyPath | None = None,
        *,
        config_file: AnyPath | None = None,
        report: Report = _silent,
        should_stop: ShouldStop = _never,
        **settings: Any,
    ) -> Reconstruction:
        """Reconstruct a scan with a trained network, or with the pretrained one.

        All patterns are used; ``ptycho infer`` holds some out to measure R_free.

        Args:
            scan: what to reconstruct.
            bundle: the trained network, its file, or the folder of its run; None takes the
                pretrained one.
            config_file: YAML file of settings.
            report: called as the run proceeds.
            should_stop: asked by the solver, where one is needed.
            settings: settings of the sections ``inference`` and ``execution``, such as
                ``refine=20`` or ``probe="file"``.

        Raises:
            ConfigError: a setting is unknown or out of bounds.
            DataError: the scan has no probe, and none is to be solved for.
            BundleError: the bundle is broken, or does not fit its network.
        """
        engine, bundle = self._load(), _bundle(PRETRAINED if bundle is None else bundle)
        path = None if config_file is None else Path(config_file)
        payload = create_inference_payload(
            bundle_config=bundle.config, flags=settings, config_file=path
        )
        solver = solver_beside(payload, path)
        inference, solved = payload.inference, False
        choice = probe_to_choose(scan, bundle, inference.probe)
        if choice is not None:
            found = choose_probe(engine, scan, choice, solver, report, should_stop)
            scan, solved = found.scan, found.source == "solved"
            payload = replace(payload, inference=inference.model_copy(update={"probe": "file"}))
        image = engine.infer(bundle, scan, payload, report)
        image = replace(image, probe_source="solved") if solved else image
        if not inference.refine:
            return image
        polish = {"epochs": inference.refine, "held_out_fraction": 0.0}
        solver = replace(solver, solver=solver.solver.model_copy(update=polish))
        return engine.reconstruct(scan, solver, report, should_stop, Solution(image)).reconstruction

    def reconstruct(
        self,
        scan: Scan,
        start: Solution | Reconstruction | None = None,
        *,
        config_file: AnyPath | None = None,
        report: Report = _silent,
        should_stop: ShouldStop = _never,
        **settings: Any,
    ) -> Solution:
        """Solve a scan for object and probe by gradient steps, without a network.

        Args:
            scan: what to reconstruct; a probe is made up where there is none.
            start: an image to begin with, or a solution to go on from.
            config_file: YAML file of settings.
            report: called after each pass.
            should_stop: True ends the run with the best so far.
            settings: settings of the sections ``solver`` and ``execution``, such as ``epochs=50``
                or ``modes=3``.

        Raises:
            ConfigError: a setting is unknown or out of bounds.
            DataError: the start does not fit the scan.
            NumericalError: the residual diverges.
        """
        payload: SolverPayload = create_solver_payload(
            flags=settings, config_file=None if config_file is None else Path(config_file)
        )
        begin = Solution(start) if isinstance(start, Reconstruction) else start
        return self._load().reconstruct(scan, payload, report, should_stop, begin)


def _bundle(given: Bundle | AnyPath) -> Bundle:
    if isinstance(given, Bundle):
        return given
    return read_bundle(PRETRAINED if given == "pretrained" else given)


@contextmanager
def _folder(
    run_dir: AnyPath | None, payload: TrainingPayload
) -> Iterator[tuple[Path, TrainingPayload]]:
    """The run directory, or one for the time of the training that keeps nothing."""
    if run_dir is not None:
        yield Path(run_dir), payload
        return
    silent = {"enable_checkpointing": False, "logger": "none"}
    with TemporaryDirectory() as folder:
        execution = payload.execution.model_copy(update=silent)
        yield Path(folder), replace(payload, execution=execution)
