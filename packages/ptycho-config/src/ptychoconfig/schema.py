"""Every setting of ``ptycho``, declared once.

The command's flags, the YAML keys, the environment variables, the JSON schema and the reference
page in ``docs/`` all come from these declarations.  A setting lives in one section:

- what changes the result is in ``ModelConfig``, ``DataConfig``, ``TrainingConfig``,
  ``InferenceConfig``, ``SolverConfig`` and ``SimulationConfig``; a bundle keeps the first three;
- how far to trust it is asked in ``EvaluationConfig``, which changes nothing;
- how it runs is in ``ExecutionConfig``; it is recorded as provenance and never part of a model.

Units stand in the names (``_px``, ``_m``, ``_s``, ``_eV``).  The models are frozen; unknown keys
and values out of bounds raise ``pydantic.ValidationError``, which ``ptychoconfig.resolve`` turns
into a ``ConfigError`` naming the flag.
"""

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

__all__ = [
    "ARCHITECTURE_DEFAULTS",
    "SECTIONS",
    "DataConfig",
    "EvaluationConfig",
    "ExecutionConfig",
    "InferenceConfig",
    "ModelConfig",
    "Section",
    "SimulationConfig",
    "SolverConfig",
    "TrainingConfig",
]

_DEFAULT_STEPS = (
    250  # bring `unrolled` to a good image; more improve it slowly (docs/performance.md)
)
_LINES_ORIGINAL = {
    "probe_kind": "disk-original",
    "positions_kind": "raster",
    "n_patterns": 83**2,
    "step_px": 4.0,
    "nphotons": 1e9,
}
_UNITS_S = {"s": 1.0, "min": 60.0, "h": 3600.0}


def _duration(value: object) -> object:
    """Take ``90``, ``"90s"``, ``"15min"`` or ``"2h"`` as seconds."""
    if isinstance(value, str):
        number, unit = value.rstrip("hmins").strip(), value.lstrip("0123456789.eE+- ")
        try:
            return float(number) * _UNITS_S[unit or "s"]
        except (ValueError, KeyError):
            raise ValueError(f"expected seconds or e.g. 90s, 15min, 2h, found {value!r}") from None
    return value


def _as_text(value: object) -> object:
    """Take a single frame, which YAML reads as a number, as the text it stands for."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _or_with_unit(schema: dict[str, Any]) -> None:
    """Tell the JSON schema that a duration may have a unit."""
    examples = ["90s", "15min", "2h"]
    text = {"type": "string", "pattern": "^[0-9.eE+-]+ *(s|min|h)?$", "examples": examples}
    if "anyOf" not in schema:
        declared = {k: schema.pop(k) for k in ("type", "exclusiveMinimum")}
        schema["anyOf"] = [declared]
    schema["anyOf"].insert(1, text)


PatternSide = Annotated[int, Field(ge=32, le=1024, multiple_of=2)]
Weight = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Duration = Annotated[float, Field(gt=0, allow_inf_nan=False), BeforeValidator(_duration)]
Frames = Annotated[
    str,
    Field(pattern=r"^[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*$", examples=["3,10-20"]),
    BeforeValidator(_as_text),
]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


class Section(BaseModel):
    """A frozen group of settings that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_as_number(cls, value: object, info: ValidationInfo) -> object:
        """Refuse ``epochs: true``, which pydantic would take for 1."""
        if (
            isinstance(value, bool)
            and cls.model_fields[str(info.field_name)].annotation is not bool
        ):
            raise ValueError(f"expected no truth value, found {value}")
        return value


