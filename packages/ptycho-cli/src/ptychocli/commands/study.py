"""``ptycho study``: a table and its figure, from scratch, beside what a network must beat."""

import csv
from collections.abc import Mapping, Sequence
from math import inf
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ptychocli.console import Console, text
from ptychocli.options import (
    BackendOption,
    JsonOption,
    OutputDirOption,
    QuietOption,
    seconds_of,
)
from ptychoconfig.errors import NumericalError, UsageError

if TYPE_CHECKING:
    from ptychocli.rundir import RunDir
    from ptychocli.studies import Study
    from ptychocli.study_run import Runner

app = typer.Typer(add_completion=False)

_SHOWN = ("trial", "method", "in_generator", "amplitude_ssim", "phase_ssim", "r_factor", "seconds")


@app.command()
def study(
    name: Annotated[
        Literal["lines", "dose", "overlap", "transfer", "data-efficiency"],
        typer.Argument(metavar="STUDY", help="lines, dose, overlap, transfer or data-efficiency."),
    ],
    output_dir: OutputDirOption,
    backend: BackendOption = "torch",
    seeds: Annotated[int, typer.Option(min=1, help="Repeat every trial with so many seeds.")] = 3,
    first_seed: Annotated[int, typer.Option(min=0, help="Number of the first seed.")] = 0,
    max_time: Annotated[
        float | None,
        typer.Option(
            parser=seconds_of,
            metavar="TIME",
            help="Stop after this time; the same command goes on where it stopped.",
            show_default=False,
        ),
    ] = None,
    train_time: Annotated[
        float | None,
        typer.Option(
            parser=seconds_of,
            metavar="TIME",
            help="Train each network for this time instead of its number of steps.",
            show_default=False,
        ),
    ] = None,
    bundle: Annotated[
        Path | None,
        typer.Option(help="Use this trained network in place of training any.", show_default=False),
    ] = None,
    short: Annotated[
        bool,
        typer.Option("--short", help="Small scans and a few trials, held to bounds; for tests."),
    ] = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make one of the studies from scratch.

    Each trial trains on simulated scans and reconstructs another; beside the network stand the
    solver in the same time with the same probe, and the first step of each pattern. Trials that are
    done are kept, so that the same command goes on after an interruption.
    """
    from ptychocli.interrupts import stop_on_signal
    from ptychocli.rundir import open_run_dir
    from ptychocli.studies import METHODS, STUDIES, shortened
    from ptychocli.study_run import Runner
    from ptychodata.backends import load_backend
    from ptychodata.bundle import read_bundle

    asked = shortened(name) if short else STUDIES[name]
    if bundle is not None and asked.about_training:
        raise UsageError(
            f"--bundle: expected a study of what a network does, found {name}, which is about "
            "training; leave --bundle out"
        )
    with (
        Console(quiet=quiet, as_json=as_json) as console,
        open_run_dir(output_dir, force=True) as run,
        console.keeping(run),
        stop_on_signal(console) as interrupt,
    ):
        engine = load_backend(backend)
        run.begin()
        deadline = inf if max_time is None else monotonic() + max_time
        runner = Runner(
            run.path,
            engine,
            None if bundle is None else read_bundle(bundle),
            {} if train_time is None else {"max_time": train_time, "epochs": 10_000},
            lambda: interrupt.asked or monotonic() > deadline,
            console,
        )
        rows, wanted = _rows(runner, asked, range(first_seed, first_seed + seeds))
        outcome = _conclude(name, asked, rows, run, console)
        outcome |= {"trials_done": len(rows) // len(METHODS), "trials": wanted}
        if len(rows) < wanted * len(METHODS):
            console.result(
                f"{outcome['trials_done']} of {wanted} trials are done; the same command goes on"
            )
        console.finish(outcome)
        if interrupt.asked:
            raise KeyboardInterrupt
        if outcome["below_bounds"]:
            raise NumericalError("; ".join(outcome["below_bounds"]))


def _rows(
    runner: "Runner", asked: "Study", seeds: Sequence[int]
) -> tuple[list[dict[str, Any]], int]:
    """The rows of every trial, seed by seed, as far as the time allows, and how many it should be.

    Raises:
        NumericalError: a training diverged.
    """
    from ptychocli.study_run import StoppedError

    pairs = [(trial, seed) for seed in seeds for trial in asked.trials]
    rows: list[dict[str, Any]] = []
    for trial, seed in pairs:
        try:
            rows += runner.rows(trial, seed)
        except StoppedError:
            break
    return rows, len(pairs)


def _conclude(
    name: str, asked: "Study", rows: Sequence[Mapping[str, Any]], run: "RunDir", console: Console
) -> dict[str, Any]:
    """Write the table, the figure and the summary of what there is; print and return it."""
    from ptychocli.rundir import provenance
    from ptychocli.studies import below_bounds, dose_ratio, summarised
    from ptychocli.study_figures import write_figure

    summary = summarised(rows)
    outcome: dict[str, Any] = {"study": name, "title": asked.title, "summary": summary}
    if name == "dose":
        outcome["dose_ratio"] = dose_ratio(summary)
    outcome["below_bounds"] = below_bounds(asked, summary)
    if not rows:
        return outcome
    _write_table(rows, run.path / f"{name}.csv")
    write_figure(asked, summary, run.path / f"{name}.png")
    run.write_json(f"{name}.json", {**outcome, "rows": rows, "provenance": provenance([])})
    console.result("  ".join(_SHOWN))
    for row in summary:
        console.result("  ".join(text(row[column]) for column in _SHOWN))
    if outcome.get("dose_ratio") is not None:
        console.result(f"dose ratio at equal phase SSIM: {outcome['dose_ratio']:.2f}")
    console.result(f"written: {run.path / name}.csv, .json, .png")
    return outcome


def _write_table(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Every row with every figure that any row has, whole or not at all."""
    from ptychodata.files import atomic_path

    columns = list(dict.fromkeys(name for row in rows for name in row))
    with (
        atomic_path(path) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as file,
    ):
        table = csv.DictWriter(file, columns)
        table.writeheader()
        table.writerows(rows)
