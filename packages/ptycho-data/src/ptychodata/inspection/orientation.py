r"""Which way patterns and positions lie to each other, found without a trained model.

Patterns can be stored in eight orientations, positions in eight more (axes swapped, signs turned).
Turning both together only turns the image.  Patterns turned by 180° are those of the twin O*, P*
at the same positions, so a half turn shows only where the probe is trusted and is not its own
twin.  What is left are four classes, which data do tell apart.

Two tests, on the same classes:

- *residual*: a short fit of object and probe (``epie``) to at most 128 neighbouring patterns,
  cropped to the middle 64 pixels, in all eight orientations; the right class explains them best.
  Both members of a class are tried, since the fit starts at the probe of the file, which for one
  of them is that of the twin.  The same fit with the positions drawn anew shows what positions
  are worth.
- *circulation*: over a small triangle of positions, the deflections g of the patterns' centre of
  mass, a mean phase gradient of the object, run in no circle: Σ g·dr around it is nearly 0 in the
  right class.  The root mean square over all triangles of neighbours, over that with the patterns
  drawn anew; free of any fit, but with smaller margins.

The fit also tells frames that lag: the patterns before and after each, at its position, in the
class as recorded and in the likeliest.  In a raster whose rows all run one way such a lag only
moves the image, and is neither seen nor harmful.

Flags are applied in this order: ``--transpose``, then ``--flip-y``, ``--flip-x``; ``--swap-xy``,
then ``--negate-y``, ``--negate-x``.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptychodata import physics
from ptychodata.contracts import Scan
from ptychodata.residuals import poisson_amplitude_error

from .epie import fit
from .geometry import probe_diameter_px

__all__ = ["CLASSES", "DECISIVE", "Orientation", "find_orientation", "reoriented"]

Flags = tuple[str, ...]
Real = NDArray[np.float64]

_TURN = ("--flip-y", "--flip-x")
_TWIN = ("--negate-y", "--negate-x")

CLASSES: dict[str, tuple[Flags, ...]] = {
    "as recorded": ((), _TURN, _TWIN, _TURN + _TWIN),
    "mirrored": (("--flip-x",), ("--flip-y",), ("--negate-x",), ("--negate-y",)),
    "transposed": (
        ("--transpose",),
        ("--transpose", *_TURN),
        ("--swap-xy",),
        ("--swap-xy", *_TWIN),
    ),
    "a quarter turn": (
        ("--transpose", "--flip-y"),
        ("--transpose", "--flip-x"),
        ("--swap-xy", "--negate-y"),
        ("--swap-xy", "--negate-x"),
    ),
}
"""Name → what leads to that class, four ways that only a trusted probe tells apart."""

DECISIVE = 1.1
"""Ratio of residuals from which one explanation is taken to be better than another."""

_SIDES = ((64, 128), (96, 64))  # pixels of the crop, and patterns, so that the time is the same
_POWER = 0.7  # share of the patterns' power that the crop should hold
_SPACING = 0.1  # of the probe's diameter, below which two patterns tell the same
_REACH = 8  # times N, from the middle of the scan
_FEWEST = 16
_MODES = 3
_PASSES = 8
_FIXED_PASSES = 5
_DRAWS = 20
_TRACE = 1.2  # times the photon noise: how far patterns must differ to say anything
_TRIANGULATED = 20_000  # positions
_SIGNIFICANT = 4.0  # standard deviations of the draws


@dataclass(frozen=True)
class Orientation:
    """What the two tests found.

    Args:
        likely: a key of ``CLASSES``, or ``undetermined``.
        margin: second smallest residual over the smallest.
        residuals: class → residual of the fit.
        drawn_residual: the same with positions drawn anew, in the likeliest class.
        circulation: class → circulation over that of patterns drawn anew; empty if the positions
            lie on a line.
        circulation_sd: standard deviation of the latter over its mean.
        belongs: whether pattern i belongs to position i; None if that cannot be told.
        chosen: the flags that a trusted probe singles out in the likely class; None if it does
            not, or there is none.
        fixed_residuals: flags → residual with the probe as it is trusted.
        nearer: the flags, of the two that turn patterns into the likeliest class, that fit better
            when starting from the probe of the file.
        nearer_margin: residual of the other two over theirs.
        lag: pattern i + lag belongs to position i; 0 unless −1 or 1 explain the patterns better.
        lag_residuals: lag → residual, of −1 and 1.
        n_patterns: patterns that were fitted.
        reason: why nothing could be tested; empty if it was.
    """

    likely: str = "undetermined"
    margin: float = float("nan")
    residuals: dict[str, float] = field(default_factory=dict)
    drawn_residual: float = float("nan")
    circulation: dict[str, float] = field(default_factory=dict)
    circulation_sd: float = float("nan")
    belongs: bool | None = None
    chosen: Flags | None = None
    fixed_residuals: dict[str, float] = field(default_factory=dict)
    nearer: Flags = ()
    nearer_margin: float = float("nan")
    lag: int = 0
    lag_residuals: dict[int, float] = field(default_factory=dict)
    n_patterns: int = 0
    reason: str = ""


def reoriented(flags: Flags, patterns: NDArray[Any], positions: Real) -> tuple[NDArray[Any], Real]:
    """Patterns (…, N, N) and positions (P, 2) as the flags turn them; DC stays in its place."""
    if "--transpose" in flags:
        patterns = patterns.swapaxes(-1, -2)
    for flag, axis in (("--flip-y", -2), ("--flip-x", -1)):
        if flag in flags:
            patterns = np.roll(np.flip(patterns, axis), 1, axis)
    if "--swap-xy" in flags:
        positions = positions[:, ::-1]
    signs = [-1.0 if flag in flags else 1.0 for flag in ("--negate-y", "--negate-x")]
    return patterns, positions * signs


def find_orientation(scan: Scan) -> Orientation:
    """Tell which of the four classes a scan is in, and whether pattern i belongs to position i.

    Takes a few seconds, and the memory of 128 cropped patterns.

    Args:
        scan: with DC in the centre of its patterns.
    """
    if scan.near_field:
        return Orientation(reason="the detector was in the near field")
    diameter = float("nan") if scan.probe is None else probe_diameter_px(scan.probe)
    if not diameter > 0:
        return Orientation(reason="there is no probe to start from")
    chosen = _neighborhood(scan, diameter)
    if len(chosen) < _FEWEST:
        return Orientation(reason=f"fewer than {_FEWEST} positions lie near each other and differ")
    sample = _sample(scan, chosen)
    if not sample.counts.any():
        return Orientation(reason="the patterns are empty around their centre")
    tried = {way: sample.residual(way) for ways in CLASSES.values() for way in ways[:2]}
    residuals = {name: min(tried[way] for way in ways[:2]) for name, ways in CLASSES.items()}
    ranked = sorted(residuals, key=lambda name: residuals[name])
    best = ranked[0]
    nearer, farther = sorted(CLASSES[best][:2], key=lambda way: tried[way])
    drawn = sample.residual(nearer, shuffled=True)
    lags = _of_lags(scan, chosen, {(), nearer})
    lag = min(lags, key=lambda step: lags[step])
    late = lags[lag] * DECISIVE <= residuals[best]
    margin = residuals[ranked[1]] / max(residuals[best], 1e-12)
    circulation, spread = _circulation(scan.positions_px, scan.survey.deflection_px, diameter)
    belongs = _belongs(drawn / max(residuals[best], 1e-12), circulation, spread, sample.has_trace())
    known = margin >= DECISIVE and belongs is True and not late
    fixed, way = (
        _of_trusted(sample, best) if known and scan.probe_power == "absolute" else ({}, None)
    )
    return Orientation(
        likely=best if known else "undetermined",
        margin=margin,
        residuals=residuals,
        drawn_residual=drawn,
        circulation=circulation,
        circulation_sd=spread,
        belongs=belongs,
        chosen=way,
        fixed_residuals=fixed,
        nearer=nearer,
        nearer_margin=tried[farther] / max(tried[nearer], 1e-12),
        lag=lag if late else 0,
        lag_residuals=lags,
        n_patterns=len(chosen),
    )


def _neighborhood(scan: Scan, diameter: float) -> NDArray[np.intp]:
    """Patterns around the middle of the scan, not closer to each other than they need be."""
    offset = scan.positions_px - np.median(scan.positions_px, axis=0)
    _, first = np.unique(np.floor(offset / (_SPACING * diameter)), axis=0, return_index=True)
    distance = np.linalg.norm(offset[first], axis=1)
    order = np.argsort(distance, kind="stable")[: _SIDES[0][1]]
    near = order[distance[order] < _REACH * scan.N]  # an outlier would make the object huge
    return np.asarray(first[near], dtype=np.intp)


@dataclass(frozen=True, eq=False)
class _Sample:
    """A few cropped patterns with their positions and a probe, in pixels of the crop."""

    counts: NDArray[np.float32]
    valid: NDArray[np.bool_]
    positions_px: Real
    probe: NDArray[np.complex64]
    has_dose: bool

    def residual(self, flags: Flags, *, shuffled: bool = False, fixed: bool = False) -> float:
        counts, positions = reoriented(flags, self.counts, self.positions_px)
        valid, _ = reoriented(flags, self.valid, self.positions_px)
        if shuffled:
            positions = np.roll(
                positions[np.random.default_rng(0).permutation(len(positions))], 1, 0
            )
        found = fit(
            counts,
            positions,
            self.probe,
            valid,
            passes=_FIXED_PASSES if fixed else _PASSES,
            refine_probe=not fixed,
        )
        return float(np.mean(found.residual))

    def has_trace(self) -> bool:
        """Whether the patterns differ by more than photon noise, as far as that is known."""
        if not self.has_dose:
            return True
        amplitude = np.where(self.valid, np.sqrt(self.counts), 0)
        number = np.maximum(self.valid.sum(axis=0), 1)
        mean, rate = amplitude.sum(axis=0) / number, self.counts.sum(axis=0) / number
        variation = float(np.sum(np.abs(amplitude - mean) * self.valid, dtype=np.float64))
        noise = float(np.sum(poisson_amplitude_error(rate) * self.valid, dtype=np.float64))
        return variation > _TRACE * noise


def _of_lags(scan: Scan, near: NDArray[np.intp], ways: set[Flags]) -> dict[int, float]:
    """Residual with the pattern before, and after, at each position: the least of some ways."""
    samples = {lag: _sample(scan, near, lag) for lag in (-1, 1)}
    return {lag: min(map(sample.residual, ways)) for lag, sample in samples.items()}


def _sample(scan: Scan, near: NDArray[np.intp], lag: int = 0) -> _Sample:
    """Crop to where most of the power is, and the probe to the same spatial frequencies.

    The pattern i + ``lag`` is taken to the position i; the ends of the scan stay as they are.
    """
    first = np.sort(near[:_FEWEST])
    power = sum(_clean(scan, int(index))[0] for index in first)
    total = float(np.sum(power))
    side, number = _SIDES[0]
    if side < scan.N and _cropped(np.asarray(power), side).sum() < _POWER * total:
        side, number = _SIDES[1]
    side = min(side, scan.N)
    index = np.sort(near[:number])
    taken = np.clip(index + lag, 0, len(scan) - 1)
    frames = [tuple(_cropped(part, side) for part in _clean(scan, int(i))) for i in taken]
    counts, valid = (np.stack(parts) for parts in zip(*frames, strict=True))
    assert scan.probe is not None
    strongest = np.argsort(-np.sum(np.abs(scan.probe) ** 2, axis=(1, 2)), kind="stable")[:_MODES]
    probe = physics.inverse_far_field(_cropped(physics.far_field(scan.probe[strongest]), side))
    mean = float(counts.sum(axis=(1, 2), dtype=np.float64).mean())
    scale = np.sqrt(mean / max(1e-30, float(np.sum(np.abs(probe) ** 2))))
    return _Sample(
        counts.astype(np.float32),
        valid,
        scan.positions_px[index] * (side / scan.N),
        (probe * scale).astype(np.complex64),
        scan.has_dose,
    )


def _clean(scan: Scan, index: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Counts of a pattern and their validity; what cannot be a count is not valid."""
    counts, mask = scan.counts([index])[0], scan.valid([index])
    good = np.isfinite(counts) & (counts >= 0)
    good = good if mask is None else good & (mask[0] if mask.ndim == 3 else mask)
    return np.where(good, counts, 0), good


