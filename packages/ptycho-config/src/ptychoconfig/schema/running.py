"""Settings that change no result: how far it is to be trusted, and how a command runs."""

from typing import Literal

from pydantic import Field

from ptychoconfig.schema.types import Duration, Positive, Region, Section, or_with_unit

__all__ = ["EvaluationConfig", "ExecutionConfig"]


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
    phase_zero: Region | None = Field(
        None,
        description="Where the phase in pictures is zero, as a median: rows and columns "
        "y0:y1,x0:x1 in the scan's object pixels, both ends in; default all that is shown.",
    )
    tiff: bool = Field(
        False, description="Write amplitude and phase as 32-bit float TIFF, every pixel, too."
    )


class ExecutionConfig(Section):
    """How a command runs; recorded as provenance, never part of the model."""

    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"] = Field(
        "auto", description="Processor to compute on; `auto` takes a GPU where one works."
    )
    devices: int = Field(
        1, ge=1, description="Devices of each machine to train on; on a CPU, processes."
    )
    num_nodes: int = Field(1, ge=1, description="Machines to train on.")
    strategy: Literal["auto", "ddp", "fsdp", "mirrored", "multi-worker"] = Field(
        "auto",
        description="How several devices share the work. On Torch each takes a part of every batch "
        "(`ddp`), and keeps but a part of the weights and of the optimiser (`fsdp`, slower, for "
        "networks that are large, and without previews); on TensorFlow devices of one machine "
        "(`mirrored`) or of several (`multi-worker`). `auto` chooses where there are several.",
    )
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = Field(
        "auto",
        description="Arithmetic of the network; the physics stays in 32 bits. `auto` takes bf16 "
        "where the processor has matrix units for it and they compute accurately.",
    )
    compile: bool = Field(
        False,
        description="Compile the network before training; Torch needs a C++ compiler for it, and "
        "TensorFlow can do it for networks of one step (`cnn`).",
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
        json_schema_extra=or_with_unit,
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
    preview_every: int = Field(
        5,
        ge=0,
        description="Epochs of a training from one preview image to the next, the first of them "
        "after epoch 1; 0 for none.",
    )
    logger: Literal["csv", "tensorboard", "mlflow", "none"] = Field(
        "csv",
        description="Where metrics are logged, in the run directory: `csv` writes metrics.csv, the "
        "next two write that and their own, each with a package of its name.",
    )

    def alone(self) -> "ExecutionConfig":
        """The same for one process on one device."""
        return self.model_copy(update={"devices": 1, "num_nodes": 1, "strategy": "auto"})
