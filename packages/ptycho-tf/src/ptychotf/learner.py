"""One optimiser step on one device or several, the same code for all: what is run on each."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf
from numpy.typing import NDArray
from tensorflow import Tensor

from ptychoconfig.payloads import TrainingPayload
from ptychodata.contracts import Scan
from ptychodata.training.batches import Batch, GroupReader, Rows
from ptychodata.training.schedule import step_weights

from . import physics
from .clipping import clip_gradients
from .merging import refine
from .networks import Network
from .optimizers import Optimizer
from .probe import LearnedProbe, modes_of
from .strategy import worker

__all__ = ["Learner", "label_misfit"]

_Inputs = dict[str, Any]

_ARRAYS = ("counts", "valid", "background", "pixel", "fraction", "label")


def label_misfit(patches: Tensor, label: Tensor, light: Tensor) -> Tensor:
    """Σ w (2 ||O| − |Y|| + 4 |arg O Y*|) / Σ w, the absolute errors of amplitude and phase.

    Args:
        patches: (B, N, N) complex windows O of the object.
        label: (B, N, N) the known ones, Y.
        light: (B, N, N) weights w: what is not illuminated, no pattern tells of.
    """
    product = patches * tf.math.conj(label)
    phase = tf.atan2(tf.math.imag(product), tf.math.real(product))
    error = 2 * tf.abs(tf.abs(patches) - tf.abs(label)) + 4 * tf.abs(phase)
    return tf.reduce_sum(light * error) / tf.reduce_sum(light)


class Learner:
    """Network, probes and optimiser, and the losses of batches.

    Made inside the scope of ``strategy``, whose replicas each take their part of a batch.

    Args:
        network: what learns.
        scans: what it learns from.
        payload: settings of the run.
        strategy: of the devices.

    Attributes:
        probes: one per scan.
    """

    def __init__(
        self,
        network: Network,
        scans: Sequence[Scan],
        payload: TrainingPayload,
        strategy: tf.distribute.Strategy,
    ) -> None:
        self.network, self.payload, self.strategy = network, payload, strategy
        self.config = payload.training
        self.ranks = strategy.num_replicas_in_sync
        self.probes = [LearnedProbe(scan.photon_probe) for scan in scans]
        self.mean_photons = [scan.mean_photons for scan in scans]
        self.weights = [weight for weight in network.weights.values() if weight.trainable]
        self.optimizer = Optimizer(self.config, self.weights)
        one = tf.VariableAggregation.ONLY_FIRST_REPLICA
        self.sums = [tf.Variable(tf.zeros_like(w), False, aggregation=one) for w in self.weights]
        compiled = payload.execution.compile
        # Compiled code is of one shape: canvases whose sides are rounded have few.
        self.reader = GroupReader(
            scans,
            multiple=scans[0].N // 2 if compiled else 1,
            labelled=self.config.model_type == "supervised",
        )
        self._step = tf.function(self._apply)
        self._learns: dict[int, Callable[..., Any]] = {}
        self._measures: dict[int, Callable[..., Any]] = {}

    def read(self, rows: Rows) -> list[Batch[NDArray[Any]]]:
        """The parts of a batch that the replicas of this process take."""
        local = self.ranks // self.payload.execution.num_nodes
        first = worker() * local
        return [self.reader.read(rows.part(first + k, self.ranks)) for k in range(local)]

    def learn(self, parts: Sequence[Batch[NDArray[Any]]]) -> tuple[float, float, float]:
        """Add the gradients of a batch to their sums.

        Returns:
            The loss, the misfit after the last update step, and the patterns that this is the mean
            of, over all replicas.
        """
        number, side = parts[0].scan, parts[0].counts.shape[-1]
        if side not in self._learns:
            self._learns[side] = self._of_all(self._learn)
        found, probe_gradient = self._learns[side](self._inputs(parts))
        if self.config.probe_trainable:
            self.probes[number].add(probe_gradient)
        loss, total, weight = found.numpy().tolist()
        return loss, total / weight, weight

    def step(self, rate: float) -> None:
        """Take a step along the summed gradients, which begin anew."""
        corrections = self.optimizer.next_corrections()
        self.strategy.run(self._step, args=(tf.constant(rate, tf.float32), corrections))
        if self.config.probe_trainable:
            for probe in self.probes:
                length = self.config.probe_learning_rate * rate / self.config.learning_rate
                probe.descend(length)

    def measure(self, parts: Sequence[Batch[NDArray[Any]]]) -> tuple[float, float]:
        """Misfit of the anchors of a batch, and their number, over all replicas."""
        side = parts[0].counts.shape[-1]
        if side not in self._measures:
            self._measures[side] = self._of_all(self._measure)
        total, weight = self._measures[side](self._inputs(parts)).numpy().tolist()
        return total / weight, weight / parts[0].per_group

    def any(self, flag: bool) -> bool:
        """Whether a flag is set in any process."""
        if self.ranks == 1:
            return flag
        values = self.strategy.run(lambda: self._sum(tf.constant(float(flag))))
        return float(self.strategy.experimental_local_results(values)[0]) > 0

    def _of_all(self, function: Callable[[_Inputs], Any]) -> Callable[..., Any]:
        """A graph that runs a function in every replica, whose results are the same in each."""
        compiled = self.payload.execution.compile

        def run(inputs: _Inputs) -> Any:
            results = self.strategy.run(tf.function(function, jit_compile=compiled), args=(inputs,))
            return tf.nest.map_structure(
                lambda value: self.strategy.experimental_local_results(value)[0], results
            )

        return tf.function(run, reduce_retracing=True)

    def _inputs(self, parts: Sequence[Batch[NDArray[Any]]]) -> _Inputs:
        """What each replica is given."""
        if self.ranks == 1:
            return self._input(parts[0])

        def of_replica(context: tf.distribute.experimental.ValueContext) -> _Inputs:
            return self._input(parts[context.replica_id_in_sync_group % len(parts)])

        return self.strategy.experimental_distribute_values_from_function(of_replica)  # type: ignore[no-any-return]

    def _input(self, batch: Batch[NDArray[Any]]) -> _Inputs:
        probe = self.probes[batch.scan]
        given = {
            "field": probe.field,
            "rms": tf.constant(probe.rms, tf.float32),
            "mean_photons": tf.constant(self.mean_photons[batch.scan], tf.float32),
            "shape": tf.constant(batch.shape, tf.int64),
            "share": tf.constant(batch.share, tf.float32),
            "weight": tf.constant(batch.weight, tf.float32),
        }
        arrays = {name: getattr(batch, name) for name in _ARRAYS}
        return given | {
            name: tf.convert_to_tensor(array) for name, array in arrays.items() if array is not None
        }

    def _misfits(self, given: _Inputs, anchors_only: bool = False) -> Iterator[Tensor]:
        """The loss after each update step, over all patterns or the anchors of groups alone."""
        arrays: dict[str, Any] = {name: given.get(name) for name in _ARRAYS}
        per_group = self.payload.model.C
        batch = Batch(**arrays, shape=tuple(tf.unstack(given["shape"])), per_group=per_group)
        counted = slice(None, None, per_group if anchors_only else 1)
        shifted = physics.shift_probe(modes_of(given["field"], given["rms"]), batch.fraction)
        for patches in refine(self.network, tf.stop_gradient(shifted), batch):
            if batch.label is not None:
                light = physics.coverage(shifted[counted])
                yield label_misfit(patches[counted], batch.label[counted], light)
            else:
                mean = given["mean_photons"]
                yield self._misfit(patches[counted], shifted[counted], batch, counted, mean)

    def _misfit(
        self, patches: Tensor, shifted: Tensor, batch: Batch[Tensor], counted: slice, mean: Tensor
    ) -> Tensor:
        waves = physics.far_field(physics.exit_waves(shifted, patches), corner=True)
        rate = physics.intensity(waves, batch.background)
        counts, valid = batch.counts[counted], batch.valid
        valid = valid[counted] if valid is not None and len(valid.shape) == 3 else valid
        terms = (
            (self.config.poisson_weight, physics.poisson_deviance),
            (self.config.amplitude_weight, physics.amplitude_mse),
            (self.config.mae_weight, physics.amplitude_mae),
        )
        return tf.add_n([w * loss(rate, counts, mean, valid) for w, loss in terms if w])

    def _learn(self, given: _Inputs) -> tuple[Tensor, Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(given["field"])
            losses = list(self._misfits(given))
            weights = step_weights(len(losses))
            loss = tf.add_n([w * x for w, x in zip(weights, losses, strict=True)]) * given["share"]
        sources = [*self.weights, given["field"]]
        none = tf.UnconnectedGradients.ZERO
        gradients = tape.gradient(loss, sources, unconnected_gradients=none)
        figures = tf.stack([loss / self.ranks, losses[-1] * given["weight"], given["weight"]])
        *gradients, probe_gradient, figures = self._sum([*gradients, figures])
        scale = 1 / (self.ranks * self.config.accumulate_grad_batches)
        for total, gradient in zip(self.sums, gradients, strict=True):
            total.assign_add(scale * gradient)
        return figures, scale * probe_gradient

    def _measure(self, given: _Inputs) -> Tensor:
        *_, loss = self._misfits(given, anchors_only=True)
        return self._sum(tf.stack([loss * given["weight"], given["weight"]]))

    def _sum(self, values: Any) -> Any:
        """The sum over the replicas, in each."""
        if self.ranks == 1:
            return values
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, values)

    def _apply(self, rate: Tensor, corrections: Tensor) -> None:
        gradients: list[Tensor] = [tf.identity(total) for total in self.sums]
        config = self.config
        if config.gradient_clip_val is not None:
            gradients = clip_gradients(
                self.weights, gradients, config.gradient_clip_algorithm, config.gradient_clip_val
            )
        self.optimizer.apply(gradients, rate, corrections)
        for total in self.sums:
            total.assign(tf.zeros_like(total))
