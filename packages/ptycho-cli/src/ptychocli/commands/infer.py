"""``ptycho infer``: a bundle and scans in, images of the object out."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
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
    ScansArgument,
    given,
    settings_from,
)
from ptychocli.results import Records, assess, conclude, pass_gates, resolve_evaluation
from ptychoconfig.errors import ConfigError

if TYPE_CHECKING:
    from ptychoconfig.payloads import InferencePayload
    from ptychoconfig.resolve import Resolved
    from ptychoconfig.schema import DataConfig, EvaluationConfig
    from ptychodata.backends import Backend
    from ptychodata.bundle import Bundle
    from ptychodata.contracts import Reconstruction, Scan

__all__ = ["app", "run_inference"]

app = typer.Typer(add_completion=False)


@app.command()
@settings_from(("inference", "data", "evaluation", "execution"))
def infer(
    bundle: Annotated[Path, typer.Argument(help="Folder of a training run, or its wts.h5.zip.")],
    scans: ScansArgument,
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
    """Reconstruct scans with a trained bundle.

    One scan writes straight into the output folder, several write one folder each. A file that
    holds the known object is scored against it.
    """
    with Console(quiet=quiet, as_json=as_json) as console:
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
    """
    from ptychocli.rundir import open_run_dir, provenance
    from ptychocli.scans import read_scans
    from ptychodata.backends import find_backend, load_backend
    from ptychodata.bundle import read_bundle
    from ptychodata.formats import read_shapes

    if backend is not None:
        find_backend(backend)
    with ExitStack() as stack:
        runs = [
            stack.enter_context(open_run_dir(folder, force=force))
            for folder in _folders(paths, output_dir)
        ]
        bundle = read_bundle(bundle_path)
        name = backend or bundle.backend
        find_backend(name)
        data, payload, evaluation, resolved = _settle(bundle, settings, config_file)
        for path in paths[1:]:  # a bad last one is told before the first is reconstructed
            read_shapes(path)
        trained = {"path": str(bundle_path), "trained_with": bundle.versions}
        outcomes = []
        for path, run in zip(paths, runs, strict=True):
            with console.keeping(run):
                [scan] = read_scans([path], data, console)
                engine = load_backend(name)
                run.begin()
                again = partial(_infer, engine, bundle, payload, console)
                started = monotonic()
                image = again(scan)
                seconds = monotonic() - started
                found = assess(
                    *(image, scan, evaluation),
                    seconds=seconds,
                    again=again,
                    trained_on=bundle.statistics,
                )
                origin = provenance([path], backend=name, bundle=trained)
                records = Records(resolved, origin, bundle.history)
                outcome = conclude(found, records, evaluation, run, console)
                outcomes.append({"scan": str(path), **outcome})
        return outcomes


def _settle(
    bundle: "Bundle", settings: Mapping[str, Any], config_file: Path | None
) -> "tuple[DataConfig, InferencePayload, EvaluationConfig, Resolved]":
    """Resolve every setting: how to read a scan, apply the bundle, and judge the result."""
    from ptychocli.scans import resolve_data
    from ptychoconfig.payloads import create_inference_payload

    data, resolved_data = resolve_data(settings, config_file)
    payload = create_inference_payload(
        bundle_config=bundle.config,
        flags=given(settings, "inference", "execution"),
        config_file=config_file,
    )
    evaluation, resolved_evaluation = resolve_evaluation(settings, config_file)
    resolved = payload.resolved()
    parts = (resolved, resolved_data, resolved_evaluation)
    joined = replace(
        resolved,
        sections={name: model for part in parts for name, model in part.sections.items()},
        sources={name: source for part in parts for name, source in part.sources.items()},
    )
    return data, payload, evaluation, joined


def _folders(paths: Sequence[Path], output_dir: Path) -> list[Path]:
    """The output folder for one scan; one within it, named after the scan, for each of several."""
    if len(paths) == 1:
        return [output_dir]
    names = [path.name.split(".")[0] or path.name for path in paths]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(
            "expected scans of different file names, for one output folder each, found "
            f"{', '.join(twice)} more than once; run them apart with an --output-dir each"
        )
    return [output_dir / name for name in names]


def _infer(
    engine: "Backend", bundle: "Bundle", payload: "InferencePayload", console: Console, scan: "Scan"
) -> "Reconstruction":
    with console.progress() as report:
        return engine.infer(bundle, scan, payload, report)
