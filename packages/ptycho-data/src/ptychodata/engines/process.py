"""The interpreter that has pty-chi: which one it is, and running the worker in it.

The worker says in lines of JSON how it gets on, and leaves ``output.npz``.  What fails there is
told here as a ``BackendError`` with its last words.
"""

import json
import os
import queue
import subprocess
import threading
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptychoconfig.errors import BackendError

__all__ = ["PYTHON_VARIABLE", "Epoch", "Process", "find_python"]

PYTHON_VARIABLE = "PTYCHO_PTYCHI_PYTHON"
"""Environment variable that names the interpreter."""

WORKER = Path(__file__).parent / "scripts" / "ptychi_worker.py"
START_S = 180.0
"""How long the interpreter may take to load pty-chi and the patterns (seconds)."""

Epoch = Mapping[str, Any]
"""After one: ``epoch``, ``loss`` (None if not finite), ``wall_s`` and ``cpu_s`` since the first."""

_REMEDY = (
    "make one with `python -m nox -s ptychi-env` and name it with --engine-python "
    f".nox/ptychi-env/bin/python or {PYTHON_VARIABLE}"
)
_POLL_S = 0.2
_OUTPUT = (
    *("object", "probe", "positions_px", "opr_weights", "loss", "wall_s", "cpu_s"),
    *("snapshots", "snapshot_epochs", "peak_bytes", "versions"),
)


def find_python(python: str | None = None) -> str:
    """The interpreter that has pty-chi: as given, or as the environment names it.

    Raises:
        BackendError: neither names one, or there is no such file.
    """
    where = "--engine-python" if python else PYTHON_VARIABLE
    named = python or os.environ.get(PYTHON_VARIABLE)
    if not named:
        raise BackendError(
            f"--engine pty-chi: expected an interpreter that has pty-chi, found none; {_REMEDY}"
        )
    if not Path(named).is_file():
        raise BackendError(f"{where}: expected an interpreter, found no file {named}; {_REMEDY}")
    return named


class Process:
    """The other interpreter at work: its messages, its end, and what it leaves.

    Args:
        python: the interpreter.
        folder: holds ``input.npz``; ``output.npz``, ``stop`` and ``stderr`` come there.
        max_time_s: what the worker was told; a longer silence is not waited out.
    """

    def __init__(self, python: str, folder: Path, max_time_s: float | None) -> None:
        self.python, self.folder, self.max_time_s = python, folder, max_time_s
        self.messages: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self.loaded = False

    def run(
        self, report: Callable[[Epoch], None], should_stop: Callable[[], bool]
    ) -> dict[str, NDArray[Any]]:
        """Run to the end, and read the output."""
        names = [str(self.folder / name) for name in ("input.npz", "output.npz", "stop")]
        # Our packages' path must not lead there; a session of its own keeps Ctrl-C from it, so
        # that a stop leaves a result.
        environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
        with open(self.folder / "stderr", "wb") as errors:
            try:
                process = subprocess.Popen(
                    [self.python, "-P", str(WORKER), *names],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    env=environment,
                    start_new_session=True,
                )
            except OSError as error:
                raise BackendError(
                    f"--engine-python: expected an interpreter, found that {self.python} does "
                    f"not run: {error.strerror}; {_REMEDY}"
                ) from error
        try:
            self._follow(process, report, should_stop)
        finally:
            process.kill()
            process.wait()
            process.stdout and process.stdout.close()
        return self._output(process.returncode)

    def _follow(
        self,
        process: "subprocess.Popen[bytes]",
        report: Callable[[Epoch], None],
        should_stop: Callable[[], bool],
    ) -> None:
        """Pass on messages until the process ends."""
        threading.Thread(target=self._listen, args=(process,), daemon=True).start()
        heard = time.monotonic()
        while True:
            if should_stop():
                (self.folder / "stop").touch()
            try:
                message = self.messages.get(timeout=_POLL_S)
            except queue.Empty:
                self.check_silence(time.monotonic() - heard)
                continue
            if message is None:
                process.wait(timeout=START_S)
                return
            heard = time.monotonic()
            self.loaded = self.loaded or "ptychi" in message
            if "epoch" in message:
                report(message)

    def _listen(self, process: "subprocess.Popen[bytes]") -> None:
        """Put each line of JSON into the queue, and None at the end; other lines are not ours."""
        assert process.stdout is not None
        for line in process.stdout:
            try:
                message = json.loads(line)
            except ValueError:
                continue
            if isinstance(message, dict):
                self.messages.put(message)
        self.messages.put(None)

    def check_silence(self, silent_s: float) -> None:
        """Give up on a process that has said nothing for too long."""
        if not self.loaded and silent_s > START_S:
            raise BackendError(
                f"--engine pty-chi: expected {self.python} to load pty-chi within {START_S:g} s, "
                f"found no answer{self._last_words()}; {_REMEDY}"
            )
        if self.max_time_s is not None and silent_s > self.max_time_s + START_S:
            raise BackendError(
                f"--engine pty-chi: expected an epoch to end within --max-time, found none after "
                f"{silent_s:.0f} s{self._last_words()}; give more time, or fewer patterns"
            )

    def _output(self, status: int) -> dict[str, NDArray[Any]]:
        path = self.folder / "output.npz"
        if not self.loaded:
            raise BackendError(
                f"--engine pty-chi: expected {self.python} to have pty-chi, found that it ended "
                f"with status {status}{self._last_words()}; {_REMEDY}"
            )
        if not path.is_file():
            raise BackendError(
                f"--engine pty-chi: expected a reconstruction, found that {self.python} ended "
                f"with status {status}{self._last_words()}"
            )
        try:
            with np.load(path, allow_pickle=False) as archive:
                return {name: archive[name] for name in _OUTPUT}
        except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise BackendError(
                f"--engine pty-chi: expected a readable result of {self.python}, found: {error}"
            ) from error

    def _last_words(self) -> str:
        text = (self.folder / "stderr").read_text(errors="replace").strip()
        return f": {text.splitlines()[-1]}" if text else ""
