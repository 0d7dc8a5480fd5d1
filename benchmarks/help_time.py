"""Time of ``ptycho --help``, beside that of an interpreter that does nothing.

Prints one JSON object: medians in seconds over ``--runs`` starts each, taken in turn so that both
see the same machine.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

COMMANDS = {
    "help_s": [str(Path(sys.executable).with_name("ptycho")), "--help"],
    "python_s": [sys.executable, "-c", "pass"],
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=9, help="starts of each command")
    runs = parser.parse_args(arguments).runs
    for command in COMMANDS.values():  # once unmeasured, to fill the caches
        _seconds(command)
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(runs):
        for name, command in COMMANDS.items():
            times[name].append(_seconds(command))
    medians = {name: round(statistics.median(values), 4) for name, values in times.items()}
    print(json.dumps({"benchmark": "help_time", "runs": runs, **medians}))


def _seconds(command: Sequence[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
