"""Starting TensorFlow without its chatter."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ptychoconfig.errors import BackendError

__all__ = ["start_tensorflow"]


def start_tensorflow() -> None:
    """Import TensorFlow; it says nothing of GPUs that are not there, nor of instruction sets.

    Raises:
        BackendError: it is not installed, or broken.
    """
    if sys.modules.get("tensorflow"):
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        with _silent_descriptor():
            import tensorflow

            tensorflow.config.list_physical_devices()
    except ImportError as error:
        raise BackendError(
            f"--backend tf: expected a TensorFlow that can be imported, found {error}; run: "
            "pip install 'ptycho-cli[tf]'"
        ) from error


@contextmanager
def _silent_descriptor() -> Iterator[None]:
    """Drop what is written to the file descriptor of stderr: C++ writes there past Python."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
