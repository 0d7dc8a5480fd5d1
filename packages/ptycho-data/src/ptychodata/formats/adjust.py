"""What the user says of a file's frames and geometry, applied before anything is derived.

In this order: the geometry; the mask file, in the frame of the file's patterns; the crop around the
direct beam; the binning; the transpose and the flips of the patterns, about the centre pixel
``[N//2, N//2]``, which stays where it is; the swap and the signs of the positions.

- Cropping N pixels to n leaves the field of view of the probe and makes object pixels N/n times
  larger: positions in pixels shrink by n/N, the probe is cropped in Fourier space.
- Binning b × b pixels sums counts and leaves the object pixel; the field of view shrinks, so the
  probe is cropped in real space.  The direct beam lies in a binned pixel's first row and column.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ptychoconfig.errors import ConfigError, DataError
from ptychodata.patterns import Patterns, mapped

if TYPE_CHECKING:
    from ptychoconfig.schema import DataConfig
    from ptychodata.contracts import Domain
    from ptychodata.formats.recorded import Recorded

__all__ = ["adjust"]

_OVERRIDES = ("photon_energy_eV", "detector_distance_m", "detector_pixel_m", "object_pixel_m")


def adjust(recorded: "Recorded", options: "DataConfig | None", domain: "Domain") -> None:
    """Apply orientation, crop, binning, mask and overrides of ``options`` to ``recorded``.

    Raises:
        ConfigError: the crop is larger than the patterns, or the binning does not divide them.
        DataError: the mask file does not fit.
    """
    if options is None:
        _hint_at_beam(recorded)
        return
    _override(recorded, options)
    if options.mask_file is not None:
        _add_mask(recorded, Path(options.mask_file))
    if options.crop_px is not None:
        _crop(recorded, options.crop_px)
    else:
        _hint_at_beam(recorded)
    if options.bin_px > 1:
        _bin(recorded, options.bin_px, domain)
    _orient(recorded, options)
    _move(recorded, options)


def _override(recorded: "Recorded", options: "DataConfig") -> None:
    geometry = recorded.geometry
    given = {name: getattr(options, name) for name in _OVERRIDES}
    for name, value in given.items():
        if value is None:
            continue
        if name not in geometry:
            recorded.notes.append(f"{name} = {value:.6g} as given.")
        elif geometry[name] != value:
            recorded.notes.append(
                f"{name} = {value:.6g} as given overrides {geometry[name]:.6g} in the file."
            )
            replaced = name != "object_pixel_m" and given["object_pixel_m"] is None
            if replaced and geometry.pop("object_pixel_m", None) is not None:
                recorded.notes.append("the file's object pixel went with it.")
        geometry[name] = value


def _add_mask(recorded: "Recorded", path: Path) -> None:
    mask = _mask_of(path)
    if mask.shape not in (recorded.diffraction.shape[1:], recorded.diffraction.shape):
        raise DataError(
            f"--mask-file {path}: expected shape {recorded.diffraction.shape[1:]}, as the "
            f"patterns of {recorded.where} have, found {mask.shape}; make the mask in their frame"
        )
    recorded.mask = mask if recorded.mask is None else recorded.mask & mask
    hidden = int(np.count_nonzero(~mask))
    recorded.notes.append(f"--mask-file {path.name} masks {hidden} of {mask.size} pixels.")


def _mask_of(path: Path) -> NDArray[np.bool_]:
    """True = valid, from a .npy array, or the key ``mask`` or ``bad_pixels`` of an .npz archive."""
    from ptychodata.formats.source import open_source

    values: NDArray[Any] | None = None
    inverted = False
    with open_source(path) as source:
        if source.archive is not None:
            key = next((key for key in ("mask", "bad_pixels") if key in source.members), None)
            values = None if key is None else source.array(key)
            inverted = key == "bad_pixels"
        elif path.suffix.lower() == ".npy":
            try:
                values = np.load(path, mmap_mode="r", allow_pickle=False)
            except (OSError, ValueError) as error:
                raise DataError(f"--mask-file {path}: expected an array, found {error}") from error
    if values is None or values.dtype.kind not in "bui" or not np.isin(values, (0, 1)).all():
        raise DataError(
            f"--mask-file {path}: expected a .npy array, or an .npz archive with a key 'mask', of "
            "0 (bad) and 1 (valid), found something else; save the mask with numpy.save"
        )
    return np.array(values, dtype=np.bool_) ^ inverted


def _hint_at_beam(recorded: "Recorded") -> None:
    beam, shape = recorded.beam_yx_px, recorded.diffraction.shape[1:]
    if beam is not None and max(abs(b - n // 2) for b, n in zip(beam, shape, strict=True)) > 0.5:
        recorded.notes.append(
            f"the file puts the direct beam at pixel (y, x) = ({beam[0]:g}, {beam[1]:g}), not at "
            f"the centre of its {shape[0]} × {shape[1]} pixels; --crop-px crops around it."
        )


def _crop(recorded: "Recorded", side: int) -> None:
    height, width = recorded.diffraction.shape[1:]
    beam = recorded.beam_yx_px or (height // 2, width // 2)
    first = [int(np.floor(b + 0.5)) - side // 2 for b in beam]
    if min(first) < 0 or first[0] + side > height or first[1] + side > width:
        raise ConfigError(
            f"--crop-px: expected at most the {height} × {width} pixels of {recorded.where} around "
            f"the beam at {tuple(beam)}, found {side}; choose fewer"
        )
    if (height, width) == (side, side):
        return
    rows, columns = slice(first[0], first[0] + side), slice(first[1], first[1] + side)

    def cut(block: NDArray[Any], _: slice) -> NDArray[Any]:
        return block[:, rows, columns]

    recorded.diffraction = mapped(recorded.diffraction, cut, side=(side, side))
    if recorded.mask is not None:
        recorded.mask = recorded.mask[..., rows, columns]
    if recorded.background is not None:
        recorded.background = recorded.background[rows, columns]
    recorded.beam_yx_px = None
    recorded.notes.append(f"patterns cropped from {height} × {width} to {side} × {side} pixels.")
    _coarser(recorded, height if height == width else None, side)


def _coarser(recorded: "Recorded", before: int | None, side: int) -> None:
    """Probe, positions and object pixel after cropping squares of ``before`` pixels to ``side``."""
    pixel = recorded.geometry.pop("object_pixel_m", None)
    if before is None:
        _drop(recorded, "probe", "the patterns were not square")
        if recorded.positions_px is not None:
            raise DataError(
                f"{recorded.where}: expected square patterns beside positions in pixels, whose "
                "size follows from them, found others; give positions in metres"
            )
        return
    if pixel is not None:
        recorded.geometry["object_pixel_m"] = pixel * before / side
    if recorded.positions_px is not None:
        recorded.positions_px = recorded.positions_px * (side / before)
    if recorded.true_positions_px is not None:
        recorded.true_positions_px = recorded.true_positions_px * (side / before)
    _drop(recorded, "truth", "its pixels are not those of the cropped patterns")
    if recorded.probe is not None and recorded.probe.shape[-1] == before:
        from ptychodata.physics import far_field, inverse_far_field

        first = before // 2 - side // 2
        part = slice(first, first + side)
        recorded.probe = inverse_far_field(far_field(recorded.probe)[..., part, part])


def _bin(recorded: "Recorded", factor: int, domain: "Domain") -> None:
    height, width = recorded.diffraction.shape[1:]
    if height % factor or width % factor:
        raise ConfigError(
            f"--bin-px: expected a divisor of {height} and {width}, found {factor}; crop the "
            "patterns with --crop-px first"
        )
    side = (height // factor, width // factor)
    recorded.diffraction = _binned(recorded.diffraction, factor, domain)
    if recorded.mask is not None:
        recorded.mask = np.asarray(_blocks_of(recorded.mask, factor).all(axis=(-3, -1)))
    if recorded.background is not None:
        recorded.background = _blocks_of(recorded.background, factor).sum(axis=(-3, -1))
    if recorded.geometry.get("detector_pixel_m"):
        recorded.geometry["detector_pixel_m"] *= factor
    if recorded.beam_yx_px is not None:
        y, x = recorded.beam_yx_px
        recorded.beam_yx_px = (y / factor, x / factor)
    recorded.notes.append(f"patterns binned {factor} × {factor} to {side[0]} × {side[1]} pixels.")
    if recorded.probe is not None:
        power = np.sum(np.abs(recorded.probe) ** 2)
        first = [recorded.probe.shape[-1] // 2 - n // 2 for n in side]
        recorded.probe = recorded.probe[
            :, first[0] : first[0] + side[0], first[1] : first[1] + side[1]
        ]
        lost = 1 - float(np.sum(np.abs(recorded.probe) ** 2) / power) if power > 0 else 0.0
        recorded.notes.append(
            f"the probe was cropped to its middle, losing {lost:.2%} of its power."
        )


def _blocks_of(array: NDArray[Any], factor: int) -> NDArray[Any]:
    *lead, height, width = array.shape
    return array.reshape(*lead, height // factor, factor, width // factor, factor)


def _binned(patterns: Patterns, factor: int, domain: "Domain") -> Patterns:
    whole = patterns.dtype.kind in "ui" and domain == "counts"
    dtype = np.dtype(np.uint32 if whole and patterns.dtype.itemsize < 4 else patterns.dtype)

    def add(block: NDArray[Any], _: slice) -> NDArray[Any]:
        if domain == "amplitude":
            squared = _blocks_of(np.square(block, dtype=np.float64), factor)
            return np.asarray(np.sqrt(squared.sum((2, 4))))
        return np.asarray(_blocks_of(block, factor).sum((2, 4), dtype=dtype))

    if domain == "amplitude" and patterns.dtype.kind != "f":
        dtype = np.dtype(np.float32)
    side = (patterns.shape[1] // factor, patterns.shape[2] // factor)
    return mapped(patterns, add, dtype=dtype, side=side)


def _orient(recorded: "Recorded", options: "DataConfig") -> None:
    """Transpose, then flip about the centre pixel: patterns, mask and background alike."""
    done = [name for name in ("transpose", "flip_y", "flip_x") if getattr(options, name)]
    if not done:
        return

    def turn(frames: NDArray[Any], _: slice = slice(None)) -> NDArray[Any]:
        if options.transpose:
            frames = np.swapaxes(frames, -2, -1)
        for flip, axis in ((options.flip_y, -2), (options.flip_x, -1)):
            if flip:  # an even side has one row more before its centre than after
                frames = np.roll(np.flip(frames, axis), 1 - frames.shape[axis] % 2, axis)
        return frames

    height, width = recorded.diffraction.shape[1:]
    side = (width, height) if options.transpose else (height, width)
    recorded.diffraction = mapped(recorded.diffraction, turn, side=side)
    recorded.mask = None if recorded.mask is None else turn(recorded.mask)
    recorded.background = None if recorded.background is None else turn(recorded.background)
    recorded.notes.append(f"patterns as given: {', '.join(done).replace('_', '-')}.")


def _move(recorded: "Recorded", options: "DataConfig") -> None:
    """Swap the coordinates, then change their signs."""
    done = [name for name in ("swap_xy", "negate_x", "negate_y") if getattr(options, name)]
    if not done:
        return
    sign = np.array([-1 if options.negate_y else 1, -1 if options.negate_x else 1])
    for name in ("positions_px", "positions_m", "true_positions_px"):
        positions = getattr(recorded, name)
        if positions is not None:
            swapped = positions[:, ::-1] if options.swap_xy else positions
            setattr(recorded, name, np.asarray(swapped, dtype=np.float64) * sign)
    recorded.notes.append(f"positions as given: {', '.join(done).replace('_', '-')}.")
    _drop(recorded, "truth", "the positions were moved off it")


def _drop(recorded: "Recorded", name: str, why: str) -> None:
    if getattr(recorded, name) is not None:
        setattr(recorded, name, None)
        what = {"truth": "the known object"}.get(name, f"the {name}")
        recorded.notes.append(f"{what} was dropped: {why}.")