class ModelConfig(Section):
    """The network, and how many overlapping patterns it sees together."""

    architecture: str = Field(
        "unrolled", description="Network to train; `ptycho train --architecture help` lists them."
    )
    N: PatternSide = Field(
        64, description="Side of a diffraction pattern in pixels; taken from the data."
    )
    gridsize: int = Field(
        3, ge=1, le=8, description="Side of a group: C = gridsize² overlapping patterns."
    )
    unrolled_steps: int = Field(
        3, ge=1, le=16, description="Update steps of `unrolled`, each with weights of its own."
    )
    unrolled_width: int = Field(
        16, ge=8, le=256, multiple_of=8, description="Channels at the finest level of `unrolled`."
    )
    unrolled_levels: int = Field(
        3, ge=1, le=4, description="Resolution levels below the finest in `unrolled`."
    )
    n_filters_scale: int = Field(
        2, ge=1, le=16, description="Factor on the channels of every layer of `cnn`."
    )
    amp_activation: Literal["sigmoid", "swish", "softplus", "relu"] = Field(
        "sigmoid", description="What bounds the amplitude that `cnn` predicts."
    )
    pad_object: bool = Field(
        True,
        description="Let the decoders of `cnn` speak for the central half of a patch; otherwise "
        "for all of it.",
    )
    probe_big: bool = Field(
        True, description="Let `cnn` predict the border around that half too, from four channels."
    )
    object_big: bool = Field(
        True,
        description="Predict a patch for each pattern of a group; otherwise one at the group's "
        "mean position (`cnn`).",
    )
    intensity_scale_trainable: bool = Field(
        True, description="Learn the factor e^α on the object of `cnn`; otherwise it is 1."
    )
    fno_modes: int = Field(
        12, ge=1, le=256, description="Frequencies per axis that the Fourier networks mix."
    )
    fno_width: int = Field(
        32, ge=4, le=256, description="Channels of the Fourier networks at the finest level."
    )
    fno_blocks: int = Field(4, ge=1, le=32, description="Blocks of `fno` and `ffno`.")
    fno_cnn_blocks: int = Field(
        2, ge=0, le=16, description="Convolutions that refine what the blocks of `fno` made."
    )
    fno_input_transform: Literal["none", "sqrt", "log1p", "instancenorm"] = Field(
        "none", description="What the Fourier networks do to the amplitudes of a pattern first."
    )
    resnet_blocks: int = Field(
        6, ge=1, le=64, description="Residual blocks in the bottleneck of `hybrid-resnet`."
    )

    @property
    def C(self) -> int:  # noqa: N802 - the field's symbol
        """Patterns per group; derived from ``gridsize`` and never set."""
        return self.gridsize**2


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


