"""The pair of PtychoViT and PtychoFM: ``NAME_dp.hdf5`` and ``NAME_para.hdf5``.

Patterns are counts; positions are in metres from the middle of the object, +x along the columns and
+y down the rows, in the order of the patterns.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ptychoconfig.errors import DataError, UsageError
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
from ptychodata.formats.hdf5 import Hdf5, open_hdf5
from ptychodata.formats.product import product_of
from ptychodata.formats.recorded import Recorded
from ptychodata.formats.source import Source

__all__ = [
    "NAME",
    "SUFFIXES",
    "SUMMARY",
    "companions",
    "partner",
    "read",
    "recognises",
    "shapes",
    "write",
]

NAME = "ptychovit"
SUFFIXES = ()
SUMMARY = "PtychoViT and PtychoFM: NAME_dp.hdf5 with NAME_para.hdf5 beside it"

_DATA, _PARAMETERS = "_dp", "_para"


def recognises(source: Source) -> bool:
    """Whether the file is one of the pair."""
    tree = source.hdf5
    return tree is not None and (_holds_data(tree) or _holds_parameters(tree))


def _holds_data(tree: Hdf5) -> bool:
    return "dp" in tree and not ("ppX" in tree or "ppY" in tree)


def _holds_parameters(tree: Hdf5) -> bool:
    keys = ("probe", "probe_position_x_m", "probe_position_y_m")
    return all(key in tree for key in keys) and "probe_position_indexes" not in tree


def shapes(source: Source) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
    """Shapes of the patterns, (P, N, N), and of the probe, (M, N, N), from the headers alone."""
    with _pair(source) as (data, parameters):
        probe = parameters.shape("probe")[-3:]
        return data.shape("dp"), probe if len(probe) == 3 else (1, *probe)


def read(source: Source) -> Recorded:
    """Read the pair.

    Raises:
        DataError: a file of the pair is missing or wrong.
    """
    with _pair(source) as (data, parameters):
        found = product_of(parameters, numbered=False)
        patterns = data.patterns("dp")
        if len(found.positions_m) != len(patterns):
            raise parameters.refuse(
                "probe_position_x_m",
                f"one position for each of {len(patterns)} patterns",
                len(found.positions_m),
                "check the pair",
            )
        recorded = Recorded(
            where=str(source.path),
            key="dp",
            diffraction=patterns,
            positions_m=found.positions_m,
            probe=found.probe,
            domain="counts",
            probe_power="relative",
            truth=found.obj,
            truth_centre_m=found.centre_m,
            geometry=found.geometry,
            notes=[note.replace("ptychodus:", "ptychovit:") for note in found.notes],
        )
        read_extras(parameters, recorded)
        return recorded


@contextmanager
def _pair(source: Source) -> Iterator[tuple[Hdf5, Hdf5]]:
    tree, path = source.hdf5, partner(source)
    assert tree is not None
    given_data = _holds_data(tree)
    with open_hdf5(path) as second:
        if not (_holds_parameters if given_data else _holds_data)(second):
            raise DataError(f"{path}: expected the other file of the pair; copy the right one")
        yield (tree, second) if given_data else (second, tree)


def partner(source: Source) -> Path:
    """The other file of the pair.

    Raises:
        DataError: there is none.
    """
    tree = source.hdf5
    assert tree is not None
    own, other = (_DATA, _PARAMETERS) if _holds_data(tree) else (_PARAMETERS, _DATA)
    path = _sibling(source.path, own, other)
    if path is None or not path.is_file():
        raise DataError(
            f"{source.path}: expected a file NAME{own}.hdf5 with NAME{other}.hdf5 beside it, found "
            f"no {path.name if path else 'such name'}; give both the same name"
        )
    return path


def _sibling(path: Path, own: str, other: str) -> Path | None:
    if not path.stem.endswith(own):
        return None
    return path.with_name(path.stem.removesuffix(own) + other + path.suffix)


def companions(path: Path) -> tuple[Path, ...]:
    """The file of parameters that is written beside the patterns.

    Raises:
        UsageError: the name of ``path`` does not end in ``_dp``.
    """
    found = _sibling(path, _DATA, _PARAMETERS)
    if found is None:
        raise UsageError(f"expected a name ending in {_DATA}.hdf5 for this format, found {path}")
    return (found,)


def write(scan: Scan, path: Path) -> tuple[str, ...]:
    """Write the patterns to ``path`` and the rest to the file beside it.

    Raises:
        DataError: the object pixel is unknown.
        ConfigError: the place is not writable.
        UsageError: the name of ``path`` does not end in ``_dp``.
    """
    import h5py

    beside, pixel = companions(path)[0], object_pixel_of(scan)
    positions, notes = positions_m_of(scan), []
    probe, obj = scan.probe, scan.truth
    if probe is None:
        probe = np.ones((1, scan.N, scan.N), np.complex64)
        notes.append("ptychovit: no probe is known, the format must hold one: all 1 was written.")
    if scan.domain == "amplitude":
        notes.append("ptychovit: amplitudes were squared, the format holds counts.")
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        write_patterns(file, "dp", counts_of(scan))
    with atomic_path(beside) as temporary, h5py.File(temporary, "w") as file:
        pixels = {"pixel_height_m": pixel, "pixel_width_m": pixel}
        file.create_dataset("probe", data=probe[None]).attrs.update(pixels)
        if obj is not None:
            positions = positions - np.array(obj.shape) / 2 * pixel
            stored = file.create_dataset("object", data=obj[None])
            stored.attrs.update({**pixels, "center_x_m": 0.0, "center_y_m": 0.0})
        for column, axis in enumerate("yx"):
            file[f"probe_position_{axis}_m"] = positions[:, column]
        write_extras(file, scan, {"truth", "object_pixel_m"})
    return tuple(notes)
