"""Ptychodus: a product (positions, probe, object) and the diffraction file beside it.

Both exist as HDF5 and as NPZ, where attributes are keys with the array's name before them.  Every
lineage from 0.7.7 to 1.7.0 is read; what is written has the names of all of them, so that each
finds its own.  Positions and centres are in metres, +x along the columns, +y down the rows.  A
position is the middle of the probe array, a centre the middle of the object array: in our pixels,
which number the middle of an even array N//2, ``n = (r − centre) / pixel + size / 2``, whichever
of its two rules for the pixel number of an array's middle a version of Ptychodus uses.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptychoconfig.errors import DataError
from ptychodata.contracts import Scan
from ptychodata.files import atomic_path
from ptychodata.formats.extras import (
    counts_of,
    object_pixel_of,
    positions_m_of,
    read_extras,
    write_extras,
    write_patterns,
)
from ptychodata.formats.product import (
    Product,
    product_of,
    read_product,
    write_arrays,
    write_product,
)
from ptychodata.formats.recorded import Recorded
from ptychodata.formats.source import Source, open_source
from ptychodata.formats.tree import Tree
from ptychodata.patterns import Patterns, rows

__all__ = [
    "NAME",
    "SUFFIXES",
    "SUMMARY",
    "companions",
    "partner",
    "read",
    "read_product",
    "recognises",
    "shapes",
    "write",
    "write_product",
]

NAME = "ptychodus"
SUFFIXES = ()
SUMMARY = (
    "Ptychodus: product.h5 (or .npz) with diffraction.h5 (or .npz) beside it, or its training HDF5"
)

_MOST_PLACEHOLDER = 2**26


def recognises(source: Source) -> bool:
    """Whether the file is a product or a diffraction file."""
    tree = source.tree
    return tree is not None and (_is_product(tree) or _is_diffraction(tree))


def _is_product(tree: Tree) -> bool:
    keys = ("probe_position_x_m", "probe_position_y_m", "probe_position_indexes", "probe")
    return all(key in tree for key in keys)


def _is_diffraction(tree: Tree) -> bool:
    return "patterns" in tree and ("indexes" in tree or "probe_position_x_px" in tree)


def shapes(source: Source) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
    """Shapes of the patterns, (P, N, N), and of the probe, (M, N, N), from the headers alone."""
    with _pair(source) as (diffraction, product):
        probe = None
        if product is not None:
            probe = product.shape("probe")[-3:]
            probe = (1, *probe) if len(probe) == 2 else probe
        shape = diffraction.shape("patterns")
        if len(shape) != 3:
            raise diffraction.refuse("patterns", "shape (P, N, N)", shape, "reshape it")
        return shape, probe


def read(source: Source) -> Recorded:
    """Read the pair, its positions and patterns matched by index.

    Raises:
        DataError: a file of the pair is missing or broken, or they do not belong together.
    """
    with _pair(source) as (diffraction, product):
        recorded = _diffraction(diffraction)
        if product is None:
            recorded.positions_px = _training_positions(diffraction, len(recorded.diffraction))
            return recorded
        found = product_of(product)
        _match(recorded, found, diffraction)
        recorded.where = str(source.path)
        recorded.probe = found.probe
        recorded.near_field = found.near_field
        recorded.geometry |= found.geometry
        if found.obj is not None:
            recorded.truth, recorded.truth_centre_m = found.obj, found.centre_m
        recorded.probe_power = "relative"
        recorded.notes += found.notes
        read_extras(product, recorded)
        return recorded


@contextmanager
def _pair(source: Source) -> Iterator[tuple[Tree, Tree | None]]:
    """The diffraction file and the product; None where the former has positions of its own."""
    tree, found = source.tree, partner(source)
    assert tree is not None
    if found is None:
        yield tree, None
        return
    is_product = _is_product(tree)
    with open_source(found) as beside:
        second = beside.tree
        if second is None or not (_is_diffraction if is_product else _is_product)(second):
            other = "diffraction" if is_product else "product"
            raise DataError(
                f"{found}: expected a {other} file of Ptychodus, found something else; "
                "copy the right one there"
            )
        yield (second, tree) if is_product else (tree, second)


def partner(source: Source) -> Path | None:
    """The other file of the pair; None where the given one has patterns and positions.

    Raises:
        DataError: there is none.
    """
    tree = source.tree
    assert tree is not None
    if _is_diffraction(tree) and "probe_position_x_px" in tree:
        return None
    is_product = _is_product(tree)
    own, other = ("product", "diffraction") if is_product else ("diffraction", "product")
    names = _beside(source.path, own, other)
    found = next((path for path in names if path.is_file()), None)
    if found is None:
        holds = "positions, probe and object" if is_product else "patterns"
        raise DataError(
            f"{source.path}: expected the other file of the pair, {names[0].name}, beside this "
            f"one, which holds {holds} only, found none; copy it there"
        )
    return found


def _beside(path: Path, own: str, other: str) -> list[Path]:
    """Names that the other file of a pair may have, the likeliest first."""
    names = []
    if own in path.stem:
        names.append(path.stem.replace(own, other) + path.suffix)
    elif other == "diffraction":
        names.append(f"{path.stem}-diffraction{path.suffix}")
    for stem in (other, f"{other}-out", f"{other}-in"):
        names += [f"{stem}{suffix}" for suffix in (".h5", ".hdf5", ".npz")]
    if own == "diffraction":
        names.append(path.stem.replace("-diffraction", "") + path.suffix)
    return [path.with_name(name) for name in dict.fromkeys(names) if name != path.name]


def companions(path: Path) -> tuple[Path, ...]:
    """The diffraction file that is written beside the product ``path``."""
    return (_beside(path, "product", "diffraction")[0],)


def _diffraction(tree: Tree) -> Recorded:
    patterns = tree.patterns("patterns")
    if patterns.ndim != 3 or patterns.dtype.kind not in "buif":
        raise tree.refuse("patterns", "real (P, N, N)", (patterns.dtype, patterns.shape), "fix it")
    recorded = Recorded(where=str(tree.path), key="patterns", diffraction=patterns, domain="counts")
    sides = [
        tree.number("patterns", f"detector_pixel_{side}_m", positive=True)
        for side in ("height", "width")
    ]
    if sides[0] is not None and sides[1] is not None:
        recorded.geometry["detector_pixel_m"] = _square(tree, "patterns", sides[0], sides[1])
    if "bad_pixels" in tree:
        bad = tree.array("bad_pixels", "bui", patterns.shape[1:])
        recorded.mask = None if not bad.any() else ~bad.astype(np.bool_)
    if "probe_photon_counts" in tree:
        recorded.notes.append("ptychodus: probe_photon_counts, one per pattern, were dropped.")
    return recorded


def _square(tree: Tree, key: str, height: float, width: float) -> float:
    if not math.isclose(height, width, rel_tol=1e-6):
        raise tree.refuse(key, "square pixels", f"{height} × {width} m", "resample the patterns")
    return height


def _training_positions(tree: Tree, count: int) -> NDArray[np.float64]:
    """Positions of the training HDF5, in pixels of the object array."""
    columns = [tree.array(f"probe_position_{axis}_px", "uif", (count,)) for axis in "yx"]
    return np.stack(columns, axis=1).astype(np.float64)


def _match(recorded: Recorded, product: Product, diffraction: Tree) -> None:
    """Give each pattern the position of its index."""
    count = len(recorded.diffraction)
    numbers = diffraction.array("indexes", "ui", (count,)).astype(np.int64)
    indexes, positions = product.indexes, product.positions_m
    if len(np.unique(indexes)) < len(indexes) or len(np.unique(numbers)) < count:
        if len(indexes) != count:
            raise diffraction.refuse(
                "indexes",
                f"indexes that tell the patterns and the {len(indexes)} positions apart",
                "some that stand twice",
                "write them as 0, 1, 2, …",
            )
        recorded.positions_m = positions
        recorded.notes.append(
            "ptychodus: indexes stand twice, so patterns and positions are paired in order."
        )
        return
    shared, at_pattern, at_position = np.intersect1d(numbers, indexes, return_indices=True)
    if not len(shared):
        raise diffraction.refuse(
            "indexes", "indexes of the product's positions", "none of them", "check the pair"
        )
    order = np.argsort(at_pattern)
    at_pattern, at_position = at_pattern[order], at_position[order]
    lost = (count - len(shared), len(indexes) - len(shared))
    if any(lost):
        recorded.notes.append(
            f"ptychodus: {lost[0]} patterns without position and {lost[1]} positions without "
            "pattern were dropped."
        )
    recorded.diffraction = rows(recorded.diffraction, at_pattern)
    recorded.positions_m = positions[at_position]
    if not np.array_equal(shared, np.arange(len(shared))):
        recorded.scan_index = numbers[at_pattern]


def write(scan: Scan, path: Path) -> tuple[str, ...]:
    """Write the product, and the diffraction file beside it.

    Raises:
        DataError: the object pixel is unknown.
        ConfigError: the place is not writable.
    """
    import h5py

    positions, notes = positions_m_of(scan), []
    pixel = object_pixel_of(scan)
    obj, centre = scan.truth, np.zeros(2)
    if obj is None:
        obj, centre = _placeholder(scan)
        notes.append("ptychodus: no object is known, a product must hold one: all 1 was written.")
    else:
        centre = np.array(obj.shape) / 2
    probe = scan.probe
    if probe is None:
        probe = np.ones((1, scan.N, scan.N), np.complex64)
        notes.append("ptychodus: no probe is known, a product must hold one: all 1 was written.")
    if scan.domain == "amplitude":
        notes.append("ptychodus: amplitudes were squared, the format holds counts.")
    held = {"truth", "object_pixel_m", "photon_energy_eV", "detector_distance_m"}
    indexes = _indexes(scan)
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        write_arrays(
            file,
            indexes=indexes,
            positions_m=positions,
            probe=probe,
            obj=obj,
            centre_m=centre * pixel,
            pixel_m=pixel,
            name=scan.name,
            photon_energy_eV=scan.photon_energy_eV,
            detector_distance_m=scan.detector_distance_m,
            photons=scan.mean_photons if scan.has_dose else 0.0,
            far_field=not scan.near_field,
        )
        if scan.mask is None or scan.mask.ndim == 2:
            held.add("mask")
        if np.array_equal(indexes, _or_empty(scan.scan_index)):
            held.add("scan_index")
        write_extras(file, scan, held)
    _write_diffraction(scan, indexes, companions(path)[0])
    return tuple(notes)


def _or_empty(index: NDArray[np.int64] | None) -> NDArray[np.int64]:
    return np.empty(0, np.int64) if index is None else index


def _indexes(scan: Scan) -> NDArray[np.int64]:
    """Indexes that tell patterns apart: the trigger numbers if they do, else 0 … P − 1."""
    index = scan.scan_index
    usable = index is not None and len(np.unique(index)) == len(scan) and index.min() >= 0
    return index if index is not None and usable else np.arange(len(scan))


def _placeholder(scan: Scan) -> tuple[NDArray[np.complex64], NDArray[np.float64]]:
    """An object of ones that the scan fits into, and its middle in pixels."""
    low, high = scan.positions_px.min(axis=0), scan.positions_px.max(axis=0)
    shape = np.ceil(high - low).astype(int) + scan.N + 2
    if math.prod(shape.tolist()) > _MOST_PLACEHOLDER:
        raise DataError(
            f"{scan.name}: expected positions within an object of at most {_MOST_PLACEHOLDER:,} "
            f"pixels, found {shape[0]:,} × {shape[1]:,}; look for outliers with ptycho inspect"
        )
    return np.ones(tuple(shape), np.complex64), (low + high) / 2


def _write_diffraction(scan: Scan, indexes: NDArray[np.int64], path: Path) -> None:
    import h5py

    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        patterns: Patterns = counts_of(scan)
        stored = write_patterns(file, "patterns", patterns, compression="lzf")
        detector: dict[str, Any] = {
            f"detector_pixel_{side}_m": scan.detector_pixel_m for side in ("height", "width")
        }
        stored.attrs.update(detector)
        file["indexes"] = indexes
        valid = scan.mask if scan.mask is not None and scan.mask.ndim == 2 else None
        good = np.ones((scan.N, scan.N), np.bool_) if valid is None else valid
        file.create_dataset("bad_pixels", data=~good, compression="lzf")
