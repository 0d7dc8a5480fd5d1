"""Batches in TensorFlow's tensors; what stands in them ``ptychodata`` decides."""

from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow import Tensor

from ptychodata.contracts import Scan
from ptychodata.training import batches
from ptychodata.training.batches import read_batch

__all__ = ["Batch", "in_tensors", "make_batch"]

Batch = batches.Batch[Tensor]
"""B patterns and where they lie in a canvas; ``shape`` holds numbers or int64 scalars."""


def make_batch(
    scan: Scan, index: NDArray[np.int64], pixel: NDArray[np.int64], shape: tuple[int, int]
) -> Batch:
    """Read the patterns ``index`` and lay them into a canvas; see ``read_batch``."""
    return in_tensors(read_batch(scan, index, pixel, shape))


def in_tensors(batch: batches.Batch[NDArray[Any]]) -> Batch:
    """The same batch in tensors."""
    return batches.Batch(**batch.mapped(tf.convert_to_tensor))
