r"""Scans of known objects.

A simulated scan is what the forward model of ``ptychodata.physics`` says of an object, a probe and
positions, as a detector would count it.  The mean of ΣI over the patterns is ``nphotons`` in
expectation, before the detector adds its background and loses dead and saturated pixels; the probe
is scaled to that and its power is then absolute.

Patterns are made at the true positions; the scan records the nominal ones and keeps the true ones
beside them.  Object, positions, noise, position errors, dead pixels and aberrations draw from
streams of their own, so that another dose leaves the object as it is.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ptychoconfig.schema import SimulationConfig

from . import physics
from .beams import make_probe
from .contracts import Scan
from .objects import OBJECTS
from .stitching import plan_canvas

__all__ = ["Detector", "scan_of", "scan_positions", "simulate"]

Real = NDArray[np.float64]

JITTER = 0.3
"""Largest displacement of a jittered raster position along an axis, in steps."""

_CHUNK_PIXELS = 2**19


@dataclass(frozen=True, eq=False)
class Detector:
    """What keeps counts from being the photons of the sample.

    Args:
        background_counts: expected counts that every pixel adds.
        dead: (N, N) bool, True where a pixel counts nothing; None = nowhere.
        saturation_counts: the most that a pixel can count; None = no limit.
        has_mask: the scan has a mask of what is dead or saturated.
    """

    background_counts: float = 0.0
    dead: NDArray[np.bool_] | None = None
    saturation_counts: int | None = None
    has_mask: bool = True


_PERFECT = Detector()


def simulate(config: SimulationConfig) -> Scan:
    """Simulate a scan whose object is known; a function of ``config`` alone.

    Raises:
        DataError: the probe file does not fit, or the object would be absurdly large.
        ConfigError: the settings contradict each other.
    """
    streams = np.random.default_rng(config.seed).spawn(6)
    object_rng, position_rng, noise_rng, error_rng, detector_rng, probe_rng = streams
    probe, diameter = make_probe(config, probe_rng)
    step = config.step_px or (1 - config.overlap) * diameter
    nominal = scan_positions(config.positions_kind, config.n_patterns, step, position_rng)
    true = nominal + config.position_error_px * error_rng.standard_normal(nominal.shape)
    shape, origin = plan_canvas(np.concatenate([nominal, true]), config.N)
    truth = OBJECTS[config.object_kind](shape, object_rng)
    scan = scan_of(
        truth.astype(np.complex64),
        probe.astype(np.complex64),
        true - origin,  # the object begins where the first window does
        config.nphotons,
        noise_rng if config.noise else None,
        detector=_detector(config, detector_rng),
        name=f"{config.object_kind}-{config.seed}",
    )
    return replace(
        scan,
        positions_px=nominal - origin,
        true_positions_px=scan.positions_px if config.position_error_px else None,
        provenance={"simulation": _recorded(config)},
    )


def _recorded(config: SimulationConfig) -> dict[str, object]:
    """Every setting, the seed among them; of the probe's file the name alone."""
    file = config.probe_file
    return {**config.model_dump(), "probe_file": None if file is None else Path(file).name}


def _detector(config: SimulationConfig, rng: np.random.Generator) -> Detector:
    dead = np.zeros(config.N**2, dtype=np.bool_)
    dead[rng.permutation(config.N**2)[: config.dead_pixels]] = True
    return Detector(
        background_counts=config.background_counts,
        dead=dead.reshape(config.N, config.N) if config.dead_pixels else None,
        saturation_counts=config.saturation_counts,
        has_mask=config.mask_recorded,
    )


