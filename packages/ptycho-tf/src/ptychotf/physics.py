"""The forward model and the losses in TensorFlow: the same names as ``ptychodata.physics``.

That module defines each function, with its equation, shapes and units; this one is held to
vectors recorded from it, values and gradients.  Everything here is differentiable, works eagerly,
in graphs and compiled by XLA, and is shared by losses, networks, inference and the solver.
Physics runs in float32/complex64; gradients are dL/dRe z + i dL/dIm z, as in Torch.

Functions of a detector plane take ``corner``: with ``corner=True`` patterns have DC at ``[0, 0]``
and the transforms leave out all their shifts, which is what the hot loops use.  Waves then differ
from the centred ones by a sign per pixel that no intensity and no update sees.
"""

import math
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow import Tensor

__all__ = [
    "EPSILON",
    "amplitude_mae",
    "amplitude_mse",
    "assemble",
    "coverage",
    "exit_waves",
    "extract",
    "far_field",
    "forward",
    "intensity",
    "inverse_far_field",
    "laplacian",
    "network_input",
    "object_update",
    "poisson_deviance",
    "r_factor",
    "shift_object",
    "shift_probe",
    "shift_ramp",
    "split_positions",
]

EPSILON = 1e-3

_PLANE = (-2, -1)


def split_positions(positions_px: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels n = ⌊r + ½⌋ (int64) and fractions f = r − n, each (B, 2)."""
    pixel = tf.floor(positions_px + 0.5)
    return tf.cast(pixel, tf.int64), positions_px - pixel


def far_field(exit_wave: Tensor, corner: bool = False) -> Tensor:
    """ψ = F{exit wave}, orthonormal: (…, N, N) → (…, N, N)."""
    if not corner:
        exit_wave = tf.signal.ifftshift(exit_wave, axes=_PLANE)
    wave = tf.signal.fft2d(exit_wave)
    wave /= tf.cast(tf.shape(wave)[-1], wave.dtype)
    return wave if corner else tf.signal.fftshift(wave, axes=_PLANE)


def inverse_far_field(wave: Tensor, corner: bool = False) -> Tensor:
    """The inverse, and adjoint, of ``far_field``: (…, N, N) → (…, N, N)."""
    if not corner:
        wave = tf.signal.ifftshift(wave, axes=_PLANE)
    exit_wave = tf.signal.ifft2d(wave)
    exit_wave *= tf.cast(tf.shape(wave)[-1], wave.dtype)
    return exit_wave if corner else tf.signal.fftshift(exit_wave, axes=_PLANE)


def axis_ramps(fraction_px: Tensor, side: int) -> Tensor:
    """The two factors of ``shift_ramp``, one along each axis: (B, 2) shifts → (B, 2, N)."""
    k = tf.constant(np.fft.fftfreq(side), fraction_px.dtype)
    angle = -2 * math.pi * fraction_px[..., None] * k
    return tf.complex(tf.cos(angle), tf.sin(angle))


def outer(ramps: Tensor) -> Tensor:
    """Their product: (B, 2, N) → (B, 1, N, N)."""
    return (ramps[:, 0, :, None] * ramps[:, 1, None, :])[:, None]


def shift_ramp(fraction_px: Tensor, side: int) -> Tensor:
    """What shifts the transform of a probe, e^{−2πi k·f}: (B, 2) shifts → (B, 1, N, N)."""
    return outer(axis_ramps(fraction_px, side))


def shift_probe(probe: Tensor, fraction_px: Tensor) -> Tensor:
    """(S_f P)(u) = P(u − f): (M, N, N) modes, (B, 2) shifts → (B, M, N, N)."""
    ramp = shift_ramp(fraction_px, probe.shape[-1])
    return tf.signal.ifft2d(tf.signal.fft2d(probe)[None] * ramp)


def shift_object(patches: Tensor, shift_px: Tensor) -> Tensor:
    """(T_d O)(u) = O(u − d), bilinear: (B, N, N) patches, (B, 2) shifts → (B, N, N)."""
    u = tf.range(patches.shape[-1], dtype=shift_px.dtype)
    hat = tf.nn.relu(1 - tf.abs((u[:, None] - u) - shift_px[..., None, None]))  # (B, 2, N, N)
    moved = [
        tf.matmul(hat[:, 0] @ part, hat[:, 1], transpose_b=True)
        for part in (tf.math.real(patches), tf.math.imag(patches))
    ]
    return tf.complex(*moved)


def window_index(pixel: Tensor, side: int, shape: tuple[int, int]) -> Tensor:
    """Where the windows lie in a flat canvas: (B, 2) centres → (B, N, N) int64.

    Raises:
        IndexError: a window leaves the canvas of ``shape`` (H, W).  In a graph nothing can be
            raised: there the caller sees to it, before, that all windows lie inside.
    """
    corner = pixel - side // 2
    if tf.executing_eagerly():
        low, high = corner.numpy().min(0).tolist(), (corner.numpy().max(0) + side).tolist()
        if min(low) < 0 or high[0] > shape[0] or high[1] > shape[1]:
            raise IndexError(f"expected windows inside the object {shape}, found {low} to {high}")
    r = tf.range(side, dtype=corner.dtype)
    rows = (corner[:, 0, None] + r) * shape[1]
    columns = corner[:, 1, None] + r
    return rows[:, :, None] + columns[:, None, :]


def gather(canvas: Tensor, index: Tensor) -> Tensor:
    """Read the windows ``index`` (B, N, N) from a canvas (H, W), or several one above the other."""
    return tf.gather(tf.reshape(canvas, [-1]), index)


def scatter(patches: Tensor, index: Tensor, shape: tuple[int, int]) -> Tensor:
    """Add patches (B, N, N), or (B, N, N, F) fields, into a canvas (H, W) or (H, W, F).

    Adjoint of ``gather``; ``index`` are the windows.
    """
    each = list(patches.shape[3:])
    flat, where = tf.reshape(patches, [-1, *each]), tf.reshape(index, [-1])
    canvas = tf.math.unsorted_segment_sum(flat, where, shape[0] * shape[1])
    return tf.reshape(canvas, [*shape, *each])


def add_windows(canvas: NDArray[Any], patches: NDArray[Any], pixel: NDArray[np.int64]) -> None:
    """Add patches to a canvas in place, as ``scatter`` does: arrays, which tensors cannot be.

    Args:
        canvas: (H, W) or (H, W, F); changes.
        patches: (B, N, N) or (B, N, N, F).
        pixel: (B, 2) the windows' centres.
    """
    side = patches.shape[1]
    for patch, (y, x) in zip(patches, (pixel - side // 2).tolist(), strict=True):
        canvas[y : y + side, x : x + side] += patch


def extract(obj: Tensor, pixel: Tensor, side: int) -> Tensor:
    """Windows O[n] of the object: (H, W), (B, 2) centres → (B, N, N).

    Raises:
        IndexError: a window leaves the object.
    """
    return gather(obj, window_index(pixel, side, (obj.shape[0], obj.shape[1])))


def assemble(patches: Tensor, pixel: Tensor, shape: tuple[int, int]) -> Tensor:
    """Add patches into a canvas, the adjoint of ``extract``: (B, N, N) → (H, W)."""
    return scatter(patches, window_index(pixel, patches.shape[-1], shape), shape)


def laplacian(obj: Tensor) -> Tensor:
    """Sum of differences to the (up to four) neighbours: (G, H, W) → (G, H, W)."""
    none, before, after = [0, 0], [1, 0], [0, 1]
    rows, columns = obj[:, 1:] - obj[:, :-1], obj[:, :, 1:] - obj[:, :, :-1]
    below, above = tf.pad(rows, [none, after, none]), tf.pad(rows, [none, before, none])
    right, left = tf.pad(columns, [none, none, after]), tf.pad(columns, [none, none, before])
    return below - above + right - left


def exit_waves(shifted_probe: Tensor, patches: Tensor) -> Tensor:
    """(S_f P_m) · O[n]: (B, M, N, N) modes, (B, N, N) patches → (B, M, N, N)."""
    return shifted_probe * patches[:, None]


def _power(field: Tensor) -> Tensor:
    """Σ_m |field_m|²: (B, M, N, N) → (B, N, N)."""
    squares = tf.square(tf.math.real(field)) + tf.square(tf.math.imag(field))
    return tf.reduce_sum(squares, 1)


def intensity(waves: Tensor, background: Tensor | None = None) -> Tensor:
    """λ = Σ_m |ψ_m|² + b: (B, M, N, N) → (B, N, N)."""
    rate = _power(waves)
    return rate if background is None else rate + background


def forward(
    obj: Tensor, probe: Tensor, positions_px: Tensor, background: Tensor | None = None
) -> Tensor:
    """Expected counts λ, (B, N, N), of an object (H, W) under a probe (M, N, N)."""
    pixel, fraction = split_positions(positions_px)
    patches = extract(obj, pixel, probe.shape[-1])
    shifted = shift_probe(probe, tf.cast(fraction, probe.dtype.real_dtype))
    return intensity(far_field(exit_waves(shifted, patches)), background)


def object_update(
    patches: Tensor,
    shifted_probe: Tensor,
    counts: Tensor,
    valid: Tensor | None = None,
    background: Tensor | None = None,
    corner: bool = False,
) -> Tensor:
    """The ePIE step of unit length that pattern and probe imply: (B, N, N), dimensionless."""
    waves = far_field(exit_waves(shifted_probe, patches), corner)
    # The root of the quotient would have the gradient 0·∞ where no photon fell.
    factor = tf.sqrt(counts) * tf.math.rsqrt(intensity(waves, background) + EPSILON) - 1
    factor = factor if valid is None else factor * valid
    back = inverse_far_field(waves * tf.cast(factor[:, None], waves.dtype), corner)
    peak = tf.reduce_max(coverage(shifted_probe), _PLANE, keepdims=True)
    return tf.reduce_sum(tf.math.conj(shifted_probe) * back, 1) / tf.cast(peak, back.dtype)


def coverage(shifted_probe: Tensor) -> Tensor:
    """Illumination Σ_m |S_f P_m|²: (B, M, N, N) → (B, N, N), photons."""
    return _power(shifted_probe)


def network_input(counts: Tensor, probe: Tensor) -> Tensor:
    """Dimensionless amplitudes √I · (N/2) / √Σ|P|²: (B, N, N)."""
    return tf.sqrt(counts) * (counts.shape[-1] / 2) / tf.sqrt(tf.reduce_sum(_power(probe[None])))


def poisson_deviance(
    rate: Tensor, counts: Tensor, mean_photons: float, valid: Tensor | None = None
) -> Tensor:
    """Poisson deviance per pattern over the scan's mean photons, in its stable form."""
    delta = (rate - counts) / (counts + EPSILON)
    ratio = (rate + EPSILON) / (counts + EPSILON)
    # δ rounds to −1 where λ ≪ n, and log 0 would be infinite: there the quotient itself is exact.
    log = tf.where(ratio < 0.5, tf.math.log(ratio), tf.math.log1p(tf.maximum(delta, -0.5)))
    return _per_pattern(counts * (delta - log) + EPSILON * delta, mean_photons, valid)


def amplitude_mse(
    rate: Tensor, counts: Tensor, mean_photons: float, valid: Tensor | None = None
) -> Tensor:
    """Σ w(√(λ+ε) − √n)² per pattern over the scan's mean photons."""
    error = tf.sqrt(rate + EPSILON) - tf.sqrt(counts)
    return _per_pattern(tf.square(error), mean_photons, valid)


def amplitude_mae(
    rate: Tensor, counts: Tensor, mean_photons: float, valid: Tensor | None = None
) -> Tensor:
    """Σ w|√(λ+ε) − √n| per pattern over √(N² mean photons)."""
    error = tf.abs(tf.sqrt(rate + EPSILON) - tf.sqrt(counts))
    return _per_pattern(error, mean_photons**0.5 * counts.shape[-1], valid)


def _per_pattern(error: Tensor, scale: float, valid: Tensor | None) -> Tensor:
    weighted = error if valid is None else error * valid
    return tf.reduce_sum(weighted) / (scale * tf.cast(tf.shape(error)[0], error.dtype))


def r_factor(rate: Tensor, counts: Tensor, valid: Tensor | None = None) -> Tensor:
    """Residual R = Σ w|√I − √λ| / Σ w√I."""
    amplitude = tf.sqrt(counts)
    error = tf.abs(amplitude - tf.sqrt(rate))
    if valid is not None:
        error, amplitude = error * valid, amplitude * valid
    return tf.reduce_sum(error) / tf.reduce_sum(amplitude)