class TrainingConfig(Section):
    """What is minimised, on which groups, for how long."""

    epochs: int | None = Field(
        None,
        ge=1,
        description="Passes over the groups; default as many as make 250 optimiser steps.",
    )
    max_time: Duration | None = Field(
        None,
        description="Stop after this time and keep what was learned: seconds, or 90s, 15min, 2h.",
        json_schema_extra=_or_with_unit,
    )
    batch_size: int = Field(
        6, ge=1, description="Groups per optimiser step (a group holds gridsize² patterns)."
    )
    learning_rate: Positive = Field(2e-3, description="Peak learning rate of the network.")
    optimizer: Literal["adam", "adamw", "sgd"] = Field("adamw", description="Optimiser.")
    momentum: Fraction = Field(0.9, description="Momentum of `sgd`.")
    beta1: Fraction = Field(0.9, description="Decay of the mean gradient in `adam` and `adamw`.")
    beta2: Fraction = Field(
        0.999, description="Decay of the mean squared gradient in `adam` and `adamw`."
    )
    weight_decay: NonNegative = Field(1e-3, description="Weight decay of the network's weights.")
    scheduler: Literal["constant", "exponential", "warmup-cosine", "plateau", "one-cycle"] = Field(
        "warmup-cosine", description="Course of the learning rate over the run."
    )
    warmup_steps: int = Field(
        30,
        ge=0,
        description="Optimiser steps of linear warm-up, at most a quarter of the run "
        "(`warmup-cosine`).",
    )
    min_lr_ratio: Fraction = Field(
        0.01, description="Last learning rate as a fraction of the peak (`warmup-cosine`)."
    )
    lr_gamma: float = Field(
        0.95, gt=0, le=1, allow_inf_nan=False, description="Factor per epoch (`exponential`)."
    )
    plateau_factor: float = Field(
        0.5, gt=0, lt=1, allow_inf_nan=False, description="Factor on a plateau (`plateau`)."
    )
    plateau_patience: int = Field(
        2, ge=0, description="Epochs without a better loss that make a plateau (`plateau`)."
    )
    plateau_threshold: NonNegative = Field(
        0.0, description="Relative gain below which a loss is not better (`plateau`)."
    )
    plateau_min_lr: NonNegative = Field(
        5e-5, description="Learning rate below which it is not lowered (`plateau`)."
    )
    gradient_clip_val: Positive | None = Field(
        1.0, description="Bound on the gradient; unset in YAML (null) for none."
    )
    gradient_clip_algorithm: Literal["norm", "value", "agc"] = Field(
        "norm",
        description="What the bound is on: the whole norm, each entry, or the norm of each output "
        "channel relative to its weights' (`agc`, for which 0.01 is usual).",
    )
    accumulate_grad_batches: int = Field(
        1, ge=1, description="Batches whose gradients are summed before a step."
    )
    poisson_weight: Weight = Field(
        0.0, description="Weight of the Poisson deviance on counts in the loss."
    )
    amplitude_weight: Weight = Field(
        1.0, description="Weight of the squared error of amplitudes in the loss."
    )
    mae_weight: Weight = Field(
        0.0, description="Weight of the mean absolute error of amplitudes in the loss."
    )
    n_groups: int | None = Field(
        None, ge=1, description="Groups per epoch; default one anchored at every pattern."
    )
    neighbor_count: int = Field(
        18, ge=1, description="Nearest neighbours that a group's other members are drawn from."
    )
    oversampling: bool = Field(
        False,
        description="Allow more groups than patterns, as further choices among the neighbours.",
    )
    sequential: bool = Field(
        False, description="Anchor groups at the first patterns in scan order, not at random ones."
    )
    val_fraction: Fraction = Field(
        0.05, description="Share of the patterns held out to measure the validation loss."
    )
    val_split: Literal["random", "spatial"] = Field(
        "random",
        description="Which patterns are held out: some from all over the scan, or all at its far "
        "end of its longer side (`spatial`), beyond what the network has seen.",
    )
    probe: Literal["auto", "file", "solve"] = Field(
        "auto",
        description="Probe to train with: the scan file's, or one that the solver finds first "
        "(`auto` solves where the file's does not explain the patterns).",
    )
    probe_trainable: bool = Field(False, description="Learn the probe along with the network.")
    probe_learning_rate: Positive = Field(
        0.3, description="Length of the probe's steps; 1 is the full step that a pattern implies."
    )
    early_stop_patience: int | None = Field(
        None, ge=1, description="Stop after this many epochs without a better validation loss."
    )
    on_collapse: Literal["warn", "stop", "restart"] = Field(
        "warn",
        description="When a network collapses to one answer for every pattern: say so, stop with "
        "an error, or begin anew with other weights, at most three times.",
    )
    seed: Seed = Field(42, description="Seed of weights, groups and batches (0 is a seed).")

    def epochs_of(self, batches: int) -> int:
        """Passes over an epoch of so many batches: as set, or enough for the default steps."""
        steps = -(-batches // self.accumulate_grad_batches)
        return self.epochs or -(-_DEFAULT_STEPS // steps)

    @model_validator(mode="after")
    def _some_loss(self) -> "TrainingConfig":
        if self.poisson_weight + self.amplitude_weight + self.mae_weight == 0:
            raise ValueError(
                "expected at least one of --poisson-weight, --amplitude-weight and --mae-weight "
                "above 0, found all 0; raise one"
            )
        return self


class InferenceConfig(Section):
    """How a trained network is applied to a scan."""

    merge: Literal["scan", "group", "none"] = Field(
        "scan",
        description="What is merged between steps: the whole scan, groups of gridsize² patterns, "
        "or nothing (single shot: each pixel from its nearest pattern).",
    )
    batch_size: int = Field(32, ge=1, description="Patterns computed together.")
    probe: Literal["auto", "file", "bundle", "solve"] = Field(
        "auto",
        description="Probe to reconstruct with: the scan file's, the one that training learned, or "
        "one that the solver finds first (`auto` takes the learned one where there is one for this "
        "N, else solves where the file's does not explain the patterns).",
    )
    refine: int = Field(
        0, ge=0, description="Passes of the solver that polish the network's image; 0 for none."
    )


class EvaluationConfig(Section):
    """How far an image is to be trusted; nothing here changes it."""

    split_half: bool = Field(
        False,
        description="Reconstruct each half of the patterns alone too, and correlate the two "
        "(FRC): how far the result is consistent, for about twice the time.",
    )
    min_frc_px: Positive | None = Field(
        None,
        description="Fail (exit code 7) unless the halves agree down to periods of this many "
        "pixels or fewer; implies `split_half`.",
    )
    max_r_factor: Positive | None = Field(
        None, description="Fail (exit code 7) if the residual R is greater than this."
    )
    report: bool = Field(
        True, description="Write `report.html`, which shows the image and what speaks for it."
    )
    tiff: bool = Field(
        False, description="Write amplitude and phase as 32-bit float TIFF, every pixel, too."
    )


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
        json_schema_extra=_or_with_unit,
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


class SimulationConfig(Section):
    """A simulated scan with known truth."""

    object_kind: Literal[
        "lines",
        "lines-original",
        "random-field",
        "siemens-star",
        "natural",
        "dead-leaves",
        "phantom",
    ] = Field(
        "lines",
        description="Object. `lines-original` is the original's protocol: it also sets "
        "`disk-original`, a raster of 6889 positions every 4 px and 1e9 photons, unless given.",
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
    seed: Seed = Field(1, description="Seed of object, positions, noise, errors and dead pixels.")

    @model_validator(mode="before")
    @classmethod
    def _fill_protocol(cls, values: Any) -> Any:
        """Let `lines-original` set what its protocol says, where nothing else is given."""
        if isinstance(values, dict) and values.get("object_kind") == "lines-original":
            return {**_LINES_ORIGINAL, **values}
        return values


class ExecutionConfig(Section):
    """How a command runs; recorded as provenance, never part of the model."""

    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"] = Field(
        "auto", description="Processor to compute on; `auto` takes a GPU where one works."
    )
    devices: int = Field(
        1, ge=1, description="Devices of each machine to train on; on a CPU, processes."
    )
    num_nodes: int = Field(1, ge=1, description="Machines to train on.")
    strategy: Literal["auto", "ddp"] = Field(
        "auto",
        description="How several devices share the work: each takes a part of every batch (`ddp`); "
        "`auto` is that where there are several.",
    )
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = Field(
        "auto",
        description="Arithmetic of the network; the physics stays in 32 bits. `auto` takes bf16 "
        "where the processor has matrix units for it and they compute accurately.",
    )
    compile: bool = Field(
        False, description="Compile the network before training, which needs a C++ compiler."
    )
    deterministic: bool = Field(True, description="Refuse operations that differ between runs.")
    num_workers: int = Field(0, ge=0, description="Processes that prepare batches.")
    prefetch_factor: int | None = Field(
        None, ge=1, description="Batches that each worker prepares ahead; default 2."
    )
    pin_memory: bool = Field(
        False, description="Prepare batches in page-locked memory, from which a GPU copies faster."
    )
    persistent_workers: bool = Field(True, description="Keep the workers between epochs.")
    enable_checkpointing: bool = Field(True, description="Keep checkpoints while training.")
    checkpoint_interval: Duration = Field(
        30.0,
        description="Longest time between two checkpoints within an epoch: seconds, or 30s, 5min.",
        json_schema_extra=_or_with_unit,
    )
    checkpoint_save_top_k: int = Field(
        1, ge=-1, description="Best checkpoints to keep beside the last; 0 none, -1 all."
    )
    checkpoint_monitor: Literal["val_loss", "train_loss"] = Field(
        "val_loss",
        description="Figure that ranks checkpoints (`train_loss` where nothing is held out).",
    )
    checkpoint_mode: Literal["min", "max"] = Field(
        "min", description="Whether the least or the greatest figure is the best."
    )
    logger: Literal["csv", "tensorboard", "mlflow", "none"] = Field(
        "csv",
        description="Where metrics are logged, in the run directory: `csv` writes metrics.csv, the "
        "next two write that and their own, each with a package of its name.",
    )


SECTIONS: dict[str, type[Section]] = {
    "model": ModelConfig,
    "data": DataConfig,
    "training": TrainingConfig,
    "inference": InferenceConfig,
    "evaluation": EvaluationConfig,
    "solver": SolverConfig,
    "simulation": SimulationConfig,
    "execution": ExecutionConfig,
}

_FROM_PATTERNS: dict[str, dict[str, object]] = {
    "model": {"gridsize": 1},
    "training": {
        "neighbor_count": 4,
        "epochs": 50,
        "batch_size": 16,
        "learning_rate": 1e-3,
        "optimizer": "adam",
        "weight_decay": 0.0,
    },
}
"""As PtychoPINN trains: networks that must learn the physics need many passes."""

ARCHITECTURE_DEFAULTS: dict[str, dict[str, dict[str, object]]] = {
    "unrolled": {"model": {"gridsize": 3}, "training": {"neighbor_count": 18}},
    "cnn": _FROM_PATTERNS,
    "fno": _FROM_PATTERNS,
    "ffno": _FROM_PATTERNS,
    "hybrid-resnet": _FROM_PATTERNS,
}
"""Defaults that depend on the network: architecture → section → field → value."""
