"""``ptycho reconstruct``: scans in, images of the object out, without a network."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ptychocli.console import Console, duration
from ptychocli.options import (
    BackendOption,
    ConfigOption,
    ForceOption,
    JsonOption,
    OutputDirOption,
    QuietOption,
    ScansArgument,
    given,
    settings_from,
)
from ptychocli.results import (
    Records,
    assess,
    conclude,
    joined,
    pass_gates,
    refuse_region_outside,
    resolve_evaluation,
)
from ptychoconfig.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from ptychocli.rundir import RunDir
    from ptychoconfig.payloads import SolverPayload
    from ptychoconfig.resolve import Resolved
    from ptychoconfig.schema import EvaluationConfig
    from ptychodata.backends import Solver
    from ptychodata.contracts import Scan, Solution

__all__ = ["app", "run_reconstruction"]

app = typer.Typer(add_completion=False)

FREE = "free"
POOR = 2.0
"""Times the noise floor of a residual from which the orientation is looked into."""


@app.command()
@settings_from(("solver", "data", "evaluation", "execution"))
def reconstruct(
    scans: ScansArgument,
    output_dir: OutputDirOption,
    backend: BackendOption = "torch",
    engine: Annotated[
        Literal["ptycho", "pty-chi"],
        typer.Option(help="What solves: the backend, or pty-chi, as an independent check."),
    ] = "ptycho",
    engine_algorithm: Annotated[
        Literal["lsqml", "rpie", "epie", "dm"] | None,
        typer.Option(help="Algorithm of pty-chi; default lsqml.", show_default=False),
    ] = None,
    engine_python: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Interpreter that has pty-chi; default the one that PTYCHO_PTYCHI_PYTHON names.",
            show_default=False,
        ),
    ] = None,
    start: Annotated[
        str,
        typer.Option(
            metavar="free|PATH",
            help="Object to start from: free space, or that of an earlier infer or reconstruct "
            "(its folder, or its reconstruction.npz).",
        ),
    ] = FREE,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on where the reconstruction in the output folder ended."),
    ] = False,
    config: ConfigOption = None,
    force: ForceOption = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
    **settings: Any,
) -> None:
    """Solve scans for their object by gradient steps; no network, no training.

    Object and probe are found together until the residual stops falling. One scan writes straight
    into the output folder, several write one folder each. A file that holds the known object is
    scored against it.
    """
    with Console(quiet=quiet, as_json=as_json) as console:
        outcomes = run_reconstruction(
            scans,
            output_dir,
            loader=_loader(backend, engine, engine_algorithm, engine_python, console),
            settings=given(settings),
            config_file=config,
            start=start,
            resume=resume,
            force=force,
            console=console,
        )
        console.finish(outcomes[0] if len(outcomes) == 1 else {"scans": outcomes})
        pass_gates(outcomes)


def _loader(
    backend: str, engine: str, algorithm: str | None, python: Path | None, console: Console
) -> "Callable[[], Solver]":
    """What will load the engine, once it is known to be there.

    Raises:
        UsageError: options of an engine that was not asked for.
        BackendError: the engine is not there.
    """
    if engine == "pty-chi":
        from ptychodata.engines.adapter import PtychiEngine

        other = PtychiEngine(
            algorithm or "lsqml", None if python is None else str(python), console.note
        )
        return lambda: other
    for flag, value in (("--engine-algorithm", algorithm), ("--engine-python", python)):
        if value is not None:
            raise UsageError(
                f"{flag}: expected --engine pty-chi with it, found --engine {engine}; add that, or "
                f"leave {flag} out"
            )
    from ptychodata.backends import find_backend, load_backend

    find_backend(backend)
    return lambda: load_backend(backend)


@dataclass(frozen=True, eq=False)
class _Job:
    """One scan to solve: from where, how, and into which folder."""

    path: Path
    run: "RunDir"
    payload: "SolverPayload"
    start: "Solution | None"
    start_name: str


def run_reconstruction(
    paths: Sequence[Path],
    output_dir: Path,
    *,
    loader: "Callable[[], Solver]",
    settings: Mapping[str, Any],
    config_file: Path | None,
    start: str,
    resume: bool,
    force: bool,
    console: Console,
) -> list[dict[str, Any]]:
    """Solve the scans ``paths`` and write what was found; return the metrics of each.

    Args:
        paths: scan files.
        output_dir: folder for one scan; parent of one folder per scan for several.
        loader: loads what solves.
        settings: the settings that the user gave as flags.
        config_file: YAML file of settings; when resuming, by default those of the earlier run but
            for the number of epochs that ended it.
        start: ``free``, or a path to an earlier reconstruction.
        resume: go on from the reconstruction in the output folder.
        force: accept folders that hold a result.
        console: where to say what happens.

    Raises:
        KeyboardInterrupt: the user stopped the run; the best that it had found is saved.
    """
    from ptychocli.rundir import open_run_dir, output_folders
    from ptychodata.formats import read_shapes

    if resume and start != FREE:
        raise UsageError(
            f"--resume: expected no other start, found --start {start}; leave one of them out"
        )
    evaluation, judged = resolve_evaluation(settings, config_file)
    with ExitStack() as stack:
        jobs = []
        for path, folder in zip(paths, output_folders(paths, output_dir), strict=True):
            run = stack.enter_context(open_run_dir(folder, force=force, resume=resume))
            with console.keeping(run):
                jobs.append(_plan(path, run, start, resume, settings, config_file, console))
        for path in paths[1:]:  # a bad last one is told before the first is solved
            read_shapes(path)
        engine: Solver | None = None
        outcomes = []
        for job in jobs:
            with console.keeping(job.run):
                scan = _read(job, console)
                refuse_region_outside(scan, evaluation)
                engine = engine or loader()
                outcomes.append(_run(engine, job, scan, evaluation, judged, console))
        return outcomes


def _plan(
    path: Path,
    run: "RunDir",
    start: str,
    resume: bool,
    settings: Mapping[str, Any],
    config_file: Path | None,
    console: Console,
) -> _Job:
    """Resolve the settings of one scan and read its start."""
    from ptychocli.rundir import SETTINGS
    from ptychodata.results import RECONSTRUCTION, read_solution

    if not resume:
        payload = _payload(settings, config_file)
        if start == FREE:
            return _Job(path, run, payload, None, "free space")
        return _Job(path, run, payload, replace(read_solution(start), epochs=0, history={}), start)
    if not (run.path / RECONSTRUCTION).exists():
        console.note(f"{run.path}: nothing to resume here; starting afresh")
        return _Job(path, run, _payload(settings, config_file), None, "free space")
    earlier, kept = read_solution(run.path), run.path / SETTINGS
    if earlier.epochs == 0:
        raise ConfigError(
            f"--resume: expected a folder of `ptycho reconstruct`, found {run.path} with an image "
            f"of a network alone; give --start {run.path} and another --output-dir"
        )
    if config_file is None and kept.exists():
        payload = _without_end(_payload(settings, kept), kept)
    else:
        payload = _payload(settings, config_file)
    if payload.solver.epochs is not None and payload.solver.epochs <= earlier.epochs:
        raise ConfigError(
            f"--epochs: expected more than the {earlier.epochs} that {run.path} has, for they "
            f"count, found {payload.solver.epochs}; give more, or leave it out"
        )
    return _Job(path, run, payload, earlier, str(run.path))


def _payload(settings: Mapping[str, Any], config_file: Path | None) -> "SolverPayload":
    from ptychoconfig.payloads import create_solver_payload

    flags = given(settings, "solver", "data", "execution")
    return create_solver_payload(flags=flags, config_file=config_file)


def _without_end(payload: "SolverPayload", kept: Path) -> "SolverPayload":
    """The settings of an earlier run, but for the number of epochs that ended it."""
    if payload.sources["solver.epochs"] != f"file {kept}":
        return payload
    return replace(
        payload,
        solver=payload.solver.model_copy(update={"epochs": None}),
        sources={**payload.sources, "solver.epochs": "default"},
    )


def _read(job: _Job, console: Console) -> "Scan":
    from ptychocli.scans import read_scans, warn_of_faults

    [scan] = read_scans([job.path], job.payload.data, console)
    if scan.probe is not None and job.payload.solver.probe_model in ("auto", "file"):
        _ = scan.photon_probe  # raises where it has no power
    warn_of_faults(job.path, scan, console)
    return scan


def _run(
    engine: "Solver",
    job: _Job,
    scan: "Scan",
    evaluation: "EvaluationConfig",
    judged: "Resolved",
    console: Console,
) -> dict[str, Any]:
    """Solve one scan, and write and print what was found."""
    from ptychocli.rundir import provenance
    from ptychocli.scans import warn_of_orientation
    from ptychocli.solving import solve

    _announce(job, scan, console)
    job.run.begin()
    solved = solve(engine, scan, job.payload, job.start, console)
    if solved.interrupted:  # the halves would take as long again
        evaluation = evaluation.model_copy(update={"split_half": False, "min_frc_px": None})
    found = assess(
        *(solved.solution, scan, evaluation),
        seconds=solved.seconds,
        passes=solved.passes,
        again=lambda half: solve(engine, half, job.payload, None, console).solution.reconstruction,
    )
    found = replace(found, metrics={**found.metrics, "start": job.start_name})
    residuals = found.metrics["residuals"]
    if residuals["r_factor"] > POOR * residuals.get("poisson_floor", 1.0):
        warn_of_orientation(job.path, scan, console)
    seeds = {"seed": job.payload.solver.seed, "subsample_seed": job.payload.data.subsample_seed}
    origin = provenance([job.path], backend=engine.name, seeds=seeds, start=job.start_name)
    resolved = joined(job.payload.resolved(), judged)
    records = Records(resolved, origin, solved.solution.history)
    outcome = conclude(found, records, evaluation, job.run, console)
    if solved.interrupted:
        raise KeyboardInterrupt
    return {"scan": str(job.path), **outcome}


def _announce(job: _Job, scan: "Scan", console: Console) -> None:
    solver, done = job.payload.solver, job.start.epochs if job.start else 0
    until = f"to epoch {solver.epochs}" if solver.epochs else "until the residual stops falling"
    limit = f", for at most {duration(solver.max_time)}" if solver.max_time else ""
    after = f" after {done} epochs" if done else ""
    console.note(f"solving {len(scan)} patterns from {job.start_name}{after}, {until}{limit}")
