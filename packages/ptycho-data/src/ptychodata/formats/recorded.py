"""From what a file records to a ``Scan``: the one place where domain and dose are settled.

A format module turns its layout into ``Recorded`` and leaves units alone.  ``to_scan`` then
checks the values, applies the settings of ``DataConfig``, and notes what it assumed.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ptychoconfig.errors import DataError
from ptychodata.contracts import Domain, ProbePower, Scan

if TYPE_CHECKING:
    from ptychoconfig.schema import DataConfig

__all__ = ["DOSE_TOLERANCE", "Recorded", "object_pixel_m", "to_scan"]

DOSE_TOLERANCE = 0.01
"""Relative difference up to which two records of the dose agree."""

_PLANCK_LIGHT_EV_M = 1.239841984e-6  # hc (CODATA 2018)
_CHUNK_BYTES = 2**20  # stays in the cache


@dataclass(eq=False)
class Recorded:
    """What a file says, in its own units; the axes are already ours.

    Args:
        where: the file, for messages.
        key: the patterns' key in the file, for messages.
        diffraction: (P, N, N) patterns, DC at ``[N//2, N//2]``.
        positions_px: (P, 2) probe centres (y, x).
        probe: (M, N, N), to be multiplied by the intensity scale.
        domain, intensity_scale, nphotons, probe_power: None where the file is silent.
        geometry: ``Scan`` field → value in SI units (energy in eV).
        notes: what the format module inferred, assumed or dropped.
        stored_notes: the notes that the file carries.

    The other fields are those of ``Scan``.
    """

    where: str
    key: str
    diffraction: NDArray[Any]
    positions_px: NDArray[Any]
    probe: NDArray[Any] | None = None
    domain: Domain | None = None
    intensity_scale: float | None = None
    nphotons: float | None = None
    probe_power: ProbePower | None = None
    mask: NDArray[np.bool_] | None = None
    background: NDArray[Any] | None = None
    scan_index: NDArray[np.int64] | None = None
    truth: NDArray[Any] | None = None
    true_positions_px: NDArray[Any] | None = None
    geometry: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    stored_notes: tuple[str, ...] = ()
    provenance: dict[str, Any] = field(default_factory=dict)


def to_scan(recorded: Recorded, options: "DataConfig | None", name: str) -> Scan:
    """Settle domain, dose and probe power, check every value, and build the scan.

    Raises:
        DataError: a value is impossible, or two records contradict each other.
    """
    domain = _domain(recorded, options)
    patterns = _plain(recorded.diffraction)
    patterns, mean_sum = _checked(recorded, patterns, domain)
    scale = _intensity_scale(recorded, options, domain, mean_sum)
    return Scan(
        diffraction=patterns,
        positions_px=np.ascontiguousarray(recorded.positions_px, dtype=np.float64),
        probe=_probe(recorded, scale),
        domain=domain,
        intensity_scale=scale,
        probe_power=_probe_power(recorded, options, scale),
        mask=recorded.mask,
        background=_real(recorded.background),
        scan_index=recorded.scan_index,
        truth=_truth(recorded),
        true_positions_px=recorded.true_positions_px,
        **_geometry(recorded, patterns.shape[-1]),
        name=name,
        notes=tuple(dict.fromkeys((*recorded.stored_notes, *recorded.notes))),
        provenance=recorded.provenance,
    )


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


def _plain(patterns: NDArray[Any]) -> NDArray[Any]:
    """Patterns in an integer dtype or float32; what is neither is converted once."""
    if patterns.dtype.kind == "f" and patterns.dtype != np.float32:
        with np.errstate(over="ignore"):  # infinity is found by the check of values
            return patterns.astype(np.float32, order="C")
    return patterns if patterns.flags.c_contiguous else np.ascontiguousarray(patterns)


def _parts(patterns: NDArray[Any]) -> Iterator[slice]:
    step = max(1, _CHUNK_BYTES // (8 * patterns.shape[-1] ** 2))
    for start in range(0, len(patterns), step):
        yield slice(start, start + step)


def _checked(
    recorded: Recorded, patterns: NDArray[Any], domain: Domain
) -> tuple[NDArray[Any], float]:
    """Patterns that are finite and ≥ 0, and their mean Σ of intensity in the file's unit."""
    total, hidden = 0.0, 0
    for part in _parts(patterns):
        block = patterns[part]
        mask = recorded.mask
        valid = np.broadcast_to(
            True if mask is None else mask[part] if mask.ndim == 3 else mask, block.shape
        )
        bad = ~((block >= 0) & (block < np.inf))
        if np.any(bad & valid):
            at = np.argwhere(bad & valid)[0]
            raise DataError(
                f"{recorded.where}: key {recorded.key!r}: expected finite values ≥ 0, found "
                f"{block[tuple(at)]} at pattern {part.start + at[0]}, pixel "
                f"[{at[1]}, {at[2]}]; mark bad pixels False in the key 'mask'"
            )
        hidden += int(np.count_nonzero(bad))
        used = np.where(valid & ~bad, block, 0).astype(np.float64)
        total += float(np.vdot(used, used) if domain == "amplitude" else used.sum())
    if not total > 0:
        raise DataError(
            f"{recorded.where}: key {recorded.key!r}: expected photons in some pattern, found "
            "only zeros; check how the file was written"
        )
    if hidden:
        recorded.notes.append(f"{hidden} masked values, NaN or negative, were set to 0.")
        patterns = np.where((patterns >= 0) & (patterns < np.inf), patterns, patterns.dtype.type(0))
    return patterns, total / len(patterns)


def _intensity_scale(
    recorded: Recorded, options: "DataConfig | None", domain: Domain, mean_sum: float
) -> float | None:
    """The scale s of counts = (amplitude · s)²; ``mean_sum`` is the mean Σ at s = 1."""
    asked = None if options is None else options.nphotons
    scale, nphotons = recorded.intensity_scale, recorded.nphotons
    if scale is None and domain == "counts":
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


def _truth(recorded: Recorded) -> NDArray[np.complex64] | None:
    """The known object, if the positions index into it; otherwise it cannot be scored against."""
    if recorded.truth is None:
        return None
    truth, positions = recorded.truth, recorded.positions_px
    inside = truth.ndim == 2 and (positions >= 0).all() and (positions < truth.shape).all()
    if not inside:
        recorded.notes.append(
            f"the known object of shape {truth.shape} was dropped: the positions do not lie in it."
        )
        return None
    return truth.astype(np.complex64)


def _real(array: NDArray[Any] | None) -> NDArray[np.float32] | None:
    return None if array is None else array.astype(np.float32)


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


def object_pixel_m(
    side: int,
    photon_energy_eV: float,  # noqa: N803 - the unit's symbol
    detector_distance_m: float,
    detector_pixel_m: float,
) -> float:
    """Object pixel dx = λz / (N·Δ) in metres, of the far field on ``side`` = N detector pixels."""
    wavelength_m = _PLANCK_LIGHT_EV_M / photon_energy_eV
    return wavelength_m * detector_distance_m / (side * detector_pixel_m)
