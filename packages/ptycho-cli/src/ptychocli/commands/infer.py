"""``ptycho infer``: a bundle and scans in, images of the object out."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ptychocli.console import Console
from ptychocli.options import (
    ConfigOption,
    ForceOption,
    JsonOption,
    OutputDirOption,
    QuietOption,
    given,
    settings_from,
)
from ptychocli.results import (
    Assessment,
    Records,
    asks_for_halves,
    assess,
    conclude,
    joined,
    pass_gates,
    refuse_region_outside,
    resolve_evaluation,
    scores,
)
from ptychoconfig.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from ptychocli.rundir import RunDir
    from ptychoconfig.payloads import InferencePayload, SolverPayload
    from ptychoconfig.resolve import Resolved
    from ptychoconfig.schema import EvaluationConfig
    from ptychodata.backends import Backend
    from ptychodata.bundle import Bundle
    from ptychodata.contracts import Reconstruction, Scan, Solution

__all__ = ["app", "run_inference"]

app = typer.Typer(add_completion=False)


@app.command()
@settings_from(("inference", "data", "evaluation", "execution"))
def infer(
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="[BUNDLE] SCAN...",
            help="Folder of a training run or its wts.h5.zip, and scan files; without a bundle the "
            "pretrained network serves.",
            show_default=False,
        ),
    ],
    output_dir: OutputDirOption,
    backend: Annotated[
        str | None, typer.Option(help="Framework to compute with; default the bundle's own.")
    ] = None,
    config: ConfigOption = None,
    force: ForceOption = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
    **settings: Any,
) -> None:
    """Reconstruct scans with a trained bundle, or with the pretrained network.

    One scan writes straight into the output folder, several write one folder each. A file that
    holds the known object is scored against it. The solver may find the probe first (--probe), and
    polish the network's image (--refine).
    """
    with Console(quiet=quiet, as_json=as_json) as console:
        bundle, scans = _bundle_and_scans(inputs)
        outcomes = run_inference(
            bundle,
            scans,
            output_dir,
            backend=backend,
            settings=given(settings),
            config_file=config,
            force=force,
            console=console,
        )
        console.finish(outcomes[0] if len(outcomes) == 1 else {"scans": outcomes})
        pass_gates(outcomes)


def _bundle_and_scans(inputs: Sequence[Path]) -> tuple[Path, Sequence[Path]]:
    """The bundle, if the first of the arguments is one, and the scans.

    Raises:
        UsageError: there is no scan.
    """
    from ptychodata.pretrained import PRETRAINED

    first, rest = inputs[0], inputs[1:]
    absent = not (first.exists() or first.suffix)  # more likely a folder than a scan
    if not (first.is_dir() or first.suffix == ".zip" or absent):
        return PRETRAINED, inputs
    if not rest:
        raise UsageError(
            f"ptycho infer: expected a scan to reconstruct, found the bundle {first} alone; name "
            "the scan files after it"
        )
    return first, rest


def run_inference(
    bundle_path: Path,
    paths: Sequence[Path],
    output_dir: Path,
    *,
    backend: str | None,
    settings: Mapping[str, Any],
    config_file: Path | None,
    force: bool,
    console: Console,
) -> list[dict[str, Any]]:
    """Reconstruct the scans ``paths`` and write what was found; return the metrics of each.

    Args:
        bundle_path: folder of a training run, or the bundle file.
        paths: scan files.
        output_dir: folder for one scan; parent of one folder per scan for several.
        backend: name of the backend; None takes the one that wrote the bundle.
        settings: the settings that the user gave as flags.
        config_file: YAML file of settings.
        force: accept folders that hold a result.
        console: where to say what happens.

    Raises:
        KeyboardInterrupt: the user stopped the solver; the best that it had found is saved.
    """
    from ptychocli.ranks import follows
    from ptychocli.rundir import open_run_dir, output_folders
    from ptychodata.backends import find_backend
    from ptychodata.bundle import read_bundle
    from ptychodata.formats import read_shapes

    if backend is not None:
        find_backend(backend)
    console.silent = follows(settings, config_file)
    with ExitStack() as stack:
        runs = [
            stack.enter_context(open_run_dir(folder, force=force, follows=console.silent))
            for folder in output_folders(paths, output_dir)
        ]
        bundle = read_bundle(bundle_path)
        name = backend or bundle.backend
        find_backend(name)
        settled = _settle(bundle, settings, config_file)
        for path in paths[1:]:  # a bad last one is told before the first is reconstructed
            read_shapes(path)
        outcomes = []
        for path, run in zip(paths, runs, strict=True):
            with console.keeping(run):
                outcomes.append(_reconstruct(path, run, name, bundle_path, settled, console))
        return outcomes


@dataclass(frozen=True, eq=False)
class _Settled:
    """The bundle, and all settings: of the network, of the solver before and after it, of trust."""

    bundle: "Bundle"
    network: "InferencePayload"
    solver: "SolverPayload"
    evaluation: "EvaluationConfig"
    resolved: "Resolved"


@dataclass(frozen=True, eq=False)
class _Made:
    """An image, what it was made from, and figures of what came before it."""

    solution: "Solution"
    scan: "Scan"
    seconds: float
    figures: Mapping[str, Any]
    interrupted: bool = False


def _settle(bundle: "Bundle", settings: Mapping[str, Any], config_file: Path | None) -> _Settled:
    """Resolve every setting: how to read a scan, apply the bundle, and judge the result."""
    from ptychoconfig.payloads import create_inference_payload, create_solver_payload

    network = create_inference_payload(
        bundle_config=bundle.config,
        flags=given(settings, "inference", "execution"),
        config_file=config_file,
    )
    solver = create_solver_payload(
        flags=given(settings, "data", "execution"), config_file=config_file
    )
    evaluation, judged = resolve_evaluation(settings, config_file)
    resolved = joined(network.resolved(), solver.resolved(), judged)
    return _Settled(bundle, network, solver, evaluation, resolved)


def _reconstruct(
    path: Path, run: "RunDir", backend: str, bundle_path: Path, settled: _Settled, console: Console
) -> dict[str, Any]:
    """Reconstruct one scan into its folder; return its metrics, if this process makes them."""
    from ptychocli.rundir import provenance
    from ptychocli.scans import read_scans
    from ptychodata.backends import load_backend

    [scan] = read_scans([path], settled.solver.data, console)
    refuse_region_outside(scan, settled.evaluation)
    engine = load_backend(backend)
    run.begin()
    fraction = settled.network.inference.held_out_fraction
    made = _make(engine, settled, scan, fraction, console)
    if console.silent:
        _follow(engine, settled, scan, console)
        return {"gates": []}
    found = _assess(made, engine, settled, scan, console)
    trained = {"path": str(bundle_path), "trained_with": settled.bundle.versions}
    origin = provenance([path], backend=backend, bundle=trained)
    records = Records(settled.resolved, origin, settled.bundle.history)
    outcome = conclude(found, records, settled.evaluation, run, console)
    if made.interrupted:
        raise KeyboardInterrupt
    return {"scan": str(path), **outcome}


def _make(
    engine: "Backend", settled: _Settled, scan: "Scan", held_out: float, console: Console
) -> _Made:
    """Choose the probe, apply the network, and refine its image if that is asked for.

    Args:
        engine: what computes.
        settled: bundle and settings.
        scan: the patterns.
        held_out: share of the interior ones that neither probe nor image is to see.
        console: where to say what happens.
    """
    import numpy as np

    from ptychodata.contracts import Solution
    from ptychodata.grouping import hold_out_interior

    held = hold_out_interior(scan.positions_px, held_out, seed=0)
    kept = scan.subset(np.setdiff1d(np.arange(len(scan)), held))
    kept, network, chosen = _settle_probe(engine, settled, kept, console)
    started = monotonic()
    with console.progress() as report:
        image = engine.infer(settled.bundle, kept, network, report)
    image = replace(image, positions_px=scan.positions_px)
    if chosen.get("source") == "solved":
        image = replace(image, probe_source="solved")
    figures: dict[str, Any] = {"probe_choice": chosen} if chosen else {}
    solution = Solution(image, held_out=held)
    made = _Made(solution, scan.with_probe(kept.probe), monotonic() - started, figures)
    refines = network.inference.refine and not console.silent
    return _refine(engine, settled, made, console) if refines else made


def _settle_probe(
    engine: "Backend", settled: _Settled, scan: "Scan", console: Console
) -> "tuple[Scan, InferencePayload, dict[str, Any]]":
    """Find the probe first where that is asked for or needed; then it is as good as the file's."""
    from ptychocli.solving import settle_probe
    from ptychodata.probes import probe_to_choose

    network = settled.network
    if network.execution.devices * network.execution.num_nodes > 1:
        return scan, _without_search(network, scan), {}
    choice = probe_to_choose(scan, settled.bundle, network.inference.probe)
    if choice is None:
        return scan, network, {}
    scan, chosen = settle_probe(engine, scan, choice, settled.solver, console)
    inference = network.inference.model_copy(update={"probe": "file"})
    return scan, replace(network, inference=inference), chosen


