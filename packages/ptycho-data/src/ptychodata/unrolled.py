"""What ``unrolled`` is apart from its arithmetic, which each backend has: its numbers and rounds.

The network's equations stand in ``networks/unrolled.py`` of the Torch backend.
"""

from collections.abc import Iterator

__all__ = [
    "COUNT",
    "DARK",
    "EVEN",
    "FED",
    "FLOOR",
    "FOLD",
    "LEAST_ERROR",
    "LEAST_MISFIT",
    "LEAST_VARIANCE",
    "NOISE",
    "NORM_EPSILON",
    "TILE",
    "Part",
    "momentum",
    "rounds",
    "tiles",
]

COUNT = 0.1
"""Photons that are added to an expected count, which no pattern tells more exactly."""
DARK = 1e-4
"""Share of the typical illumination below which the frame of a canvas is left uncorrected."""
FED = 8
"""Channels that the U-Net sees."""
FOLD = 4
"""Space-to-depth: pixels along a side that are folded into channels before the first layer."""
EVEN = 2 * FOLD
"""Pixels that the finest level's even sides are multiples of."""
FLOOR = 0.02
"""β, the share of the typical illumination that is added to a pixel's."""
LEAST_ERROR = 2e-3
"""Added to an object's relative error before its logarithm is taken: what is good enough."""
LEAST_VARIANCE = 1e-3
"""Added to the variance of an object, by which its error is divided."""
LEAST_MISFIT = 0.1
"""Added to the misfit before its logarithm is taken."""
NOISE = 9.0
"""Variances of a count by which it may miss its expectation and still be noise: (3 σ)²."""
NORM_EPSILON = 1e-4
"""Added to the mean square over the channels that a norm divides by."""
TILE = 1024
"""Side of the tiles, in pixels, in which a larger canvas is corrected where nothing is learned."""

_MOMENTUM = 0.75  # μ for ρ → ∞
_LAST = 2  # passes in one round and without momentum
_PROBES, _FEWEST, _MOST = 3.0, 4, 8  # of a part on a pixel; rounds of a pass

Part = tuple[slice, slice]
"""Rows and columns."""


def rounds(step: int, steps: int, redundancy: float) -> int:
    """In how many rounds a pass is made: enough overlap in each, and one in the last passes.

    Args:
        step: number of the pass, from 0.
        steps: of how many.
        redundancy: ρ, how many probes light a pixel.
    """
    if step >= steps - _LAST:
        return 1
    return max(_FEWEST, min(_MOST, round(redundancy / _PROBES)))


def momentum(step: int, steps: int, redundancy: float) -> float:
    """μ of a pass: 0 in the last ones; the arguments are those of ``rounds``."""
    return _MOMENTUM * redundancy / (redundancy + 1) if step < steps - _LAST else 0.0


def tiles(height: int, width: int, levels: int) -> Iterator[tuple[Part, Part, Part]]:
    """Parts of a canvas: a tile, all that it depends on, and the tile in that.

    Two convolutions at each level on the way down and up reach 2·4·(3·2^levels − 2) pixels, less
    than six of the coarsest, and tiles begin where pixels of the coarsest level do.

    Args:
        height: of the canvas.
        width: of the canvas.
        levels: of the U-Net.
    """
    coarse = FOLD * 2**levels
    reach, side = 6 * coarse, coarse * -(-TILE // coarse)
    for y in range(0, height, side):
        for x in range(0, width, side):
            low = max(0, y - reach), max(0, x - reach)
            high = min(height, y + side + reach), min(width, x + side + reach)
            end = min(height, y + side), min(width, x + side)
            yield (
                (slice(y, end[0]), slice(x, end[1])),
                (slice(low[0], high[0]), slice(low[1], high[1])),
                (slice(y - low[0], end[0] - low[0]), slice(x - low[1], end[1] - low[1])),
            )
