"""Several processes that apply one network together: which this one is, and how their sums meet.

Each runs the whole command on the same scan and takes its part of the batches; canvases are summed
over all, so that every one goes on with the same object.  The first process starts the others by
running its own command again, as Lightning does for a training, unless a launcher has; Lightning
itself takes seconds to import.
"""

import atexit
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from ptychoconfig.errors import BackendError
from ptychoconfig.schema import ExecutionConfig
from ptychodata.ranks import rank

__all__ = ["Ranks", "join"]

T = TypeVar("T")

_HOST, _ARRIVED = "127.0.0.1", "arrived"
_LONGEST = timedelta(hours=6)
"""Time that one process waits for another, which may be reading a large scan, or refining."""


@dataclass(frozen=True)
class Ranks:
    """This process among those that work together.

    Args:
        rank: its number, from 0.
        count: of how many.
    """

    rank: int = 0
    count: int = 1

    def mine(self, items: Iterable[T]) -> Iterator[T]:
        """Every ``count``-th item, this process's part."""
        return islice(items, self.rank, None, self.count)

    def sum(self, canvas: Tensor) -> None:
        """Add up what all have collected, in place and for all of them."""
        if self.count > 1:
            dist.all_reduce(canvas)

    def device(self, found: torch.device) -> torch.device:
        """This process's own of several GPUs."""
        if self.count > 1 and found.type == "cuda":
            return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        return found


def join(execution: ExecutionConfig) -> Ranks:
    """Meet the other processes that ``--devices`` asks for, and start them where nobody has.

    Raises:
        BackendError: another one ended before it came, or nobody says where to meet.
    """
    count = execution.devices * execution.num_nodes
    if count == 1:
        return Ranks()
    if not dist.is_initialized():
        torch.set_num_threads(max(1, torch.get_num_threads() // execution.devices))
        mine = rank(execution)
        store = dist.TCPStore(  # type: ignore[attr-defined]  # undeclared
            *_place(execution), count, mine == 0, _LONGEST, False
        )
        others = _started(count, store.port) if mine == 0 and _alone(os.environ) else []
        _await(store, count, others)
        dist.init_process_group("gloo", store=store, rank=mine, world_size=count, timeout=_LONGEST)
    return Ranks(dist.get_rank(), dist.get_world_size())


def _alone(environment: Mapping[str, str]) -> bool:
    return not {"RANK", "LOCAL_RANK", "SLURM_PROCID"} & environment.keys()


def _place(execution: ExecutionConfig) -> tuple[str, int]:
    """Host and port to meet at: any that is free (0), or the one after torchrun's own."""
    if _alone(os.environ) and execution.num_nodes == 1:
        return _HOST, 0
    try:
        return os.environ["MASTER_ADDR"], int(
            os.environ["MASTER_PORT"]
        ) + 1  # beside torchrun's own
    except (KeyError, ValueError) as error:
        raise BackendError(
            f"--devices {execution.devices}, --num-nodes {execution.num_nodes}: expected the "
            "environment variables MASTER_ADDR and MASTER_PORT, which say where the processes "
            f"meet, found {error}; start them with torchrun, or set both"
        ) from error


def _started(count: int, port: int) -> list[subprocess.Popen[bytes]]:
    """Run this command again for every other process of this machine."""
    main = sys.modules["__main__"].__spec__
    how = ["-m", main.name.removesuffix(".__main__")] if main else [sys.argv[0]]
    others = []
    for number in range(1, count):
        place = {"MASTER_ADDR": _HOST, "MASTER_PORT": str(port - 1)}
        place |= {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": str(count)}
        other = subprocess.Popen(
            [sys.executable, *how, *sys.argv[1:]],
            env={**os.environ, **place},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        atexit.register(_end, other)
        others.append(other)
    return others


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Let a process end by itself, for a moment."""
    try:
        process.wait(10 if dist.is_initialized() else 0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _await(store: Any, count: int, others: "list[subprocess.Popen[bytes]]") -> None:
    """Wait until all have come, as long as none of those that were started has ended."""
    arrived = store.add(_ARRIVED, 1)
    while arrived < count and others:
        for number, process in enumerate(others, start=1):
            if (code := process.poll()) is not None:
                raise BackendError(
                    f"--devices {count}: expected {count} processes to work together, found that "
                    f"number {number} ended with code {code}; its message stands above"
                )
        time.sleep(0.05)
        arrived = store.add(_ARRIVED, 0)
