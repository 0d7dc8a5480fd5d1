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

__all__ = ["PASSES", "taught", "uncorrected"]

PASSES = 48
"""Of the teacher: four times those that the network makes when it is applied."""

Infer = Callable[[Bundle, Scan, InferencePayload, Report], Reconstruction]


def taught(
    infer: Infer,
    scans: Sequence[Scan],
    payload: TrainingPayload,
    start: Bundle | None,
    report: Report,
) -> Sequence[Scan]:
    """The scans as they are learned from: for ``distilled``, with the teacher's known object.

    Args:
        infer: what applies a network.
        scans: to learn from.
        payload: settings of the training.
        start: bundle that the network begins with.
        report: told how far the passes are.
    """
    if start is None or payload.training.model_type != "distilled":
        return scans
    asked = InferencePayload(
        model=payload.model,
        inference=InferenceConfig(passes=PASSES, probe="file", held_out_fraction=0.0),
        execution=payload.execution.alone(),  # every process makes the same
        sources={},
    )
    teacher = uncorrected(start)
    images = [infer(teacher, scan, asked, report) for scan in scans]
    return [_with_truth(scan, image) for scan, image in zip(scans, images, strict=True)]


def uncorrected(bundle: Bundle) -> Bundle:
    """The same passes of `unrolled`, whose U-Net corrects nothing."""
    weights = {name: w * 0 if "/head/" in name else w for name, w in bundle.weights.items()}
    return replace(bundle, weights=weights)


def _with_truth(scan: Scan, image: Reconstruction) -> Scan:
    """Positions that count from the image's pixel [0, 0], where a known object's has to be."""
    origin = np.asarray(image.origin_yx_px, dtype=np.float64)
    return replace(scan, positions_px=scan.positions_px - origin, truth=image.obj, labels=None)
