"""Settings of a scan: how its file is to be understood, and how one is simulated."""

from typing import Any, Literal

from pydantic import Field, model_validator

from ptychoconfig.schema.types import (
    Fraction,
    Frames,
    NonNegative,
    PatternSide,
    Positive,
    Section,
    Seed,
)

__all__ = ["DataConfig", "SimulationConfig"]

_LINES_ORIGINAL = {
    "probe_kind": "disk-original",
    "positions_kind": "raster",
    "n_patterns": 83**2,
    "step_px": 4.0,
    "nphotons": 1e9,
}


class DataConfig(Section):
    """How the numbers in a scan file are to be understood."""

    domain: Literal["file", "counts", "amplitude"] = Field(
        "file",
        description="What the patterns hold: photon counts or their square root. "
        "`file` takes what the file records.",
    )
    nphotons: Positive | None = Field(
        None, description="Mean photons per pattern, where the file records no dose."
    )
    probe_power: Literal["file", "absolute", "relative"] = Field(
        "file",
        description="Whether the probe's power is known in photons (`absolute`) or is set to the "
        "mean power of the patterns (`relative`).",
    )
    n_subsample: int | None = Field(
        None, ge=1, description="Patterns drawn from each scan before grouping; default all."
    )
    subsample_seed: Seed = Field(0, description="Seed of that draw.")
    exclude: Frames | None = Field(
        None,
        description="Patterns to leave out of each scan before anything else: numbers from 0 in "
        "the file's order, and ranges with both ends.",
    )
    photon_energy_eV: Positive | None = Field(  # noqa: N815 - the unit's symbol
        None, description="Photon energy in eV, in place of the file's."
    )
    detector_distance_m: Positive | None = Field(
        None, description="Distance from sample to detector in metres, in place of the file's."
    )
    detector_pixel_m: Positive | None = Field(
        None, description="Side of a detector pixel in metres, in place of the file's."
    )
    object_pixel_m: Positive | None = Field(
        None,
        description="Side of an object pixel in metres, in place of the file's; by default it "
        "follows from the three above.",
    )
    mask_file: str | None = Field(
        None,
        description="File of a mask (.npy, or .npz with a key `mask`), 1 = valid, in the frame of "
        "the file's patterns.",
    )
    crop_px: PatternSide | None = Field(
        None, description="Crop patterns to this side around the direct beam; before binning."
    )
    bin_px: int = Field(1, ge=1, le=64, description="Sum so many pixels along each axis to one.")
    transpose: bool = Field(False, description="Swap the rows and columns of the patterns.")
    flip_y: bool = Field(False, description="Turn the rows of the patterns about the centre.")
    flip_x: bool = Field(False, description="Turn the columns of the patterns about the centre.")
    swap_xy: bool = Field(False, description="Swap the x and y of the positions.")
    negate_x: bool = Field(False, description="Change the sign of the positions' x.")
    negate_y: bool = Field(False, description="Change the sign of the positions' y.")


class SimulationConfig(Section):
    """A simulated scan with known truth."""

    object_kind: Literal[
        "lines",
        "lines-original",
        "random-field",
        "siemens-star",
        "natural",
        "natural-held-out",
        "dead-leaves",
        "phantom",
    ] = Field(
        "lines",
        description="Object. `lines-original` is the original's protocol: it also sets "
        "`disk-original`, a raster of 6889 positions every 4 px and 1e9 photons, unless given; "
        "`natural-held-out` has photographs that nothing is trained on.",
    )
    probe_kind: Literal["disk", "disk-original", "gaussian", "zone-plate"] = Field(
        "disk",
        description="Probe: a disk with soft edge, the original's ideal disk, a Gaussian beam, or "
        "a zone plate with central stop (out of focus a donut).",
    )
    probe_file: str | None = Field(
        None, description="Scan file whose probe illuminates instead of a model."
    )
    probe_modes: int = Field(
        1,
        ge=1,
        le=64,
        description="Incoherent, orthogonal modes of the probe; 1 keeps those of a probe file.",
    )
    probe_mode_decay: float = Field(
        0.3,
        gt=0,
        le=1,
        allow_inf_nan=False,
        description="Power of each mode over that of the one before.",
    )
    coherence_length_px: Positive | None = Field(
        None,
        description="Transverse coherence length: the modes and their powers are then the "
        "strongest of a Gaussian Schell beam.",
    )
    defocus_rad: NonNegative | None = Field(
        None,
        description="Quadratic phase at the edge of the probe's diameter, of the zone plate's "
        "pupil, or at the Nyquist frequency of a probe from a file, in radians; default 8 for "
        "`gaussian` and `zone-plate`, else 0.",
    )
    aberration_rad: NonNegative = Field(
        0.0,
        description="Root mean square of a phase over the probe's far field: low Zernike "
        "polynomials, from defocus to spherical aberration, drawn by the seed.",
    )
    central_stop: Fraction = Field(
        0.4, description="Diameter of the zone plate's central stop over the zone plate's."
    )
    probe_diameter_px: Positive | None = Field(
        None, description="Diameter of the probe in object pixels; default 0.44 N."
    )
    positions_kind: Literal["raster", "jittered", "random", "spiral"] = Field(
        "jittered", description="Order of the scan."
    )
    N: PatternSide = Field(64, description="Side of a diffraction pattern in pixels.")
    n_patterns: int = Field(400, ge=1, description="Number of patterns.")
    overlap: Fraction = Field(
        0.7, description="Linear overlap of neighbouring probes: 1 − step / probe diameter."
    )
    step_px: Positive | None = Field(
        None, description="Distance of neighbouring positions; default from the overlap."
    )
    position_error_px: NonNegative = Field(
        0.0,
        description="Standard deviation, along each axis, of the true positions about those that "
        "the file records.",
    )
    nphotons: Positive = Field(
        1e6, description="Mean photons per pattern, before the detector's background and losses."
    )
    noise: bool = Field(True, description="Draw Poisson counts; otherwise store expectations.")
    background_counts: NonNegative = Field(
        0.0, description="Expected background counts in each pixel; recorded in the file."
    )
    dead_pixels: int = Field(
        0, ge=0, le=1000, description="Detector pixels, drawn at random, that count nothing."
    )
    saturation_counts: int | None = Field(
        None, ge=1, description="Counts at which a detector pixel saturates; default none."
    )
    mask_recorded: bool = Field(
        True, description="Record a mask of the dead and saturated pixels in the file."
    )
    seed: Seed = Field(
        1, description="Seed of object, positions, noise, errors, dead pixels and aberrations."
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_protocol(cls, values: Any) -> Any:
        """Let `lines-original` set what its protocol says, where nothing else is given."""
        if isinstance(values, dict) and values.get("object_kind") == "lines-original":
            return {**_LINES_ORIGINAL, **values}
        return values
