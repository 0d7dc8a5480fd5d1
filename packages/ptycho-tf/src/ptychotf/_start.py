"""Starting TensorFlow without its chatter."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ptychodata.backends import importing

__all__ = ["start_tensorflow"]


def start_tensorflow() -> None:
    """Import TensorFlow; it says nothing of GPUs that are not there, nor of instruction sets.

    Raises:
        BackendError: it is not installed, or broken.
    """
    if sys.modules.get("tensorflow"):
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with importing("tf", "TensorFlow"), _silent_descriptor():
        import tensorflow

        tensorflow.config.list_physical_devices()


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
