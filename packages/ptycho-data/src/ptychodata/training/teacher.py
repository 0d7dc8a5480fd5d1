"""What ``distilled`` training learns from: the object that many more passes come to.

The teacher is the network itself, which corrects nothing: its passes are an accelerated gradient
solver, and given enough of them they converge.  Low frequencies come last, and these the network
learns to bring in the few passes that it makes.  Nothing but the patterns is used.  After:
Y. Zhang et al., IEEE/CVF ICCV (2019) for a network that teaches itself.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from ptychoconfig.payloads import InferencePayload, TrainingPayload
from ptychoconfig.schema import InferenceConfig
from ptychodata.backends import Report
from ptychodata.bundle import Bundle
from ptychodata.contracts import Reconstruction, Scan

__all__ = ["PASSES", "taught"]

PASSES = 48
"""Of the teacher: four times those that the network makes when it is applied."""

Infer = Callable[[Bundle, Scan, InferencePayload, Report], Reconstruction]


def taught(
    infer: Infer,
    scans: Sequence[Scan],
    payload: TrainingPayload,
    start: Bundle,
    report: Report,
) -> list[Scan]:
    """The scans with what the teacher makes of them as their known object.

    Args:
        infer: what applies a network.
        scans: to learn from.
        payload: settings of the training.
        start: bundle of the network that learns.
        report: told how far the passes are.
    """
    still = {name: w * 0 if "/head/" in name else w for name, w in start.weights.items()}
    alone = {"devices": 1, "num_nodes": 1, "strategy": "auto"}  # every process makes the same
    asked = InferencePayload(
        model=payload.model,
        inference=InferenceConfig(passes=PASSES, probe="file", held_out_fraction=0.0),
        execution=payload.execution.model_copy(update=alone),
        sources={},
    )
    images = [infer(replace(start, weights=still), scan, asked, report) for scan in scans]
    return [_with_truth(scan, image) for scan, image in zip(scans, images, strict=True)]


def _with_truth(scan: Scan, image: Reconstruction) -> Scan:
    """Positions that count from the image's pixel [0, 0], where a known object's has to be."""
    origin = np.asarray(image.origin_yx_px, dtype=np.float64)
    return replace(scan, positions_px=scan.positions_px - origin, truth=image.obj, labels=None)
