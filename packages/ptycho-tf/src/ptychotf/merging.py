"""Steps of a network, with the patterns of a batch merged in between."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow import Tensor

from ptychodata.training.batches import hidden_members

from . import physics
from .batches import Batch
from .networks import FIELDS, Network, State, Sums

__all__ = ["Passes", "members", "refine", "rounds_of", "unseen"]


def unseen(network: Network, batch: Batch) -> NDArray[np.int64]:
    """Members of a group that a network is not shown in training; see ``hidden_members``."""
    return hidden_members(batch.per_group, network.group_size > 1)


def members(batch: Batch, chosen: NDArray[np.int64] | Tensor) -> Tensor:
    """Where these members of all groups stand in a batch: (B,) int32, a group after the other."""
    groups = tf.shape(batch.counts)[0] // batch.per_group
    first = tf.range(groups)[:, None] * batch.per_group
    return tf.reshape(first + tf.cast(chosen, tf.int32), [-1])


class Passes:
    """The passes of a network over a batch: from free space, patterns change the object in each.

    Args:
        network: what sees and changes.
        shifted_probe: (B, M, N, N) probe at each position.
        batch: patterns, each group on a canvas of its own.
        redundancy: how many probes of a group light a pixel.
        rounds: (steps,) of each pass at most, as ``rounds_of`` has them.
        hidden: members of a group that the network does not see.
        orders: (steps, members) in which the others are dealt into the rounds of a pass; None = by
            their place.
    """

    def __init__(
        self,
        network: Network,
        shifted_probe: Tensor,
        batch: Batch,
        redundancy: float | Tensor,
        rounds: Sequence[int] | Tensor,
        hidden: Sequence[int] | NDArray[np.int64] = (),
        orders: Tensor | None = None,
    ) -> None:
        self.network, self.shifted, self.batch = network, shifted_probe, batch
        self.redundancy, self.rounds = tf.cast(redundancy, tf.float32), rounds
        self.shown = np.setdiff1d(np.arange(batch.per_group), hidden)
        self.orders = orders
        self.index = physics.window_index(batch.pixel, shifted_probe.shape[-1], batch.shape)
        groups = tf.shape(batch.counts)[0] // batch.per_group
        height, width = (tf.cast(side, tf.int32) for side in batch.shape)
        self.shape = groups, height // groups, width

    def take(self, step: int | Tensor, state: State, learning: bool = False) -> State:
        """One pass: the object after it; ``learning`` if gradients follow."""
        total = tf.zeros([*self.shape, FIELDS])
        if self.network.steps == 1:
            state, total = self._round(step, 1, 0, state, total)
        else:
            parts = tf.minimum(tf.gather(self.rounds, step), len(self.shown))
            state, total = _repeated(
                lambda part, so_far: self._round(step, parts, part, *so_far), parts, (state, total)
            )
        return self.network.correct(step, state, Sums(total), learning)

    def _round(
        self, step: int | Tensor, parts: Any, part: Any, state: State, total: Tensor
    ) -> tuple[State, Tensor]:
        """Show a part of the patterns; the object after it, and the sum of all fields so far."""
        shown = tf.constant(self.shown)
        if self.orders is not None:
            shown = tf.gather(shown, tf.gather(self.orders, step))
        seen = members(self.batch, shown[part::parts])
        own, probe = tf.gather(self.index, seen), tf.gather(self.shifted, seen)
        patches = physics.gather(state.obj, own)
        fields = self.network.see(step, patches, probe, self.batch.part(seen))
        sums = tf.reshape(physics.scatter(fields, own, self.batch.shape), [*self.shape, FIELDS])
        share = 1 / tf.cast(parts, tf.float32)
        return self.network.advance(step, state, Sums(sums), share), total + sums

    def run(self, function: Callable[[Any, State, Any], tuple[State, Any]], result: Any) -> Any:
        """Make all passes: ``function`` takes the number of one, the object and the result so far.

        Returns:
            The object and the result after the last.
        """
        begin = State.free_space(self.shape, self.redundancy), result
        if self.network.steps == 1:
            return function(0, *begin)
        return _repeated(lambda step, so_far: function(step, *so_far), self.network.steps, begin)

    def windows(self, state: State) -> Tensor:
        """The windows of the patterns: (B, N, N)."""
        return physics.gather(state.obj, self.index)


def rounds_of(network: Network, redundancy: float) -> list[int]:
    """In how many rounds each pass of a network is made."""
    return [network.rounds(step, redundancy) for step in range(network.steps)]


def _repeated(body: Callable[[Tensor, Any], Any], times: int | Tensor, value: Any) -> Any:
    """The value after so many turns of ``body``, which a graph holds once."""

    def turn(number: Tensor, value: Any) -> tuple[Tensor, Any]:
        made = body(number, value)
        tf.nest.map_structure(lambda new, old: new.set_shape(old.shape), made, value)
        return number + 1, made

    begin = tf.constant(0), value
    return tf.while_loop(lambda number, _: number < times, turn, begin)[1]


def refine(
    network: Network, shifted_probe: Tensor, batch: Batch, redundancy: float = 1.0
) -> Tensor:
    """Show all patterns of a batch to a network: their windows (B, N, N) after all passes."""
    passes = Passes(network, shifted_probe, batch, redundancy, rounds_of(network, redundancy))
    state, _ = passes.run(lambda step, state, _: (passes.take(step, state), ()), ())
    return passes.windows(state)
