"""``unrolled``: accelerated gradient steps of the whole object, corrected by one small U-Net.

The equations, and whence they are, stand in the Torch backend's file of this name; weights have the
same names and shapes.  In short: in a round each pattern of a part asks for a change χ of its exit
wave, and V ← D + μ V moves the object, D being (Σ P* χ + κ/2 ∇²O) / (W + β W̄ + 4κ); after each pass
the U-Net corrects the object by what it sees of it, and no gradient goes from one pass to the one
before.
"""

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow import Tensor

from ptychoconfig.schema import ModelConfig
from ptychodata import unrolled
from ptychodata.solving import FEW_PHOTONS
from ptychotf import physics
from ptychotf.batches import Batch

from ._base import Network, State, Sums, scaled, square, stacked
from ._layers import Conv, Variables, doubled, fan_in, ones, silu, zeros

__all__ = ["SUMMARY", "Unrolled", "build", "typical"]

SUMMARY = "unrolled update steps, given the probe and the Fourier transform"

_TINY = float(np.finfo(np.float32).tiny)


def build(model: ModelConfig, seed: int) -> "Unrolled":
    """Build ``unrolled`` for ``model``, whatever its N."""
    return Unrolled(Variables(seed), model)


class Unrolled(Network):
    """``steps`` passes, all corrected by the same U-Net."""

    def __init__(self, variables: Variables, model: ModelConfig) -> None:
        super().__init__(variables)
        self.unet = _UNet(variables, "unet", model.unrolled_width, model.unrolled_levels)
        self.steps, self.smoothness = model.unrolled_steps, model.unrolled_smoothness
        self.factor = _FACTORS[model.unrolled_likelihood]
        # One graph for canvases of any size; on each operation alone TensorFlow spends more.
        any_size = tf.TensorSpec([None, None, None, unrolled.FED])
        self._traced = tf.function(self._unet, [any_size], autograph=False)

    def see(
        self, step: int | Tensor, patches: Tensor, shifted_probe: Tensor, batch: Batch
    ) -> Tensor:
        """The changes of exit waves that the patterns ask for, on the object: (B, N, N, 5)."""
        waves = physics.far_field(physics.exit_waves(shifted_probe, patches), corner=True)
        rate = physics.intensity(waves, batch.background)
        root, valid = tf.sqrt(batch.counts), batch.valid
        factor = self.factor(batch.counts, root, rate)
        missed = tf.square(tf.sqrt(rate + physics.EPSILON) - root)
        if valid is not None:
            factor, missed = factor * valid, missed * valid
        change = physics.inverse_far_field(scaled(waves, factor[:, None]), corner=True)
        light = physics.coverage(shifted_probe)
        asked = tf.reduce_sum(tf.math.conj(shifted_probe) * change, 1)
        misfit = 4 * tf.reduce_mean(missed, (-2, -1), keepdims=True)
        fields = [tf.math.real(asked), tf.math.imag(asked), light, physics.coverage(change)]
        return tf.stop_gradient(stacked([*fields, light * misfit]))

    def rounds(self, step: int, redundancy: float) -> int:
        """As many as leave each part enough overlap, and one in the last passes."""
        return unrolled.rounds(step, self.steps, redundancy)

    def advance(
        self, step: int | Tensor, state: State, sums: Sums, share: float | Tensor = 1.0
    ) -> State:
        """Take a gradient step with momentum."""
        gradient, curvature = sums.numerator, _floored(sums.weight, unrolled.FLOOR)
        if self.smoothness:
            prior = tf.cast(0.5 * share * self.smoothness, curvature.dtype)
            bent = tf.cast(physics.laplacian(state.obj), gradient.dtype)
            gradient, curvature = gradient + scaled(bent, prior), curvature + 8 * prior
        direction = scaled(gradient, 1 / curvature)
        course = [unrolled.momentum(k, self.steps, state.redundancy) for k in range(self.steps)]
        momentum = tf.cast(tf.gather(course, step), tf.complex64)
        change = tf.cast(direction, tf.complex64) + momentum * state.change
        return state.moved(tf.stop_gradient(change))

    def correct(
        self, step: int | Tensor, state: State, sums: Sums, learning: bool = False
    ) -> State:
        """Correct the object after a pass; the gradient ends here."""
        obj, passed = tf.stop_gradient(state.obj), tf.stop_gradient(state.passed)
        light, plane = sums.weight, (-2, -1)
        moved = tf.reduce_sum(light * tf.cast(square(passed), light.dtype), plane, keepdims=True)
        moved = moved / tf.reduce_sum(_floored(light, 0), plane, keepdims=True)
        scale = tf.cast(tf.sqrt(moved + 0.25 / _floored(light, unrolled.FLOOR)), tf.float32)
        misfit = sums.misfit / _floored(light, 1e-6) + unrolled.LEAST_MISFIT
        change = scaled(passed, 1 / scale)
        fed = [
            tf.math.real(change),
            tf.math.imag(change),
            tf.math.real(obj) - 1,
            tf.math.imag(obj),
            tf.cast(tf.sqrt(light / _floored(typical(light), 0)), tf.float32),
            _lg(scale),
            _lg(tf.cast(misfit, tf.float32)),
            tf.fill(tf.shape(scale), tf.cast(step, tf.float32) / self.steps),
        ]
        seen = stacked(fed)
        # Where nothing is learned, what else is in a batch makes no difference.
        correction = self._inside(seen, *_lit(light)) if learning else self._corrected(seen)
        moved = tf.complex(scale * correction[..., 0], scale * correction[..., 1])
        return state._replace(obj=obj).corrected(moved)

    def _inside(self, fed: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """The correction of a part of a canvas, and 0 outside: (G, H, W, 8) → (G, H, W, 2)."""
        made = self._corrected(fed[:, rows[0] : rows[1], columns[0] : columns[1]])
        height, width = tf.unstack(tf.shape(fed)[1:3])
        around = [[rows[0], height - rows[1]], [columns[0], width - columns[1]]]
        return tf.pad(made, [[0, 0], *around, [0, 0]])

    def _unet(self, fed: Tensor) -> Tensor:
        """(G, H, W, 8) → (G, H, W, 2), float32."""
        return tf.cast(self.unet(tf.cast(fed, self.compute_dtype)), tf.float32)

    def _corrected(self, fed: Tensor) -> Tensor:
        """What the U-Net says, in tiles where a large canvas is corrected and nothing learned."""
        if not tf.executing_eagerly():
            return self._unet(fed)
        if max(fed.shape[1:3]) <= unrolled.TILE:
            return self._traced(fed)
        correction: NDArray[np.float32] = np.empty([*fed.shape[:3], 2], np.float32)
        height, width = fed.shape[1:3]
        for tile, around, inner in unrolled.tiles(height, width, self.unet.levels):
            made = self._traced(fed[:, around[0], around[1]])[:, inner[0], inner[1]]
            correction[:, tile[0], tile[1]] = made.numpy()
        return tf.constant(correction)


def _of_amplitudes(counts: Tensor, root: Tensor, rate: Tensor) -> Tensor:
    """√I/√λ − 1."""
    return root * tf.math.rsqrt(rate + physics.EPSILON) - 1


def _of_photons(counts: Tensor, root: Tensor, rate: Tensor) -> Tensor:
    """(I − λ)/2λ where the difference may be noise, √I/√λ − 1 where it is far more."""
    expected = rate + unrolled.COUNT
    missed = counts - rate
    square = tf.square(missed)
    certain = square / (square + unrolled.NOISE * expected)
    return missed / (expected + tf.sqrt(expected * (expected + certain * missed)))


def _of_few_photons(counts: Tensor, root: Tensor, rate: Tensor) -> Tensor:
    """The second for patterns of few photons, the first for others."""
    few = tf.reduce_mean(counts, (-2, -1), keepdims=True) < FEW_PHOTONS
    made = _of_amplitudes(counts, root, rate)
    return tf.cond(
        tf.reduce_any(few),
        lambda: tf.where(few, _of_photons(counts, root, rate), made),
        lambda: made,
    )


_FACTORS = {
    "amplitude": _of_amplitudes,
    "poisson": _of_photons,
    "auto": _of_few_photons,
}
"""What to multiply the far field by, less 1: likelihood → function of I, √I and λ."""


def _lg(x: Tensor) -> Tensor:
    """The logarithm to the base 10."""
    return tf.math.log(x) / np.float32(np.log(10))


def typical(light: Tensor) -> Tensor:
    """W̄ = Σ W² / Σ W of each canvas: (G, H, W) → (G, 1, 1)."""
    total = tf.maximum(tf.reduce_sum(light, (-2, -1), keepdims=True), _TINY)
    return tf.reduce_sum(tf.square(light), (-2, -1), keepdims=True) / total


def _floored(light: Tensor, share: float) -> Tensor:
    """W + β W̄, above 0 also where nothing was lit."""
    return tf.maximum(light + share * typical(light), _TINY)


def _lit(light: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns that hold all that is lit on any canvas: (G, H, W) → (2,) each, int32."""
    lit = tf.reduce_any(light >= unrolled.DARK * typical(light), 0)
    return _span(tf.reduce_any(lit, 1)), _span(tf.reduce_any(lit, 0))


def _span(some: Tensor) -> Tensor:
    """The first True, and what comes behind the last, outwards to even folded pixels."""
    found, even = tf.cast(tf.where(some)[:, 0], tf.int32), unrolled.EVEN
    end = tf.minimum(tf.size(some), (found[-1] // even + 1) * even)
    return tf.stack([found[0] // even * even, end])


class _UNet:
    """(G, H, W, 8) → (G, H, W, 2), computed at H/4 × W/4 and coarser; any H and W."""

    def __init__(self, variables: Variables, name: str, width: int, levels: int) -> None:
        channels = [width * (1 + i) for i in range(levels + 1)]
        self.levels = levels
        folded = unrolled.FOLD**2
        self.stem = _Block(variables, f"{name}/stem", unrolled.FED * folded, channels[0], folded)
        self.down = [
            _Block(variables, f"{name}/down/{i}", channels[i], channels[i + 1])
            for i in range(levels)
        ]
        self.up = [
            _Block(variables, f"{name}/up/{k}", channels[i + 1] + channels[i], channels[i])
            for k, i in enumerate(reversed(range(levels)))
        ]
        self.head = Conv(variables, f"{name}/head", channels[0], 2 * folded, 1, zeros)

    def __call__(self, fed: Tensor) -> Tensor:
        height, width = tf.unstack(tf.shape(fed)[1:3])
        even = [[0, -height % unrolled.EVEN], [0, -width % unrolled.EVEN]]
        fed = tf.pad(fed, [[0, 0], *even, [0, 0]])
        skips = [self.stem(tf.nn.space_to_depth(fed, unrolled.FOLD))]
        for block in self.down:
            skips.append(block(tf.nn.avg_pool2d(skips[-1], 2, 2, "SAME")))
        x = skips.pop()
        for block in self.up:
            skip = skips.pop()
            rows, columns = tf.unstack(tf.shape(skip)[1:3])
            x = block(tf.concat([doubled(x)[:, :rows, :columns], skip], -1))
        return self._unfolded(self.head(x))[:, :height, :width]

    def _unfolded(self, x: Tensor) -> Tensor:
        """Channels (2, 4, 4) back to pixels: ``depth_to_space`` has them last to first."""
        shape, fold = tf.shape(x), unrolled.FOLD
        parts = tf.reshape(x, [*tf.unstack(shape[:3]), 2, fold**2])
        parts = tf.reshape(tf.transpose(parts, [0, 1, 2, 4, 3]), shape)
        return tf.nn.depth_to_space(parts, fold)


class _Block:
    """Two 3×3 convolutions, each normalised."""

    def __init__(
        self, variables: Variables, name: str, inputs: int, outputs: int, folded: int = 1
    ) -> None:
        def conv(name: str, inputs: int, folded: int = 1) -> Conv:
            return Conv(variables, name, inputs, outputs, draw=fan_in, bias=False, folded=folded)

        self.conv1 = conv(f"{name}/conv1", inputs, folded)
        self.norm1 = RmsNormSiLU(variables, f"{name}/norm1", outputs)
        self.conv2 = conv(f"{name}/conv2", outputs)
        self.norm2 = RmsNormSiLU(variables, f"{name}/norm2", outputs)

    def __call__(self, x: Tensor) -> Tensor:
        return self.norm2(self.conv2(self.norm1(self.conv1(x))))


class RmsNormSiLU:
    """y = SiLU(gain · x / rms(x) + bias), the rms over the channels of each pixel."""

    def __init__(self, variables: Variables, name: str, channels: int) -> None:
        self.gain = variables.add(f"{name}/gain", (channels,), ones)
        self.bias = variables.add(f"{name}/bias", (channels,), zeros)
        self.heard = variables.heard

    def __call__(self, x: Tensor) -> Tensor:
        wide = tf.cast(x, tf.float32)
        mean = tf.reduce_mean(tf.square(wide), -1, keepdims=True)
        rate = tf.cast(tf.math.rsqrt(mean + unrolled.NORM_EPSILON), x.dtype)
        z = x * rate * tf.cast(self.gain, x.dtype) + tf.cast(self.bias, x.dtype)
        return self.heard(silu(z))
