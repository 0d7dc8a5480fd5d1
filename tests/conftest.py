"""What the tests of the whole command share."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]

COMMAND = Path(sys.executable).with_name("ptycho")


@pytest.fixture
def ptycho(tmp_path: Path) -> Run:
    """Run the installed command in an empty folder: ``ptycho("train", …, expect=0)``."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PTYCHO_")}
    environment |= {"OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path), "TERMINAL_WIDTH": "200"}

    def run(*arguments: object, expect: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [COMMAND, *map(str, arguments)],
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == expect, f"{done.args}\n{done.stdout}\n{done.stderr}"
        return done

    return run
