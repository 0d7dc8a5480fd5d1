"""What supervised training learns from: known windows of the object.

A scan has them as patches of their own, centred on the exact positions (``Scan.labels``), or in its
known object, from which they are cut; its own come first.
"""

import numpy as np
from numpy.typing import NDArray

from ptychoconfig.errors import DataError
from ptychodata import physics
from ptychodata.contracts import Scan
from ptychodata.patterns import blocks

__all__ = ["check_labels", "known_windows"]


def check_labels(scan: Scan) -> None:
    """See that every pattern has a known, finite window.

    Raises:
        DataError: it has not.
    """
    place = f"{scan.name}: --model-type supervised"
    if scan.labels is not None:
        if not all(np.isfinite(block).all() for _, block in blocks(scan.labels)):
            raise DataError(
                f"{place}: expected finite labels in the key 'Y', found NaN or infinity; repair "
                "the file, or train with --model-type pinn"
            )
        return
    if scan.truth is None:
        raise DataError(
            f"{place}: expected labels in the key 'Y', or a known object in 'objectGuess' that "
            "holds every position, found neither; add one, or train with --model-type pinn, which "
            "needs none"
        )
    low = physics.split_positions(scan.positions_px)[0] - scan.N // 2
    high = low + scan.N
    if low.min() < 0 or (high > scan.truth.shape).any():
        raise DataError(
            f"{place}: expected a known object that holds the window of every pattern, found one "
            f"of {scan.truth.shape[0]} × {scan.truth.shape[1]} pixels, and windows from "
            f"{low.min(0).tolist()} to {high.max(0).tolist()}; leave patterns at the border out "
            "with --exclude, or add labels under the key 'Y'"
        )


def known_windows(scan: Scan, index: NDArray[np.int64]) -> NDArray[np.complex64]:
    """The object in the windows of the patterns ``index``: (B, N, N) complex64."""
    if scan.labels is not None:
        _, fraction = physics.split_positions(scan.positions_px[index])
        moved = physics.shift_object(np.asarray(scan.labels[index]), fraction)
        return moved.astype(np.complex64)
    assert scan.truth is not None
    pixel, _ = physics.split_positions(scan.positions_px[index])
    return physics.extract(scan.truth, pixel, scan.N)
