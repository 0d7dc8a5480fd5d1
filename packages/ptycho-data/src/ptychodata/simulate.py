r"""Scans of known objects.

A simulated scan is what the forward model of ``ptychodata.physics`` says of an object, a probe and
positions, with photon noise.  The mean of ΣI over the patterns is ``nphotons`` in expectation; the
probe is scaled to that and its power is then absolute.

Object, positions and noise draw from streams of their own, so that another dose leaves the object
as it is.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from ptychoconfig.errors import DataError
from ptychoconfig.schema import SimulationConfig

from . import physics
from .contracts import Scan
from .inspection import probe_diameter_px
from .stitching import plan_canvas

__all__ = ["lines_object", "natural_object", "phantom_object", "scan_of", "simulate"]

Real = NDArray[np.float64]
Complex = NDArray[np.complex128]

JITTER = 0.3
"""Largest displacement of a jittered raster position along an axis, in steps."""

NATURAL_IMAGES = (
    "astronaut.png",
    "brick.png",
    "chelsea.png",
    "coffee.png",
    "grass.png",
    "gravel.png",
    "retina.jpg",
    "rocket.jpg",
)
"""Images in scikit-image's wheel; camera, coins and moon are kept for evaluation."""

_CHUNK_PIXELS = 2**19


def simulate(config: SimulationConfig) -> Scan:
    """Simulate a scan whose object is known; a function of ``config`` alone.

    Raises:
        DataError: the probe file does not fit, or the object would be absurdly large.
    """
    object_rng, position_rng, noise_rng = np.random.default_rng(config.seed).spawn(3)
    probe, diameter = _probe(config)
    positions = _positions(config, (1 - config.overlap) * diameter, position_rng)
    shape, origin = plan_canvas(positions, config.N)
    positions = positions - origin  # the object begins where the first window does
    makers = {"lines": lines_object, "natural": natural_object, "phantom": phantom_object}
    truth = makers[config.object_kind](shape, object_rng)
    return scan_of(
        truth.astype(np.complex64),
        probe.astype(np.complex64),
        positions,
        config.nphotons,
        noise_rng if config.noise else None,
        name=f"{config.object_kind}-{config.seed}",
    )


