"""Known objects to simulate scans of: complex transmissions of any size.

Each is a function of a shape and a random generator alone and returns (H, W) complex128; material
retards with negative phase.  No image is ever downloaded.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from ptychoconfig.errors import DataError

__all__ = [
    "HELD_OUT_IMAGES",
    "NATURAL_IMAGES",
    "OBJECTS",
    "dead_leaves_object",
    "held_out_object",
    "lines_object",
    "lines_of",
    "natural_object",
    "original_lines_object",
    "packaged_file",
    "phantom_object",
    "random_field_object",
    "siemens_star_object",
]

Real = NDArray[np.float64]
Complex = NDArray[np.complex128]
Shape = tuple[int, int]

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
"""Images in scikit-image's wheel that objects to learn from are made of."""

HELD_OUT_IMAGES = ("camera.png", "coins.png", "moon.png")
"""Images kept for evaluation: nothing is trained on them."""

_ORIGINAL_SIDE = 392
_SEGMENTS = 400
_FIELD_CORRELATION_PX = 8.0
_SPOKES = 36
_LEAF_RADII_PX = (2.0, 40.0)
_LEAF_LAYERS = 5


def lines_object(shape: Shape, rng: np.random.Generator) -> Complex:
    """Random lines, blurred at three scales, whose phase follows their amplitude: (H, W).

    ``lines_of`` of the amplitude that ``original_lines_object`` has.
    """
    side = max(shape)
    return _centre(lines_of(_blurred_lines(side, rng)), shape)


def lines_of(a: Real) -> Complex:
    """|O| = a / max a and arg O = π tanh((a − max a / 2) / (3 mean a)): (H, W)."""
    phase = np.pi * np.tanh((a - a.max() / 2) / (3 * a.mean()))
    return np.asarray(a / a.max() * np.exp(1j * phase))


def original_lines_object(
    shape: Shape, rng: np.random.Generator, segments: int = _SEGMENTS
) -> Complex:
    """The lines of the original's protocol, a pure amplitude: square, at least 392 pixels a side.

    Segments of value 1 between random points of a canvas of twice the side; O = blur(σ=1) +
    2 blur(5) + 5 blur(10) of them, without phase and not normalised (about 0.7 … 5).
    """
    return _blurred_lines(max(_ORIGINAL_SIDE, *shape), rng, segments).astype(np.complex128)


def _blurred_lines(side: int, rng: np.random.Generator, segments: int = _SEGMENTS) -> Real:
    from skimage.draw import line

    canvas = np.zeros((2 * side, 2 * side))
    for ends in rng.integers(0, 2 * side, size=(segments, 4)):
        canvas[line(*ends)] = 1
    blurred = sum(weight * gaussian_filter(canvas, s) for weight, s in ((1, 1), (2, 5), (5, 10)))
    return np.asarray(_centre(np.asarray(blurred), (side, side)))


def random_field_object(
    shape: Shape, rng: np.random.Generator, correlation_px: float = _FIELD_CORRELATION_PX
) -> Complex:
    """Two Gaussian random fields, rough at every scale: (H, W).

    With f and g independent, of mean 0, variance 1 and power spectrum ∝ (1 + (2πkℓ)²)^(−3/2),
    ℓ = ``correlation_px``: O = (0.8 + 0.2 tanh f) exp(i tanh g).
    """
    f, g = (_gaussian_field(shape, rng, correlation_px) for _ in range(2))
    return np.asarray((0.8 + 0.2 * np.tanh(f)) * np.exp(1j * np.tanh(g)))


def _gaussian_field(shape: Shape, rng: np.random.Generator, correlation_px: float) -> Real:
    """A Gaussian field of mean 0 and variance 1; the torus it lives on is cut, so nothing wraps."""
    from scipy.fft import irfft2, next_fast_len, rfft2

    torus = tuple(next_fast_len(side + int(4 * correlation_px)) for side in shape)
    k = np.hypot(np.fft.fftfreq(torus[0])[:, None], np.fft.rfftfreq(torus[1]))
    amplitude = (1 + (2 * np.pi * k * correlation_px) ** 2) ** -0.75
    amplitude[0, 0] = 0
    field = irfft2(rfft2(rng.standard_normal(torus)) * amplitude, s=torus)
    return np.asarray(_centre(field / field.std(), shape))


def siemens_star_object(shape: Shape, rng: np.random.Generator) -> Complex:
    """A Siemens star of 36 spokes with three ring gaps, turned at random: (H, W).

    O = exp(−(0.1 + i) t), t = 1 on a spoke, with edges one pixel wide; the radius is 0.46 of the
    shorter side, and outside it is free space.
    """
    y, x = (np.arange(side) - (side - 1) / 2 for side in shape)
    radius = np.hypot(y[:, None], x)
    angle = np.arctan2(y[:, None], x) + rng.uniform(0, 2 * np.pi)
    outer = 0.46 * min(shape)
    t = _edge(np.sin(_SPOKES * angle) * radius / _SPOKES) * _edge(outer - radius)
    for ring in (0.25, 0.5, 0.75):
        t *= 1 - _edge(outer / 60 - np.abs(radius - ring * outer))
    return np.asarray(np.exp(-(0.1 + 1j) * t))


