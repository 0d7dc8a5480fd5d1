"""What the losses of a run do to its course: a lower rate on a plateau, an early end."""

from typing import Any

from ptychoconfig.schema import TrainingConfig

__all__ = ["Patience", "Plateau"]

_LEAST = 1e-8  # change of the rate that is worth making


class Plateau:
    """Lowers the learning rate when the loss no longer falls (scheduler ``plateau``).

    Attributes:
        factor: on the learning rate, so far.
    """

    def __init__(self, config: TrainingConfig) -> None:
        self.config, self.factor = config, 1.0
        self.best, self.bad = float("inf"), 0

    def take(self, loss: float) -> None:
        """Take in the loss of an epoch."""
        config = self.config
        if config.scheduler != "plateau":
            return
        if loss < self.best * (1 - config.plateau_threshold):
            self.best, self.bad = loss, 0
        else:
            self.bad += 1
        if self.bad > config.plateau_patience:
            rate = config.learning_rate * self.factor
            lower = max(rate * config.plateau_factor, config.plateau_min_lr)
            self.factor = lower / config.learning_rate if rate - lower > _LEAST else self.factor
            self.bad = 0

    def state(self) -> dict[str, Any]:
        """What a resumed run must know."""
        return {"factor": self.factor, "best": self.best, "bad": self.bad}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.factor, self.best, self.bad = state["factor"], state["best"], state["bad"]


class Patience:
    """Ends a run whose validation loss no longer falls."""

    def __init__(self, config: TrainingConfig) -> None:
        self.limit = config.early_stop_patience
        self.best, self.waited = float("inf"), 0

    def is_over(self, loss: float | None) -> bool:
        """Take in the validation loss of an epoch, if there is one; True ends the run."""
        if self.limit is None or loss is None:
            return False
        if loss < self.best:
            self.best, self.waited = loss, 0
        else:
            self.waited += 1
        return self.waited >= self.limit

    def state(self) -> dict[str, Any]:
        """What a resumed run must know."""
        return {"best": self.best, "waited": self.waited}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.best, self.waited = state["best"], state["waited"]
