r"""Whether pattern i belongs to position i, told from the physics.

Every position has a *prediction* of its pattern: what the forward model says of the known object
there or, where no object is known, the pattern that was measured nearest to it.  With d_i the
deviation of √I_i from the mean √I of the patterns looked at, and e_l that of prediction l,

.. math::
    c_{il} = \frac{\langle d_i, e_l\rangle}{\|d_i\|\,\|e_l\|}

Pairing holds if the *likeness*, the mean of c_ii, exceeds that of each of 99 shuffles of the
positions.  With a known object it must also exceed that of the scan shifted by one pattern, and
85 % of the patterns must be *placed*: liker to their own prediction than to 90 % of the others,
which chance does to one in ten.  Without one, neighbours tell patterns and positions that have
nothing to do with each other, but neither a shift along the scan nor a few wrong pairs.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from . import physics
from .contracts import Scan

__all__ = ["Pairing", "pairing_of"]

Index = NDArray[np.int64]
Real = NDArray[np.float64]

_SHUFFLES, _SEED = 99, 0
_BETTER_THAN, _PLACED = 0.9, 0.85


@dataclass(frozen=True)
class Pairing:
    """How well patterns fit their positions; definitions at the top of this module.

    Args:
        method: ``forward`` (known object) or ``neighbours``.
        n_patterns: how many were looked at.
        likeness: mean c_ii, at most 1.
        shuffled: the best mean under a shuffle or a shift.
        placed: share of the patterns that fit their own position best or nearly so.
    """

    method: Literal["forward", "neighbours"]
    n_patterns: int
    likeness: float
    shuffled: float
    placed: float

    @property
    def holds(self) -> bool:
        """Whether each pattern belongs to its position."""
        placed = self.method == "neighbours" or self.placed >= _PLACED
        return self.likeness > self.shuffled and placed

    def as_dict(self) -> dict[str, Any]:
        """JSON values, rounded to what means something."""
        return {
            name: round(value, 4) if isinstance(value, float) else value
            for name, value in asdict(self).items()
        }


def pairing_of(scan: Scan, index: Index) -> Pairing:
    """Check the patterns ``index``, at least 8 of them, of a scan.

    Raises:
        DataError: an object is known and the probe has no power.
    """
    partner = _nearest_other(scan.positions_px)[index]
    valid = _always_valid(scan, np.union1d(index, partner))
    measured = _amplitudes(scan, index, valid)
    known = _predicted(scan, index, valid)
    if known is None:
        likeness = _correlations(measured, _amplitudes(scan, partner, valid))
        likeness[index[:, None] == partner] = np.nan  # a pattern is like itself
        return _judged("neighbours", likeness, [])
    shifted = (_predicted(scan, (index + step) % len(scan), valid) for step in (1, -1))
    rivals = [
        float(np.mean(np.diagonal(_correlations(measured, rival))))
        for rival in shifted
        if rival is not None
    ]
    return _judged("forward", _correlations(measured, known), rivals)


def _always_valid(scan: Scan, index: Index) -> NDArray[np.bool_]:
    """(N, N) pixels that are valid in all these patterns: a mask must not tell them apart."""
    valid = scan.valid(index)
    if valid is None:
        return np.ones((scan.N, scan.N), dtype=np.bool_)
    return valid if valid.ndim == 2 else np.asarray(valid.all(axis=0))


def _amplitudes(scan: Scan, index: Index, valid: NDArray[np.bool_]) -> Real:
    """√I of the valid pixels, (B, V)."""
    return scan.amplitude(index)[:, valid].astype(np.float64)


def _predicted(scan: Scan, index: Index, valid: NDArray[np.bool_]) -> Real | None:
    """√λ of the valid pixels, (B, V); None without object or probe, or outside the object."""
    if scan.probe is None or scan.truth is None:
        return None
    try:
        rate = physics.forward(
            scan.truth, scan.photon_probe, scan.positions_px[index], scan.background
        )
    except IndexError:
        return None
    return np.asarray(np.sqrt(rate[:, valid]), dtype=np.float64)


def _nearest_other(positions_px: Real) -> Index:
    """For each position the pattern measured nearest to it, itself left out."""
    from scipy.spatial import cKDTree

    near = cKDTree(positions_px).query(positions_px, k=2)[1]
    own = np.arange(len(near))
    return np.asarray(np.where(near[:, 1] == own, near[:, 0], near[:, 1]), dtype=np.int64)


def _correlations(measured: Real, predicted: Real) -> Real:
    """c, (B, B): rows are patterns, columns predictions."""

    def deviations(amplitudes: Real) -> Real:
        flat = amplitudes - amplitudes.mean(axis=0)
        norm = np.linalg.norm(flat, axis=1, keepdims=True)
        return np.asarray(np.divide(flat, norm, out=np.zeros_like(flat), where=norm > 0))

    return np.asarray(deviations(measured) @ deviations(predicted).T)


def _judged(
    method: Literal["forward", "neighbours"], likeness: Real, rivals: list[float]
) -> Pairing:
    count = len(likeness)
    rng = np.random.default_rng(_SEED)
    shuffles = [rng.permutation(count) for _ in range(_SHUFFLES)]
    means = [float(np.nanmean(likeness[np.arange(count), order])) for order in shuffles]
    own = np.diagonal(likeness)
    others = np.where(np.eye(count, dtype=np.bool_), np.nan, likeness)
    placed = own > np.nanquantile(others, _BETTER_THAN, axis=1)
    return Pairing(
        method=method,
        n_patterns=count,
        likeness=float(np.mean(own)),
        shuffled=max(*means, *rivals),
        placed=float(np.mean(placed)),
    )