def _without_search(network: "InferencePayload", scan: "Scan") -> "InferencePayload":
    """Settings of one of several processes, which would find a probe each.

    Raises:
        ConfigError: one is to be found.
    """
    choice = network.inference.probe
    if choice == "solve" or (choice == "file" and scan.probe is None):
        raise ConfigError(
            f"--devices {network.execution.devices}: expected a probe that all processes share, "
            f"found --probe {choice}; give --probe file with a scan that holds one, or leave "
            "--devices out"
        )
    return network


def _refine(engine: "Backend", settled: _Settled, made: _Made, console: Console) -> _Made:
    """Polish the network's image; its own figures are kept beside those of the outcome.

    The patterns that the network has not seen stay unseen.
    """
    from ptychocli.solving import solve
    from ptychodata.residuals import solution_misfit

    epochs = settled.network.inference.refine
    solver = settled.solver.solver.model_copy(update={"epochs": epochs, "held_out_fraction": 0.0})
    console.note(f"refining the network's image for {epochs} epochs")
    alone = settled.solver.execution.model_copy(update={"devices": 1, "num_nodes": 1})
    payload = replace(settled.solver, solver=solver, execution=alone)
    solved = solve(engine, made.scan, payload, made.solution, console)
    before = {
        "residuals": solution_misfit(made.solution, made.scan).residuals,
        **scores(made.solution.reconstruction, made.scan),
    }
    return replace(
        made,
        solution=solved.solution,
        seconds=made.seconds + solved.seconds,
        figures={**made.figures, "network": before},
        interrupted=solved.interrupted,
    )


def _assess(
    made: _Made, engine: "Backend", settled: _Settled, scan: "Scan", console: Console
) -> Assessment:
    """Judge the image."""
    found = assess(
        *(made.solution, made.scan, settled.evaluation),
        seconds=made.seconds,
        passes=1 + made.solution.epochs,
        again=_again(engine, settled, scan, console),
        trained_on=settled.bundle.statistics,
    )
    return replace(found, metrics={**found.metrics, **made.figures})


def _again(
    engine: "Backend", settled: _Settled, scan: "Scan", console: Console
) -> "Callable[[Scan], Reconstruction]":
    """Makes the image of a half, from the file's probe on, of all its patterns."""

    def again(half: "Scan") -> "Reconstruction":
        half = half.with_probe(scan.probe)
        return _make(engine, settled, half, 0.0, console).solution.reconstruction

    return again


def _follow(engine: "Backend", settled: _Settled, scan: "Scan", console: Console) -> None:
    """Take part in what the first process does after the image: the halves, if it makes them."""
    from ptychodata.trust import split_half

    if asks_for_halves(settled.evaluation):
        split_half(scan, _again(engine, settled, scan, console))
