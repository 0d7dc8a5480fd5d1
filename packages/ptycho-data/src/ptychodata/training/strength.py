"""How strong an object the data imply: what the scale e^α of a fresh network begins with.

A bounded amplitude cannot reach an object that is stronger than its bound, and α, which learns at
the rate of every weight, hardly gets it there: the network ends at the bound, with the same answer
for every pattern.  An object is that strong where the power of a probe is off by a factor.
"""

from collections.abc import Sequence

import numpy as np

from ptychoconfig.payloads import TrainingPayload
from ptychodata import physics
from ptychodata.contracts import Scan

from .labels import known_windows

__all__ = ["first_scale", "known_strength", "object_strength"]

USUAL = 0.6
"""What a sigmoid is to say of the object's root-mean-square modulus: it is steep there, and has
room above.  1 would leave none; 1/2, what fresh weights say, begins at an even object of the right
brightness, which some trainings never leave (``docs/quality.md``)."""

_LEAST_EMPTY = 0.01  # share of an empty region's photons: fewer, seen past a stop, are no measure
_WINDOWS = 64  # known windows that are looked at


def object_strength(scan: Scan) -> float:
    r"""Root-mean-square modulus of the object under the probe, as the photons imply it.

    .. math::
        s = \sqrt{\frac{\bar n - \sum w\,b}{\sum_m \sum w\,|F P_m|^2}}

    with the mean photons :math:`\bar n` of a pattern, the background b and the share w of the
    patterns in which a pixel is valid: photons over those of an empty region.  F is unitary, so
    without a mask the denominator is :math:`\sum_m\sum|P_m|^2`.

    Args:
        scan: with a probe.

    Returns:
        s > 0; 1 where nothing was counted above the background.
    """
    waves = physics.far_field(scan.photon_probe.astype(np.complex128))
    region = physics.intensity(waves[None])[0]  # what an empty one gives
    mask = np.ones_like(region) if scan.mask is None else scan.mask
    weight = mask.reshape(-1, *region.shape).mean(axis=0)
    empty = max(float(np.sum(weight * region)), _LEAST_EMPTY * float(np.sum(region)))
    counted = scan.mean_photons
    if scan.background is not None:
        counted -= float(np.sum(weight * scan.background))
    return float(np.sqrt(counted / empty)) if counted > 0 and empty > 0 else 1.0


def known_strength(scan: Scan) -> float:
    """Root-mean-square modulus of the known object under the probe, of at most 64 windows.

    Args:
        scan: with a probe and known windows.
    """
    index = np.unique(np.linspace(0, len(scan) - 1, _WINDOWS).astype(np.int64))
    known = known_windows(scan, index)
    light = physics.coverage(scan.photon_probe[None])[0]
    square = float(np.sum(light * np.abs(known) ** 2) / (len(index) * np.sum(light)))
    return square**0.5 if square > 0 else 1.0


def first_scale(scans: Sequence[Scan], payload: TrainingPayload) -> float:
    """What e^α of a network begins with that no bundle gives weights to.

    It is the strength of the object, over what a sigmoid is to say of it; an amplitude without a
    bound needs no room.  Of several scans it is the geometric mean: a factor on every probe divides
    the scale by it, and no dose counts more than another.

    Args:
        scans: what is learned from: the photons, or known windows in supervised training.
        payload: ``model.intensity_scale_trainable`` off keeps the factor at 1.
    """
    if not payload.model.intensity_scale_trainable:
        return 1.0
    strength = known_strength if payload.training.labelled else object_strength
    mean = float(np.exp(np.mean([np.log(strength(scan)) for scan in scans])))
    return mean / USUAL if payload.model.amp_activation == "sigmoid" else mean
