"""Lightning's trainer, set up as the execution settings say."""

import logging
import signal
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy

from ptychoconfig.errors import BackendError
from ptychoconfig.payloads import TrainingPayload
from ptychoconfig.schema import ExecutionConfig

from .checkpoints import AtomicCheckpointIO

__all__ = ["build_trainer", "quiet_lightning"]


def build_trainer(
    payload: TrainingPayload,
    device: torch.device,
    run_dir: Path,
    callbacks: Sequence[Callback],
    epochs: int,
    validates: bool,
) -> Trainer:
    """Set up the trainer.

    Args:
        payload: settings of the run.
        device: where it computes.
        run_dir: folder of the run, the only one that is written to.
        callbacks: what goes along with the training.
        epochs: epoch to end at, counted from the first run's start.
        validates: whether patterns are held out.
    """
    training, execution = payload.training, payload.execution
    more: list[Callback] = [_OwnSignals()]
    # Deterministic mode would write NaN into all memory that is about to be overwritten.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if training.early_stop_patience is not None and validates:
        patience = training.early_stop_patience
        more.append(EarlyStopping("val_loss", patience=patience, check_on_train_epoch_end=False))
    return Trainer(
        accelerator={"cuda": "cuda", "mps": "mps"}.get(device.type, "cpu"),
        devices=execution.devices,
        num_nodes=execution.num_nodes,
        strategy=_strategy(payload, device),
        precision="16-mixed" if execution.precision == "16-mixed" else "32-true",
        plugins=_plugins(execution),
        max_epochs=epochs,
        max_time=None if training.max_time is None else timedelta(seconds=training.max_time),
        accumulate_grad_batches=training.accumulate_grad_batches,
        deterministic=execution.deterministic,
        callbacks=[*callbacks, *more],
        enable_checkpointing=execution.enable_checkpointing,
        logger=_logger(execution.logger, run_dir),
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=run_dir,
    )


def _strategy(payload: TrainingPayload, device: torch.device) -> str | Strategy:
    """One process, or as many as there are devices, each with its part of every batch."""
    execution = payload.execution
    if execution.strategy == "auto" and execution.devices * execution.num_nodes == 1:
        return "auto"
    talk = "nccl" if device.type == "cuda" else "gloo"
    if execution.strategy == "fsdp":
        return ModelParallelStrategy(
            data_parallel_size=execution.devices * execution.num_nodes,
            tensor_parallel_size=1,
            save_distributed_checkpoint=False,
            process_group_backend=talk,
        )
    return DDPStrategy(
        process_group_backend=talk,
        find_unused_parameters=payload.training.probe_trainable,  # of the scans not in a batch
    )


def _plugins(execution: ExecutionConfig) -> list[Any]:
    """A run of one process stays one, whatever batch system or launcher started it."""
    alone = execution.devices * execution.num_nodes == 1
    return [AtomicCheckpointIO(), *([LightningEnvironment()] if alone else [])]


def _logger(name: str, run_dir: Path) -> Logger | bool:
    try:
        if name == "tensorboard":
            return TensorBoardLogger(run_dir, name="", version="tensorboard")
        if name == "mlflow":
            folder = (run_dir / "mlruns").resolve()
            folder.mkdir(exist_ok=True)
            return MLFlowLogger(
                "ptycho",
                run_name=run_dir.name,
                tracking_uri=f"sqlite:///{folder / 'mlflow.db'}",
                artifact_location=folder.as_uri(),
            )
    except ModuleNotFoundError as error:
        raise BackendError(
            f"--logger {name}: expected the package {name}, found it is not installed; run: "
            f"pip install {name}, or use --logger csv"
        ) from error
    return False


class _OwnSignals(Callback):
    """Leaves SIGTERM to the caller, who saves before ending; Lightning ends without saving."""

    def __init__(self) -> None:
        self.handler: Any = signal.getsignal(signal.SIGTERM)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self.handler)


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Keep Lightning's advice on workers and loggers, which does not apply here, to itself."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            yield
    finally:
        logger.setLevel(level)
