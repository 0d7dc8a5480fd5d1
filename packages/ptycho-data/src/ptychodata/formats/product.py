"""The product of Ptychodus as HDF5 or NPZ: positions, probe and object with their geometry.

Names by version: the energy is ``photon_energy_eV`` (``probe_energy_eV`` in 0.7.7), losses are
``loss_epochs`` and ``loss_values`` (``costs`` up to 1.0, ``losses`` in 1.1.0), the attenuation
``mass_attenuation_m2_per_kg`` (``mass_attenuation_m2_kg`` up to 1.2), layers are told by
``object_layer_spacing_m`` (``object_layer_distance_m``, one more and maybe infinite, in 0.7.7).
All are written; unknown ones are ignored by every version.
"""

import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ptychoconfig.errors import DataError
from ptychodata.contracts import Reconstruction
from ptychodata.files import atomic_path
from ptychodata.formats.source import open_source
from ptychodata.formats.tree import Tree

if TYPE_CHECKING:
    import h5py

__all__ = ["Product", "product_of", "read_product", "write_arrays", "write_product"]

_MAX_MODES = 64
_ZEROS = (
    *("probe_photons_per_s", "exposure_time_s", "mass_attenuation_m2_per_kg"),
    *("mass_attenuation_m2_kg", "tomography_angle_deg", "focus_object_distance_m"),
    "tilt_angle_deg",
)
"""Attributes of a product that nothing here knows."""


@dataclass(eq=False)
class Product:
    """What a product holds.

    Args:
        indexes: (P,) of the patterns.
        positions_m: (P, 2) (y, x).
        probe: (M, N, N), or None for a placeholder.
        obj: (H, W), or None for a placeholder or several layers.
        centre_m: position (y, x) of the middle of the object.
        geometry: ``Scan`` field → value.
        near_field: whether the product says so.
        notes: what was dropped.
    """

    indexes: NDArray[np.int64]
    positions_m: NDArray[np.float64]
    probe: NDArray[Any] | None
    obj: NDArray[Any] | None
    centre_m: tuple[float, float]
    geometry: dict[str, float]
    near_field: bool = False
    notes: list[str] = field(default_factory=list)


def product_of(tree: Tree, *, numbered: bool = True) -> Product:
    """Read a product of any version, or, not ``numbered``, one whose positions are in order.

    Raises:
        DataError: a key is missing or wrong.
    """
    notes: list[str] = []
    y, x = (tree.array(f"probe_position_{axis}_m", "f") for axis in "yx")
    if y.ndim != 1 or y.shape != x.shape or not len(y):
        raise tree.refuse("probe_position_y_m", "(P,) as of x", (y.shape, x.shape), "match them")
    indexes = np.arange(len(y))
    if numbered:
        indexes = tree.array("probe_position_indexes", "ui", (len(y),)).astype(np.int64)
    pixel = _pixel(tree, "object") if "object" in tree else None
    pixel = pixel or _pixel(tree, "probe")
    found = {
        "object_pixel_m": pixel,
        "photon_energy_eV": tree.number("", "photon_energy_eV", positive=True)
        or tree.number("", "probe_energy_eV", positive=True),
        "detector_distance_m": _distance(tree),
    }
    flag = tree.attribute("", "far_field")
    dropped = [key for key in ("opr_weights", "probe_photon_counts") if key in tree]
    if dropped:
        notes.append(f"ptychodus: {', '.join(dropped)} dropped.")
    return Product(
        indexes,
        np.stack([y, x], axis=1).astype(np.float64),
        _probe(tree, notes),
        _object(tree, notes),
        (tree.number("object", "center_y_m") or 0.0, tree.number("object", "center_x_m") or 0.0),
        {name: value for name, value in found.items() if value is not None},
        flag is not None and not bool(np.asarray(flag).reshape(-1)[0]),
        notes,
    )


def _distance(tree: Tree) -> float | None:
    """Its sign, which some beamlines use for a detector upstream, has no meaning here."""
    distance = tree.number("", "detector_object_distance_m")
    return abs(distance) or None if distance is not None and math.isfinite(distance) else None


def _pixel(tree: Tree, key: str) -> float | None:
    height, width = (tree.number(key, f"pixel_{side}_m") for side in ("height", "width"))
    height, width = height or width, width or height
    if not height or not width or not math.isfinite(height * width):
        return None
    if height < 0 or not math.isclose(height, width, rel_tol=1e-6):
        raise tree.refuse(key, "square pixels", f"{height} × {width} m", "resample it")
    return height


def _probe(tree: Tree, notes: list[str]) -> NDArray[Any] | None:
    """Incoherent modes (M, N, N) of an array (N, N), (M, N, N) or (OPR, M, N, N)."""
    probe = tree.array("probe", "cf")
    if not 2 <= probe.ndim <= 4 or 0 in probe.shape or probe.shape[-1] != probe.shape[-2]:
        raise tree.refuse("probe", "shape (OPR, M, N, N)", probe.shape, "check the product")
    if probe.ndim == 4:
        if len(probe) > 1:
            notes.append(f"ptychodus: {len(probe) - 1} OPR modes of the probe were dropped.")
        probe = probe[0]
    probe = probe[None] if probe.ndim == 2 else probe
    if len(probe) > _MAX_MODES:
        raise tree.refuse("probe", f"at most {_MAX_MODES} modes", len(probe), "store fewer")
    if (probe == probe.flat[0]).all():
        notes.append("ptychodus: the probe is the same everywhere, taken as a placeholder.")
        return None
    return probe


