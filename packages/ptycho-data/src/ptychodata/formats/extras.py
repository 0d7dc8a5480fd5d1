"""What our HDF5 files hold beside their format, so that nothing of a scan is lost.

Other programs ignore the group ``ptycho``: its attributes say what the patterns are, its arrays are
those of the scan that the format has no place for.
"""

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import ptychodata
from ptychoconfig.errors import DataError
from ptychodata.contracts import Scan
from ptychodata.files import dump_json, parse_json
from ptychodata.formats.recorded import Recorded
from ptychodata.formats.tree import Tree
from ptychodata.patterns import BLOCK_BYTES, Patterns, blocks, mapped

if TYPE_CHECKING:
    import h5py

__all__ = [
    "counts_of",
    "object_pixel_of",
    "positions_m_of",
    "read_extras",
    "write_extras",
    "write_patterns",
]

_GROUP = "ptycho"
_ARRAYS = {
    "mask": "b",
    "background": "f",
    "scan_index": "iu",
    "truth": "c",
    "labels": "c",
    "true_positions_px": "f",
}
"""Fields of ``Scan`` that are arrays → their kinds."""

_GEOMETRY = ("object_pixel_m", "photon_energy_eV", "detector_distance_m", "detector_pixel_m")


def counts_of(scan: Scan) -> Patterns:
    """The patterns as counts: as they are stored where they are counts, else (P, N, N) float32."""
    if scan.domain == "counts" and scan.intensity_scale in (None, 1.0):
        return scan.diffraction
    scale = np.float32((scan.intensity_scale or 1.0) ** 2)

    def counts(block: NDArray[Any], _: slice) -> NDArray[np.float32]:
        plain = block.astype(np.float32)
        return (plain if scan.domain == "counts" else np.square(plain)) * scale

    return mapped(scan.diffraction, counts, dtype=np.float32)


def object_pixel_of(scan: Scan) -> float:
    """The object pixel in metres.

    Raises:
        DataError: it is unknown, so that positions have no metres.
    """
    if not np.isfinite(scan.object_pixel_m):
        raise DataError(
            f"{scan.name}: expected a known object pixel size, to give positions in metres as this "
            "format keeps them, found none; give --object-pixel-m, or --photon-energy-ev, "
            "--detector-distance-m and --detector-pixel-m"
        )
    return scan.object_pixel_m


def positions_m_of(scan: Scan) -> NDArray[np.float64]:
    """Positions (P, 2) (y, x) in metres.

    Raises:
        DataError: the object pixel is unknown.
    """
    return scan.positions_px * object_pixel_of(scan)


def write_patterns(
    group: "h5py.Group", name: str, patterns: Patterns, **more: Any
) -> "h5py.Dataset":
    """Write patterns (P, N, N) block by block, in chunks of about 1 MiB."""
    per_chunk = max(1, 2**20 // (patterns.dtype.itemsize * patterns.shape[1] * patterns.shape[2]))
    chunks = (min(per_chunk, len(patterns)), *patterns.shape[1:])
    dataset = group.create_dataset(name, patterns.shape, patterns.dtype, chunks=chunks, **more)
    for part, block in blocks(patterns, BLOCK_BYTES):
        dataset[part] = block
    return dataset


def write_extras(file: "h5py.File", scan: Scan, held: Collection[str]) -> None:
    """Write what the format does not hold; ``held`` are the fields of ``Scan`` that it does."""
    group = file.create_group(_GROUP)
    group.attrs["written_by"] = f"ptycho-data {ptychodata.__version__}"
    group.attrs["probe_power"] = scan.probe_power
    group.attrs["has_dose"] = scan.has_dose
    group.attrs["near_field"] = scan.near_field
    if scan.notes:
        group["notes"] = dump_json(scan.notes, indent=None)
    if scan.provenance:
        group["provenance"] = dump_json(scan.provenance, indent=None)
    for name in _GEOMETRY:
        if name not in held and np.isfinite(getattr(scan, name)):
            group.attrs[name] = getattr(scan, name)
    for name in _ARRAYS:
        value = getattr(scan, name)
        if name not in held and value is not None:
            options = {"compression": "lzf"} if value.ndim > 1 else {}
            group.create_dataset(name, data=value, **options)


def read_extras(tree: Tree, recorded: Recorded) -> None:
    """Add to ``recorded`` what ``write_extras`` wrote, if it did."""
    power = tree.text(_GROUP, "probe_power")
    if power is None:
        return
    if power == "absolute":
        recorded.probe_power = "absolute"
    recorded.near_field |= tree.number(_GROUP, "near_field") == 1
    recorded.has_dose = tree.number(_GROUP, "has_dose") != 0
    notes = _parsed(tree.text(f"{_GROUP}/notes"))
    recorded.stored_notes = tuple(map(str, notes)) if isinstance(notes, list) else ()
    provenance = _parsed(tree.text(f"{_GROUP}/provenance"))
    recorded.provenance = provenance if isinstance(provenance, dict) else {}
    for name in _GEOMETRY:
        value = tree.number(_GROUP, name, positive=True)
        if value is not None:
            recorded.geometry.setdefault(name, value)
    count, *side = recorded.diffraction.shape
    for name, kinds in _ARRAYS.items():
        key = f"{_GROUP}/{name}"
        if key not in tree:
            continue
        array = tree.array(key, kinds)
        shapes = {
            "mask": (tuple(side), (count, *side)),
            "background": (tuple(side),),
            "scan_index": ((count,),),
            "true_positions_px": ((count, 2),),
            "labels": ((count, *side),),
        }.get(name, (array.shape,))
        if array.shape not in shapes:
            raise tree.refuse(key, f"shape {shapes[0]}", array.shape, "write the file again")
        setattr(recorded, name, array)


def _parsed(text: str | None) -> Any:
    try:
        return parse_json(text or "null")
    except ValueError:
        return None
