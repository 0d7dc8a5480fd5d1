"""What a training leaves: a bundle, whichever backend made its weights."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

import ptychoconfig
import ptychodata
from ptychoconfig.payloads import TrainingPayload
from ptychodata.bundle import Bundle
from ptychodata.contracts import Scan
from ptychodata.trust import training_statistics

__all__ = ["trained_bundle"]


def trained_bundle(
    backend: str,
    scans: Sequence[Scan],
    payload: TrainingPayload,
    *,
    weights: Mapping[str, NDArray[Any]],
    probes: Sequence[NDArray[np.complex64]],
    history: Mapping[str, list[float]],
    versions: Mapping[str, str],
) -> Bundle:
    """Put together what was learned and what from.

    Args:
        backend: its name.
        scans: what was trained on.
        payload: settings of the run.
        weights: arrays under framework-neutral names.
        probes: one (M, N, N) per scan, √photons.
        history: metric → values over the run.
        versions: versions of the backend's own packages.
    """
    photons = np.concatenate([scan.photons for scan in scans])
    return Bundle(
        backend=backend,
        config={
            name: getattr(payload, name).model_dump(mode="json")
            for name in ("model", "data", "training")
        },
        weights=weights,
        probes=tuple(probes),
        probe_learned=payload.training.probe_trainable,
        history=dict(history),
        statistics={
            "mean_photons": float(photons.mean()),
            "n_patterns": float(len(photons)),
            "n_scans": float(len(scans)),
            **training_statistics(scans),
        },
        versions={
            "ptycho-config": ptychoconfig.__version__,
            "ptycho-data": ptychodata.__version__,
            **versions,
        },
    )
