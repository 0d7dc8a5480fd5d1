r"""How much neighbouring illuminations overlap, in three ways.

Illuminations are taken as disks of diameter D, radius R.  Two of them at distance d share the
fraction

.. math::
    f(d) = \frac{2R^2 \arccos\frac{d}{2R} - \frac d2 \sqrt{4R^2 - d^2}}{\pi R^2}

of their area, 0 for d ≥ D.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptychoconfig.errors import DataError

__all__ = ["METRICS_VERSION", "disk_overlap", "overlap_metrics"]

_TOGETHER = 64

METRICS_VERSION = 1
"""Of the definitions in this module; recorded beside every result."""

Real = NDArray[np.float64]


def disk_overlap(distance_px: Real, diameter_px: float) -> Real:
    """Shared fraction f(d) of the area of two disks, in the shape of ``distance_px``."""
    half = np.clip(np.asarray(distance_px) / diameter_px, 0, 1)  # d / 2R
    return np.asarray(2 / np.pi * (np.arccos(half) - half * np.sqrt(1 - half**2)))


def overlap_metrics(
    positions_px: Real,
    diameter_px: float,
    groups: NDArray[np.integer[Any]] | None = None,
    *,
    neighbors: int = 6,
) -> dict[str, float | int]:
    """Measure the overlap of a scan.

    Args:
        positions_px: (P, 2) probe centres (y, x).
        diameter_px: D.
        groups: (G, C) indices with the anchor in column 0, as ``group_indices`` draws them.
        neighbors: K.

    Returns:
        The parameters, and

        - ``group_overlap``: mean f over anchors and the other members of their groups; NaN
          without groups of more than one;
        - ``position_overlap``: mean f over each position and its K nearest different ones,
          repeated positions taken once;
        - ``centroid_overlap``: mean f over the pairs of group centroids closer than D, 0 if there
          are none; NaN without groups.

    Raises:
        DataError: D is not above 0, K below 1, or fewer than two positions differ.
    """
    distinct = np.unique(positions_px, axis=0)
    if not (np.isfinite(diameter_px) and diameter_px > 0 and neighbors >= 1 and len(distinct) > 1):
        raise DataError(
            "expected a probe diameter above 0, at least one neighbour and two different "
            f"positions, found {diameter_px:g} px, {neighbors} and {len(distinct)}"
        )
    grouped = groups is not None and len(groups) > 0
    size = groups.shape[1] if groups is not None else 0
    return {
        "metrics_version": METRICS_VERSION,
        "diameter_px": diameter_px,
        "neighbors": neighbors,
        "n_positions": len(positions_px),
        "n_distinct": len(distinct),
        "n_groups": len(groups) if groups is not None else 0,
        "group_size": size,
        "group_overlap": _of_groups(positions_px, groups, diameter_px)
        if grouped and size > 1 and groups is not None
        else float("nan"),
        "position_overlap": _of_positions(distinct, diameter_px, neighbors),
        "centroid_overlap": _of_centroids(positions_px[groups].mean(axis=1), diameter_px)
        if grouped and groups is not None
        else float("nan"),
    }


def _of_groups(positions: Real, groups: NDArray[np.integer[Any]], diameter: float) -> float:
    members = positions[groups]  # (G, C, 2)
    apart = np.linalg.norm(members[:, 1:] - members[:, :1], axis=-1)
    return float(disk_overlap(apart, diameter).mean())


def _of_positions(distinct: Real, diameter: float, neighbors: int) -> float:
    from scipy.spatial import cKDTree

    count = min(neighbors, len(distinct) - 1)
    apart, _ = cKDTree(distinct).query(distinct, k=count + 1)
    return float(disk_overlap(apart[:, 1:], diameter).mean())


def _of_centroids(centroids: Real, diameter: float) -> float:
    """Over ordered pairs, of a few centroids at a time so that memory does not grow with all."""
    from scipy.spatial import cKDTree

    strip = np.floor(centroids[:, 0] / diameter)
    centroids = centroids[np.lexsort((centroids[:, 1], strip))]  # so that a few lie together
    tree, total, count = cKDTree(centroids), 0.0, 0
    for start in range(0, len(centroids), _TOGETHER):
        part = cKDTree(centroids[start : start + _TOGETHER])
        pairs = part.sparse_distance_matrix(tree, diameter, output_type="ndarray")
        others = pairs["i"] + start != pairs["j"]
        closer = pairs["v"][others & (pairs["v"] < diameter)]
        total, count = total + float(disk_overlap(closer, diameter).sum()), count + len(closer)
    return total / count if count else 0.0
