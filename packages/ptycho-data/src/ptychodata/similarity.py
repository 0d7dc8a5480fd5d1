"""How alike two real images are: figures by which one is scored against a known one.

SSIM is that of Wang et al., IEEE Trans. Image Process. 13, 600 (2004), as in scikit-image: uniform
windows of 7×7 pixels, sample covariance.  MS-SSIM is that of Z. Wang, E. Simoncelli & A. Bovik,
Proc. 37th Asilomar Conf., 1398 (2003), eq. 7: Gaussian windows of 11×11 pixels (σ = 1.5), from
scale to scale the means of 2×2 pixels.  In both, and in PSNR, the range is max − min of the known
image; where it is even they are undefined, NaN.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

__all__ = ["mean_error", "ms_ssim", "pearson", "psnr_db", "ssim"]

Real = NDArray[np.float64]

_MAX_PSNR_DB = 200.0

_SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_SIGMA, _TRUNCATE = 1.5, 3.5
_BORDER = int(_TRUNCATE * _SIGMA + 0.5)  # pixels of a window beside its centre
_K1 = 0.01


def ssim(known: Real, found: Real) -> float:
    """Structural similarity of two images (H, W)."""
    from skimage.metrics import structural_similarity

    span = _span(known)
    return float(structural_similarity(known, found, data_range=span)) if span else float("nan")


def ms_ssim(known: Real, found: Real) -> float:
    """Structural similarity of two images (H, W) over up to five scales.

    Of an image below 176 pixels only the scales count at which a window fits; their weights are
    divided by their sum.  A negative similarity of one scale counts as 0.
    """
    span = _span(known)
    scales = (min(known.shape) // (2 * _BORDER + 1)).bit_length()
    if not (span and scales):
        return float("nan")
    weights = np.array(_SCALE_WEIGHTS[:scales])
    similar = []
    for scale in range(len(weights)):
        whole, structure = _similarity(known, found, span)
        similar.append(whole if scale == len(weights) - 1 else structure)
        known, found = _halved(known), _halved(found)
    return float(np.prod(np.maximum(similar, 0) ** (weights / weights.sum())))


def _similarity(known: Real, found: Real, span: float) -> tuple[float, float]:
    """Means of SSIM under Gaussian windows, and of its part without luminance."""
    from skimage.metrics import structural_similarity

    _, whole = structural_similarity(
        *(known, found),
        data_range=span,
        gaussian_weights=True,
        sigma=_SIGMA,
        use_sample_covariance=False,
        full=True,
    )
    means = [gaussian_filter(image, _SIGMA, truncate=_TRUNCATE) for image in (known, found)]
    c1 = (_K1 * span) ** 2
    luminance = (2 * means[0] * means[1] + c1) / (means[0] ** 2 + means[1] ** 2 + c1)
    inner = np.s_[_BORDER:-_BORDER, _BORDER:-_BORDER]
    return float(whole[inner].mean()), float((whole / luminance)[inner].mean())


def _halved(image: Real) -> Real:
    """Means of 2×2 pixels; an odd last row or column is left out."""
    height, width = image.shape[0] // 2, image.shape[1] // 2
    blocks = image[: 2 * height, : 2 * width].reshape(height, 2, width, 2)
    return np.asarray(blocks.mean(axis=(1, 3)))


def psnr_db(known: Real, found: Real) -> float:
    """Peak signal-to-noise ratio, the peak being max − min of the known image; at most 200 dB."""
    span, error = _span(known), float(np.sqrt(np.mean((known - found) ** 2)))
    if not span:
        return float("nan")
    return min(_MAX_PSNR_DB, 20 * np.log10(span / error)) if error > 0 else _MAX_PSNR_DB


def mean_error(known: Real, found: Real) -> float:
    """Mean absolute difference."""
    return float(np.mean(np.abs(known - found)))


def pearson(known: Real, found: Real) -> float:
    """Pearson's correlation of two images; 0 if one of them is even."""
    centred = [image - image.mean() for image in (known, found)]
    norm = np.linalg.norm(centred[0]) * np.linalg.norm(centred[1])
    even = norm <= 1e-12 * float(np.linalg.norm(known) * np.linalg.norm(found))
    return 0.0 if even else float(np.sum(centred[0] * centred[1]) / norm)


def _span(known: Real) -> float:
    """Max − min of an image; 0 if it is even to rounding."""
    span = float(np.ptp(known))
    return 0.0 if span <= 1e-6 * max(1.0, float(np.abs(known).max())) else span
