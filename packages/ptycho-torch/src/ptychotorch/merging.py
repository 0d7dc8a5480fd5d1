"""Steps of a network, with the patterns of a batch merged in between."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from ptychodata.training.batches import hidden_members

from . import physics
from .batches import Batch
from .networks import FIELDS, Network, State, Sums

__all__ = ["canvases", "refine", "unseen"]


def unseen(network: Network, batch: Batch) -> Tensor:
    """Patterns that a network is not shown in training, ``hidden_members``: (B,) bool."""
    member = torch.arange(len(batch), device=batch.pixel.device) % batch.per_group
    hidden = hidden_members(batch.per_group, network.group_size > 1)
    return torch.isin(member, torch.from_numpy(hidden).to(member.device))


def canvases(
    network: Network,
    shifted_probe: Tensor,
    batch: Batch,
    redundancy: float = 1.0,
    hidden: Tensor | None = None,
    rng: np.random.Generator | None = None,
) -> Iterator[tuple[State, Sums]]:
    """Start from free space, and let the patterns of a batch change the object in every step.

    Args:
        network: what sees and changes.
        shifted_probe: (B, M, N, N) probe at each position.
        batch: patterns on one canvas or several.
        redundancy: how many probes of a group light a pixel.
        hidden: (B,) bool, True for patterns that the network does not see, as many in each group;
            None = it sees all.
        rng: draws which members of a group make a round, anew in each step; None = by their place.

    Yields:
        The canvases after each step, and what all patterns said in it.
    """
    index = physics.window_index(batch.pixel, shifted_probe.shape[-1], batch.shape)
    height, width = batch.shape[0] // batch.canvases, batch.shape[1]
    shape = batch.canvases, height, width
    state = State.free_space(shape, shifted_probe.device, redundancy)
    shown = torch.arange(len(batch), device=index.device)
    shown = shown if hidden is None else shown[~hidden]
    each = len(shown) * batch.per_group // len(batch)
    member = torch.arange(len(shown), device=index.device) % each
    turn = member
    for step in range(network.steps):
        rounds, passed = min(network.rounds(step, redundancy), each), []
        if rng is not None:
            turn = torch.from_numpy(rng.permutation(each)).to(index.device)[member]
        for part in range(rounds):
            seen = shown[turn % rounds == part]
            patches = physics.gather(state.obj, index[seen])
            fields = network.see(step, patches, shifted_probe[seen], batch.part(seen))
            sums = physics.scatter(fields, index[seen], batch.shape)
            passed.append(sums.view(-1, height, width, FIELDS))
            state = network.advance(step, state, Sums(passed[-1]), 1 / rounds)
        total = Sums(torch.stack(passed).sum(0))
        state = network.correct(step, state, total)
        yield state, total


def refine(
    network: Network,
    shifted_probe: Tensor,
    batch: Batch,
    redundancy: float = 1.0,
    hidden: Tensor | None = None,
) -> Iterator[Tensor]:
    """As ``canvases``, but yields the windows (B, N, N) of the patterns after each step."""
    index = physics.window_index(batch.pixel, shifted_probe.shape[-1], batch.shape)
    for state, _ in canvases(network, shifted_probe, batch, redundancy, hidden):
        yield physics.gather(state.obj, index)
