"""``ptycho demo``: the whole way, on a scan made on the spot."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ptychocli.console import Console
from ptychocli.options import BackendOption, ForceOption, JsonOption, QuietOption
from ptychoconfig.errors import NumericalError

app = typer.Typer(add_completion=False)

TRAINING_S, QUICK_TRAINING_S = 100.0, 20.0
GATE = 0.8
"""Amplitude SSIM that a recognisable image exceeds; a constant object scores about 0.26."""

_SCANS = {
    "train": {"seed": 1, "n_patterns": 600, "positions_kind": "jittered"},
    "test": {"seed": 2, "n_patterns": 600, "positions_kind": "jittered"},
}


@app.command()
def demo(
    output_dir: Annotated[
        Path, typer.Option(help="Folder that takes everything the demo writes.")
    ] = Path("demo"),
    backend: BackendOption = "torch",
    quick: Annotated[
        bool, typer.Option("--quick", help="Train for 20 s only; the image is coarse.")
    ] = False,
    force: ForceOption = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Simulate two scans, train on one, reconstruct the other, score it; under 3 minutes.

    The second scan is of another object, which the network has never seen.
    """
    from ptychocli.commands.infer import run_inference
    from ptychocli.commands.train import run_training

    with Console(quiet=quiet, as_json=as_json) as console:
        scans = {name: _simulate(name, output_dir, force, console) for name in _SCANS}
        common: dict[str, Any] = {"config_file": None, "force": force, "console": console}
        limit = QUICK_TRAINING_S if quick else TRAINING_S
        trained = run_training(
            [scans["train"]],
            output_dir / "run",
            backend=backend,
            settings={"max_time": limit, "epochs": 1000, "probe": "file"},
            **common,
        )
        [found] = run_inference(
            trained.bundle,
            [scans["test"]],
            output_dir,
            backend=backend,
            settings={"probe": "file"},
            **common,
        )
        console.finish({"training": trained.outcome, "inference": found})
        _pass_gate(found["scores"])


def _simulate(name: str, folder: Path, force: bool, console: Console) -> Path:
    from ptychocli.rundir import refuse_existing
    from ptychoconfig.schema import SimulationConfig
    from ptychodata.formats import write
    from ptychodata.simulate import simulate

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.npz"
    refuse_existing(path, force=force)
    console.note(f"simulating {path}")
    write(simulate(SimulationConfig.model_validate(_SCANS[name])), path)
    return path


def _pass_gate(scores: Mapping[str, float]) -> None:
    amplitude = scores["amplitude_ssim"]
    if amplitude < GATE:
        raise NumericalError(
            f"expected an amplitude SSIM of at least {GATE}, found {amplitude:.3f}; "
            "the image is not recognisable: train longer"
        )
