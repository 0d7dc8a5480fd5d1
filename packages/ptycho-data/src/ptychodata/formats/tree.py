"""What a format module asks of a file: arrays and attributes under names, and good messages.

``Hdf5`` and the NPZ archive both answer, so that a format that exists as both is written once.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptychoconfig.errors import DataError
from ptychodata.formats.source import Source
from ptychodata.patterns import Patterns

__all__ = ["NpzTree", "Tree"]

Shape = Sequence[int | None]
"""Sides of an array; None = any."""


class Tree(ABC):
    """Arrays and attributes of one file."""

    path: Path

    @abstractmethod
    def __contains__(self, key: object) -> bool:
        """Whether there is an array ``key``."""

    @abstractmethod
    def names(self) -> list[str]:
        """Names at the top of the file, for messages."""

    @abstractmethod
    def shape(self, key: str) -> tuple[int, ...]:
        """Shape of the array ``key``, from its header."""

    @abstractmethod
    def dtype(self, key: str) -> np.dtype[Any]:
        """Type of the array ``key``, from its header."""

    @abstractmethod
    def load(self, key: str) -> NDArray[Any]:
        """The array ``key``, read whole.

        Raises:
            DataError: it is missing, broken, too large, or not of numbers or text.
        """

    @abstractmethod
    def patterns(self, key: str) -> Patterns:
        """The array ``key``, left on the disk where it is large."""

    @abstractmethod
    def attribute(self, key: str, name: str) -> Any:
        """The attribute ``name`` of ``key`` ('' = of the file); None if there is none."""

    def refuse(self, key: str, expected: str, found: object, remedy: str) -> DataError:
        """The error that says what is wrong with ``key``."""
        return DataError(f"{self.path}: key {key!r}: expected {expected}, found {found}; {remedy}")

    def need(self, key: str) -> str:
        """``key`` itself.

        Raises:
            DataError: the file has no such array.
        """
        if key not in self:
            found = ", ".join(self.names()[:30]) or "nothing"
            raise DataError(
                f"{self.path}: expected the key {key!r}, found only {found}; "
                "check that the file is whole"
            )
        return key

    def first(self, *keys: str) -> str | None:
        """The first of ``keys`` that is there."""
        return next((key for key in keys if key in self), None)

    def array(
        self, key: str, kinds: str = "uif", shape: Shape | None = None, *, finite: bool = True
    ) -> NDArray[Any]:
        """A numeric array of one of ``kinds`` (numpy's letters), of ``shape``.

        Raises:
            DataError: it is missing, or anything else.
        """
        dtype, found = self.dtype(self.need(key)), self.shape(key)
        if dtype.kind not in kinds:
            expected = "complex numbers" if "c" in kinds else "real numbers"
            raise self.refuse(key, expected, dtype, "convert it")
        if shape is not None and not _fits(found, shape):
            sides = ", ".join("any" if side is None else str(side) for side in shape)
            raise self.refuse(key, f"shape ({sides})", found, "check how the file was written")
        array = self.load(key)
        if finite and array.dtype.kind in "fc" and not np.isfinite(array).all():
            raise self.refuse(key, "finite values", "NaN or infinity", "repair the file")
        return array

    def number(self, key: str, name: str | None = None, *, positive: bool = False) -> float | None:
        """A scalar: the array ``key``, or the attribute ``name`` of ``key``; None if missing.

        NaN is missing, too.

        Raises:
            DataError: it is no number, or not positive where it should be.
        """
        label = key if name is None else f"{key}@{name}" if key else name
        if name is None:
            value = self.load(key) if key in self else None
        else:
            value = self.attribute(key, name)
        if value is None:
            return None
        plain = np.asarray(value)
        if plain.size != 1 or plain.dtype.kind not in "buif":
            raise self.refuse(label, "one number", f"{plain.dtype} {plain.shape}", "correct it")
        number = float(plain.reshape(-1)[0])
        if np.isnan(number):
            return None
        if positive and not (np.isfinite(number) and number > 0):
            raise self.refuse(label, "a number above 0", number, "correct it")
        return number

    def text(self, key: str, name: str | None = None) -> str | None:
        """A text: the array ``key``, or the attribute ``name`` of it; None if there is none."""
        if name is None:
            value = self.load(key) if key in self else None
        else:
            value = self.attribute(key, name)
        plain = np.asarray(value).reshape(-1)
        if value is None or plain.size != 1:
            return None
        one = plain[0]
        return one.decode("utf-8", "replace") if isinstance(one, bytes) else str(one)


def _fits(found: tuple[int, ...], shape: Shape) -> bool:
    return len(found) == len(shape) and all(
        side in (None, real) for real, side in zip(found, shape, strict=True)
    )


class NpzTree(Tree):
    """An NPZ archive, with the attribute ``name`` of ``key`` under ``key_name``."""

    def __init__(self, source: Source) -> None:
        self.path, self._source = source.path, source

    def __contains__(self, key: object) -> bool:
        return key in self._source.members

    def names(self) -> list[str]:
        """Names at the top."""
        return sorted(self._source.members)

    def shape(self, key: str) -> tuple[int, ...]:
        """Shape of ``key``, from its header."""
        return self._source.members[self.need(key)].shape

    def dtype(self, key: str) -> np.dtype[Any]:
        """Type of ``key``, from its header."""
        return self._source.members[self.need(key)].dtype

    def load(self, key: str) -> NDArray[Any]:
        """``key``, read whole."""
        return self._source.array(self.need(key))

    def patterns(self, key: str) -> Patterns:
        """``key``; an archive maps what is large and stored."""
        return self.load(key)

    def attribute(self, key: str, name: str) -> Any:
        """The array ``key_name``."""
        flat = f"{key}_{name}" if key else name
        return self.load(flat) if flat in self else None
