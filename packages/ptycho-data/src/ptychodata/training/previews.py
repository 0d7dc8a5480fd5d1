"""What a preview of a training looks at: a small part of the scan, and the network as it is."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptychoconfig.payloads import InferencePayload, TrainingPayload
from ptychoconfig.schema import InferenceConfig
from ptychodata.bundle import Bundle
from ptychodata.contracts import Scan
from ptychodata.grouping import middle_patterns

__all__ = ["as_it_stands", "small_part"]

_PATTERNS = 128
"""Patterns that are looked at: enough to see the object, a small share of an epoch's time."""


def small_part(scan: Scan) -> Scan:
    """The middle of a scan."""
    return scan.subset(middle_patterns(scan.positions_px, _PATTERNS))


def as_it_stands(
    backend: str,
    payload: TrainingPayload,
    weights: Mapping[str, NDArray[Any]],
    probe: NDArray[np.complex64],
) -> tuple[Bundle, InferencePayload]:
    """What inference takes, from a network in training.

    Args:
        backend: its name.
        payload: settings of the training.
        weights: arrays under framework-neutral names.
        probe: (M, N, N) modes of the scan, √photons.
    """
    now = Bundle(
        backend=backend,
        config={
            name: getattr(payload, name).model_dump(mode="json") for name in ("model", "training")
        },
        weights=weights,
        probes=(probe,),
        probe_learned=True,
        history={},
        statistics={},
        versions={},
    )
    settings = InferencePayload(
        model=payload.model,
        inference=InferenceConfig(),
        execution=payload.execution.alone(),
        sources={},
    )
    return now, settings