def scan_of(
    truth: NDArray[np.complex64],
    probe: NDArray[np.complex64],
    positions_px: Real,
    nphotons: float,
    noise: np.random.Generator | None,
    *,
    name: str = "simulated",
) -> Scan:
    """Measure an object.

    Args:
        truth: (H, W) transmission; pixel [0, 0] is at position (0, 0).
        probe: (M, N, N) modes in any unit.
        positions_px: (P, 2) probe centres (y, x), every window inside the object.
        nphotons: mean of Σλ over the patterns, to which the probe is scaled.
        noise: draws the counts, pattern by pattern; None stores the expectations.
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
    return Scan(
        diffraction=rate if noise is None else _drawn_in_place(rate, noise),
        positions_px=positions_px,
        probe=(probe * np.float32(np.sqrt(scale))).astype(np.complex64),
        probe_power="absolute",
        truth=truth,
        name=name,
    )


def _chunks(patterns: NDArray[np.float32]) -> Iterator[slice]:
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


def _probe(config: SimulationConfig) -> tuple[NDArray[np.complexfloating], float]:
    """The probe, (M, N, N) in any unit, and its diameter in pixels."""
    if config.probe_file is not None:
        probe = _probe_of_file(config.probe_file, config.N)
        return probe, config.probe_diameter_px or probe_diameter_px(probe)
    diameter = config.probe_diameter_px or 0.44 * config.N
    r = np.arange(config.N) - config.N // 2
    radius = np.hypot(r[:, None], r) / (diameter / 2)  # 1 at the edge
    if config.probe_kind == "disk":
        modulus = gaussian_filter((radius <= 1).astype(np.float64), sigma=1, mode="constant")
        return modulus[None].astype(np.complex128), diameter
    return np.exp((-1 + 1j * config.defocus_rad) * radius**2)[None], diameter


def _probe_of_file(path: str, side: int) -> NDArray[np.complex64]:
    from .formats import read

    probe = read(Path(path)).probe
    if probe is None or probe.shape[-1] != side:
        found = "none" if probe is None else f"one of {probe.shape[-1]}×{probe.shape[-1]} pixels"
        raise DataError(
            f"--probe-file {path}: expected a probe of {side}×{side} pixels (--N), found {found}"
        )
    return probe


def _positions(config: SimulationConfig, step_px: float, rng: np.random.Generator) -> Real:
    """(P, 2) probe centres (y, x), one per step² of area, in the order of the scan."""
    count = config.n_patterns
    if config.positions_kind == "random":
        return rng.uniform(0, step_px * np.sqrt(count), size=(count, 2))
    if config.positions_kind == "spiral":  # Fermat's, as sunflower seeds lie
        k = np.arange(count)
        angle, radius = k * np.pi * (3 - np.sqrt(5)), step_px * np.sqrt(k / np.pi)
        return np.stack([radius * np.sin(angle), radius * np.cos(angle)], axis=1)
    columns = int(np.ceil(np.sqrt(count)))
    grid = np.stack(np.divmod(np.arange(count), columns), axis=1).astype(np.float64)
    if config.positions_kind == "jittered":
        grid += rng.uniform(-JITTER, JITTER, size=grid.shape)
    return step_px * grid


def lines_object(shape: tuple[int, int], rng: np.random.Generator) -> Complex:
    """Random lines, blurred at three scales, whose phase follows their amplitude: (H, W).

    400 segments of value 1 between random points of a canvas of twice the side; a = blur(σ=1) +
    2 blur(5) + 5 blur(10) of them; |O| = a / max a, arg O = π tanh((a − max a / 2) / (3 mean a)).
    """
    from skimage.draw import line

    side = max(shape)
    canvas = np.zeros((2 * side, 2 * side))
    for ends in rng.integers(0, 2 * side, size=(400, 4)):
        canvas[line(*ends)] = 1
    blurred = sum(weight * gaussian_filter(canvas, s) for weight, s in ((1, 1), (2, 5), (5, 10)))
    a = _centre(np.asarray(blurred), (side, side))
    phase = np.pi * np.tanh((a - a.max() / 2) / (3 * a.mean()))
    return np.asarray(_centre(a / a.max() * np.exp(1j * phase), shape))


def natural_object(shape: tuple[int, int], rng: np.random.Generator) -> Complex:
    """A phase object of two photographs, unrelated so that cross-talk shows: (H, W).

    The phase, from one, spans −1 … 1 rad; the amplitude, from the other, 0.8 … 1.
    """
    names = rng.permutation(NATURAL_IMAGES)[:2]
    phase, amplitude = (_view(_packaged_image(name), shape, rng) for name in names)
    return np.asarray((0.8 + 0.2 * amplitude) * np.exp(1j * (2 * phase - 1)))


def phantom_object(shape: tuple[int, int], rng: np.random.Generator) -> Complex:
    """The Shepp-Logan phantom t as a weak absorber, O = exp(−(0.3 + i) t): (H, W)."""
    from skimage.transform import resize

    t = resize(_packaged_image("phantom.png"), shape, anti_aliasing=True)
    return np.asarray(np.exp(-(0.3 + 1j) * t))


def _centre(image: NDArray[Any], shape: tuple[int, int]) -> NDArray[Any]:
    y, x = ((have - want) // 2 for have, want in zip(image.shape, shape, strict=True))
    return image[y : y + shape[0], x : x + shape[1]]


def _packaged_image(name: str) -> Real:
    """A grey image of scikit-image's wheel, values 0 … 1; nothing is ever downloaded."""
    import skimage.data
    from skimage.color import rgb2gray
    from skimage.io import imread
    from skimage.util import img_as_float64

    path = Path(skimage.data.__file__).parent / name
    if not path.is_file():
        raise DataError(
            f"--object-kind: expected {name} in the scikit-image package, found no such file; "
            "reinstall scikit-image"
        )
    image = img_as_float64(imread(path))
    return np.asarray(rgb2gray(image[..., :3]) if image.ndim == 3 else image)


def _view(image: Real, shape: tuple[int, int], rng: np.random.Generator) -> Real:
    """A random part of an image, turned at random, its values stretched to 0 … 1."""
    from skimage.transform import resize

    image = np.rot90(image, int(rng.integers(4)))
    enlarge = max(1.0, *(want / have for want, have in zip(shape, image.shape, strict=True)))
    if enlarge > 1:
        image = resize(image, tuple(int(np.ceil(enlarge * side)) for side in image.shape), order=3)
    spare = np.array(image.shape) - shape
    y, x = (rng.random(2) * (spare + 1)).astype(int)
    part = image[y : y + shape[0], x : x + shape[1]]
    low, high = np.percentile(part, (0.5, 99.5))
    return np.asarray(np.clip((part - low) / (high - low), 0, 1))
