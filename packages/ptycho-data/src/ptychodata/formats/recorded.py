"""From what a file records to a ``Scan``: the one place where domain and dose are settled.

A format module turns its layout into ``Recorded`` and leaves units alone.  ``to_scan`` then
checks the values, applies the settings of ``DataConfig``, and notes what it assumed.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ptychoconfig.errors import DataError
from ptychodata.contracts import Domain, ProbePower, Scan
from ptychodata.formats.adjust import adjust
from ptychodata.formats.units import object_pixel_m
from ptychodata.patterns import Patterns, blocks, mapped
from ptychodata.survey import CHUNK_BYTES, Survey

if TYPE_CHECKING:
    from ptychoconfig.schema import DataConfig

__all__ = ["DOSE_TOLERANCE", "Recorded", "object_pixel_m", "to_scan"]

DOSE_TOLERANCE = 0.01
"""Relative difference up to which two records of the dose agree."""


@dataclass(eq=False)
class Recorded:
    """What a file says, in its own units; the axes are already ours.

    Args:
        where: the file, for messages.
        key: the patterns' key in the file, for messages.
        diffraction: (P, H, W) patterns, DC at ``[H//2, W//2]`` or at ``beam_yx_px``.
        positions_px: (P, 2) probe centres (y, x); or
        positions_m: the same in metres.
        probe: (M, N, N), to be multiplied by the intensity scale.
        domain, intensity_scale, nphotons, probe_power: None where the file is silent.
        truth_centre_m: position (y, x) of the middle of ``truth``, beside ``positions_m``.
        beam_yx_px: pixel of the direct beam; None = ``[H//2, W//2]``.
        has_dose: whether counts are photons; False where a writer knew that they are not.
        geometry: ``Scan`` field → value in SI units (energy in eV).
        notes: what the format module inferred, assumed or dropped.
        stored_notes: the notes that the file carries.

    The other fields are those of ``Scan``.
    """

    where: str
    key: str
    diffraction: Patterns
    positions_px: NDArray[Any] | None = None
    positions_m: NDArray[Any] | None = None
    probe: NDArray[Any] | None = None
    domain: Domain | None = None
    intensity_scale: float | None = None
    nphotons: float | None = None
    probe_power: ProbePower | None = None
    mask: NDArray[np.bool_] | None = None
    background: NDArray[Any] | None = None
    scan_index: NDArray[np.int64] | None = None
    truth: NDArray[Any] | None = None
    labels: Patterns | None = None
    true_positions_px: NDArray[Any] | None = None
    truth_centre_m: tuple[float, float] | None = None
    beam_yx_px: tuple[float, float] | None = None
    near_field: bool = False
    has_dose: bool = True
    geometry: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    stored_notes: tuple[str, ...] = ()
    provenance: dict[str, Any] = field(default_factory=dict)


def to_scan(recorded: Recorded, options: "DataConfig | None", name: str) -> Scan:
    """Settle frames, domain, dose and probe power, check every value, and build the scan.

    Raises:
        DataError: a value is impossible, or two records contradict each other.
    """
    domain = _domain(recorded, options)
    adjust(recorded, options, domain)
    _check_frame(recorded)
    geometry = _geometry(recorded, recorded.diffraction.shape[-1])
    positions = _positions(recorded, geometry)
    patterns, survey = _checked(recorded, _plain(recorded.diffraction), domain)
    scale = _intensity_scale(recorded, options, domain, float(survey.intensity.mean()))
    scan = Scan(
        diffraction=patterns,
        positions_px=positions,
        probe=_probe(recorded, scale),
        domain=domain,
        intensity_scale=scale,
        probe_power=_probe_power(recorded, options, scale),
        mask=recorded.mask,
        background=_real(recorded.background),
        scan_index=recorded.scan_index,
        true_positions_px=recorded.true_positions_px,
        truth=_truth(recorded, positions),
        labels=_labels(recorded),
        near_field=recorded.near_field,
        **geometry,
        name=name,
        notes=tuple(dict.fromkeys((*recorded.stored_notes, *recorded.notes))),
        provenance=recorded.provenance,
    )
    scan.__dict__["survey"] = survey  # known now: spares reading the patterns again
    return scan


def _check_frame(recorded: Recorded) -> None:
    """Patterns must be real, square, and of an even side, by now."""
    shape, dtype = recorded.diffraction.shape, recorded.diffraction.dtype
    if dtype.kind not in "buif":
        raise DataError(
            f"{recorded.where}: key {recorded.key!r}: expected real patterns, found {dtype}; "
            "store counts, or amplitudes with --domain amplitude"
        )
    if len(shape) != 3 or 0 in shape or shape[1] != shape[2] or shape[1] % 2:
        raise DataError(
            f"{recorded.where}: key {recorded.key!r}: expected square patterns of an even side, "
            f"found {shape[0]} of {' × '.join(map(str, shape[1:]))} pixels; "
            "crop them around the beam with --crop-px"
        )


def _positions(recorded: Recorded, geometry: dict[str, float]) -> NDArray[np.float64]:
    """Positions in object pixels, from pixels or metres, registered to the known object."""
    if recorded.positions_px is not None:
        return np.ascontiguousarray(recorded.positions_px, dtype=np.float64)
    assert recorded.positions_m is not None
    pixel = geometry.get("object_pixel_m")
    if pixel is None:
        known = ", ".join(f"{name} = {value:.6g}" for name, value in geometry.items())
        raise DataError(
            f"{recorded.where}: expected an object pixel size, to turn positions in metres into "
            f"pixels, found {known or 'no geometry'}; give --object-pixel-m, or "
            "--photon-energy-ev, --detector-distance-m and --detector-pixel-m"
        )
    with np.errstate(over="ignore", invalid="ignore"):  # infinity is found by the scan's own check
        positions = np.asarray(recorded.positions_m, dtype=np.float64) / pixel
        if recorded.truth is not None and recorded.truth_centre_m is not None:
            middle = np.array(recorded.truth.shape[-2:]) / 2
            positions += middle - np.asarray(recorded.truth_centre_m) / pixel
    return np.ascontiguousarray(positions)


def _domain(recorded: Recorded, options: "DataConfig | None") -> Domain:
    asked = "file" if options is None else options.domain
    if asked != "file":
        if recorded.domain not in (None, asked):
            recorded.notes.append(f"--domain {asked} overrides {recorded.domain} in the file.")
        return asked
    if recorded.domain is not None:
        return recorded.domain
    if recorded.diffraction.dtype.kind in "ui":
        recorded.notes.append(
            f"{recorded.key} holds whole numbers and records no domain: taken as counts; "
            "--domain amplitude says otherwise."
        )
        return "counts"
    recorded.notes.append(
        f"{recorded.key} records no domain: taken as amplitude, the convention of the NPZ; "
        "--domain counts says otherwise."
    )
    return "amplitude"


def _plain(patterns: Patterns) -> Patterns:
    """Patterns in an integer dtype or float32; what is neither is converted once."""
    if patterns.dtype.kind == "b":
        return mapped(patterns, lambda block, _: block.astype(np.uint8), dtype=np.uint8)
    if patterns.dtype.kind == "f" and patterns.dtype != np.float32:
        return mapped(patterns, _single, dtype=np.float32)
    if isinstance(patterns, np.ndarray) and not patterns.flags.c_contiguous:
        return np.ascontiguousarray(patterns)
    return patterns


def _single(block: NDArray[Any], _: slice) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):  # infinity is found by the check of values
        return block.astype(np.float32)


def _checked(recorded: Recorded, patterns: Patterns, domain: Domain) -> tuple[Patterns, Survey]:
    """Patterns that are finite and ≥ 0, and what one look at each of them found."""
    survey, hidden = Survey(patterns.shape, domain), 0
    for part, block in blocks(patterns, CHUNK_BYTES):
        mask = recorded.mask
        valid = mask[part] if mask is not None and mask.ndim == 3 else mask
        if block.dtype.kind != "u" and not (block.min() >= 0 and block.max() < np.inf):  # or NaN
            hidden += _masked_values(recorded, block, valid, part.start)
            block = _without_bad(block, part)
        survey.add(part, block, valid)
    if not survey.intensity.sum() > 0:
        raise DataError(
            f"{recorded.where}: key {recorded.key!r}: expected photons in some pattern, found "
            "only zeros; check how the file was written"
        )
    if hidden:
        recorded.notes.append(f"{hidden} masked values, NaN or negative, were set to 0.")
        patterns = mapped(patterns, _without_bad)
    return patterns, survey


def _masked_values(
    recorded: Recorded, block: NDArray[Any], valid: NDArray[np.bool_] | None, start: int
) -> int:
    """How many values are NaN, infinite or negative; all must be masked."""
    bad = ~((block >= 0) & (block < np.inf))
    shown = bad if valid is None else bad & valid
    if shown.any():
        at = np.argwhere(shown)[0]
        raise DataError(
            f"{recorded.where}: key {recorded.key!r}: expected finite values ≥ 0, found "
            f"{block[tuple(at)]} at pattern {start + at[0]}, pixel [{at[1]}, {at[2]}]; "
            "mark bad pixels False in the file's mask, or in one given with --mask-file"
        )
    return int(np.count_nonzero(bad))


def _without_bad(block: NDArray[Any], _: slice) -> NDArray[Any]:
    return np.where((block >= 0) & (block < np.inf), block, block.dtype.type(0))


def _intensity_scale(
    recorded: Recorded, options: "DataConfig | None", domain: Domain, mean_sum: float
) -> float | None:
    """The scale s of counts = (amplitude · s)²; ``mean_sum`` is the mean Σ at s = 1."""
    asked = None if options is None else options.nphotons
    scale, nphotons = recorded.intensity_scale, recorded.nphotons
    if scale is None and domain == "counts" and recorded.has_dose:
        scale = 1.0
    if asked is not None:
        if scale is not None or nphotons is not None:
            recorded.notes.append(f"--nphotons {asked:.6g} overrides the dose in the file.")
        return float(np.sqrt(asked / mean_sum))
    for name, value in (("intensity_scale", scale), ("nphotons", nphotons)):
        if value is not None and not (np.isfinite(value) and value > 0):
            raise DataError(
                f"{recorded.where}: key {name!r}: expected a number above 0, found {value}"
            )
    if scale is None and nphotons is None:
        recorded.notes.append(
            "no dose is recorded: only the amplitude loss applies; --nphotons gives the mean "
            "photons per pattern."
        )
        return None
    if scale is None and nphotons is not None:
        recorded.notes.append(f"the intensity scale follows from nphotons = {nphotons:.6g}.")
        return float(np.sqrt(nphotons / mean_sum))
    if scale is not None and nphotons is not None and not _agree(scale**2 * mean_sum, nphotons):
        raise DataError(
            f"{recorded.where}: expected nphotons and intensity_scale to agree to 1 %, found "
            f"nphotons {nphotons:.6g}, and {scale**2 * mean_sum:.6g} photons per {domain} pattern "
            f"at intensity_scale {scale:.6g}; remove a key, or give --nphotons"
        )
    return scale


def _agree(first: float, second: float) -> bool:
    return abs(first - second) <= DOSE_TOLERANCE * second


def _probe(recorded: Recorded, scale: float | None) -> NDArray[np.complex64] | None:
    """The probe in √photons; the product in double precision undoes the writer's division."""
    if recorded.probe is None:
        recorded.notes.append("the file has no probe.")
        return None
    with np.errstate(over="ignore", invalid="ignore"):  # infinity is found by the scan's own check
        return (recorded.probe.astype(np.complex128) * (scale or 1.0)).astype(np.complex64)


def _probe_power(
    recorded: Recorded, options: "DataConfig | None", scale: float | None
) -> ProbePower:
    asked = "file" if options is None else options.probe_power
    power = recorded.probe_power or "relative"
    if asked != "file":
        if recorded.probe_power not in (None, asked):
            recorded.notes.append(f"--probe-power {asked} overrides {power} in the file.")
        power = asked
    if power == "absolute" and scale is None:
        raise DataError(
            f"{recorded.where}: expected a dose beside probe_power 'absolute', found none; give "
            "--nphotons, or --probe-power relative"
        )
    return power


def _truth(recorded: Recorded, positions: NDArray[np.float64]) -> NDArray[np.complex64] | None:
    """The known object, if the positions index into it; otherwise it cannot be scored against."""
    if recorded.truth is None:
        return None
    truth = recorded.truth
    inside = truth.ndim == 2 and (positions >= 0).all() and (positions < truth.shape).all()
    if not inside:
        recorded.notes.append(
            f"the known object of shape {truth.shape} was dropped: the positions do not lie in it."
        )
        return None
    with np.errstate(over="ignore"):
        return truth.astype(np.complex64)


def _labels(recorded: Recorded) -> Patterns | None:
    """The known patches, if they have the shape that the patterns have by now."""
    labels = recorded.labels
    if labels is not None and labels.shape != recorded.diffraction.shape:
        recorded.notes.append(
            f"labels of shape {labels.shape} were dropped: the patterns have the shape "
            f"{recorded.diffraction.shape}."
        )
        return None
    return labels


def _real(array: NDArray[Any] | None) -> NDArray[np.float32] | None:
    if array is None:
        return None
    with np.errstate(over="ignore"):
        return array.astype(np.float32)


def _geometry(recorded: Recorded, side: int) -> dict[str, Any]:
    """Geometry, with the object pixel where only what it follows from is recorded."""
    found = dict(recorded.geometry)
    names = ("photon_energy_eV", "detector_distance_m", "detector_pixel_m")
    if "object_pixel_m" not in found and all(name in found for name in names):
        pixel = object_pixel_m(side, *(found[name] for name in names))
        found["object_pixel_m"] = pixel
        recorded.notes.append(
            f"the object pixel, {pixel:.4g} m, follows from energy, distance and detector pixel."
        )
    return found
