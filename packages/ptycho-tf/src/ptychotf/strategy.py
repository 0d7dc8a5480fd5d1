"""How several devices share the work: each takes a part of every batch."""

import json
import os
from typing import Any

import tensorflow as tf

from ptychoconfig.errors import ConfigError
from ptychoconfig.schema import ExecutionConfig

__all__ = ["choose_strategy", "worker"]


def choose_strategy(execution: ExecutionConfig, device: str) -> tf.distribute.Strategy:
    """The strategy that ``--strategy`` asks for; of one device, TensorFlow's default.

    Args:
        execution: settings.
        device: ``/CPU:0`` or ``/GPU:0``; several of the kind are used.

    Raises:
        ConfigError: the machines are not described, or others than are asked for.
    """
    kind = execution.strategy
    if kind == "multi-worker" or (kind == "auto" and execution.num_nodes > 1):
        _check_cluster(execution)
        return tf.distribute.MultiWorkerMirroredStrategy()
    if execution.num_nodes > 1:
        raise ConfigError(
            f"--num-nodes: expected 1 with --strategy {kind}, found {execution.num_nodes}; use "
            "--strategy multi-worker"
        )
    if kind == "mirrored" or execution.devices > 1:
        name = device.strip("/").partition(":")[0]
        if name == "CPU" and execution.devices > 1:
            _divide_cpu(execution.devices)
        return tf.distribute.MirroredStrategy([f"{name}:{k}" for k in range(execution.devices)])
    return tf.distribute.get_strategy()


def worker() -> int:
    """Number of this process in the cluster that ``TF_CONFIG`` describes; 0 alone."""
    task = json.loads(os.environ.get("TF_CONFIG", "{}")).get("task", {})
    return int(task.get("index", 0))


def _check_cluster(execution: ExecutionConfig) -> None:
    cluster: dict[str, Any] = json.loads(os.environ.get("TF_CONFIG", "{}")).get("cluster", {})
    found = len(cluster.get("worker", []))
    if found != execution.num_nodes:
        raise ConfigError(
            f"--num-nodes: expected {found}, the workers that TF_CONFIG names, found "
            f"{execution.num_nodes}; set TF_CONFIG on every machine as TensorFlow's guide to "
            "distributed training says, and --num-nodes to their number"
        )


def _divide_cpu(parts: int) -> None:
    [cpu] = tf.config.list_physical_devices("CPU")
    pieces = [tf.config.LogicalDeviceConfiguration()] * parts
    tf.config.set_logical_device_configuration(cpu, pieces)