def scan_of(
    truth: NDArray[np.complex64],
    probe: NDArray[np.complex64],
    positions_px: Real,
    nphotons: float,
    noise: np.random.Generator | None,
    *,
    detector: Detector = _PERFECT,
    name: str = "simulated",
) -> Scan:
    """Measure an object.

    Args:
        truth: (H, W) transmission; pixel [0, 0] is at position (0, 0).
        probe: (M, N, N) modes in any unit.
        positions_px: (P, 2) probe centres (y, x), every window inside the object.
        nphotons: mean of Σλ over the patterns without background, to which the probe is scaled.
        noise: draws the counts, pattern by pattern; None stores the expectations.
        detector: what it adds and loses.
        name: of the scan.

    Returns:
        A scan of counts: uint32 where drawn (float32 beyond its range), float32 otherwise.
    """
    probe = probe / np.float32(np.sqrt(np.sum(np.abs(probe) ** 2)))
    rate = np.empty((len(positions_px), *probe.shape[1:]), dtype=np.float32)
    total = 0.0
    for part in _chunks(rate):
        rate[part] = physics.forward(truth, probe, positions_px[part])
        total += float(rate[part].sum(dtype=np.float64))
    scale = nphotons * len(rate) / total
    rate *= np.float32(scale)
    background = None
    if detector.background_counts:
        background = np.full(probe.shape[1:], detector.background_counts, dtype=np.float32)
        rate += background
    counts = rate if noise is None else _drawn_in_place(rate, noise)
    return Scan(
        diffraction=counts,
        positions_px=positions_px,
        probe=(probe * np.float32(np.sqrt(scale))).astype(np.complex64),
        probe_power="absolute",
        mask=_detected_in_place(counts, detector),
        background=background,
        truth=truth,
        name=name,
    )


def _chunks(patterns: NDArray[np.generic]) -> Iterator[slice]:
    """Few enough patterns at a time to stay near the cache."""
    size = max(1, _CHUNK_PIXELS // patterns[0].size)
    return (slice(start, start + size) for start in range(0, len(patterns), size))


def _drawn_in_place(
    rate: NDArray[np.float32], rng: np.random.Generator
) -> NDArray[np.uint32] | NDArray[np.float32]:
    """Poisson counts, in the memory of the rates; float32 would round counts above 2²⁴."""
    peak = float(rate.max())
    fits = peak + 20 * np.sqrt(peak) < np.iinfo(np.uint32).max
    counts = rate.view(np.uint32) if fits else rate
    for part in _chunks(rate):
        counts[part] = rng.poisson(rate[part].astype(np.float64))
    return counts


def _detected_in_place(
    counts: NDArray[np.uint32] | NDArray[np.float32], detector: Detector
) -> NDArray[np.bool_] | None:
    """Lose what dead and saturated pixels lose; the mask of what is left, True = valid.

    The mask is (N, N), or (P, N, N) where pixels are saturated; None if it is all True or is not
    recorded.
    """
    dead, most = detector.dead, detector.saturation_counts
    if dead is not None:
        counts[:, dead] = 0
    valid = None if dead is None else ~dead
    if most is not None and counts.max() >= most:
        below = counts < most
        np.minimum(counts, counts.dtype.type(most), out=counts)
        valid = below if valid is None else below & valid
    return valid if detector.has_mask else None


def scan_positions(kind: str, count: int, step_px: float, rng: np.random.Generator) -> Real:
    """Probe centres (y, x), one per step² of area, in the order of the scan.

    Args:
        kind: of ``SimulationConfig.positions_kind``.
        count: P.
        step_px: distance of neighbours.
        rng: of jittered and random positions.

    Returns:
        (P, 2) float64.
    """
    if kind == "random":
        return rng.uniform(0, step_px * np.sqrt(count), size=(count, 2))
    if kind == "spiral":  # Fermat's, as sunflower seeds lie
        k = np.arange(count)
        angle, radius = k * np.pi * (3 - np.sqrt(5)), step_px * np.sqrt(k / np.pi)
        return np.stack([radius * np.sin(angle), radius * np.cos(angle)], axis=1)
    columns = int(np.ceil(np.sqrt(count)))
    grid = np.stack(np.divmod(np.arange(count), columns), axis=1).astype(np.float64)
    if kind == "jittered":
        grid += rng.uniform(-JITTER, JITTER, size=grid.shape)
    return step_px * grid