def _cropped(array: NDArray[Any], side: int) -> NDArray[Any]:
    """The middle of an array (…, N, N), DC from N//2 to side//2."""
    low = array.shape[-1] // 2 - side // 2
    return array[..., low : low + side, low : low + side]


def _circulation(
    positions: Real, deflection: Real, diameter: float
) -> tuple[dict[str, float], float]:
    """Circulation of each class over that of patterns drawn anew, and the latter's spread."""
    from scipy.spatial import Delaunay, QhullError

    distance = np.linalg.norm(positions - np.median(positions, axis=0), axis=1)
    near = np.argsort(distance, kind="stable")[:_TRIANGULATED]
    positions, deflection = positions[near], deflection[near]
    try:
        corners = Delaunay(positions).simplices
    except (QhullError, ValueError):
        return {}, float("nan")
    sides = np.roll(positions[corners], -1, axis=1) - positions[corners]  # (T, 3, 2)
    small = (np.linalg.norm(sides, axis=-1) < diameter).all(axis=1)
    corners, sides = corners[small], sides[small]
    if len(corners) < _FEWEST:
        return {}, float("nan")

    def circulation(field: Real) -> float:
        at = field[corners]
        around = np.sum((at + np.roll(at, -1, axis=1)) / 2 * sides, axis=(1, 2))
        return float(np.sqrt(np.mean(around**2)))

    field = deflection - deflection.mean(axis=0)
    rng = np.random.default_rng(0)
    drawn = np.array([circulation(rng.permutation(field)) for _ in range(_DRAWS)])
    if not drawn.mean() > 0:
        return {}, float("nan")
    turned = {
        "as recorded": field,
        "mirrored": field * [1, -1],
        "transposed": field[:, ::-1],
        "a quarter turn": field[:, ::-1] * [1, -1],
    }
    found = {name: circulation(turned[name]) / float(drawn.mean()) for name in CLASSES}
    return found, float(drawn.std() / drawn.mean())


def _belongs(
    gain: float, circulation: dict[str, float], spread: float, has_trace: bool
) -> bool | None:
    """Whether positions explain the patterns: by the fit, else by the deflections."""
    if gain >= DECISIVE:
        return True
    if circulation and min(circulation.values()) < 1 - max(_SIGNIFICANT * spread, 0.05):
        return True
    return False if has_trace and circulation else None


def _of_trusted(sample: _Sample, name: str) -> tuple[dict[str, float], Flags | None]:
    """Residuals of the ways into a class with the probe held, and the way that stands out."""
    found = {way: sample.residual(way, fixed=True) for way in CLASSES[name]}
    first, second = sorted(found, key=lambda way: found[way])[:2]
    named = {" ".join(way) or "as recorded": value for way, value in found.items()}
    return named, first if found[second] >= DECISIVE * found[first] else None
