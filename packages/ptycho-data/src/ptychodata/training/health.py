"""When a training is said to collapse: a network that says the same whatever it sees.

The usual ends are an object that is the same for every pattern, an amplitude that has stuck at a
bound, layers whose units are all silent, and light that runs away.  Losses do not show it: a flat
object explains much of a pattern.  Four figures of a batch do, and they cost little beside a step,
so they are taken a few times in the first epoch and once in each later one.  What is seen in
several checks on end, and not before half an epoch, is told.
"""

import logging
from dataclasses import dataclass, fields
from typing import Any

from ptychoconfig.errors import NumericalError

__all__ = ["RESTARTS", "CollapseWatch", "Figures", "faults", "is_due"]

_LOG = logging.getLogger(__name__)

MIN_VARIATION, MIN_CONTRAST, MAX_DEAD, MAX_LIGHT = 0.02, 1e-3, 0.9, 100.0
"""Bounds on the figures (see ``Figures``); ``docs/performance.md`` has what healthy runs show."""

CHECKS, PATIENCE, RESTARTS = 12, 3, 3
"""Checks in the first epoch; how many on end make a fault; how often to begin anew."""


@dataclass(frozen=True)
class Figures:
    """What a batch of patches says of a network's health.

    Args:
        variation: how far patches differ from each other, over how far patterns do.
        contrast: standard deviation of a patch's amplitude over its mean, the mean of all.
        dead: share of the channels behind an activation that are the same everywhere.
        light: photons that the patches let through, over those measured.
    """

    variation: float
    contrast: float
    dead: float
    light: float

    def __str__(self) -> str:
        return ", ".join(f"{f.name} {getattr(self, f.name):.3g}" for f in fields(self))


def faults(found: Figures) -> dict[str, str]:
    """What is wrong: name of the figure → a sentence's worth."""
    wrong = {
        "variation": (
            not found.variation >= MIN_VARIATION,
            f"the object is the same for every pattern (it varies {found.variation:.2g} times as "
            f"much as the patterns do, expected at least {MIN_VARIATION:g})",
        ),
        "contrast": (
            not found.contrast >= MIN_CONTRAST,
            f"the amplitude is constant (contrast {found.contrast:.2g}, expected at least "
            f"{MIN_CONTRAST:g})",
        ),
        "dead": (
            not found.dead <= MAX_DEAD,
            f"{found.dead:.0%} of the channels are dead (expected at most {MAX_DEAD:.0%})",
        ),
        "light": (
            not 1 / MAX_LIGHT <= found.light <= MAX_LIGHT,
            f"the expected rate is {found.light:.3g} times the measured one (expected "
            f"{1 / MAX_LIGHT:g} to {MAX_LIGHT:g})",
        ),
    }
    return {name: text for name, (is_wrong, text) in wrong.items() if is_wrong}


def is_due(epoch: int, done: int, batches: int) -> bool:
    """Whether to look: a few times in the first epoch, then near the end of each.

    Args:
        epoch: counted from 0.
        done: batches of it before this one.
        batches: in an epoch; the last one may be short.
    """
    if epoch == 0:
        return done % max(1, batches // CHECKS) == 0
    return done == max(0, batches - 2)


class CollapseWatch:
    """Remembers what the checks found, and says when to warn, to stop, or to begin anew.

    Args:
        action: what to do, ``training.on_collapse``.

    Attributes:
        seen: a line for each collapse.
    """

    def __init__(self, action: str) -> None:
        self.action = action
        self.seen: list[str] = []
        self._streak: dict[str, int] = {}
        self._begun = 0  # batches before the last new beginning

    def state(self) -> dict[str, Any]:
        """What a resumed run must know: the collapses so far."""
        return {"seen": list(self.seen), "streak": dict(self._streak), "begun": self._begun}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.seen, self._streak = list(state["seen"]), dict(state["streak"])
        self._begun = state["begun"]

    def judge(self, found: Figures | None, done: int, batches: int) -> str:
        """Take in a check; what is to be told, empty if nothing.

        Args:
            found: figures of the batch; None where too few patterns were in it.
            done: batches of the whole run, this one included.
            batches: in an epoch.
        """
        wrong = faults(found) if found is not None else {}
        self._streak = {name: self._streak.get(name, 0) + 1 for name in wrong}
        if 2 * (done - self._begun) < batches:  # half an epoch to find its way
            return ""
        return "; ".join(text for name, text in wrong.items() if self._streak[name] >= PATIENCE)

    def collapsed(self, what: str, step: int, epoch: int, done: int) -> bool:
        """Act on what is told; True asks to begin anew.

        Args:
            what: of ``judge``, here or in another process.
            step: optimiser steps so far.
            epoch: counted from 0.
            done: batches of the whole run.

        Raises:
            NumericalError: the run is to end.
        """
        first = not self.seen
        where = f"at step {step} (epoch {epoch + 1})"
        self.seen.append(f"{where}: {what}")
        self._streak, self._begun = {}, done
        if self.action == "restart" and len(self.seen) <= RESTARTS:
            _LOG.warning("the training collapsed %s: %s; beginning anew", where, what)
            return True
        if self.action != "warn":
            raise NumericalError(
                f"expected a training that tells its patterns apart, found it collapsed {where}: "
                f"{what}; try another --seed, a lower --learning-rate, or --architecture unrolled"
            )
        if first:
            _LOG.warning(
                "the training is collapsing %s: %s; if it lasts, try --on-collapse restart, "
                "another --seed, a lower --learning-rate, or --architecture unrolled",
                where,
                what,
            )
        return False
