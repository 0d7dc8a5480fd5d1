"""Which of several processes this one is, when work is shared among devices."""

import json
import os

from ptychoconfig.schema import ExecutionConfig

__all__ = ["rank"]


def rank(execution: ExecutionConfig) -> int:
    """Number of this process among those that work together; 0 speaks and writes.

    TensorFlow's workers have ``TF_CONFIG``; torchrun sets ``RANK``; a process that the first one
    started has ``LOCAL_RANK``; Slurm sets ``SLURM_PROCID``.  A run on one device is alone, whatever
    else was started beside it.
    """
    if execution.devices * execution.num_nodes == 1:
        return 0
    if "TF_CONFIG" in os.environ and execution.strategy not in ("ddp", "fsdp"):
        return int(json.loads(os.environ["TF_CONFIG"]).get("task", {}).get("index", 0))
    if "RANK" in os.environ:
        return int(os.environ["RANK"])
    if "LOCAL_RANK" in os.environ:
        node = int(os.environ.get("NODE_RANK", "0"))
        return node * execution.devices + int(os.environ["LOCAL_RANK"])
    return int(os.environ.get("SLURM_PROCID", "0"))
