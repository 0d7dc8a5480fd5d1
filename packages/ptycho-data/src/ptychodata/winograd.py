"""Winograd's minimal filtering F(4×4, 3×3), apart from its arithmetic, which each backend has.

The equations stand in ``networks/_winograd.py`` of the Torch backend; after A. Lavin & S. Gray,
"Fast algorithms for convolutional neural networks", CVPR (2016).
"""

import numpy as np

__all__ = ["INPUT", "KERNEL", "OUTPUT", "TILE", "WINDOW"]

TILE, WINDOW = 4, 6
"""Pixels: side of a tile of outputs, and of the inputs that it needs."""

INPUT = np.array(
    [
        [4.0, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
)
"""Bᵀ, (6, 6)."""

KERNEL = np.array([[6.0, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]) / 24
"""G, (6, 3)."""

OUTPUT = np.array(
    [[1.0, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]
)
"""Aᵀ, (4, 6)."""
