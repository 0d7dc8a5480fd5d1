"""Reconstructions on disk: ``reconstruction.npz``, written and read in one place."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptychoconfig.errors import DataError

from .contracts import Reconstruction, Solution
from .files import atomic_path, dump_json
from .formats.source import Source, open_source

__all__ = [
    "RECONSTRUCTION",
    "read_reconstruction",
    "read_solution",
    "write_reconstruction",
    "write_solution",
    "write_tiffs",
]

RECONSTRUCTION = "reconstruction.npz"

_KINDS = {"c": "complex values", "f": "real values", "i": "integers"}
_HISTORY = "history_"
_FITTED = {
    "background": ("f", "NN"),
    "intensity": ("f", "P"),
    "variable_modes": ("c", "KNN"),
    "variable_weights": ("f", "PK"),
}
"""What a solver may fit besides the image: kind of numbers, and axes."""
_REMEDY = "give a reconstruction.npz that ptycho wrote, or the folder that holds it"


def write_reconstruction(reconstruction: Reconstruction, folder: str | os.PathLike[str]) -> None:
    """Write ``reconstruction.npz`` into a folder, whole or not at all.

    Keys: ``object`` (H, W) complex64, ``coverage`` (H, W) float32, ``origin_yx_px`` (2,),
    ``pixel_size_m`` (NaN = unknown), ``positions_px`` (P, 2) and ``probe`` (M, N, N) complex64,
    as in ``Reconstruction``; and ``disagreement`` (H, W) float32 where there is one.

    Raises:
        ConfigError: the place is not writable.
    """
    _write(folder, _image(reconstruction))


def write_solution(solution: Solution, folder: str | os.PathLike[str]) -> None:
    """Write ``reconstruction.npz`` with all that a solver fitted, whole or not at all.

    Keys besides those of ``write_reconstruction``, as in ``Solution``: ``epochs``, ``held_out``,
    ``history_<figure>`` for each figure, and where it was fitted ``background``, ``intensity``,
    ``variable_modes`` and ``variable_weights``.

    Raises:
        ConfigError: the place is not writable.
    """
    fitted = {name: getattr(solution, name) for name in _FITTED}
    history = {f"{_HISTORY}{name}": np.array(v, float) for name, v in solution.history.items()}
    _write(
        folder,
        _image(solution.reconstruction)
        | {name: array for name, array in fitted.items() if array is not None}
        | {"held_out": solution.held_out, "epochs": np.int64(solution.epochs)}
        | history,
    )


def _image(reconstruction: Reconstruction) -> dict[str, NDArray[Any]]:
    more = {} if (map_ := reconstruction.disagreement) is None else {"disagreement": map_}
    return {
        "object": reconstruction.obj,
        "coverage": reconstruction.coverage,
        "origin_yx_px": reconstruction.origin_yx_px,
        "pixel_size_m": np.array(reconstruction.pixel_size_m),
        "positions_px": reconstruction.positions_px,
        "probe": reconstruction.probe,
        **more,
    }


def _write(folder: str | os.PathLike[str], arrays: Mapping[str, Any]) -> None:
    with atomic_path(Path(folder) / RECONSTRUCTION) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def write_tiffs(reconstruction: Reconstruction, folder: str | os.PathLike[str]) -> None:
    """Write ``amplitude.tif`` and ``phase.tif`` (rad, not unwrapped): (H, W) 32-bit floats.

    A known pixel size stands in the resolution tags, and as ``pixel_size_m`` beside
    ``origin_yx_px`` in the description, which is JSON.

    Raises:
        ConfigError: the place is not writable.
    """
    import tifffile

    size = reconstruction.pixel_size_m
    told = {"pixel_size_m": size, "origin_yx_px": reconstruction.origin_yx_px.tolist()}
    more: dict[str, Any] = {"description": dump_json(told, indent=None).strip()}
    if np.isfinite(size):
        most = min(1000, max(1, int(2**32 * size / 0.01)))  # so that 32 bits hold both numbers
        per_cm = Fraction(0.01 / size).limit_denominator(most).as_integer_ratio()
        more |= {"resolution": (per_cm, per_cm), "resolutionunit": "CENTIMETER"}
    images = {"amplitude": np.abs(reconstruction.obj), "phase": np.angle(reconstruction.obj)}
    for name, image in images.items():
        with atomic_path(Path(folder) / f"{name}.tif") as temporary:
            tifffile.imwrite(
                temporary, image.astype(np.float32), metadata=None, software="ptycho", **more
            )


def read_reconstruction(path: str | os.PathLike[str]) -> Reconstruction:
    """Read a reconstruction that ptycho wrote.

    Args:
        path: a ``reconstruction.npz``, or the folder that holds one.

    Returns:
        What was written, but for where the probe came from, which the file does not say.

    Raises:
        DataError: there is none, or a key is missing, of the wrong shape or not finite.
    """
    with _open(path) as source:
        return _read_image(source)


def read_solution(path: str | os.PathLike[str]) -> Solution:
    """Read what a solver left, or a network: then there is an image and nothing else.

    Args:
        path: a ``reconstruction.npz``, or the folder that holds one.

    Raises:
        DataError: there is none, or a key is missing, of the wrong shape or not finite.
    """
    with _open(path) as source:
        image = _read_image(source)
        history = {
            key.removeprefix(_HISTORY): _array(source, key, "f", 1, finite=False).tolist()
            for key in sorted(source.members)
            if key.startswith(_HISTORY)
        }
        return Solution(
            image,
            background=_fitted(source, "background", image),
            intensity=_fitted(source, "intensity", image),
            variable_modes=_fitted(source, "variable_modes", image),
            variable_weights=_fitted(source, "variable_weights", image),
            held_out=_held_out(source, len(image.positions_px)),
            history=history,
            epochs=int(_array(source, "epochs", "i", 0)) if "epochs" in source.members else 0,
        )


@contextmanager
def _open(path: str | os.PathLike[str]) -> Iterator[Source]:
    file = Path(path) / RECONSTRUCTION if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise DataError(f"{file}: expected a reconstruction, found nothing there; {_REMEDY}")
    with open_source(file) as source:
        yield source


def _read_image(source: Source) -> Reconstruction:
    obj = _array(source, "object", "c", 2)
    if obj.size == 0:
        raise _refuse(source, "object", "pixels", obj.shape)
    probe = _array(source, "probe", "c", 3)
    if 0 in probe.shape or probe.shape[1] != probe.shape[2]:
        raise _refuse(source, "probe", "modes of shape (M, N, N)", probe.shape)
    pixel_size_m = _array(source, "pixel_size_m", "f", 0, finite=False)
    disagreement = None
    if "disagreement" in source.members:
        disagreement = _array(source, "disagreement", "f", 2, obj.shape).astype(np.float32)
    return Reconstruction(
        obj=obj.astype(np.complex64),
        coverage=_array(source, "coverage", "f", 2, obj.shape).astype(np.float32),
        origin_yx_px=_array(source, "origin_yx_px", "f", 1, (2,)),
        positions_px=_positions(source),
        probe=probe.astype(np.complex64),
        pixel_size_m=float(pixel_size_m),
        disagreement=disagreement,
    )


def _fitted(source: Source, key: str, image: Reconstruction) -> NDArray[Any] | None:
    if key not in source.members:
        return None
    kind, axes = _FITTED[key]
    modes = source.members["variable_modes"].shape if "variable_modes" in source.members else ()
    sizes = {"P": len(image.positions_px), "N": image.probe.shape[-1], "K": (*modes, 0)[0]}
    array = _array(source, key, kind, len(axes), tuple(sizes[axis] for axis in axes))
    return array.astype(np.complex64 if kind == "c" else np.float32)


def _held_out(source: Source, count: int) -> NDArray[np.int64]:
    if "held_out" not in source.members:
        return np.empty(0, np.int64)
    index = _array(source, "held_out", "i", 1)
    if index.size and not (index.min() >= 0 and index.max() < count):
        raise _refuse(source, "held_out", f"patterns from 0 to {count - 1}", index.tolist())
    return index


def _positions(source: Source) -> NDArray[np.float64]:
    positions = _array(source, "positions_px", "f", 2)
    if positions.shape[1] != 2 or len(positions) == 0:
        raise _refuse(source, "positions_px", "shape (P, 2) with P > 0", positions.shape)
    return positions


def _array(
    source: Source,
    key: str,
    kind: str,
    axes: int,
    shape: tuple[int, ...] | None = None,
    *,
    finite: bool = True,
) -> NDArray[Any]:
    """The array ``key``, in the widest precision, once it is what it must be."""
    if key not in source.members:
        found = ", ".join(sorted(source.members)) or "no keys at all"
        raise DataError(f"{source.path}: expected the key {key!r}, found {found}; {_REMEDY}")
    member = source.members[key]
    if member.dtype.kind != kind and (kind, member.dtype.kind) != ("c", "f"):
        raise _refuse(source, key, _KINDS[kind], member.dtype)
    if len(member.shape) != axes or shape not in (None, member.shape):
        wanted = f"{axes} axes" if shape is None else f"shape {shape}"
        raise _refuse(source, key, wanted, f"shape {member.shape}")
    array: NDArray[Any] = source.array(key)
    array = array.astype({"c": np.complex128, "f": np.float64, "i": np.int64}[kind])
    if finite and not np.isfinite(array).all():
        raise _refuse(source, key, "finite values", "NaN or infinity")
    return array


def _refuse(source: Source, key: str, expected: str, found: object) -> DataError:
    return DataError(f"{source.path}: key {key!r}: expected {expected}, found {found}; {_REMEDY}")
