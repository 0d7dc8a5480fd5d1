"""``ptycho train``: scans in, a bundle out."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ptychocli.beginning import (
    find_checkpoint,
    find_start,
    is_finished,
    keep_probes,
    kept_probes,
)
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
from ptychoconfig.errors import ConfigError, UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ptychocli.rundir import RunDir
    from ptychoconfig.payloads import TrainingPayload
    from ptychodata.backends import Backend, Preview
    from ptychodata.bundle import Bundle
    from ptychodata.contracts import Reconstruction, Scan

__all__ = [
    "ResumeOption",
    "StartOption",
    "Trained",
    "app",
    "run_training",
]

app = typer.Typer(add_completion=False)

ResumeOption = Annotated[
    str | None,
    typer.Option(
        metavar="auto|PATH",
        help="Go on from the last checkpoint of this output folder, or start if there is none yet "
        "(auto); or from the checkpoint or run folder PATH.",
    ),
]

StartOption = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="pretrained|BUNDLE",
        help="Begin with the weights of a bundle, or of the pretrained network, not with random "
        "ones; the network is then that of the bundle, and `unrolled` learns what many more passes "
        "over the scans come to (--model-type distilled).",
    ),
]

DryRunOption = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Print every setting with its source, the size of the network, and what the training "
        "would take in time and memory, measured on a few batches; train nothing, write nothing.",
    ),
]

PROBES = "probes.npz"
"""Beside the checkpoint, what was solved for before the training."""

SECTIONS = ("model", "data", "training", "execution")


@app.command()
@settings_from(SECTIONS, without={"N"})
def train(
    scans: ScansArgument,
    output_dir: OutputDirOption,
    backend: BackendOption = "torch",
    config: ConfigOption = None,
    resume: ResumeOption = None,
    start: StartOption = None,
    dry_run: DryRunOption = False,
    force: ForceOption = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
    **settings: Any,
) -> None:
    """Train a network on measured scans.

    The patterns themselves are the teacher; no known object is needed. The folder takes the
    bundle wts.h5.zip, which `ptycho infer` applies to this scan or any other.
    """
    from ptychocli.rundir import refuse_result

    with Console(quiet=quiet, as_json=as_json) as console:
        if dry_run:
            refuse_result(output_dir, force=force or resume is not None)
            _rehearse(scans, backend, given(settings), config, start, console)
            return
        trained = run_training(
            scans,
            output_dir,
            backend=backend,
            settings=given(settings),
            config_file=config,
            force=force,
            resume=resume,
            start=start,
            console=console,
        )
        console.finish(trained.outcome)


@dataclass(frozen=True)
class Trained:
    """What a training run left behind.

    Args:
        bundle: path of the bundle.
        outcome: figures for ``--json``.
    """

    bundle: Path
    outcome: Mapping[str, Any]


def run_training(
    paths: Sequence[Path],
    output_dir: Path,
    *,
    backend: str,
    settings: Mapping[str, Any],
    config_file: Path | None,
    force: bool,
    console: Console,
    resume: str | None = None,
    start: str | None = None,
) -> Trained:
    """Train on the scans ``paths`` and write the run directory.

    Args:
        paths: scan files.
        output_dir: folder that takes the run.
        backend: name of the backend.
        settings: the settings that the user gave as flags.
        config_file: YAML file of settings.
        force: accept a folder that holds a result.
        console: where to say what happens.
        resume: ``auto``, or a checkpoint or run folder to go on from.
        start: ``pretrained``, or a bundle to begin with.

    Raises:
        KeyboardInterrupt: the user stopped the run; what it had learned is saved.
    """
    from ptychocli.ranks import follows
    from ptychocli.rundir import BUNDLE, open_run_dir
    from ptychocli.scans import read_scans, resolve_data
    from ptychodata.backends import find_backend, load_backend
    from ptychodata.training.plan import plan_training

    find_backend(backend)
    if settings.get("architecture") == "help":
        return _list_networks(load_backend(backend), console)
    console.silent = follows(settings, config_file)
    if resume == "auto" and is_finished(output_dir):
        console.result(f"already finished: {output_dir / BUNDLE}")
        return Trained(output_dir / BUNDLE, {"bundle": str(output_dir / BUNDLE), "finished": True})
    with (
        open_run_dir(output_dir, force=force or resume is not None, follows=console.silent) as run,
        console.keeping(run),
    ):
        checkpoint = find_checkpoint(resume, output_dir, console)
        data, _ = resolve_data(settings, config_file)
        scans: Sequence[Scan] = read_scans(paths, data, console)
        begin = find_start(start)
        payload = plan_training(scans, flags=settings, config_file=config_file, start=begin)
        engine = load_backend(backend)
        _refuse_unknown_network(engine, payload.model.architecture)
        run.begin()
        earlier = None if checkpoint is None else checkpoint.with_name(PROBES)
        if earlier is not None and earlier.is_file():
            scans, chosen = kept_probes(scans, earlier)
        else:
            scans, chosen = _settle_probes(engine, scans, payload, config_file, console)
        if not console.silent:
            keep_probes(scans, chosen, run.path / "checkpoints" / PROBES)
        return _train(engine, paths, scans, chosen, payload, run, console, checkpoint, begin)


def _rehearse(
    paths: Sequence[Path],
    backend: str,
    settings: Mapping[str, Any],
    config_file: Path | None,
    start: str | None,
    console: Console,
) -> None:
    """Print what ``run_training`` would do and what it would take."""
    from ptychocli.rehearsal import rehearse
    from ptychocli.scans import read_scans, resolve_data
    from ptychoconfig.yaml_files import resolved_yaml
    from ptychodata.backends import load_backend
    from ptychodata.training.plan import plan_training

    data, _ = resolve_data(settings, config_file)
    scans = read_scans(paths, data, console)
    begin = find_start(start)
    payload = plan_training(scans, flags=settings, config_file=config_file, start=begin)
    engine = load_backend(backend)
    _refuse_unknown_network(engine, payload.model.architecture)
    _announce(scans, payload, console)
    found = rehearse(engine, scans, payload, begin)
    resolved = payload.resolved()
    console.result(resolved_yaml(resolved))
    console.result(
        f"network: {found.parameters} parameters, {found.weights_bytes / 1e6:.1f} MB in the bundle"
    )
    console.result(
        f"time: about {duration(found.seconds)} ({found.batches} batches of "
        f"{found.seconds_per_batch:.2g} s, measured on one device), and what starting, checks of "
        "the held-out patterns and solving for a probe take"
    )
    memory = {"this process": found.memory_bytes, **found.device_bytes}
    told = [f"{size / 1e9:.2g} GB in {place}" for place, size in memory.items() if size]
    console.result(f"memory: {', '.join(told) or 'unknown'}")
    console.finish(
        {"settings": resolved.entries(), "estimate": asdict(found), "backend": engine.name}
    )


def _refuse_unknown_network(engine: "Backend", architecture: str) -> None:
    from ptychodata.backends import ONE_BACKEND

    if architecture not in engine.networks():
        only = ONE_BACKEND.get(architecture)
        raise UsageError(
            f"--architecture: expected one of {', '.join(engine.networks())}, "
            f"found {architecture!r}" + (f", which --backend {only} alone has" if only else "")
        )


def _settle_probes(
    engine: "Backend",
    scans: "Sequence[Scan]",
    payload: "TrainingPayload",
    config_file: Path | None,
    console: Console,
) -> "tuple[list[Scan], list[dict[str, Any]]]":
    """Find the probe of each scan first, where that is asked for or needed.

    Raises:
        DataError: a scan has no probe, and none is to be solved for.
    """
    from ptychocli.solving import settle_probe
    from ptychoconfig.payloads import solver_beside

    solver = solver_beside(payload, config_file)
    choice = payload.training.probe
    if payload.execution.devices * payload.execution.num_nodes > 1:  # they would find one each
        if choice == "solve" or any(scan.probe is None for scan in scans):
            raise ConfigError(
                "--probe solve: expected one device, for all must train with one probe, found "
                "several; begin the run on one and go on with --resume, or give --probe file"
            )
        choice = "file"
    settled = [settle_probe(engine, scan, choice, solver, console) for scan in scans]
    return [scan for scan, _ in settled], [chosen for _, chosen in settled]


def _train(
    engine: "Backend",
    paths: Sequence[Path],
    scans: "Sequence[Scan]",
    chosen: Sequence[Mapping[str, Any]],
    payload: "TrainingPayload",
    run: "RunDir",
    console: Console,
    checkpoint: Path | None,
    begin: "Bundle | None",
) -> Trained:
    from ptychocli.interrupts import stop_on_signal
    from ptychocli.rundir import BUNDLE, provenance
    from ptychodata.bundle import write_bundle

    _announce(scans, payload, console)
    started = monotonic()
    preview = None
    if not console.silent:
        preview = _previews(run.path / "preview", afresh=checkpoint is None)
    with stop_on_signal(console) as interrupt, console.progress() as report:
        bundle = engine.train(
            scans, payload, run.path, report, interrupt, checkpoint, preview, begin
        )
    if console.silent:  # the first process writes the result
        return Trained(run.path / BUNDLE, {})
    seconds = monotonic() - started
    if any(probe["source"] == "solved" for probe in chosen):
        bundle = replace(bundle, probe_learned=True)
    seeds = {"seed": payload.training.seed, "subsample_seed": payload.data.subsample_seed}
    settled = {
        "backend": engine.name,
        "seeds": seeds,
        "seconds": seconds,
        "interrupted": interrupt.asked,
        "probes": chosen,
    }
    origin = provenance(paths, trained_with=bundle.versions, **settled)
    run.write_records(payload.resolved(), origin)
    write_bundle(bundle, run.path / BUNDLE)
    losses = _last_figures(bundle)
    console.result(
        "  ".join([f"trained {duration(seconds)}", *(f"{k} {v:.4g}" for k, v in losses.items())])
    )
    console.result(f"bundle: {run.path / BUNDLE}")
    if interrupt.asked:
        raise KeyboardInterrupt
    outcome = {
        "bundle": str(run.path / BUNDLE),
        "seconds": seconds,
        "metrics": losses,
        "probes": chosen,
        "seeds": seeds,
    }
    return Trained(run.path / BUNDLE, outcome)


def _previews(folder: Path, *, afresh: bool) -> "Preview":
    """Draw images into ``epoch_NNN.png``; none of another run stays there."""
    for stale in folder.glob("epoch_*.png") if afresh else ():
        stale.unlink()

    def draw(epoch: int, image: "Reconstruction") -> "NDArray[np.uint8]":
        from ptychocli.pictures import write_both

        folder.mkdir(exist_ok=True)
        return write_both(image, f"epoch {epoch}", folder / f"epoch_{epoch:03d}.png")

    return draw


def _announce(scans: "Sequence[Scan]", payload: "TrainingPayload", console: Console) -> None:
    """Say what is trained on how much; a part of the data is never used silently."""
    training, model = payload.training, payload.model
    patterns = sum(len(scan) for scan in scans)
    console.note(
        f"training {model.architecture} on {patterns} patterns, gridsize {model.gridsize} "
        f"(groups of {model.C})"
        + (f", {training.epochs} epochs" if training.epochs else "")
        + (f", for at most {duration(training.max_time)}" if training.max_time else "")
    )
    if payload.execution.deterministic and payload.execution.num_workers:
        console.warn(
            f"--deterministic with --num-workers {payload.execution.num_workers}: the batches are "
            "the same in any case, but worker processes are not held to it"
        )
    if training.n_groups is not None and training.n_groups < patterns:
        console.note(
            f"using a subset: {training.n_groups} groups per epoch (--n-groups), "
            f"anchored at as many of {patterns} patterns"
        )


def _last_figures(bundle: "Bundle") -> dict[str, float]:
    return {name: float(values[-1]) for name, values in bundle.history.items() if values}


def _list_networks(engine: "Backend", console: Console) -> Trained:
    networks = engine.networks()
    for name, line in networks.items():
        console.result(f"{name:12} {line}")
    return Trained(Path(), {"networks": networks})
