r"""A short ptychographic fit in NumPy: small, plain, and fast enough to run several times.

Batches of eight patterns; each pattern implies an exit wave of the measured modulus, and the
differences :math:`\Delta_{jm}` from the current one update object and probe,

.. math::
    O \leftarrow O + 0.9 \frac{\sum_{jm} P_{jm}^* \Delta_{jm}}{0.9\, w + 0.1 \max w}, \quad
    w = \sum_{jm} |P_{jm}|^2,

and the probe alike with the object's patches (A. Maiden & J. Rodenburg, Ultramicroscopy 109, 1256
(2009), with the regularisation of A. Maiden, D. Johnson & P. Li, Optica 4, 736 (2017)).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from ptychodata import physics

__all__ = ["Fit", "fit"]

_BATCH = 8
_STEP = 0.9
_REGULARISATION = 0.1

Complex = NDArray[np.complex64]


@dataclass(frozen=True, eq=False)
class Fit:
    """What the patterns made of object and probe.

    Args:
        residual: (B,) Σ w|√I − √λ| / Σ w√I of each pattern in the last pass.
        obj: (H, W) complex64.
        probe: (M, N, N) complex64.
    """

    residual: NDArray[np.float64]
    obj: Complex
    probe: Complex


def fit(
    counts: NDArray[np.float32],
    positions_px: NDArray[np.float64],
    probe: Complex,
    valid: NDArray[np.bool_] | None = None,
    *,
    passes: int = 10,
    refine_probe: bool = True,
    seed: int = 0,
) -> Fit:
    """Fit an object, and after the first pass the probe, to patterns.

    Args:
        counts: (B, N, N), DC at ``[N//2, N//2]``.
        positions_px: (B, 2) probe centres (y, x).
        probe: (M, N, N) start, of the power of the patterns.
        valid: (N, N) or (B, N, N), True = valid.
        passes: over the patterns.
        refine_probe: whether the probe may change.
        seed: of the order of the patterns.
    """
    side = counts.shape[-1]
    pixel, fraction = physics.split_positions(positions_px)
    pixel = pixel - pixel.min(axis=0) + side // 2
    height, width = (pixel.max(axis=0) + side // 2).tolist()
    state = _State(np.ones((height, width), np.complex64), probe.astype(np.complex64))
    ramp = physics.shift_ramp(fraction, side).astype(np.complex64)
    amplitude = fft.ifftshift(np.sqrt(counts), axes=(-2, -1))
    weight = np.broadcast_to(np.float32(1) if valid is None else valid, counts.shape)
    weight = fft.ifftshift(weight, axes=(-2, -1))
    rng = np.random.default_rng(seed)
    residual = np.zeros(len(counts))
    for number in range(passes):
        order = rng.permutation(len(counts))
        for j in np.array_split(order, max(1, len(order) // _BATCH)):
            refine = refine_probe and number > 0
            residual[j] = state.step(amplitude[j], weight[j], pixel[j], ramp[j], refine=refine)
    total = np.sum(weight * amplitude, axis=(1, 2), dtype=np.float64)
    return Fit(residual / np.maximum(total, 1e-30), state.obj, state.probe)


@dataclass
class _State:
    obj: Complex
    probe: Complex

    def step(
        self,
        amplitude: NDArray[np.float32],
        weight: NDArray[Any],
        pixel: NDArray[np.int64],
        ramp: Complex,
        *,
        refine: bool,
    ) -> NDArray[np.float64]:
        """Update from a batch; give Σ w|√I − √λ| of each pattern before it."""
        shifted = fft.ifft2(fft.fft2(self.probe)[None] * ramp)
        patches = physics.extract(self.obj, pixel, self.probe.shape[-1])
        # the shifts of ``physics.far_field``, left out, only turn signs, and turn them back
        waves = fft.fft2(physics.exit_waves(shifted, patches), norm="ortho")
        modelled = np.sqrt(physics.intensity(waves))
        floor = np.float32(np.sqrt(physics.EPSILON))
        factor = weight * (amplitude / (modelled + floor) - 1)
        change = fft.ifft2(waves * factor[:, None], norm="ortho")
        shape = self.obj.shape
        lit = physics.assemble(physics.coverage(shifted), pixel, (shape[0], shape[1]))
        step = physics.assemble(
            np.sum(shifted.conj() * change, axis=1), pixel, (shape[0], shape[1])
        )
        if refine:
            back = fft.ifft2(fft.fft2(patches.conj()[:, None] * change) * ramp.conj())
            self.probe = self.probe + _damped(back.sum(axis=0), np.sum(np.abs(patches) ** 2, 0))
        self.obj = self.obj + np.float32(_STEP) * _damped(step, lit)
        return np.asarray(np.sum(weight * np.abs(modelled - amplitude), axis=(1, 2)), np.float64)


def _damped(step: Complex, weight: NDArray[Any]) -> Complex:
    share = np.float32(_REGULARISATION)
    return np.asarray(step / ((1 - share) * weight + share * weight.max() + np.float32(1e-30)))
