"""ptypy's prepared data, ``.ptyd``, read with h5py alone: nothing in it is evaluated.

Energy is in keV; positions are (y, x) in metres, the way the illumination moves over the object;
frames come in chunks, which may be linked from files beside this one.
"""

import numpy as np
from numpy.typing import NDArray

from ptychodata.formats.recorded import Recorded
from ptychodata.formats.source import Source
from ptychodata.formats.tree import Tree
from ptychodata.patterns import joined

__all__ = ["NAME", "SUMMARY", "read", "recognises", "shapes"]

NAME = "ptyd"
SUMMARY = "ptypy's .ptyd: meta, and chunks of data with positions"

_GEOMETRY = {
    "photon_energy_eV": ("energy", 1e3),
    "detector_distance_m": ("distance", 1.0),
    "detector_pixel_m": ("psize", 1.0),
}
"""Field of ``Scan`` → key in ``meta``, and its unit."""


def recognises(source: Source) -> bool:
    """Whether the file holds chunks and their meta data."""
    tree = source.hdf5
    return tree is not None and bool(tree.names("meta")) and bool(_chunks(tree))


def _chunks(tree: Tree) -> list[str]:
    """Paths of the chunks with data, in the order of their numbers."""
    from ptychodata.formats.hdf5 import Hdf5

    assert isinstance(tree, Hdf5)
    numbers = [name for name in tree.names("chunks") if name.isdecimal()]
    paths = [f"chunks/{name}" for name in sorted(numbers, key=int)]
    return [path for path in paths if f"{path}/data" in tree]


def shapes(source: Source) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
    """Shapes of the patterns, (P, N, N), and None, as there is no probe."""
    tree = source.hdf5
    assert tree is not None
    paths = [f"{path}/data" for path in _chunks(tree)]
    found = [tree.shape(path) for path in paths]
    for path, shape in zip(paths, found, strict=True):
        if len(shape) != 3:
            raise tree.refuse(path, "frames of shape (P, N, N)", shape, "prepare them again")
    return (sum(shape[0] for shape in found), *found[0][1:]), None


def read(source: Source) -> Recorded:
    """Read the file.

    Raises:
        DataError: a chunk lacks positions, or the chunks do not fit together.
    """
    tree = source.hdf5
    assert tree is not None
    chunks, notes = _chunks(tree), []
    parts = [tree.patterns(f"{path}/data") for path in chunks]
    try:
        patterns = joined(parts)
    except ValueError as error:
        raise tree.refuse("chunks", "frames of one shape", error, "prepare them again") from error
    positions = [
        _positions(tree, path, len(part)) for path, part in zip(chunks, parts, strict=True)
    ]
    propagation = (tree.text("meta/propagation") or "farfield").lower()
    if propagation.startswith("near"):
        notes.append("ptyd: meta/propagation says that the detector was in the near field.")
    return Recorded(
        where=str(tree.path),
        key=f"{chunks[0]}/data",
        diffraction=patterns,
        positions_m=np.concatenate(positions),
        domain="counts",
        mask=_mask(tree, chunks, patterns.shape),
        scan_index=_indices(tree, chunks, len(patterns)),
        near_field=propagation.startswith("near"),
        geometry=_geometry(tree),
        notes=notes,
    )


def _positions(tree: Tree, path: str, count: int) -> NDArray[np.float64]:
    return tree.array(f"{path}/positions", "f", (count, 2)).astype(np.float64)


def _geometry(tree: Tree) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, (key, unit) in _GEOMETRY.items():
        if f"meta/{key}" not in tree:
            continue
        values = tree.array(f"meta/{key}", "uif").reshape(-1).astype(np.float64)
        if not values.size or not (values > 0).all() or not np.allclose(values, values[0]):
            raise tree.refuse(f"meta/{key}", "one number above 0", values, "correct it")
        found[name] = float(values[0]) * unit
    return found


def _indices(tree: Tree, chunks: list[str], count: int) -> NDArray[np.int64] | None:
    if not all(f"{path}/indices" in tree for path in chunks):
        return None
    found = np.concatenate([tree.array(f"{p}/indices", "ui").reshape(-1) for p in chunks])
    if len(found) != count:
        raise tree.refuse("chunks/0/indices", f"{count} numbers", len(found), "correct it")
    return None if np.array_equal(found, np.arange(count)) else found.astype(np.int64)


def _mask(tree: Tree, chunks: list[str], shape: tuple[int, ...]) -> NDArray[np.bool_] | None:
    """True where the weight is above 0: that of each frame, or where there is none, of all."""
    common = np.ones(shape[1:], np.bool_)
    if "info/weight2d" in tree and tree.array("info/weight2d", "buif").size:
        common = tree.array("info/weight2d", "buif", shape[1:]) > 0
    masks = []
    for path in chunks:
        count, key = tree.shape(f"{path}/data")[0], f"{path}/weights"
        weights = tree.array(key, "buif") if key in tree else np.empty(0)
        if not weights.size:
            masks.append(np.broadcast_to(common, (count, *shape[1:])))
        elif weights.shape in (shape[1:], (1, *shape[1:]), (count, *shape[1:])):
            masks.append(np.broadcast_to(weights > 0, (count, *shape[1:])))
        else:
            raise tree.refuse(key, f"({count}, …) weights", weights.shape, "prepare them again")
    first = masks[0][0]
    if all((mask == first).all() for mask in masks):
        return None if first.all() else np.array(first)
    return np.concatenate(masks)
