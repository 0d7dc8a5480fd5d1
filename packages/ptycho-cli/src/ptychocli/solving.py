"""Running the solver of a backend, and choosing the probe that a network works with."""

from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal

from ptychocli.console import Console, duration

if TYPE_CHECKING:
    from ptychoconfig.payloads import SolverPayload
    from ptychodata.backends import Backend, Solver
    from ptychodata.contracts import Scan, Solution
    from ptychodata.probes import ChosenProbe

__all__ = ["Solved", "settle_probe", "solve"]


@dataclass(frozen=True, eq=False)
class Solved:
    """What a run of the solver left, and what it took.

    Args:
        solution: the outcome.
        seconds: time that it took.
        passes: epochs of this run alone.
        interrupted: whether the user stopped it.
    """

    solution: "Solution"
    seconds: float
    passes: int
    interrupted: bool


def solve(
    engine: "Solver",
    scan: "Scan",
    payload: "SolverPayload",
    start: "Solution | None",
    console: Console,
) -> Solved:
    """Solve a scan, showing how it goes; the first Ctrl-C keeps the best so far.

    Raises:
        NumericalError: the residual diverges.
    """
    from ptychocli.interrupts import stop_on_signal

    started = monotonic()
    with stop_on_signal(console) as interrupt, console.progress() as report:
        solution = engine.reconstruct(scan, payload, report, interrupt, start)
    seconds = monotonic() - started
    passes = solution.epochs - (start.epochs if start else 0)
    return Solved(solution, seconds, passes, interrupt.asked)


def settle_probe(
    engine: "Backend",
    scan: "Scan",
    choice: Literal["auto", "file", "solve"],
    payload: "SolverPayload",
    console: Console,
) -> "tuple[Scan, dict[str, Any]]":
    """Choose the probe that a network works with, and say which it is and what that cost.

    Returns:
        The scan with that probe, and the figures that led to it.

    Raises:
        KeyboardInterrupt: the user stopped it.
    """
    from ptychocli.interrupts import stop_on_signal
    from ptychodata.probes import choose_probe

    with stop_on_signal(console) as interrupt, console.progress() as report:
        chosen = choose_probe(engine, scan, choice, payload, report, interrupt)
    if interrupt.asked:
        raise KeyboardInterrupt
    if chosen.seconds:
        console.note(_explain(chosen))
    return chosen.scan, chosen.figures()


def _explain(chosen: "ChosenProbe") -> str:
    used = {"file": "the file's", "solved": "solved for"}[chosen.source]
    told = [
        f"residual {value:.3g} {how}"
        for value, how in ((chosen.r_file, "with the file's"), (chosen.r_solved, "solved for"))
        if value is not None
    ]
    if chosen.poisson_floor is not None:
        told.append(f"noise alone {chosen.poisson_floor:.3g}")
    return f"probe: {used} ({', '.join(told)}; it took {duration(chosen.seconds)})"