def _edge(inside_px: Real) -> Real:
    """1 inside, 0 outside, by the distance to the border in pixels; linear over one pixel."""
    return np.clip(inside_px + 0.5, 0, 1)


def natural_object(
    shape: Shape, rng: np.random.Generator, images: Sequence[str] = NATURAL_IMAGES
) -> Complex:
    """A phase object of two photographs, unrelated so that cross-talk shows: (H, W).

    The phase, from one, spans −1 … 1 rad; the amplitude, from the other, 0.8 … 1.
    """
    names = rng.permutation(images)[:2]
    phase, amplitude = (_view(_packaged_image(name), shape, rng) for name in names)
    return np.asarray((0.8 + 0.2 * amplitude) * np.exp(1j * (2 * phase - 1)))


def held_out_object(shape: Shape, rng: np.random.Generator) -> Complex:
    """As ``natural_object``, of photographs that nothing is trained on."""
    return natural_object(shape, rng, HELD_OUT_IMAGES)


def dead_leaves_object(shape: Shape, rng: np.random.Generator) -> Complex:
    """Opaque disks of all sizes, one over the other, as the edges of natural images lie: (H, W).

    Radii r of 2 … 40 px (at most a quarter of the shorter side) with density ∝ r⁻³, five layers on
    average; each leaf has one amplitude, 0.6 … 1, and one phase, −1.5 … 0 rad.  Edges are blurred
    with σ = 0.5 px (A. Lee, D. Mumford & J. Huang, Int. J. Comput. Vis. 41, 35 (2001)).
    """
    low, high = (
        _LEAF_RADII_PX[0],
        max(_LEAF_RADII_PX[0] + 1, min(_LEAF_RADII_PX[1], min(shape) / 4)),
    )
    mean_area = 2 * np.pi * np.log(high / low) / (low**-2 - high**-2)
    padded = [side + 2 * high for side in shape]
    count = int(np.ceil(_LEAF_LAYERS * padded[0] * padded[1] / mean_area))
    share = rng.random(count)
    radius = ((1 - share) * low**-2 + share * high**-2) ** -0.5  # the inverse of its distribution
    centre = rng.random((count, 2)) * padded - high
    value = rng.uniform(0.6, 1, count) * np.exp(1j * rng.uniform(-1.5, 0, count))
    obj = np.full(shape, value[0])
    for (y, x), r, leaf in zip(centre.tolist(), radius.tolist(), value, strict=True):
        top, left = max(0, int(y - r)), max(0, int(x - r))
        box = obj[top : max(0, int(y + r) + 1), left : max(0, int(x + r) + 1)]
        rows = (np.arange(top, top + box.shape[0]) - y) / r
        columns = (np.arange(left, left + box.shape[1]) - x) / r
        box[rows[:, None] ** 2 + columns**2 < 1] = leaf
    return np.asarray(gaussian_filter(obj.real, 0.5) + 1j * gaussian_filter(obj.imag, 0.5))


def phantom_object(shape: Shape, rng: np.random.Generator) -> Complex:
    """The Shepp-Logan phantom t as a weak absorber, O = exp(−(0.3 + i) t): (H, W)."""
    from skimage.transform import resize

    t = resize(_packaged_image("phantom.png"), shape, anti_aliasing=True)
    return np.asarray(np.exp(-(0.3 + 1j) * t))


OBJECTS: dict[str, Callable[[Shape, np.random.Generator], Complex]] = {
    "lines": lines_object,
    "lines-original": original_lines_object,
    "random-field": random_field_object,
    "siemens-star": siemens_star_object,
    "natural": natural_object,
    "natural-held-out": held_out_object,
    "dead-leaves": dead_leaves_object,
    "phantom": phantom_object,
}
"""``SimulationConfig.object_kind`` → maker; the result has at least the shape asked for."""


def _centre(image: NDArray[Any], shape: Shape) -> NDArray[Any]:
    y, x = ((have - want) // 2 for have, want in zip(image.shape, shape, strict=True))
    return image[y : y + shape[0], x : x + shape[1]]


def packaged_file(name: str) -> Path:
    """Where an image of scikit-image's wheel lies.

    Raises:
        DataError: it is not there.
    """
    import skimage.data

    path = Path(skimage.data.__file__).parent / name
    if not path.is_file():
        raise DataError(
            f"--object-kind: expected {name} in the scikit-image package, found no such file; "
            "reinstall scikit-image"
        )
    return path


@lru_cache(maxsize=16)
def _packaged_image(name: str) -> Real:
    """A grey image of scikit-image's wheel, values 0 … 1, read-only."""
    from skimage.color import rgb2gray
    from skimage.io import imread
    from skimage.util import img_as_float64

    image = img_as_float64(imread(packaged_file(name)))
    grey = np.asarray(rgb2gray(image[..., :3]) if image.ndim == 3 else image)
    grey.flags.writeable = False
    return grey


def _view(image: Real, shape: Shape, rng: np.random.Generator) -> Real:
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
    span = high - low if high > low else 1.0  # a part of an image may be all black
    return np.asarray(np.clip((part - low) / span, 0, 1))