def _object(tree: Tree, notes: list[str]) -> NDArray[Any] | None:
    """The object (H, W), if it has one layer."""
    if "object" not in tree:
        return None
    obj = tree.array("object", "cf")
    if not 2 <= obj.ndim <= 3 or 0 in obj.shape:
        raise tree.refuse("object", "shape (L, H, W)", obj.shape, "check the product")
    if obj.ndim == 3 and len(obj) > 1:
        notes.append(f"ptychodus: the object of {len(obj)} layers was dropped.")
        return None
    plain: NDArray[Any] = obj.reshape(obj.shape[-2:])
    if (plain == plain.flat[0]).all():
        notes.append("ptychodus: the object is the same everywhere, taken as a placeholder.")
        return None
    return plain


def write_arrays(
    file: "h5py.File",
    *,
    indexes: NDArray[np.int64],
    positions_m: NDArray[np.float64],
    probe: NDArray[np.complex64],
    obj: NDArray[np.complex64],
    centre_m: NDArray[np.float64],
    pixel_m: float,
    name: str,
    photon_energy_eV: float,  # noqa: N803 - the unit's symbol
    detector_distance_m: float,
    photons: float,
    far_field: bool = True,
    comments: str = "",
) -> None:
    """Write a product with the names of every version.

    Args:
        file: an empty HDF5 file.
        indexes: (P,) numbers of the patterns.
        positions_m: (P, 2) (y, x).
        probe: (M, N, N).
        obj: (H, W).
        centre_m: (2,) position (y, x) of the middle of ``obj``.
        pixel_m: object pixel.
        name: of the product.
        comments: of the product.
        photon_energy_eV: NaN where unknown.
        detector_distance_m: NaN where unknown.
        photons: mean photons per pattern, 0 where unknown.
        far_field: whether the detector is in the far field.
    """
    file.attrs.update(
        {
            "name": name,
            "comments": comments,
            "format_version": "1.7",
            "detector_object_distance_m": detector_distance_m,
            "photon_energy_eV": photon_energy_eV,
            "probe_energy_eV": photon_energy_eV,
            "probe_photon_count": photons,
            "far_field": far_field,
            **dict.fromkeys(_ZEROS, 0.0),
        }
    )
    file["probe_position_indexes"] = indexes
    for column, axis in enumerate("yx"):
        file[f"probe_position_{axis}_m"] = positions_m[:, column]
    pixels = {"pixel_height_m": pixel_m, "pixel_width_m": pixel_m}
    file.create_dataset("probe", data=probe[None]).attrs.update(pixels)
    stored = file.create_dataset("object", data=obj[None])
    stored.attrs.update({**pixels, "center_y_m": centre_m[0], "center_x_m": centre_m[1]})
    file["object_layer_spacing_m"] = np.empty(0)
    file["object_layer_distance_m"] = np.array([np.inf])
    file["loss_epochs"] = np.empty(0, np.int64)
    for key in ("loss_values", "losses", "costs"):
        file[key] = np.empty(0)


def write_product(
    reconstruction: Reconstruction,
    path: str | os.PathLike[str],
    *,
    name: str,
    photon_energy_eV: float = float("nan"),  # noqa: N803 - the unit's symbol
    detector_distance_m: float = float("nan"),
    comments: str = "",
) -> None:
    """Write a reconstruction as a product, which every version of Ptychodus opens.

    Args:
        reconstruction: what to write; its coverage has no place in a product.
        path: file to write.
        name: of the product.
        comments: of the product.
        photon_energy_eV: NaN where unknown.
        detector_distance_m: NaN where unknown.

    Raises:
        DataError: the pixel size is unknown.
        ConfigError: the place is not writable.
    """
    import h5py

    pixel = reconstruction.pixel_size_m
    if not (math.isfinite(pixel) and pixel > 0):
        raise DataError(
            f"{name}: expected a known pixel size, to write a product in metres, found {pixel}; "
            "give --object-pixel-m"
        )
    middle = reconstruction.origin_yx_px + np.array(reconstruction.obj.shape) / 2
    power = float(np.sum(np.abs(reconstruction.probe.astype(np.complex128)) ** 2))
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        write_arrays(
            file,
            indexes=np.arange(len(reconstruction.positions_px)),
            positions_m=reconstruction.positions_px * pixel,
            probe=reconstruction.probe,
            obj=reconstruction.obj,
            centre_m=middle * pixel,
            pixel_m=pixel,
            name=name,
            photon_energy_eV=photon_energy_eV,
            detector_distance_m=detector_distance_m,
            photons=power,
            comments=comments,
        )


def read_product(path: str | os.PathLike[str]) -> Reconstruction:
    """Read the object, probe and positions of a product, of any version.

    Positions and origin are in pixels from the point (0 m, 0 m); the coverage, which a product
    does not hold, is 1 everywhere.

    Raises:
        DataError: it is no product, or lacks object, probe or pixel size.
    """
    with open_source(path) as source:
        tree = source.tree
        if tree is None:
            raise DataError(f"{path}: expected a product of Ptychodus, found another file")
        found = product_of(tree)
    pixel = found.geometry.get("object_pixel_m")
    if found.obj is None or found.probe is None or pixel is None:
        raise DataError(
            f"{Path(path)}: expected a product with an object of one layer, a probe and a pixel "
            "size, found one without; reconstruct the scan first"
        )
    return Reconstruction(
        obj=found.obj.astype(np.complex64),
        coverage=np.ones(found.obj.shape, np.float32),
        origin_yx_px=np.array(found.centre_m) / pixel - np.array(found.obj.shape) / 2,
        positions_px=found.positions_m / pixel,
        probe=found.probe.astype(np.complex64),
        pixel_size_m=pixel,
    )
