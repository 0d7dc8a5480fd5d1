"""What is solved for: object, probe, positions and the rest, and the gauge that data leave open."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow import Tensor

import ptychodata.physics as reference
from ptychoconfig.schema import SolverConfig
from ptychodata.contracts import Scan, Solution
from ptychodata.descent import Fitted
from ptychodata.solving import SolverPlan
from ptychotf import physics

__all__ = ["Estimate", "begin", "illumination", "orthogonal"]

_MAX_DRIFT_PX = 4.0
"""How far centring may move the positions in all: within the margin of the canvas."""


@dataclass(eq=False)
class Estimate:
    """The unknowns of a scan: what every step changes on the device, the rest as arrays.

    Args:
        obj: (H, W) complex64 object.
        probe: (M, N, N) complex64 modes in √photons.
        positions: (P, 2) float64 on the canvas.
        drift: (2,) float64 by which centring has moved all positions.
        background: (N, N) float32 counts, DC at ``[0, 0]``; None = none.
        intensity: (P,) float32 relative to the mean; None = all 1.
        variable: (K, N, N) complex64 modes by which the first one varies; None = none.
        weights: (P, K) float32 of them.
    """

    obj: Tensor
    probe: Tensor
    positions: NDArray[np.float64]
    drift: NDArray[np.float64]
    background: Tensor | None = None
    intensity: NDArray[np.float32] | None = None
    variable: Tensor | None = None
    weights: NDArray[np.float32] | None = None

    def copy(self) -> "Estimate":
        """An independent copy: tensors and arrays are replaced, never changed."""
        return replace(self)

    @property
    def side(self) -> int:
        """N."""
        return int(self.probe.shape[-1])

    def fix_gauge(self, power: float) -> None:
        """Give the probe its power, centre it, and make its modes orthogonal, strongest first.

        No pattern tells a stronger probe from a stronger object, nor a shifted probe from shifted
        positions, nor one set of incoherent modes from its unitary mixtures.
        """
        factor = (power / float(tf.reduce_sum(_power(self.probe)))) ** 0.5
        self.probe *= factor
        self.obj /= factor
        if self.variable is not None:
            self.variable *= factor
        self._centre()
        if len(self.probe) > 1:
            self.probe = tf.constant(orthogonal(self.probe.numpy()))

    def _centre(self) -> None:
        """Move the centre of mass of Σ|P|² to the middle, and the positions along."""
        intensity = tf.reduce_sum(_power(self.probe), 0).numpy()
        r = np.arange(self.side) - self.side // 2
        off = np.array([intensity.sum(1) @ r, intensity.sum(0) @ r]) / intensity.sum()
        off = np.clip(self.drift + off, -_MAX_DRIFT_PX, _MAX_DRIFT_PX) - self.drift
        back = tf.constant(-off[None], tf.float32)
        self.probe = physics.shift_probe(self.probe, back)[0]
        if self.variable is not None:
            self.variable = physics.shift_probe(self.variable, back)[0]
        self.positions = self.positions + off
        self.drift = self.drift + off

    def without_ramp(self) -> "Estimate":
        """The same with the object's linear phase ramp given to the probe.

        O·e^{−ig·r} under P·e^{ig·u} makes the same patterns; the ramp is the mean phase step
        between neighbouring pixels, weighted by the illumination that both have.
        """
        obj, light = self.obj.numpy(), illumination(self)
        ramp = []
        for axis in (0, 1):
            near, far = np.delete(obj, -1, axis), np.delete(obj, 0, axis)
            lit = np.minimum(np.delete(light, -1, axis), np.delete(light, 0, axis))
            ramp.append(float(np.angle(np.sum(near.conj() * far * lit))))
        return replace(
            self,
            obj=self.obj * _phase(ramp, obj.shape, -1.0),
            probe=self.probe * _phase(ramp, self.probe.shape[-2:], 1.0),
            variable=None
            if self.variable is None
            else self.variable * _phase(ramp, self.probe.shape[-2:], 1.0),
        )

    def fitted(self) -> Fitted:
        """The same as arrays."""
        return Fitted(
            obj=self.obj.numpy(),
            light=illumination(self),
            probe=self.probe.numpy(),
            positions_px=self.positions,
            drift_px=self.drift,
            background=_array(self.background),
            intensity=self.intensity,
            variable_modes=_array(self.variable),
            variable_weights=self.weights,
        )


def begin(scan: Scan, plan: SolverPlan, config: SolverConfig, start: Solution | None) -> Estimate:
    """The estimate before the first step."""
    estimate = Estimate(
        obj=tf.constant(plan.obj),
        probe=tf.constant(plan.probe),
        positions=plan.positions_px.copy(),
        drift=np.zeros(2),
    )
    background = scan.background
    if start is not None and start.background is not None:
        background = start.background
    if background is not None or config.refine_background:
        flat = np.full((scan.N, scan.N), 1e-3 * scan.mean_photons / scan.N**2, np.float32)
        known = flat if background is None else background
        estimate.background = tf.constant(np.fft.ifftshift(known), tf.float32)
    if config.refine_intensity:
        estimate.intensity = np.ones(len(scan), np.float32)
        if start is not None and start.intensity is not None:
            estimate.intensity = start.intensity.copy()
    if config.variable_modes:
        _begin_variation(estimate, config, start, len(scan))
    return estimate


def _begin_variation(
    estimate: Estimate, config: SolverConfig, start: Solution | None, count: int
) -> None:
    if start is not None and start.variable_modes is not None:
        assert start.variable_weights is not None
        estimate.variable = tf.constant(start.variable_modes)
        estimate.weights = start.variable_weights.copy()
        return
    estimate.variable = tf.zeros([config.variable_modes, *estimate.probe.shape[1:]], tf.complex64)
    drawn = np.random.default_rng(config.seed)
    estimate.weights = drawn.standard_normal((count, config.variable_modes), np.float32)


def orthogonal(modes: NDArray[Any]) -> NDArray[Any]:
    """The orthogonal modes, strongest first, that make the same incoherent sum: (M, N, N)."""
    flat = modes.reshape(len(modes), -1).astype(np.complex128)
    _, vectors = np.linalg.eigh(flat @ flat.conj().T)
    mixed = vectors[:, ::-1].conj().T @ flat
    return mixed.astype(modes.dtype).reshape(modes.shape)


def illumination(estimate: Estimate) -> NDArray[np.float32]:
    """Σ_j Σ_m |P_m|² around every (rounded) position: (H, W) photons."""
    power = tf.reduce_sum(_power(estimate.probe), 0).numpy()
    pixel, _ = reference.split_positions(estimate.positions)
    each = np.broadcast_to(power, (len(pixel), *power.shape))
    return reference.assemble(each, pixel, tuple(estimate.obj.shape))


def _power(field: Tensor) -> Tensor:
    return tf.square(tf.math.real(field)) + tf.square(tf.math.imag(field))


def _array(tensor: Tensor | None) -> NDArray[Any] | None:
    return None if tensor is None else tensor.numpy()


def _phase(ramp: list[float], shape: tuple[int, int], sign: float) -> NDArray[np.complex64]:
    """e^{i sign g·r} with r from the middle: (H, W)."""
    y, x = (np.arange(n) - n // 2 for n in shape)
    return np.exp(1j * sign * (ramp[0] * y[:, None] + ramp[1] * x)).astype(np.complex64)
