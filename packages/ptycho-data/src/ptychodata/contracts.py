"""What is handed from room to room: scans, and reconstructions.

Notation and units, everywhere in ``ptycho``:

- P patterns of N×N pixels, M probe modes, H×W object pixels, G groups of C patterns.
- Array axes are (…, y, x): +y down the rows, +x along the columns.
- Patterns are photon counts with DC at ``[N//2, N//2]``; a file may hold their square root.
- Positions are probe centres in object pixels, order (y, x), the way the beam moves over the
  object.
- The probe is in √photons, the object is a dimensionless complex transmission.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ptychoconfig.errors import DataError
from ptychodata.display import image_html, image_text, scan_line, scan_text, solution_text
from ptychodata.patterns import Patterns, rows
from ptychodata.survey import Domain, Survey, survey_patterns

__all__ = ["Domain", "ProbePower", "Reconstruction", "Scan", "Solution"]

ProbePower = Literal["absolute", "relative"]
Index = slice | Sequence[int] | NDArray[np.integer[Any]]


@dataclass(frozen=True, eq=False, repr=False)
class Scan:
    """One measured or simulated scan, validated once.

    Patterns stay in the dtype and domain of their file and may be memory-mapped, or read when
    asked for (``LazyPatterns``); ``counts`` and ``amplitude`` give float32 for those asked for.

    Args:
        diffraction: (P, N, N) patterns ≥ 0 in ``domain``, DC at ``[N//2, N//2]``, N even.
        positions_px: (P, 2) float64 probe centres (y, x) in object pixels.
        probe: (M, N, N) complex64 modes in the unit of ``√diffraction·intensity_scale``, that
            is √photons when ``probe_power`` is absolute; None if the file has none.
        domain: what ``diffraction`` holds.
        intensity_scale: ``counts = (amplitude · intensity_scale)²``; None when no dose is known.
        probe_power: ``absolute`` (Σ|P|² = photons of an empty region) or ``relative``.
        mask: (N, N) or (P, N, N) bool, True = valid; None = all valid.
        background: (N, N) float32 expected counts ≥ 0 added to every pattern; None = none.
        scan_index: (P,) int64 scan number or trigger number of each pattern.
        object_pixel_m, photon_energy_eV, detector_distance_m, detector_pixel_m: geometry in SI
            units (energy in eV), NaN where unknown.
        truth: (H, W) complex64 known object, whose pixel [0, 0] is at position (0, 0).
        labels: (P, N, N) complex64 known object around each position, as a patch centred on it, for
            supervised training; None = none. Its values are checked when they are used.
        true_positions_px: (P, 2) float64 where the probe really was, known of a simulated scan
            whose recorded positions are in error; to score against, never used otherwise.
        near_field: whether the detector was in the near field of the object, for which there is
            no forward model here: such a scan can be inspected and converted only.
        name: what to call the scan in messages and file names.
        notes: what the reader inferred, assumed or dropped, one sentence each.
        provenance: how the scan came to be, such as the settings and seed of a simulation: JSON
            values, kept by the canonical NPZ.

    Raises:
        DataError: a shape, dtype or value does not fit the contract.
    """

    diffraction: Patterns
    positions_px: NDArray[np.float64]
    probe: NDArray[np.complex64] | None
    domain: Domain = "counts"
    intensity_scale: float | None = 1.0
    probe_power: ProbePower = "relative"
    mask: NDArray[np.bool_] | None = None
    background: NDArray[np.float32] | None = None
    scan_index: NDArray[np.int64] | None = None
    object_pixel_m: float = float("nan")
    photon_energy_eV: float = float("nan")  # noqa: N815 - the unit's symbol
    detector_distance_m: float = float("nan")
    detector_pixel_m: float = float("nan")
    truth: NDArray[np.complex64] | None = None
    labels: Patterns | None = None
    true_positions_px: NDArray[np.float64] | None = None
    near_field: bool = False
    name: str = "scan"
    notes: tuple[str, ...] = field(default=())
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _validate(self)

    def __len__(self) -> int:
        return int(self.diffraction.shape[0])

    def __str__(self) -> str:
        return scan_line(self)

    def __repr__(self) -> str:
        return scan_text(self)

    @property
    def N(self) -> int:  # noqa: N802 - the field's symbol
        """Side of a pattern in pixels."""
        return int(self.diffraction.shape[-1])

    @property
    def has_dose(self) -> bool:
        """Whether the patterns are photon counts, up to a known scale."""
        return self.intensity_scale is not None

    def amplitude(self, index: Index = slice(None)) -> NDArray[np.float32]:
        """√counts of the patterns ``index``: (B, N, N) float32."""
        raw = np.asarray(self.diffraction[index], dtype=np.float32)
        raw = np.sqrt(raw) if self.domain == "counts" else raw
        return raw * np.float32(self.intensity_scale or 1.0)

    def counts(self, index: Index = slice(None)) -> NDArray[np.float32]:
        """Photon counts of the patterns ``index``: (B, N, N) float32.

        Without a known dose these are intensities in the file's own unit.
        """
        raw = np.asarray(self.diffraction[index], dtype=np.float32)
        raw = raw if self.domain == "counts" else np.square(raw)
        return raw * np.float32((self.intensity_scale or 1.0) ** 2)

    def valid(self, index: Index = slice(None)) -> NDArray[np.bool_] | None:
        """The mask of the patterns ``index``, (N, N) or (B, N, N); None when all is valid."""
        return self.mask[index] if self.mask is not None and self.mask.ndim == 3 else self.mask

    @cached_property
    def survey(self) -> Survey:
        """Sums and extremes of the patterns, in their own unit; known once the file is read."""
        return survey_patterns(self.diffraction, self.mask, self.domain)

    @cached_property
    def photons(self) -> NDArray[np.float64]:
        """Σ counts over the valid pixels of each pattern: (P,) float64."""
        return self.survey.intensity * (self.intensity_scale or 1.0) ** 2

    @cached_property
    def mean_photons(self) -> float:
        """Mean of Σ counts per pattern, over the valid pixels."""
        return float(self.photons.mean())

    @cached_property
    def photon_probe(self) -> NDArray[np.complex64]:
        """The probe in √photons, (M, N, N) complex64, its power as ``probe_power`` says.

        A relative probe is scaled so that Σ|P|² is the mean of Σ counts.

        Raises:
            DataError: the scan has no probe, or one without power.
        """
        if self.probe is None:
            raise DataError(
                f"{self.name}: expected a probe, found none; "
                "give one in the file (key probeGuess) or from another scan"
            )
        if self.probe_power == "absolute":
            return self.probe
        power = float(np.sum(np.abs(self.probe.astype(np.complex128)) ** 2))
        if not power > 0:
            raise DataError(f"{self.name}: expected a probe with power above 0, found {power}")
        scaled: NDArray[np.complex64] = self.probe * np.float32(np.sqrt(self.mean_photons / power))
        return scaled

    def subset(self, index: NDArray[np.integer[Any]]) -> "Scan":
        """The scan of the patterns ``index`` alone; every per-pattern array follows."""
        part = replace(
            self,
            diffraction=rows(self.diffraction, index),
            positions_px=self.positions_px[index],
            mask=self.valid(index),
            scan_index=None if self.scan_index is None else self.scan_index[index],
            labels=None if self.labels is None else rows(self.labels, index),
            true_positions_px=(
                None if self.true_positions_px is None else self.true_positions_px[index]
            ),
        )
        return self._counted(part, index)

    def with_probe(self, probe: NDArray[np.complex64] | None) -> "Scan":
        """The same patterns with another probe, (M, N, N)."""
        return self._counted(replace(self, probe=probe))

    def _counted(self, other: "Scan", index: Index = slice(None)) -> "Scan":
        """Hand on the photons, where they were counted: that takes a pass over the file."""
        if vars(self).keys() & {"photons", "survey"}:
            vars(other)["photons"] = self.photons[index]
        return other


@dataclass(frozen=True, eq=False, repr=False)
class Reconstruction:
    """The image of a scan: object, where it is known, and how it lies under the scan.

    Args:
        obj: (H, W) complex64 transmission.
        coverage: (H, W) float32 illumination ``Σ_j Σ_m |S_f P_m|²``, relative to its maximum.
        origin_yx_px: (2,) float64 position, in the scan's coordinates, of pixel [0, 0].
        positions_px: (P, 2) float64 the scan's positions.
        probe: (M, N, N) complex64 the probe that it was made with.
        pixel_size_m: object pixel in metres, NaN if unknown.
        probe_source: where the probe came from: ``file``, ``bundle``, ``model`` or ``solved``.
        disagreement: (H, W) float32 by how much overlapping patches differ, root mean square, in
            units of transmission; None where no patches were merged.
    """

    obj: NDArray[np.complex64]
    coverage: NDArray[np.float32]
    origin_yx_px: NDArray[np.float64]
    positions_px: NDArray[np.float64]
    probe: NDArray[np.complex64]
    pixel_size_m: float = float("nan")
    probe_source: str = "file"
    disagreement: NDArray[np.float32] | None = None

    def __repr__(self) -> str:
        return image_text(self)

    def _repr_html_(self) -> str:
        """With pictures, for notebooks."""
        return image_html(self)


@dataclass(frozen=True, eq=False, repr=False)
class Solution:
    """What a solver found: an image, and all else that it fitted to explain the patterns.

    A start is one too, with whatever is known beforehand; a reconstruction alone will do.

    Args:
        reconstruction: object, probe and (refined) positions.
        background: (N, N) float32 fitted counts, None if none was fitted.
        intensity: (P,) float32 incoming intensity of each pattern relative to the mean; None if
            it was not fitted.
        variable_modes: (K, N, N) complex64 by which the first probe mode varies along the scan;
            None if it does not.
        variable_weights: (P, K) float32 how much of each in each pattern.
        held_out: (R,) int64 patterns that neither object nor probe has seen.
        history: figure → one value per epoch: ``r_factor``, ``r_free``, ``seconds``.
        epochs: passes made, over all runs that led here.
        stopped: why it ended: ``converged``, ``epochs``, ``max_time`` or ``interrupted``.
    """

    reconstruction: Reconstruction
    background: NDArray[np.float32] | None = None
    intensity: NDArray[np.float32] | None = None
    variable_modes: NDArray[np.complex64] | None = None
    variable_weights: NDArray[np.float32] | None = None
    held_out: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    history: Mapping[str, Sequence[float]] = field(default_factory=dict)
    epochs: int = 0
    stopped: str = ""

    def __repr__(self) -> str:
        return solution_text(self)

    def _repr_html_(self) -> str:
        """With the pictures of the image, for notebooks."""
        return image_html(self.reconstruction)

    @property
    def mode_powers(self) -> NDArray[np.float64]:
        """(M,) share of each probe mode in Σ|P|²."""
        power = np.sum(np.abs(self.reconstruction.probe.astype(np.complex128)) ** 2, axis=(1, 2))
        return np.asarray(power / power.sum())


def _validate(scan: Scan) -> None:
    """Check shapes, dtypes and finiteness; the patterns' values are checked by the reader."""

    def expect(good: bool, what: str, found: object) -> None:
        if not good:
            raise DataError(f"{scan.name}: expected {what}, found {found}")

    shape = scan.diffraction.shape
    expect(
        len(shape) == 3 and shape[0] > 0 and shape[1] == shape[2] and shape[1] % 2 == 0,
        "diffraction of shape (P, N, N) with P > 0 and N even",
        shape,
    )
    count, side = shape[0], shape[-1]
    expect(
        scan.diffraction.dtype.kind in "uif", "real diffraction patterns", scan.diffraction.dtype
    )
    expect(
        scan.positions_px.shape == (count, 2),
        f"one (y, x) position for each of {count} patterns",
        f"positions of shape {scan.positions_px.shape}",
    )
    expect(bool(np.isfinite(scan.positions_px).all()), "finite positions", "NaN or infinity")
    if (true := scan.true_positions_px) is not None:
        expect(true.shape == (count, 2), f"true positions of shape ({count}, 2)", true.shape)
        expect(bool(np.isfinite(true).all()), "finite true positions", "NaN or infinity")
    if scan.probe is not None:
        expect(
            scan.probe.ndim == 3 and scan.probe.shape[1:] == (side, side),
            f"a probe of shape (M, {side}, {side}), the size of the patterns",
            scan.probe.shape,
        )
        expect(scan.probe.dtype == np.complex64, "a complex64 probe", scan.probe.dtype)
        expect(bool(np.isfinite(scan.probe).all()), "a finite probe", "NaN or infinity")
    if scan.intensity_scale is not None:
        expect(
            np.isfinite(scan.intensity_scale) and scan.intensity_scale > 0,
            "intensity_scale above 0",
            scan.intensity_scale,
        )
    if scan.mask is not None:
        fits = scan.mask.shape in ((side, side), shape) and scan.mask.dtype == np.bool_
        expect(
            fits,
            f"a boolean mask of shape ({side}, {side}) or {shape}",
            (scan.mask.dtype, scan.mask.shape),
        )
    if scan.background is not None:
        expect(
            scan.background.shape == (side, side)
            and bool(((scan.background >= 0) & (scan.background < np.inf)).all()),
            f"a finite background ≥ 0 of shape ({side}, {side})",
            scan.background.shape,
        )
    if (labels := scan.labels) is not None:
        expect(
            labels.shape == shape and labels.dtype.kind == "c",
            f"complex labels of shape {shape}",
            (labels.dtype, labels.shape),
        )
    if scan.truth is not None:
        expect(scan.truth.ndim == 2, "a known object of two dimensions", scan.truth.shape)
        expect(bool(np.isfinite(scan.truth).all()), "a finite known object", "NaN or infinity")
