"""Batches in TensorFlow's tensors; what stands in them ``ptychodata`` decides."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf
from numpy.typing import NDArray
from tensorflow import Tensor

from ptychodata.training import batches

__all__ = ["Batch", "batch_of", "in_tensors", "tensors_of"]

_ARRAYS = ("counts", "valid", "background", "pixel", "fraction", "label")


class Batch(batches.Batch[Tensor]):
    """B patterns and where they lie in a canvas; ``shape`` holds numbers or int64 scalars."""

    @staticmethod
    def take(array: Tensor, index: Any) -> Tensor:
        """Some rows of a tensor."""
        return tf.gather(array, index)


def in_tensors(batch: batches.Batch[NDArray[Any]]) -> Batch:
    """The same batch in tensors."""
    return Batch(**batch.mapped(tf.convert_to_tensor))


def tensors_of(batch: batches.Batch[NDArray[Any]]) -> dict[str, Tensor]:
    """What a graph is given of a batch: the arrays that it has, by name."""
    arrays = {name: getattr(batch, name) for name in _ARRAYS}
    return {name: tf.convert_to_tensor(x) for name, x in arrays.items() if x is not None}


def batch_of(given: Mapping[str, Tensor], shape: tuple[Any, Any], per_group: int) -> Batch:
    """The batch again, in a graph; ``given`` may hold more."""
    arrays: dict[str, Any] = {name: given.get(name) for name in _ARRAYS}
    return Batch(**arrays, shape=shape, per_group=per_group)
