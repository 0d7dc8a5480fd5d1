"""Settings of a network: what it is, how it is trained, how it is applied."""

from math import isqrt
from typing import Literal

from pydantic import Field, model_validator

from ptychoconfig.schema.types import (
    Duration,
    Fraction,
    NonNegative,
    PatternSide,
    Positive,
    Section,
    Seed,
    Weight,
    or_with_unit,
)

__all__ = [
    "ARCHITECTURE_DEFAULTS",
    "NETWORKS_OF",
    "InferenceConfig",
    "ModelConfig",
    "TrainingConfig",
    "distilled_defaults",
]

_DEFAULT_STEPS = (
    250  # bring `unrolled` to a good image; more improve it slowly (docs/performance.md)
)


class ModelConfig(Section):
    """The network, and how many overlapping patterns it sees together."""

    architecture: str = Field(
        "unrolled", description="Network to train; `ptycho train --architecture help` lists them."
    )
    N: PatternSide = Field(
        64, description="Side of a diffraction pattern in pixels; taken from the data."
    )
    gridsize: int = Field(
        3, ge=1, le=16, description="Side of a group: C = gridsize² overlapping patterns."
    )
    unrolled_steps: int = Field(
        8, ge=1, le=64, description="Update steps of `unrolled`, all with the same weights."
    )
    unrolled_width: int = Field(
        32, ge=8, le=256, multiple_of=8, description="Channels at the finest level of `unrolled`."
    )
    unrolled_levels: int = Field(
        3, ge=1, le=5, description="Resolution levels below the finest in `unrolled`."
    )
    unrolled_likelihood: Literal["auto", "amplitude", "poisson"] = Field(
        "amplitude",
        description="What the steps of `unrolled` assume of the noise: the same in all amplitudes, "
        "or that of photons, where a count misses by no more (`auto` takes photons for patterns "
        "of fewer than ten a pixel).",
    )
    unrolled_smoothness: NonNegative = Field(
        0.0,
        description="Photons by which `unrolled` penalises a unit step between neighbouring "
        "object pixels; nothing at a usual dose, a mild prior where photons are few.",
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
        True,
        description="Learn the factor e^α on the object of `cnn`, which begins at the strength "
        "that the data imply; otherwise it is 1.",
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


class TrainingConfig(Section):
    """What is minimised, on which groups, for how long."""

    model_type: Literal["pinn", "supervised", "distilled"] = Field(
        "pinn",
        description="What the network learns from: the patterns, by the physics (`pinn`); a "
        "known object, from the file's patches `Y` or cut out of its object (`supervised`); or the "
        "object that many more passes over the same patterns come to (`distilled`, the default of "
        "`unrolled` with --from unless the probe is learned). The weights of the losses count for "
        "`pinn` alone.",
    )
    epochs: int | None = Field(
        None,
        ge=1,
        description="Passes over the groups; default as many as make 250 optimiser steps.",
    )
    max_time: Duration | None = Field(
        None,
        description="Stop after this time and keep what was learned: seconds, or 90s, 15min, 2h.",
        json_schema_extra=or_with_unit,
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
    ema_decay: Fraction = Field(
        0.0,
        description="Decay per step of a running mean of the weights, which is validated and kept "
        "in place of the last ones; 0 for none (0.98 with `distilled`).",
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
    def _learnable(self) -> "TrainingConfig":
        if self.labelled and self.probe_trainable:
            raise ValueError(
                f"expected --no-probe-trainable with --model-type {self.model_type}, whose loss "
                "does not depend on the probe, found --probe-trainable; leave one out"
            )
        return self

    @property
    def labelled(self) -> bool:
        """Whether windows of an object, not patterns, are what the loss compares."""
        return self.model_type != "pinn"

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
    passes: int | None = Field(
        None,
        ge=1,
        le=64,
        description="Passes over the scan of `unrolled`; by default half as many again as in "
        "training, if those were six or more. More bring the low frequencies of smooth objects.",
    )
    batch_size: int = Field(32, ge=1, description="Patterns computed together.")
    probe: Literal["auto", "file", "bundle", "solve"] = Field(
        "auto",
        description="Probe to reconstruct with: the scan file's, the one that training learned, or "
        "one that the solver finds first (`auto` takes the learned one where there is one for this "
        "N, else solves where the file's does not explain the patterns).",
    )
    held_out_fraction: Fraction = Field(
        0.05,
        description="Share of the interior patterns that the image is made without, to measure "
        "R_free on.",
    )
    refine: int = Field(
        0, ge=0, description="Passes of the solver that polish the network's image; 0 for none."
    )


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
    "unrolled": {
        "model": {
            "gridsize": 3,
            "unrolled_likelihood": "auto",
            "unrolled_smoothness": 50.0,
        },
        "training": {"neighbor_count": 18, "learning_rate": 5e-4},
    },
    "cnn": _FROM_PATTERNS,
    "fno": _FROM_PATTERNS,
    "ffno": _FROM_PATTERNS,
    "hybrid-resnet": _FROM_PATTERNS,
}
"""Defaults that depend on the network: architecture → section → field → value."""


def distilled_defaults(patterns: int) -> dict[str, object]:
    """Defaults of ``distilled``: canvases large enough for the low frequencies, which come last.

    Each step sees one of them, so the rate stays as it is and the weights are averaged.

    Args:
        patterns: to train on, of the smallest scan.
    """
    side = min(12, isqrt(patterns))
    groups = min(50, patterns)
    return {
        "gridsize": side,
        "neighbor_count": side**2 - 1,
        "n_groups": groups,
        "batch_size": 1,
        "scheduler": "constant",
        "ema_decay": 0.98,
    }


_FOURIER = ("fno", "ffno", "hybrid-resnet")

NETWORKS_OF: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        (
            "unrolled_steps",
            "unrolled_width",
            "unrolled_levels",
            "unrolled_likelihood",
            "unrolled_smoothness",
            "passes",
        ),
        ("unrolled",),
    ),
    **dict.fromkeys(
        (
            "n_filters_scale",
            "amp_activation",
            "pad_object",
            "probe_big",
            "object_big",
            "intensity_scale_trainable",
        ),
        ("cnn",),
    ),
    **dict.fromkeys(("fno_modes", "fno_width", "fno_input_transform"), _FOURIER),
    "fno_blocks": ("fno", "ffno"),
    "fno_cnn_blocks": ("fno",),
    "resnet_blocks": ("hybrid-resnet",),
}
"""Settings that only some networks have: field → networks."""
