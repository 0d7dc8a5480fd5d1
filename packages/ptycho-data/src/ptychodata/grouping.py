"""Which patterns are used, and which a network sees together: groups, subsamples, splits.

A group is a row of indices into a scan; no pattern is copied.  Every draw takes its generator or
seed as an argument, so that a result is a function of its inputs alone.
"""

from math import comb

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import ConvexHull, QhullError, cKDTree

from ptychoconfig.errors import ConfigError

__all__ = [
    "deal",
    "draw_subsample",
    "group_indices",
    "group_redundancy",
    "hold_out_interior",
    "keep_frames",
    "middle_patterns",
    "redundancy",
    "split_spatially",
    "split_validation",
]

Indices = NDArray[np.int64]


def group_indices(
    positions_px: NDArray[np.float64],
    gridsize: int,
    neighbor_count: int,
    rng: np.random.Generator,
    *,
    n_groups: int | None = None,
    oversampling: bool = False,
    sequential: bool = False,
) -> Indices:
    """Draw groups of C = gridsize² overlapping patterns.

    A group is an anchor and C − 1 of its K = ``neighbor_count`` nearest neighbours (K is at most
    P − 1), drawn without replacement.  Without oversampling every anchor is used once; with it,
    an anchor comes back with another choice of neighbours, so that no group repeats.

    Args:
        positions_px: (P, 2) probe centres (y, x).
        gridsize: side of a group.
        neighbor_count: K.
        rng: source of every draw.
        n_groups: G; None means one group per pattern.
        oversampling: allow G > P, up to P · K-choose-(C−1).
        sequential: anchor at the first patterns in scan order, not at random ones.

    Returns:
        (G, C) int64, the anchor in column 0, no index twice in a row.

    Raises:
        ConfigError: there are too few patterns or neighbours for a group, or too many groups are
            asked for.
    """
    count, size = len(positions_px), gridsize**2
    total = count if n_groups is None else n_groups
    neighbors = min(neighbor_count, count - 1)
    _check(count, gridsize, neighbor_count, total, oversampling)
    anchors = _anchors(count, total, sequential, rng)
    if size == 1:
        return anchors[:, None]
    near = _nearest(positions_px, neighbors)[anchors]  # (G, K)
    chosen = _choose(total, neighbors, size - 1, rng)
    if total > count:
        _redraw_repeats(chosen, anchors, neighbors, rng)
    return np.concatenate([anchors[:, None], np.take_along_axis(near, chosen, axis=1)], axis=1)


def _check(count: int, gridsize: int, neighbor_count: int, total: int, oversampling: bool) -> None:
    size = gridsize**2
    if count < size:
        raise ConfigError(
            f"--gridsize {gridsize}: expected at least {size} patterns for groups of {size}, "
            f"found {count}; use a smaller --gridsize"
        )
    if neighbor_count < size - 1:
        raise ConfigError(
            f"--neighbor-count: expected at least {size - 1} for groups of {size} "
            f"(--gridsize {gridsize}), found {neighbor_count}"
        )
    neighbors = min(neighbor_count, count - 1)
    bound = count * comb(neighbors, size - 1)
    if total > count and not oversampling:
        raise ConfigError(
            f"--n-groups: expected at most one group for each of {count} patterns, found {total}; "
            f"--oversampling allows up to {bound}"
        )
    if total > bound:
        raise ConfigError(
            f"--n-groups: expected at most {bound} = {count} patterns × {neighbors}-choose-"
            f"{size - 1} neighbours, found {total}; raise --neighbor-count"
        )


