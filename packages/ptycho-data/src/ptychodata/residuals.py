"""How well a reconstruction explains the patterns: residuals of the whole scan, and where they are.

Everything is compared on amplitudes, √counts, where photon noise is alike in bright and dark
pixels; what noise alone would leave is computed beside it where the dose is known.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from . import physics
from .contracts import Scan, Solution

__all__ = [
    "Misfit",
    "misfit",
    "poisson_amplitude_error",
    "residuals",
    "solution_counts",
    "solution_misfit",
]

Real = NDArray[np.float64]

_CHUNK_PIXELS = 2**19
_PER_ROOT = 400  # entries of a table for each unit of √λ


@dataclass(frozen=True, eq=False)
class Misfit:
    """Where a model of the patterns and the patterns differ.

    Args:
        r_factors: (P,) R of each pattern alone; 0 for one without light.
        detector: (N, N) mean of ``|√I − √λ|`` over the patterns, in √photons; 0 where all
            are masked.
        residuals: figures of the whole scan, as ``residuals`` returns them.
    """

    r_factors: Real
    detector: Real
    residuals: dict[str, float]


def residuals(
    obj: NDArray[np.complexfloating],
    origin_yx_px: NDArray[Any],
    scan: Scan,
    probe: NDArray[np.complexfloating],
) -> dict[str, float]:
    """How well object and probe explain the patterns: the figures of ``misfit`` alone.

    Returns:
        ``r_factor``, and for a scan of known dose ``poisson_floor``, what it would be if λ were
        right and only photon noise remained, and ``deviance_ratio``, the Poisson deviance over
        its expectation under λ, 1 for a perfect model.
    """
    return misfit(obj, origin_yx_px, scan, probe).residuals


def misfit(
    obj: NDArray[np.complexfloating],
    origin_yx_px: NDArray[Any],
    scan: Scan,
    probe: NDArray[np.complexfloating],
) -> Misfit:
    """Compare the patterns with those that object and probe imply, in batches.

    Args:
        obj: (H, W) object.
        origin_yx_px: (2,) position of its pixel [0, 0], in the scan's coordinates.
        scan: the patterns.
        probe: (M, N, N) modes in √photons.
    """
    positions = scan.positions_px - np.asarray(origin_yx_px, dtype=np.float64)
    sums, detector = _compared(
        lambda part: physics.forward(obj, probe, positions[part], scan.background), scan
    )
    return Misfit(_r_factors(sums), detector, _summary(sums, scan))


def solution_misfit(solution: Solution, scan: Scan) -> Misfit:
    """Compare the patterns with what all that a solver fitted implies, in batches.

    ``residuals`` are those of the patterns that it worked on; ``r_free`` is R of those that it
    held out, if there are any, and ``free_deviance_ratio`` their deviance over its expectation.
    """
    sums, detector = _compared(lambda part: solution_counts(solution, scan, part), scan)
    held = np.zeros(len(scan), dtype=np.bool_)
    held[solution.held_out] = True
    found = _summary(sums[~held], scan)
    if held.any():
        free = _summary(sums[held], scan)
        found["r_free"] = free["r_factor"]
        if scan.has_dose:
            found["free_deviance_ratio"] = free["deviance_ratio"]
    return Misfit(_r_factors(sums), detector, found)


def solution_counts(
    solution: Solution, scan: Scan, part: slice | NDArray[np.integer[Any]]
) -> NDArray[Any]:
    """Expected counts of some patterns, (B, N, N), with every correction that was fitted."""
    image = solution.reconstruction
    pixel, fraction = physics.split_positions(image.positions_px[part] - image.origin_yx_px)
    probe = physics.shift_probe(image.probe, fraction)
    if solution.variable_modes is not None and solution.variable_weights is not None:
        varying = physics.shift_probe(solution.variable_modes, fraction)
        probe[:, 0] += np.einsum("bk,bkyx->byx", solution.variable_weights[part], varying)
    patches = physics.extract(image.obj, pixel, scan.N)
    rate = physics.intensity(physics.far_field(physics.exit_waves(probe, patches)))
    if solution.intensity is not None:
        rate = rate * solution.intensity[part, None, None]
    background = scan.background if solution.background is None else solution.background
    return rate if background is None else rate + background


def _compared(rate_of: Callable[[slice], NDArray[Any]], scan: Scan) -> tuple[Real, Real]:
    """The sums of ``_misfits`` for each pattern, (P, 5), and the mean error on the detector."""
    sums, detector = np.zeros((len(scan), 5)), np.zeros((2, scan.N, scan.N))
    for part in _chunks(len(scan), scan.N):
        rate = rate_of(part)
        counts, valid = scan.counts(part), scan.valid(part)
        weight = np.broadcast_to(1.0 if valid is None else valid, counts.shape)
        error = weight * np.abs(np.sqrt(counts) - np.sqrt(rate))
        detector += error.sum(axis=0), weight.sum(axis=0)
        sums[part] = _misfits(error, rate, counts, weight, scan.has_dose)
    return sums, detector[0] / np.maximum(detector[1], 1)


def _summary(sums: Real, scan: Scan) -> dict[str, float]:
    error, amplitude, floor, deviance, expected = sums.sum(axis=0).tolist()
    found = {"r_factor": error / amplitude}
    if scan.has_dose:
        found |= {"poisson_floor": floor / amplitude, "deviance_ratio": deviance / expected}
    return found


def _r_factors(sums: Real) -> Real:
    """R of each pattern alone: (P,)."""
    return np.divide(sums[:, 0], sums[:, 1], out=np.zeros(len(sums)), where=sums[:, 1] > 0)


def _chunks(count: int, side: int) -> Iterator[slice]:
    size = max(1, _CHUNK_PIXELS // side**2)
    return (slice(start, start + size) for start in range(0, count, size))


def _misfits(
    error: NDArray[Any], rate: NDArray[Any], counts: NDArray[Any], weight: NDArray[Any], noise: bool
) -> Real:
    """Σ|√I − √λ|, Σ√I, and with ``noise`` E Σ|√I − √λ|, deviance and its expectation: (B, 5)."""
    found = np.zeros((len(counts), 5))
    terms = {0: error, 1: weight * np.sqrt(counts)}
    if noise:
        terms |= {i: weight * f(rate) for i, f in zip((2, 4), _EXPECTATIONS, strict=True)}
        each = zip(rate[:, None], counts[:, None], weight[:, None], strict=True)
        found[:, 3] = [physics.poisson_deviance(r, n, 1.0, w) for r, n, w in each]
    for column, values in terms.items():
        found[:, column] = np.sum(values, axis=(1, 2), dtype=np.float64)
    return found


def _expectation(of: Callable[[Real, Real], Real]) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """E of a misfit of Poisson counts n as a function of λ, from a table in √λ, to its step.

    Beyond the table, at λ > 400, it is constant: 1/√(2π) for |√n − √λ|, ½ for the deviance.
    """
    root = np.linspace(0, 20, 801)
    n = np.arange(700)
    rate = np.maximum(root**2, 1e-12)[:, None]
    probability = np.exp(n * np.log(rate) - rate - gammaln(n + 1))
    coarse = np.sum(probability * of(rate, n.astype(np.float64)), axis=1)
    table = np.interp(np.arange(20 * _PER_ROOT + 1) / _PER_ROOT, root, coarse).astype(np.float32)

    def lookup(rates: NDArray[Any]) -> NDArray[Any]:
        at = np.minimum(np.sqrt(rates, dtype=np.float32) * _PER_ROOT + 0.5, len(table) - 1)
        found: NDArray[Any] = table[at.astype(np.int32)]
        return found

    return lookup


poisson_amplitude_error = _expectation(lambda rate, n: np.abs(np.sqrt(n) - np.sqrt(rate)))
"""E|√n − √λ| of Poisson counts n at the rates λ, in their shape."""

_EXPECTATIONS = (
    poisson_amplitude_error,
    _expectation(
        lambda rate, n: rate - n - n * np.log((rate + physics.EPSILON) / (n + physics.EPSILON))
    ),
)
