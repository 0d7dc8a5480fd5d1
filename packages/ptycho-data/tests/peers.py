"""A scan without symmetry, for files that are laid out by hand as a format's documentation says.

A file is right if our forward model, with what we read from it, predicts the patterns in it.
"""

import numpy as np

from ptychodata import physics
from ptychodata.contracts import Scan

N = 32
H, W = 90, 110
ENERGY_EV, DISTANCE_M, DETECTOR_PIXEL_M = 8000.0, 1.5, 75e-6
WAVELENGTH_M = 1.239841984e-6 / ENERGY_EV
PIXEL_M = WAVELENGTH_M * DISTANCE_M / (N * DETECTOR_PIXEL_M)


class Peer:
    """Object (H, W), probe (2, N, N), positions (P, 2) in pixels of the object, and counts."""

    def __init__(self) -> None:
        rng = np.random.default_rng(11)
        smooth = rng.normal(size=(H, W)).cumsum(axis=0).cumsum(axis=1)
        smooth = 2 * (smooth - smooth.min()) / np.ptp(smooth)
        self.obj = (rng.uniform(0.5, 1, (H, W)) * np.exp(-1j * smooth)).astype(np.complex64)
        y, x = np.mgrid[:N, :N] - N // 2
        disk = np.exp(-(((y - 1) / 7) ** 2) - ((x + 2) / 4) ** 2 + 0.05j * y * y + 0.2j * x)
        self.probe = 30 * np.stack([disk, 0.3 * disk * (y + 0.3 * x) / 7]).astype(np.complex64)
        self.positions_px = rng.uniform([25, 25], [H - 25, W - 25], (7, 2))
        self.counts = physics.forward(self.obj, self.probe, self.positions_px).astype(np.float32)

    @property
    def relative_m(self) -> np.ndarray:
        """Positions in metres from the middle of the object array."""
        return (self.positions_px - np.array([H, W]) / 2) * PIXEL_M


def assert_predicts(scan: Scan, peer: Peer, tolerance: float = 1e-3) -> None:
    """Our forward model of what was read, with the peer's object, gives the counts in the file.

    Positions may differ from the peer's by one shift of all, as the file's origin is free.
    """
    shift = (peer.positions_px - scan.positions_px).mean(axis=0)
    np.testing.assert_allclose(peer.positions_px - scan.positions_px - shift, 0, atol=1e-4)
    assert scan.probe is not None
    rate = physics.forward(peer.obj, scan.probe, scan.positions_px + shift)
    np.testing.assert_allclose(scan.counts(), peer.counts, rtol=1e-5)
    error = np.abs(rate - scan.counts()).max() / scan.counts().max()
    assert error < tolerance, error