def _anchors(count: int, total: int, sequential: bool, rng: np.random.Generator) -> Indices:
    """Every pattern once before any comes again."""
    rounds = [
        np.arange(count) if sequential else rng.permutation(count)
        for _ in range(-(-total // count))
    ]
    return np.concatenate(rounds)[:total].astype(np.int64)


def _nearest(positions_px: NDArray[np.float64], neighbors: int) -> Indices:
    """(P, K) nearest other patterns; the pattern itself need not come first if two coincide."""
    found = cKDTree(positions_px).query(positions_px, k=neighbors + 1)[1]
    own = found == np.arange(len(found))[:, None]
    own[~own.any(axis=1), -1] = True  # more than K coincide: drop the last of them
    return np.asarray(found[~own].reshape(len(found), neighbors), dtype=np.int64)


def _choose(rows: int, neighbors: int, members: int, rng: np.random.Generator) -> Indices:
    """(rows, members) distinct columns out of ``neighbors``."""
    return np.argsort(rng.random((rows, neighbors)), axis=1)[:, :members].astype(np.int64)


def _redraw_repeats(
    chosen: Indices, anchors: Indices, neighbors: int, rng: np.random.Generator
) -> None:
    """Draw again, in place, the members of groups that occurred before, until none does."""
    members, bound = chosen.shape[1], comb(neighbors, chosen.shape[1])
    seen: dict[int, set[frozenset[int]]] = {}
    for row, anchor in enumerate(anchors):
        mine = seen.setdefault(int(anchor), set())
        while frozenset(chosen[row].tolist()) in mine:
            chosen[row] = rng.permutation(neighbors)[:members]
        mine.add(frozenset(chosen[row].tolist()))
        assert len(mine) <= bound


def keep_frames(count: int, exclude: str) -> Indices:
    """Patterns of a scan that remain, in its order.

    Args:
        count: P.
        exclude: numbers from 0 and ranges with both ends, such as ``3,10-20``.

    Raises:
        ConfigError: a range is backwards or beyond the scan, or nothing remains.
    """
    keep = np.ones(count, dtype=np.bool_)
    for part in exclude.split(","):
        first, _, last = part.partition("-")
        start, stop = int(first), int(last or first)
        if not start <= stop < count:
            raise ConfigError(
                f"--exclude: expected patterns from 0 to {count - 1} and ranges like 10-20, "
                f"found {part}; correct it"
            )
        keep[start : stop + 1] = False
    if not keep.any():
        raise ConfigError(
            f"--exclude: expected to leave some of {count} patterns, found {exclude} leaves none"
        )
    return np.flatnonzero(keep).astype(np.int64)


def draw_subsample(count: int, n: int, seed: int) -> Indices:
    """Draw ``n`` of ``count`` patterns, in scan order.

    Raises:
        ConfigError: more are to be drawn than there are.
    """
    if not 1 <= n <= count:
        raise ConfigError(f"--n-subsample: expected 1 to {count} patterns, found {n}")
    return np.sort(np.random.default_rng(seed).permutation(count)[:n]).astype(np.int64)


def middle_patterns(positions_px: NDArray[np.float64], count: int) -> Indices:
    """The ``count`` patterns nearest to the middle of a scan, all if it has no more, in its order.

    Args:
        positions_px: (P, 2) probe centres (y, x).
        count: patterns asked for.
    """
    distance = np.linalg.norm(positions_px - np.median(positions_px, axis=0), axis=1)
    return np.sort(np.argsort(distance, kind="stable")[:count]).astype(np.int64)


def split_validation(count: int, fraction: float, seed: int) -> tuple[Indices, Indices]:
    """Split patterns into those to train on and ⌊fraction · count⌋ held out, in scan order.

    Args:
        count: P.
        fraction: share to hold out, in [0, 1).
        seed: of the draw.
    """
    order = np.random.default_rng(seed).permutation(count).astype(np.int64)
    held = int(fraction * count)
    return np.sort(order[held:]), np.sort(order[:held])


def hold_out_interior(positions_px: NDArray[np.float64], fraction: float, seed: int) -> Indices:
    """Draw patterns whose part of the object their neighbours see too, to measure R_free on.

    Interior means farther than one and a half scan steps (medians of the distance to the nearest
    neighbour) from the hull of the positions.

    Args:
        positions_px: (P, 2) probe centres (y, x).
        fraction: share of the interior patterns to draw, rounded to the nearest number.
        seed: of the draw.

    Returns:
        (R,) sorted indices; none where the scan has no interior.
    """
    try:
        facets = ConvexHull(positions_px).equations  # rows (normal, offset): n·r + c ≤ 0 inside
    except (QhullError, ValueError):  # fewer than three positions, or all on one line
        return np.empty(0, np.int64)
    depth = -(positions_px @ facets[:, :2].T + facets[:, 2]).max(axis=1)
    nearest = cKDTree(positions_px).query(positions_px, k=2)[0][:, 1]
    interior = np.flatnonzero(depth > 1.5 * np.median(nearest))
    count = round(fraction * len(interior))
    drawn = np.random.default_rng(seed).choice(interior, size=count, replace=False)
    return np.sort(drawn).astype(np.int64)


def split_spatially(positions_px: NDArray[np.float64], fraction: float) -> tuple[Indices, Indices]:
    """Split patterns by a straight line across the longer side of the scan.

    Args:
        positions_px: (P, 2) probe centres (y, x).
        fraction: share beyond the line, to hold out, in [0, 1).

    Returns:
        Patterns to train on and ⌊fraction · P⌋ held out, in scan order.
    """
    count = len(positions_px)
    axis = int(np.argmax(np.ptp(positions_px, axis=0)))
    order = np.argsort(positions_px[:, axis], kind="stable").astype(np.int64)
    kept = count - int(fraction * count)
    return np.sort(order[:kept]), np.sort(order[kept:])


def deal(positions_px: NDArray[np.float64], parts: int, seed: int = 0) -> list[Indices]:
    """Deal the patterns of a scan out, so that every part covers it alike.

    Positions are lined up along a Z-order curve, which keeps neighbours together, and of each
    ``parts`` on end every part gets one, whose turn it is being drawn: no part is a lattice.

    Args:
        positions_px: (P, 2) probe centres (y, x).
        parts: number of parts.
        seed: of the draws.

    Returns:
        Sorted indices of each part; where P is no multiple, the first parts have one more.
    """
    if parts == 1:
        return [np.arange(len(positions_px))]
    low, extent = positions_px.min(axis=0), np.ptp(positions_px, axis=0).max()
    cell = ((positions_px - low) / max(float(extent), 1e-9) * (2**16 - 1)).astype(np.int64)
    code = np.zeros(len(cell), dtype=np.int64)
    for bit in range(16):
        code |= (((cell[:, 0] >> bit) & 1) << (2 * bit + 1)) | (
            ((cell[:, 1] >> bit) & 1) << 2 * bit
        )
    order = np.argsort(code, kind="stable").astype(np.int64)
    turn = np.random.default_rng(seed).integers(parts, size=-(-len(order) // parts))
    if len(order) % parts:
        turn[-1] = 0
    rank = np.arange(len(order))
    part = (rank + turn[rank // parts]) % parts
    return [np.sort(order[part == i]) for i in range(parts)]


def redundancy(probe: NDArray[np.complexfloating], positions_px: NDArray[np.float64]) -> float:
    """How many probes light a pixel of the object: P times the probe's area over the scan's.

    The area that intensity I covers is (Σ I)² / Σ I²; the scan's is the box of its positions, and
    half a probe around it.

    Args:
        probe: (M, N, N) modes in any unit.
        positions_px: (P, 2) probe centres (y, x).
    """
    intensity = np.sum(np.abs(probe.astype(np.complex128)) ** 2, axis=0)
    area = float(intensity.sum() ** 2 / np.sum(intensity**2))
    scanned = float(np.prod(np.ptp(positions_px, axis=0) + np.sqrt(area)))
    return len(positions_px) * area / scanned


def group_redundancy(of_scan: float, members: int, neighbors: int) -> float:
    """How many probes of a group light a pixel: those of C patterns drawn among K neighbours.

    Where each pattern has the area a/ρ to itself, a being the probe's and ρ the scan's redundancy,
    K + 1 of them lie in a square of side √((K + 1) a/ρ), so that this is C / (√((K + 1)/ρ) + 1)².

    Args:
        of_scan: ρ.
        members: C.
        neighbors: K.
    """
    return members / (np.sqrt((neighbors + 1) / of_scan) + 1) ** 2 if members > 1 else 1.0
