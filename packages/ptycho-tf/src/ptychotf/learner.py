"""One optimiser step on one device or several, the same code for all: what is run on each."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow import Tensor

from ptychoconfig.payloads import TrainingPayload
from ptychodata import unrolled
from ptychodata.contracts import Scan
from ptychodata.training.batches import Batch, GroupReader, Rows, group_redundancies
from ptychodata.training.schedule import mean_share, step_weights

from . import physics
from .batches import batch_of, tensors_of
from .clipping import clip_gradients
from .merging import Passes, members, rounds_of, unseen
from .networks import Network, State, build_network
from .networks.unrolled import typical
from .optimizers import Optimizer
from .probe import LearnedProbe, modes_of
from .strategy import worker
from .weights import from_arrays, move_mean, to_arrays

__all__ = ["Learner", "label_misfit", "object_error"]

_Inputs = dict[str, Any]

_Replica = Callable[[_Inputs], Any]
"""What a replica computes of its inputs."""


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


def object_error(obj: Tensor, known: Tensor, light: Tensor, *, absolute: bool = False) -> Tensor:
    """How far objects are from known ones up to a global phase: (G,).

    ε = Σ w |e^{−iφ} O − Y|² / Σ w (|Y − Ȳ|² + 0.001) with φ = arg Σ w O Y*, w = min(W/W̄, 1/4) and
    the mean Ȳ weighted by w, as on Torch.

    Args:
        obj: (G, H, W) complex objects O.
        known: (G, H, W) known ones Y.
        light: (G, H, W) illumination W.
        absolute: φ = 0, for single patterns, which nothing brings to one phase afterwards.
    """
    weight = tf.minimum(light / typical(light), 0.25)
    share = tf.cast(weight, obj.dtype)
    inner = tf.reduce_sum(share * tf.stop_gradient(obj) * tf.math.conj(known), (1, 2), True)
    angle = tf.zeros(()) if absolute else tf.math.angle(inner)
    error = _square(obj * tf.complex(tf.cos(angle), -tf.sin(angle)) - known)
    mean = tf.reduce_sum(share * known, (1, 2), True) / tf.reduce_sum(share, (1, 2), True)
    variance = _square(known - mean) + unrolled.LEAST_VARIANCE
    return tf.reduce_sum(weight * error, (1, 2)) / tf.reduce_sum(weight * variance, (1, 2))


def _log_error(passes: Passes) -> Callable[[State], Tensor]:
    """The logarithm of the error of canvases, whose known windows are put together, once."""
    label = passes.batch.label
    real, imaginary = tf.math.real(label), tf.math.imag(label)
    fields = [real, imaginary, tf.ones_like(real), physics.coverage(passes.shifted)]
    sums = physics.scatter(tf.stack(fields, -1), passes.index, passes.batch.shape)
    *known, count, light = tf.unstack(tf.reshape(sums, [*passes.shape, len(fields)]), axis=-1)
    mean = tf.complex(*(part / tf.maximum(count, 1) for part in known))

    def of(state: State) -> Tensor:
        error = object_error(state.obj, mean, light, absolute=passes.batch.per_group == 1)
        return tf.reduce_mean(tf.math.log(error + unrolled.LEAST_ERROR))

    return of


def _square(z: Tensor) -> Tensor:
    return tf.square(tf.math.real(z)) + tf.square(tf.math.imag(z))


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
        self.mean = build_network(payload.model) if self.config.ema_decay else None
        if self.mean is not None:
            from_arrays(self.mean, to_arrays(network))
            self.mean.compute_dtype = network.compute_dtype
        self.by_canvas = self.config.labelled and network.free_phase
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
            labelled=self.config.labelled,
        )
        self._step = tf.function(self._apply, autograph=False, reduce_retracing=True)
        self.redundancies = group_redundancies(scans, payload)
        self._graphs: dict[tuple[str, int], Callable[..., Any]] = {}

    @property
    def outcome(self) -> Network:
        """What is validated and kept: the network, or the one of its mean weights."""
        return self.mean or self.network

    def read(self, rows: Rows) -> list[Batch[NDArray[Any]]]:
        """The parts of a batch that the replicas of this process take."""
        local = self.ranks // self.payload.execution.num_nodes
        first = worker() * local
        return [self.reader.read(rows.part(first + k, self.ranks)) for k in range(local)]

    def learn(
        self, parts: Sequence[Batch[NDArray[Any]]], draw: Sequence[int]
    ) -> tuple[float, float, float]:
        """Add the gradients of a batch to their sums.

        Args:
            parts: of the batch, for the replicas of this process.
            draw: what is random is a function of these and of the replica.

        Returns:
            The loss, the misfit after the last update step, and the patterns that this is the mean
            of, over all replicas.
        """
        found, probe_gradient = self._run(self._learn, parts, draw)
        if self.config.probe_trainable:
            self.probes[parts[0].scan].add(probe_gradient)
        loss, total, weight = found.numpy().tolist()
        return loss, total / weight, weight

    def step(self, rate: float) -> None:
        """Take a step along the summed gradients, which begin anew."""
        share = mean_share(self.optimizer.steps, self.config.ema_decay)
        corrections = self.optimizer.next_corrections()
        figures = tf.constant([rate, share], tf.float32)
        self.strategy.run(self._step, args=(figures, corrections))
        if self.config.probe_trainable:
            for probe in self.probes:
                length = self.config.probe_learning_rate * rate / self.config.learning_rate
                probe.descend(length)

    def measure(self, parts: Sequence[Batch[NDArray[Any]]]) -> tuple[float, float]:
        """Misfit of the anchors of a batch, and their number, over all replicas."""
        total, weight = self._run(self._measure, parts).numpy().tolist()
        return total / weight, weight / parts[0].per_group

    def any(self, flag: bool) -> bool:
        """Whether a flag is set in any process."""
        if self.ranks == 1:
            return flag
        values = self.strategy.run(lambda: self._sum(tf.constant(float(flag))))
        return float(self.strategy.experimental_local_results(values)[0]) > 0

    def _run(
        self,
        function: _Replica,
        parts: Sequence[Batch[NDArray[Any]]],
        draw: Sequence[int] | None = None,
    ) -> Any:
        """What a function makes of a batch, by a graph for its N."""
        key = function.__name__, parts[0].counts.shape[-1]
        if key not in self._graphs:
            self._graphs[key] = self._of_all(function)
        return self._graphs[key](self._inputs(parts, draw))

    def _of_all(self, function: _Replica) -> Callable[..., Any]:
        """A graph that runs a function in every replica, whose results are the same in each."""
        compiled = self.payload.execution.compile

        def run(inputs: _Inputs) -> Any:
            mine = tf.function(function, autograph=False, jit_compile=compiled)
            results = self.strategy.run(mine, args=(inputs,))
            return tf.nest.map_structure(
                lambda value: self.strategy.experimental_local_results(value)[0], results
            )

        return tf.function(run, autograph=False, reduce_retracing=True)

    def _inputs(self, parts: Sequence[Batch[NDArray[Any]]], draw: Sequence[int] | None) -> _Inputs:
        """What each replica is given."""
        if self.ranks == 1:
            return self._input(parts[0]) | self._orders(draw, 0)

        def of_replica(context: tf.distribute.experimental.ValueContext) -> _Inputs:
            rank = context.replica_id_in_sync_group
            return self._input(parts[rank % len(parts)]) | self._orders(draw, rank)

        return self.strategy.experimental_distribute_values_from_function(of_replica)  # type: ignore[no-any-return]

    def _orders(self, draw: Sequence[int] | None, rank: int) -> _Inputs:
        """Other patterns in the rounds of each pass, where a network learns known canvases."""
        if draw is None or not self.by_canvas:
            return {}
        rng, members = np.random.default_rng([*draw, rank]), self.payload.model.C
        orders = [np.argsort(rng.permutation(members)) for _ in range(self.network.steps)]
        return {"orders": tf.constant(np.stack(orders), tf.int32)}

    def _input(self, batch: Batch[NDArray[Any]]) -> _Inputs:
        probe = self.probes[batch.scan]
        given = {
            "field": probe.field,
            "rms": tf.constant(probe.rms, tf.float32),
            "mean_photons": tf.constant(self.mean_photons[batch.scan], tf.float32),
            "shape": tf.constant(batch.shape, tf.int64),
            "redundancy": tf.constant(self.redundancies[batch.scan], tf.float32),
            "rounds": tf.constant(rounds_of(self.network, self.redundancies[batch.scan])),
            "share": tf.constant(batch.share, tf.float32),
            "weight": tf.constant(batch.weight, tf.float32),
        }
        return given | tensors_of(batch)

    def _learn(self, given: _Inputs) -> tuple[Tensor, Tensor]:
        """Add the gradients of a batch to their sums, pass by pass: none goes back to another."""
        passes, judged = self._passes(self.network, given)
        loss_of = self._loss_of(given, passes, judged)
        sources, steps = [*self.weights, given["field"]], self.network.steps
        course = tf.constant(step_weights(steps, even=self.by_canvas))

        def one(step: Any, state: State, so_far: Any) -> tuple[State, Any]:
            losses, gradients = so_far
            with tf.GradientTape() as tape:
                tape.watch(given["field"])
                state = passes.take(step, state, learning=True)
                loss = loss_of(state)
                counted = tf.gather(course, step) * given["share"] * loss
            none = tf.UnconnectedGradients.ZERO
            found = tape.gradient(counted, sources, unconnected_gradients=none)
            losses += tf.one_hot(step, steps) * loss
            return state, (losses, [a + b for a, b in zip(gradients, found, strict=True)])

        zeros = [tf.zeros_like(source) for source in sources]
        _, (losses, totals) = passes.run(one, (tf.zeros(steps), zeros))
        loss = tf.reduce_sum(course * losses) * given["share"]
        figures = tf.stack([loss / self.ranks, losses[-1] * given["weight"], given["weight"]])
        *totals, of_probe, figures = self._sum([*totals, figures])
        scale = 1 / (self.ranks * self.config.accumulate_grad_batches)
        for total, gradient in zip(self.sums, totals, strict=True):
            total.assign_add(scale * gradient)
        return figures, scale * of_probe

    def _measure(self, given: _Inputs) -> Tensor:
        """The misfit of anchors after the last pass, times the weight of the batch, and that."""
        passes, judged = self._passes(self.outcome, given)
        state, _ = passes.run(lambda step, state, _: (passes.take(step, state), ()), ())
        loss = self._loss_of(given, passes, judged[:1])(state)
        return self._sum(tf.stack([loss * given["weight"], given["weight"]]))

    def _passes(self, network: Network, given: _Inputs) -> tuple[Passes, NDArray[np.int64]]:
        """The passes over a batch, and the members of its groups that are judged.

        These are the hidden ones, all if none is hidden, the anchor first.
        """
        batch = batch_of(given, tuple(tf.unstack(given["shape"])), self.payload.model.C)
        shifted = physics.shift_probe(modes_of(given["field"], given["rms"]), batch.fraction)
        hidden = np.arange(0) if self.by_canvas else unseen(network, batch)
        overlap, rounds, orders = given["redundancy"], given["rounds"], given.get("orders")
        passes = Passes(network, shifted, batch, overlap, rounds, hidden, orders)
        return passes, hidden if len(hidden) else np.arange(batch.per_group)

    def _loss_of(
        self, given: _Inputs, passes: Passes, judged: NDArray[np.int64]
    ) -> Callable[[State], Tensor]:
        """The loss of the object after a pass."""
        if self.by_canvas:
            return _log_error(passes)
        return lambda state: self._misfit(given, passes, state, judged)

    def _misfit(
        self, given: _Inputs, passes: Passes, state: State, judged: NDArray[np.int64]
    ) -> Tensor:
        """The loss of some members of the groups; the probe is learned by it alone."""
        index = members(passes.batch, judged)
        patches, batch = tf.gather(passes.windows(state), index), passes.batch.part(index)
        shifted = physics.shift_probe(modes_of(given["field"], given["rms"]), batch.fraction)
        if batch.label is not None:
            return label_misfit(patches, batch.label, physics.coverage(shifted))
        waves = physics.far_field(physics.exit_waves(shifted, patches), corner=True)
        rate = physics.intensity(waves, batch.background)
        terms = (
            (self.config.poisson_weight, physics.poisson_deviance),
            (self.config.amplitude_weight, physics.amplitude_mse),
            (self.config.mae_weight, physics.amplitude_mae),
        )
        mean = given["mean_photons"]
        parts = [w * loss(rate, batch.counts, mean, batch.valid) for w, loss in terms if w]
        return tf.add_n(parts)

    def _sum(self, values: Any) -> Any:
        """The sum over the replicas, in each."""
        if self.ranks == 1:
            return values
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, values)

    def _apply(self, figures: Tensor, corrections: Tensor) -> None:
        rate, share = tf.unstack(figures)
        gradients: list[Tensor] = [tf.identity(total) for total in self.sums]
        config = self.config
        if config.gradient_clip_val is not None:
            gradients = clip_gradients(
                self.weights, gradients, config.gradient_clip_algorithm, config.gradient_clip_val
            )
        self.optimizer.apply(gradients, rate, corrections)
        if self.mean is not None:
            move_mean(self.mean, self.network, share)
        for total in self.sums:
            total.assign(tf.zeros_like(total))
