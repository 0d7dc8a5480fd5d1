"""Solving a scan by preconditioned gradient steps, without a network.

- ``amplitudes``: measured amplitudes, in batches of one size;
- ``estimate``: what is solved for, and its gauge;
- ``steps``: the misfit of a batch, and the steps of object and probe that it implies;
- ``corrections``: positions, intensities, background and the probe's variation;
- ``run``: the steps compiled, one program for a batch.

The equations stand in ``docs/physics.md``, what was tried in ``docs/solver-numerics.md``; decisions
that need no framework are in ``ptychodata.solving`` and ``ptychodata.descent``.
"""

from .run import solve

__all__ = ["solve"]
