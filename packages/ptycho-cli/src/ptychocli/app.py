"""The command's top level: a table of names, each command loaded when it is called.

Nothing heavy is imported here, so that ``ptycho --help`` answers at once.
"""

from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

__all__ = ["COMMANDS", "app"]

COMMANDS: dict[str, tuple[str, str]] = {
    "train": ("ptychocli.commands.train", "Train a network on measured scans."),
    "pretrain": (
        "ptychocli.commands.pretrain",
        "Train a network on simulated scans without end.",
    ),
    "infer": ("ptychocli.commands.infer", "Reconstruct scans with a trained bundle."),
    "reconstruct": (
        "ptychocli.commands.reconstruct",
        "Reconstruct scans by gradient steps, without a network.",
    ),
    "convert": ("ptychocli.commands.convert", "Read a scan in any known format, write NPZ."),
    "simulate": ("ptychocli.commands.simulate", "Simulate a scan whose object is known."),
    "make-fixture": (
        "ptychocli.commands.make_fixture",
        "Cut a small scan to test with out of a large one.",
    ),
    "inspect": ("ptychocli.commands.inspect", "Check a scan before using it."),
    "evaluate": (
        "ptychocli.commands.evaluate",
        "Compare images with a known object, or each other.",
    ),
    "study": ("ptychocli.commands.study", "Make one of the studies from scratch."),
    "doctor": (
        "ptychocli.commands.doctor",
        "Show what this machine has to compute with.",
    ),
    "config": ("ptychocli.commands.config", "Write, check and explain settings files."),
    "demo": ("ptychocli.commands.demo", "Simulate, train, infer and score: the whole way."),
}
"""Command name → (module that holds its ``app``, one line)."""


class LazyGroup(TyperGroup):
    """Lists the commands from the table; imports only the one that is called."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command by name as usual, then load the real one in its place."""
        name, _, rest = super().resolve_command(ctx, args)
        assert name is not None  # the parent class has raised a usage error otherwise
        rest = _without_old_names(name, rest)
        command = get_command(import_module(COMMANDS[name][0]).app)
        command.name = name
        return name, command, rest


def _without_old_names(command: str, arguments: list[str]) -> list[str]:
    """Write PtychoPINN's flags as ours, and say so on stderr."""
    if not any(word.startswith("--") for word in arguments):
        return arguments
    from ptychoconfig.legacy import modern_flags

    modern, notes = modern_flags(command, arguments)
    for note in notes:
        typer.echo(f"warning: {note}", err=True)
    return modern


app = typer.Typer(
    name="ptycho",
    cls=LazyGroup,
    help="Turn scanning coherent-diffraction data into images of the object.",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _placeholder() -> None:
    """Stand for a command in the listing."""


for _name, (_module, _line) in COMMANDS.items():
    app.command(_name, help=_line)(_placeholder)


def _print_versions(wanted: bool) -> None:
    if not wanted:
        return
    from ptychocli.versions import bundle_format, package_versions

    lines = [f"{name} {version}" for name, version in package_versions().items()]
    typer.echo("\n".join([*lines, f"bundle format {bundle_format()}"]))
    raise typer.Exit


@app.callback(invoke_without_command=True)
def _top(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            "-V",
            is_eager=True,
            callback=_print_versions,
            help="Print the packages' versions and the bundle format.",
        ),
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), nl=False)
        raise typer.Exit(2)
