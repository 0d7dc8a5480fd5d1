"""Settings of the solver, which needs no network."""

from typing import Literal

from pydantic import Field

from ptychoconfig.schema.types import Duration, Fraction, NonNegative, Section, Seed, or_with_unit

__all__ = ["SolverConfig"]


class SolverConfig(Section):
    """How a scan is solved by gradient steps, without a network."""

    epochs: int | None = Field(
        None,
        ge=1,
        description="Passes over the patterns; default until the residual stops falling.",
    )
    max_time: Duration | None = Field(
        None,
        description="Stop after this time and keep the best: seconds, or 90s, 15min, 2h.",
        json_schema_extra=or_with_unit,
    )
    batch_size: int | None = Field(
        None, ge=1, description="Patterns per step; default from the overlap."
    )
    likelihood: Literal["auto", "amplitude", "poisson"] = Field(
        "auto",
        description="Noise that is assumed: constant on amplitudes, or Poisson's on counts "
        "(`auto` takes `poisson` for few photons).",
    )
    modes: int | None = Field(
        None, ge=1, le=64, description="Incoherent probe modes; default as many as it starts with."
    )
    probe_model: Literal["auto", "file", "disk", "gaussian"] = Field(
        "auto",
        description="Probe to start from: the file's, or a model fitted to the patterns "
        "(`auto` takes a disk where the file has none).",
    )
    refine_probe: Literal["auto", "on", "off"] = Field(
        "auto",
        description="Solve for the probe too (`auto`: where it is relative, or the object alone "
        "does not explain the patterns).",
    )
    refine_positions: bool = Field(
        False, description="Correct the positions: a global affine part, then each alone."
    )
    refine_background: bool = Field(
        False, description="Fit a background of counts, the same in every pattern."
    )
    refine_intensity: bool = Field(False, description="Fit the incoming intensity of each pattern.")
    variable_modes: int = Field(
        0,
        ge=0,
        le=16,
        description="Modes by which the probe varies along the scan (orthogonal relaxation).",
    )
    smoothness: NonNegative = Field(
        50.0,
        description="Photons by which a unit step between neighbouring object pixels is penalised: "
        "nothing at a usual dose, a mild prior where photons are few.",
    )
    held_out_fraction: Fraction = Field(
        0.05, description="Share of the interior patterns kept aside to measure R_free."
    )
    seed: Seed = Field(0, description="Seed of batches, extra modes and the held-out patterns.")
