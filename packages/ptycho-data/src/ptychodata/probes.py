"""Which probe a scan is reconstructed with."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ptychoconfig.errors import ConfigError

from .bundle import Bundle
from .contracts import Scan

__all__ = ["probe_for"]


def probe_for(
    scan: Scan, bundle: Bundle, choice: Literal["auto", "file", "bundle"]
) -> tuple[NDArray[np.complex64], str]:
    """The probe to reconstruct ``scan`` with, and where it came from.

    A learned probe was refined by the patterns, so ``auto`` prefers it to the file's, which is
    often a guess; its power is set to that of the scan unless the scan's own is absolute.

    Returns:
        (M, N, N) complex64 in √photons, and ``file`` or ``bundle``.

    Raises:
        ConfigError: ``bundle`` was asked for and the bundle has no learned probe for this N.
        DataError: the file's probe is needed and there is none.
    """
    fits = [p for p in bundle.probes if bundle.probe_learned and p.shape[-1] == scan.N]
    if choice == "bundle" and len(fits) != 1:
        raise ConfigError(
            f"--probe bundle: expected one probe of {scan.N}×{scan.N} pixels learned in training, "
            f"found {len(fits)}; use --probe file, or train on one scan with --probe-trainable"
        )
    if choice == "file" or len(fits) != 1:
        return scan.photon_probe, "file"
    probe = fits[0].astype(np.complex64)
    if scan.probe_power == "relative":
        power = float(np.sum(np.abs(probe.astype(np.complex128)) ** 2))
        probe = (probe * np.sqrt(scan.mean_photons / power)).astype(np.complex64)
    return probe, "bundle"
