"""The first Ctrl-C asks a run to stop and keep what it has; the second kills it."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from ptychocli.console import Console

__all__ = ["Interrupt", "stop_on_signal"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupt:
    """Whether the user has asked to stop; called as a backend's ``should_stop``."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self) -> bool:
        """Whether to stop."""
        return self.asked


@contextmanager
def stop_on_signal(console: Console) -> Iterator[Interrupt]:
    """Turn the first Ctrl-C, or a batch system's SIGTERM, into a request.

    Raises:
        KeyboardInterrupt: on the second one.
    """
    interrupt = Interrupt()

    def ask(_number: int, _frame: FrameType | None) -> None:
        if interrupt.asked:
            raise KeyboardInterrupt
        interrupt.asked = True
        console.warn("stopping after this step and saving; Ctrl-C again stops at once")

    before = {number: signal.signal(number, ask) for number in _SIGNALS}
    try:
        yield interrupt
    except SystemExit:  # what a framework makes of the second one
        if interrupt.asked:
            raise KeyboardInterrupt from None
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
