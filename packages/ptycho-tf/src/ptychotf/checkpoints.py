"""Checkpoints as NPZ: arrays under their names, and all else as JSON; nothing in them executes."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptychodata.files import atomic_path
from ptychodata.training.checkpoints import Place, no_checkpoint, place_of

__all__ = ["read_checkpoint", "write_checkpoint"]

_KEY = "ptycho"


def write_checkpoint(
    path: Path, arrays: Mapping[str, NDArray[Any]], state: Mapping[str, Any]
) -> None:
    """Write a checkpoint whole or not at all.

    Args:
        path: the file; the one before survives a full disk or a kill.
        arrays: of weights, optimiser and probes.
        state: JSON values, ``identity`` of the run and its place among them.

    Raises:
        ConfigError: the folder is gone or the disk is full.
    """
    text = np.frombuffer(json.dumps(state).encode(), np.uint8)
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **{_KEY: text}, **arrays)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(buffer.getbuffer())


def read_checkpoint(
    path: Path, origin: dict[str, Any]
) -> tuple[Place, dict[str, NDArray[Any]], dict[str, Any]]:
    """Where the run of a checkpoint stands, its arrays, and all else.

    Args:
        path: the checkpoint.
        origin: what this run is, from ``identity``.

    Raises:
        ConfigError: it is no checkpoint of this backend and version, or of another run.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        state = json.loads(arrays.pop(_KEY).tobytes())
    except Exception as error:  # a damaged file can raise anything
        raise no_checkpoint("tf", path, error) from error
    return place_of(state, origin, path), arrays, state
