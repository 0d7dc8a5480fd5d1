"""Comparing images of one thing, whoever made them: one gauge, one mask, one table."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptychoconfig.errors import DataError, UsageError

from .contracts import Reconstruction
from .formats import read
from .formats.product import read_product
from .formats.source import Source, open_source
from .frc import FRC, frc
from .metrics import Comparison, compare
from .results import RECONSTRUCTION, read_reconstruction

__all__ = ["Compared", "Image", "compare_images", "read_image"]

_OBJECT_KEYS = ("object", "objectGuess", "reconstructed_object")
"""Names that packages give the object in an NPZ archive."""

_PATTERN_KEYS = ("diffraction", "diff3d")
_MIN_BOX_PX = 16
_UNPLACED_MARGIN = 0.1


@dataclass(frozen=True, eq=False)
class Image:
    """An object, and what is known of where it lies.

    Args:
        name: what to call it.
        obj: (H, W) complex.
        origin_yx_px: (2,) position of pixel [0, 0] in the scan's coordinates; None if unknown.
        positions_px: (P, 2) probe centres (y, x); None if unknown.
        pixel_size_m: NaN if unknown.
        notes: what was assumed.
    """

    name: str
    obj: NDArray[np.complexfloating]
    origin_yx_px: NDArray[np.float64] | None = None
    positions_px: NDArray[np.float64] | None = None
    pixel_size_m: float = float("nan")
    notes: tuple[str, ...] = field(default=())


@dataclass(frozen=True, eq=False)
class Compared:
    """An image against its reference.

    Args:
        image: the image.
        reference: name of what it was compared with.
        comparison: both over the box and in one gauge, with the scores.
        frc: their correlation by rings.
        box_yx_px: (2, 2) first and last pixel of the box in the scan's coordinates.
    """

    image: Image
    reference: str
    comparison: Comparison
    frc: FRC
    box_yx_px: NDArray[np.float64]

    def as_dict(self) -> dict[str, Any]:
        """All figures, for JSON."""
        return {
            "name": self.image.name,
            "reference": self.reference,
            "notes": list(self.image.notes),
            "box_yx_px": self.box_yx_px.tolist(),
            **self.comparison.scores,
            "phase_offset_rad": float(np.angle(self.comparison.gauge.factor)),
            "frc": self.frc.as_dict(),
        }


def read_image(path: str | os.PathLike[str]) -> Image:
    """Read an object from whatever file holds one.

    Args:
        path: a result folder, its ``reconstruction.npz``, a scan with a known object, a
            product of Ptychodus, or another package's NPZ archive with a key ``object``.

    Raises:
        DataError: the file holds no object.
    """
    name = str(path)
    file = Path(path) / RECONSTRUCTION if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise DataError(
            f"{file}: expected an image, found nothing there; give a result folder, its "
            f"{RECONSTRUCTION}, a product, a scan with its known object, or an NPZ with the key "
            "'object'"
        )
    with open_source(file) as source:
        keys = set(source.members)
        if source.hdf5 is not None or "probe_position_x_m" in keys:
            return _of(read_product(file), name)
        if {"coverage", "origin_yx_px", "positions_px"} <= keys:
            return _of(read_reconstruction(file), name)
        if keys.intersection(_PATTERN_KEYS):
            return _known_object(file, name)
        return _foreign(source, name)


def _of(found: Reconstruction, name: str) -> Image:
    return Image(name, found.obj, found.origin_yx_px, found.positions_px, found.pixel_size_m)


def _known_object(file: Path, name: str) -> Image:
    scan = read(file)
    if scan.truth is None:
        raise DataError(
            f"{file}: expected a scan with a known object (key objectGuess), found none; give "
            "another file, or leave out --truth to compare the results with the first one"
        )
    return Image(name, scan.truth, np.zeros(2), scan.positions_px, scan.object_pixel_m)


def _foreign(source: Source, name: str) -> Image:
    key = next((key for key in _OBJECT_KEYS if key in source.members), None)
    if key is None or source.members[key].dtype.kind not in "cf":
        found = ", ".join(sorted(source.members)) or "no keys"
        raise DataError(
            f"{source.path}: expected a complex object under one of the keys "
            f"{', '.join(_OBJECT_KEYS)}, found {found}; store it as 'object'"
        )
    obj = np.squeeze(np.asarray(source.array(key), dtype=np.complex128))
    if obj.ndim != 2 or not np.isfinite(obj).all():
        raise DataError(
            f"{source.path}: key {key!r}: expected one object (H, W) of finite values, found "
            f"shape {source.members[key].shape} or NaN; store one slice"
        )
    return Image(name, obj)


def compare_images(images: Sequence[Image], references: Sequence[Image]) -> list[Compared]:
    """Bring every image into the gauge of its reference, over one box for all, and score it.

    The box is that of the probe centres of the first image or reference that knows them, as far
    as all images reach; where none knows them, the middle of what all show.  An image that does
    not say where it lies is taken to lie like its reference if it has its shape, or else to have
    the same centre; the fit of the shift does the rest.

    Args:
        images: at least one.
        references: one for all, or one for each.

    Raises:
        UsageError: as many references as images, or one, were expected.
        DataError: what all show is smaller than 16 pixels.
    """
    if len(references) not in (1, len(images)):
        raise UsageError(
            f"--truth: expected one for all results or one for each of {len(images)}, "
            f"found {len(references)}"
        )
    each = [references[0]] * len(images) if len(references) == 1 else list(references)
    anchors = [_placed(reference, None) for reference in each]
    placed = [_placed(image, anchor) for image, anchor in zip(images, anchors, strict=True)]
    box = _box([*placed, *anchors])
    return [_compare(image, anchor, box) for image, anchor in zip(placed, anchors, strict=True)]


def _placed(image: Image, reference: Image | None) -> Image:
    """The image with an origin, assumed where it has none."""
    if image.origin_yx_px is not None:
        return image
    if reference is None:
        return replace(image, origin_yx_px=np.zeros(2))
    origin, note = reference.origin_yx_px, "lies where its reference does, by its shape"
    assert origin is not None  # references were placed first
    if image.obj.shape != reference.obj.shape:
        origin = origin + np.floor((np.array(reference.obj.shape) - image.obj.shape) / 2)
        note = "has the centre of its reference, for want of an origin"
    return replace(image, origin_yx_px=origin, notes=(*image.notes, note))


def _box(images: Sequence[Image]) -> NDArray[np.float64]:
    """First and last pixel of the box, (2, 2), in the scan's coordinates."""
    origins = np.array([image.origin_yx_px for image in images])
    shapes = np.array([image.obj.shape for image in images])
    low = np.floor(origins + 0.5).max(axis=0)
    high = (np.floor(origins + 0.5) + shapes).min(axis=0) - 1
    positions = next((i.positions_px for i in images if i.positions_px is not None), None)
    if positions is None:
        margin = np.floor(_UNPLACED_MARGIN * np.maximum(high - low, 0))
        low, high = low + margin, high - margin
    else:
        low = np.maximum(low, np.ceil(positions.min(axis=0)))
        high = np.minimum(high, np.floor(positions.max(axis=0)))
    if (high - low + 1 < _MIN_BOX_PX).any():
        raise DataError(
            f"expected images that share at least {_MIN_BOX_PX} × {_MIN_BOX_PX} pixels between "
            f"the probe centres, found {', '.join(f'{i.name} {i.obj.shape}' for i in images)} "
            f"with origins {origins.tolist()}; check that they are of one scan"
        )
    return np.array([low, high])


def _compare(image: Image, reference: Image, box: NDArray[np.float64]) -> Compared:
    origins = np.array([image.origin_yx_px, reference.origin_yx_px])
    found = compare((image.obj, reference.obj), origins, box)
    sizes = (image.pixel_size_m, reference.pixel_size_m)
    pixel_size_m = next((size for size in sizes if np.isfinite(size)), float("nan"))
    rings = frc(found.truth, found.obj, pixel_size_m=pixel_size_m, align=False)
    return Compared(image, reference.name, found, rings, box)
