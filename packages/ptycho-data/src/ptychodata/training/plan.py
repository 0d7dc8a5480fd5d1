"""The settings of a training, with what the scans say, and whether the scans can be trained on."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from ptychoconfig.errors import ConfigError
from ptychoconfig.payloads import TrainingPayload, create_training_payload, infer_probe_size
from ptychodata.bundle import Bundle
from ptychodata.contracts import Scan

from .labels import check_labels

__all__ = ["plan_training"]


def plan_training(
    scans: Sequence[Scan],
    *,
    flags: Mapping[str, object],
    config_file: Path | None = None,
    start: Bundle | None = None,
) -> TrainingPayload:
    """Resolve every setting, with N from the data, and check the data against them.

    Args:
        scans: what to train on.
        flags: field → value, only what the user set.
        config_file: YAML file of settings.
        start: bundle to begin with, whose network it is to be.

    Raises:
        ConfigError: a setting is unknown, out of bounds, or does not fit the scans.
        DataError: a scan has no probe or no labels where they are needed, or no usable N.
        BundleError: the bundle's model is incomplete or unknown.
    """
    sides = [
        infer_probe_size(s.diffraction.shape, None if s.probe is None else s.probe.shape, s.name)
        for s in scans
    ]
    payload = create_training_payload(
        N=max(sides),  # a network that takes one N alone refuses the others
        flags=flags,
        config_file=config_file,
        bundle_config=None if start is None else start.config,
        patterns=min(map(len, scans)),
    )
    for scan in scans:
        if scan.probe is not None or payload.training.probe == "file":
            _ = scan.photon_probe  # raises where there is none, or one without power
    if payload.training.model_type == "distilled":
        _refuse_without_teacher(payload, start)
    elif payload.training.model_type == "supervised":
        for scan in scans:
            check_labels(scan)
    elif payload.training.poisson_weight > 0 and not all(scan.has_dose for scan in scans):
        raise ConfigError(
            "--poisson-weight: expected 0 for a scan without photon counts, found "
            f"{payload.training.poisson_weight}; give the mean photons with --nphotons"
        )
    return payload


def _refuse_without_teacher(payload: TrainingPayload, start: Bundle | None) -> None:
    if payload.model.architecture != "unrolled" or start is None:
        raise ConfigError(
            "--model-type distilled: expected `unrolled` and --from, a network that many passes "
            f"make a teacher of, found {payload.model.architecture!r}"
            f"{'' if start else ' without --from'}; add --from pretrained, or leave it out"
        )
