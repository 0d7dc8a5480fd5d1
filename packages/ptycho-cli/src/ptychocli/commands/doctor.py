"""``ptycho doctor``: what this machine has to compute with, and what to do about what it lacks."""

from pathlib import Path
from typing import Any

import typer

from ptychocli.console import Console, text
from ptychocli.options import JsonOption

app = typer.Typer(add_completion=False)


@app.command()
def doctor(as_json: JsonOption = False) -> None:
    """Show Python, packages, backends, devices and disk, and what to do about each fault.

    Ends with exit code 5 if no backend loads, so that nothing could be trained.
    """
    from ptychocli.diagnosis import diagnose
    from ptychoconfig.errors import BackendError

    with Console(quiet=True, as_json=as_json) as console:
        found = diagnose(Path.cwd())
        _print(found, console)
        console.finish(found)
        if not any(backend["loads"] for backend in found["backends"].values()):
            raise BackendError(
                "expected a backend that loads, found none; run: pip install 'ptycho-cli[torch]'"
            )


def _print(found: dict[str, Any], console: Console) -> None:
    for group, entries in found.items():
        if group == "advice":
            continue
        for name, value in entries.items():
            shown = value if isinstance(value, dict) else {"": value}
            figures = "  ".join(
                f"{k} {text(v)}".strip()
                for k, v in shown.items()
                if v is not None and k != "advice"
            )
            console.result(f"{group:9} {name:18} {figures}")
    for advice in found["advice"]:
        console.result(f"advice: {advice}")
    if not found["advice"]:
        console.result("nothing to do")
