"""``ptycho pretrain``: simulated scans without end in, a bundle for any scan out."""

from time import monotonic
from typing import TYPE_CHECKING, Any

import typer

from ptychocli.beginning import find_checkpoint, find_start
from ptychocli.commands.train import ResumeOption, StartOption
from ptychocli.console import Console, duration
from ptychocli.options import (
    BackendOption,
    ConfigOption,
    ForceOption,
    JsonOption,
    OutputDirOption,
    QuietOption,
    given,
    settings_from,
)
from ptychoconfig.errors import UsageError
from ptychoconfig.schema import SECTIONS

if TYPE_CHECKING:
    from ptychodata.backends import Pretrainer

__all__ = ["app"]

app = typer.Typer(add_completion=False)


_USED = {
    *("max_time", "seed", "learning_rate", "optimizer", "momentum", "beta1", "beta2"),
    *("weight_decay", "gradient_clip_val", "gradient_clip_algorithm"),
    *("accelerator", "precision", "checkpoint_interval"),
}
_UNUSED = {x for s in ("training", "execution") for x in SECTIONS[s].model_fields} - _USED
"""Settings of a training on scans, which a file may hold and no flag gives."""


@app.command()
@settings_from(("model", "training", "execution"), without={"N", *_UNUSED})
def pretrain(
    output_dir: OutputDirOption,
    backend: BackendOption = "torch",
    config: ConfigOption = None,
    resume: ResumeOption = None,
    start: StartOption = None,
    force: ForceOption = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
    **settings: Any,
) -> None:
    """Train a network on simulated scans, for scans that it has never seen.

    It goes on until --max-time is over or Ctrl-C is pressed, and with --resume auto from where it
    stopped, as often as you like. The bundle wts.h5.zip is written at the end of each run.
    """
    from ptychocli.interrupts import stop_on_signal
    from ptychocli.rundir import BUNDLE, open_run_dir, provenance
    from ptychoconfig.payloads import create_training_payload
    from ptychodata.bundle import write_bundle
    from ptychodata.corpus import CorpusRanges, manifest

    with (
        Console(quiet=quiet, as_json=as_json) as console,
        open_run_dir(output_dir, force=force or resume is not None) as run,
        console.keeping(run),
    ):
        checkpoint = find_checkpoint(resume, output_dir, console)
        flags = given(settings)
        begin = find_start(start)
        bundled = None if begin is None else begin.config
        payload = create_training_payload(
            N=64, flags=flags, config_file=config, bundle_config=bundled
        )
        engine = _pretrainer(backend)
        run.begin()
        corpus = manifest(payload.training.seed, CorpusRanges())
        run.write_json("corpus.json", corpus)
        started = monotonic()
        with stop_on_signal(console) as interrupt, console.progress() as report:
            bundle = engine.pretrain(payload, run.path, report, interrupt, checkpoint, begin)
        run.write_records(
            payload.resolved(),
            provenance([], backend=backend, trained_with=bundle.versions, corpus=corpus),
        )
        write_bundle(bundle, run.path / BUNDLE)
        figures = {name: values[-1] for name, values in bundle.history.items() if values}
        seen = round(bundle.statistics["pretraining_patterns"])
        console.result(f"trained {duration(monotonic() - started)}, on {seen} patterns in all")
        console.result(f"bundle: {run.path / BUNDLE}")
        console.finish({"bundle": str(run.path / BUNDLE), "patterns": seen, "metrics": figures})


def _pretrainer(backend: str) -> "Pretrainer":
    from ptychodata.backends import Pretrainer, load_backend

    engine = load_backend(backend)
    if not isinstance(engine, Pretrainer):
        raise UsageError(
            f"--backend {backend}: expected a backend that can pretrain, found one that cannot; "
            "use --backend torch, whose bundles every backend opens"
        )
    return engine
