"""3×3 convolutions by Winograd's minimal filtering, which saves three of four multiplications.

The equations stand in the Torch backend's file of this name.  Here ``space_to_batch`` brings the
pixels of a tile to the first axis, over which each transform is one product of matrices; gradients
follow from those of the operations.

Without a GPU this pays where channels are many (``docs/performance.md``); elsewhere, and in 16-bit
arithmetic, ``pays`` says that it does not.
"""

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow import Tensor

from ptychodata.winograd import INPUT, KERNEL, OUTPUT, TILE, WINDOW

__all__ = ["conv3x3", "pays"]

_FEWEST = 32 * 64  # input times output channels from which it gains


def pays(x: Tensor, kernel: Tensor) -> bool:
    """Whether ``conv3x3`` can take this image and kernel, and is faster than the framework."""
    tiled = all(side is not None and side % TILE == 0 for side in x.shape[1:3])
    wide = kernel.shape[:2] == (3, 3) and kernel.shape[2] * kernel.shape[3] >= _FEWEST
    return tiled and wide and x.dtype == tf.float32 and not tf.config.list_physical_devices("GPU")


def conv3x3(x: Tensor, kernel: Tensor) -> Tensor:
    """Convolve with zeros around the image: (B, H, W, I), (3, 3, I, O) → (B, H, W, O).

    H and W are known multiples of 4.
    """
    rows, columns = (side // TILE for side in x.shape[1:3])
    inputs, outputs = kernel.shape[2:]
    block, nothing = [TILE, TILE], [[0, 0], [0, 0]]
    d = tf.space_to_batch(x, block, nothing)
    d = tf.reshape(d, [TILE, TILE, -1, rows, columns, inputs])
    d = _transform(INPUT, _windows(d, 0, 2))  # (6 rows, 4 columns, B, H/4, W/4, I)
    d = _transform(INPUT, _windows(d, 1, 3))  # (6 columns, 6 rows, …)
    g = _transform(KERNEL, kernel)
    g = _transform(KERNEL, tf.transpose(g, [1, 0, 2, 3]))
    y = tf.matmul(tf.reshape(d, [WINDOW**2, -1, inputs]), tf.reshape(g, [-1, inputs, outputs]))
    y = _transform(OUTPUT, tf.reshape(y, [WINDOW, WINDOW, -1, outputs]))
    y = _transform(OUTPUT, tf.transpose(y, [1, 0, 2, 3]))  # (4 rows, 4 columns, …)
    return tf.batch_to_space(tf.reshape(y, [-1, rows, columns, outputs]), block, nothing)


def _windows(pixels: Tensor, axis: int, along: int) -> Tensor:
    """Six pixels of each tile, with the neighbours', first, of the four that stand on ``axis``.

    ``along`` is the axis of the tiles once ``axis`` is gone.
    """
    own = tf.unstack(pixels, axis=axis)
    return tf.stack([_moved(own[-1], along, 1), *own, _moved(own[0], along, -1)])


def _moved(pixels: Tensor, axis: int, by: int) -> Tensor:
    """By one tile, zeros following."""
    begin, size, around = [0] * 5, [-1] * 5, [[0, 0] for _ in range(5)]
    begin[axis], around[axis] = (0, [1, 0]) if by > 0 else (1, [0, 1])
    size[axis] = pixels.shape[axis] - 1
    return tf.pad(tf.slice(pixels, begin, size), around)


def _transform(matrix: NDArray[np.floating], tiles: Tensor) -> Tensor:
    """M t over the first axis: (i, …, C) → (o, …, C)."""
    first, *inner = tiles.shape
    inner = [-1 if side is None else side for side in inner]
    flat = tf.matmul(tf.constant(matrix, tiles.dtype), tf.reshape(tiles, [first, -1]))
    return tf.reshape(flat, [len(matrix), *inner])
