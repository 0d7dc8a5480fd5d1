"""What a command says: results on stdout, notes and progress on stderr."""

import logging
import math
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Protocol

from ptychoconfig.errors import ConfigError, PtychoError
from ptychodata.files import dump_json

if TYPE_CHECKING:
    from ptychodata.backends import Progress, Report

__all__ = ["WARNING", "Console", "duration", "text"]

WARNING = "warning: "
"""How a line that warns begins, on the screen and in logs."""

_PLAIN_INTERVAL_S = 5.0


class Log(Protocol):
    """Where notes and progress are kept besides the screen: the run directory."""

    def log(self, message: str) -> None:
        """Keep a line for people."""

    def event(self, progress: "Progress") -> None:
        """Keep a step for machines."""


class Console(logging.Handler):
    """The voice of one command; warnings that libraries log come out of it as well.

    Args:
        quiet: no notes and no progress; warnings and results remain.
        as_json: results are one JSON object instead of lines.

    Attributes:
        silent: say nothing at all, because another process of the same run does.
    """

    def __init__(self, *, quiet: bool = False, as_json: bool = False) -> None:
        super().__init__(level=logging.WARNING)
        self.quiet = quiet
        self.as_json = as_json
        self.silent = False
        self._logs: list[Log] = []

    def __enter__(self) -> "Console":
        logging.getLogger().addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger().removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Take a warning that a library logged."""
        self.warn(record.getMessage())

    def note(self, message: str) -> None:
        """Say what is going on, unless quiet."""
        self._keep(message)
        if not (self.quiet or self.silent):
            sys.stderr.write(f"{message}\n")

    def warn(self, message: str) -> None:
        """Say what may be wrong, always."""
        self._keep(f"{WARNING}{message}")
        if not self.silent:
            sys.stderr.write(f"{WARNING}{message}\n")

    def result(self, text: str) -> None:
        """Print a line of the result for a person."""
        self._keep(text)
        if not (self.as_json or self.silent):
            sys.stdout.write(f"{text}\n")

    def finish(self, outcome: Mapping[str, Any]) -> None:
        """Print the result for a machine, if it was asked for."""
        if self.as_json and not self.silent:
            sys.stdout.write(dump_json(outcome))

    @contextmanager
    def keeping(self, log: Log) -> Iterator[None]:
        """Keep in ``log`` what is said meanwhile, and what went wrong."""
        self._logs.append(log)
        try:
            yield
        except PtychoError as error:
            with suppress(ConfigError):  # the folder may be what is lost
                log.log(f"error: {error}")
            raise
        finally:
            self._logs.remove(log)

    @contextmanager
    def progress(self) -> Iterator["Report"]:
        """Show a run's progress: a live bar on a terminal, else a line every few seconds."""
        if self.quiet or self.silent:
            yield self._record
        elif sys.stderr.isatty():
            with _bar() as show:
                yield self._reporting_to(show)
        else:
            yield self._reporting_to(_PlainLines())

    def _reporting_to(self, show: "Report") -> "Report":
        def report(progress: "Progress") -> None:
            self._record(progress)
            show(progress)

        return report

    def _record(self, progress: "Progress") -> None:
        for log in self._logs:
            log.event(progress)

    def _keep(self, message: str) -> None:
        for log in self._logs:
            log.log(message)


def duration(seconds: float) -> str:
    """A time for people: ``0.4 s``, ``48 s``, ``3 min 20 s``, ``2 h 5 min``; ``?`` if unknown."""
    if not math.isfinite(seconds):
        return "?"
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if whole < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def text(value: object) -> str:
    """A figure for people: four digits, lists with commas, ``unknown`` for NaN and None."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {text(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(text, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "unknown"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _describe(progress: "Progress") -> str:
    epoch = f" {progress.epoch}/{progress.epochs}" if progress.epochs > 1 else ""
    return f"{progress.phase}{epoch}"


def _figures(progress: "Progress") -> str:
    shown = [f"{name} {value:.4g}" for name, value in progress.metrics.items()]
    return "  ".join([*shown, f"{progress.patterns_per_s:.0f} patterns/s"])


class _PlainLines:
    """Progress as lines: at most one every few seconds, and the last one."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def __call__(self, progress: "Progress") -> None:
        now = time.monotonic()
        finished = progress.done >= progress.total and progress.epoch >= progress.epochs
        if now - self._last < _PLAIN_INTERVAL_S and not finished:
            return
        self._last = now
        share = f"{100 * progress.done / max(progress.total, 1):3.0f} %"
        left = "" if finished else f"  {duration(progress.seconds_left)} left"
        sys.stderr.write(f"{_describe(progress)}  {share}  {_figures(progress)}{left}\n")
        sys.stderr.flush()


@contextmanager
def _bar() -> Iterator["Report"]:
    from rich.console import Console as RichConsole
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn
    from rich.progress import Progress as RichProgress

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TextColumn("{task.fields[figures]}"),
    )
    with RichProgress(*columns, console=RichConsole(stderr=True)) as bars:
        task = bars.add_task("starting", total=None, figures="")

        def show(progress: "Progress") -> None:
            bars.update(
                task,
                description=_describe(progress),
                completed=progress.done,
                total=progress.total,
                figures=f"{_figures(progress)}  {duration(progress.seconds_left)} left",
            )

        yield show
