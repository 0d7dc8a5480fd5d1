"""Training: minimise the misfit of the patterns that the network's object implies.

No ground truth is used.  In each step the network makes objects of a few groups of patterns, and
the forward model predicts patterns of the same groups that the network was not shown; the loss
after every pass counts, the last one most.

One loop serves one device, several, and several machines; what is random, and in which order the
batches come, is a function of (seed, epoch, batch), so that a run can be taken up at any place.
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import tensorflow as tf
from numpy.typing import NDArray

from ptychoconfig.errors import ConfigError, NumericalError
from ptychoconfig.payloads import TrainingPayload
from ptychodata.backends import Preview, Report, ShouldStop
from ptychodata.bundle import Bundle
from ptychodata.contracts import Scan
from ptychodata.training.batches import Batch, GroupSampler, Rows, split_scans, validation_rows
from ptychodata.training.checkpoints import Place, Shelf, identity
from ptychodata.training.health import CollapseWatch, is_due
from ptychodata.training.outcome import trained_bundle
from ptychodata.training.progress import Course, Mean
from ptychodata.training.schedule import rate_factor
from ptychodata.training.strength import first_scale

from . import __version__
from .checkpoints import read_checkpoint, write_checkpoint
from .device import choose_device, choose_dtype
from .health import Look
from .learner import Learner
from .logs import Log
from .networks import Network, build_network, refuse_other_sizes
from .previews import Previews
from .schedules import Patience, Plateau
from .strategy import choose_strategy, worker
from .weights import from_arrays, to_arrays

__all__ = ["train"]


def train(
    scans: Sequence[Scan],
    payload: TrainingPayload,
    run_dir: Path,
    report: Report,
    should_stop: ShouldStop = lambda: False,
    resume: Path | None = None,
    preview: Preview | None = None,
    start: Bundle | None = None,
) -> Bundle:
    """Train a network on the patterns of ``scans``; see ``ptychodata.backends.Backend.train``."""
    device = choose_device(payload.execution, several=True)
    strategy = choose_strategy(payload.execution, device)
    if payload.execution.deterministic:
        tf.random.set_seed(payload.training.seed)
        tf.config.experimental.enable_op_determinism()
    alone = device if strategy.num_replicas_in_sync == 1 else None
    with strategy.scope(), tf.device(alone):
        network = build_network(payload.model, payload.training.seed)
        scale = first_scale(scans, payload)
        if start is None:
            network.scale_object(scale)
        else:
            from_arrays(network, dict(start.weights))
        _refuse_to_compile(network, payload)
        refuse_other_sizes(network, {scan.N for scan in scans}, payload.model)
        network.compute_dtype = choose_dtype(payload.execution, device)
        learner = Learner(network, scans, payload, strategy)
    # Outside the scope: what one process alone makes, as a preview, concerns no other.
    with tf.device(alone):
        run = _Run(learner, scans, payload, run_dir, report, should_stop, preview, scale)
        if resume is not None:
            run.load(resume)
        run.go()
    return trained_bundle(
        "tf",
        scans,
        payload,
        weights=to_arrays(learner.outcome),
        probes=[probe.modes() for probe in learner.probes],
        history=run.course.history,
        versions={"ptycho-tf": __version__, "tensorflow": tf.__version__},
    )


def _refuse_to_compile(network: Network, payload: TrainingPayload) -> None:
    """XLA compiles for known sizes, and rounds of a group are of several."""
    if not payload.execution.compile:
        return
    if network.steps > 1:
        raise ConfigError(
            "--compile: expected a network of one step, which XLA can compile, such as cnn, found "
            f"--architecture {payload.model.architecture}; leave --compile out, or use "
            "--backend torch"
        )
    if payload.execution.deterministic:
        raise ConfigError(
            "--compile: expected --no-deterministic, for XLA has no deterministic gradient of "
            "pooling, found --deterministic, the default; add --no-deterministic, or leave "
            "--compile out"
        )


class _Run:
    """The course of a training, from its start or a checkpoint to its end."""

    def __init__(
        self,
        learner: Learner,
        scans: Sequence[Scan],
        payload: TrainingPayload,
        run_dir: Path,
        report: Report,
        should_stop: ShouldStop,
        preview: Preview | None,
        scale: float,
    ) -> None:
        self.learner, self.payload, self.should_stop = learner, payload, should_stop
        self.scale = scale
        self.config, execution = payload.training, payload.execution
        kept, held_out = split_scans(scans, payload)
        self.sampler = GroupSampler(scans, kept, payload)
        self.validates = any(map(len, held_out))
        self.held_rows = validation_rows(scans, held_out, payload) if self.validates else []
        self.leads = worker() == 0
        table = run_dir / "metrics.csv" if execution.logger != "none" else None
        self.course = Course(report, payload, self.sampler.batches, table)
        self.course.ranks = learner.ranks
        monitor = execution.checkpoint_monitor if self.validates else "train_loss"
        self.shelf = Shelf(run_dir, payload, monitor) if execution.enable_checkpointing else None
        self.origin = identity("tf", scans, payload)
        self.watch, self.look = CollapseWatch(self.config.on_collapse), Look(learner.network)
        self.factor = rate_factor(self.config, self.sampler.batches, self.course.elapsed_s)
        self.plateau, self.patience = Plateau(self.config), Patience(self.config)
        self.loss, self.steps, self.place = Mean(), 0, Place()
        self.log = Log(execution.logger, run_dir)
        self.previews = Previews(preview, learner, scans, payload, self.log)

    def go(self) -> None:
        """Train to the end, or until it is asked for."""
        if self.place.finished:
            return
        if self.shelf is not None:
            self.shelf.open(fresh=self.place.path is None)
        self.course.begin()
        while self.course.epoch < self.course.epochs:
            if not self._epoch():
                break

    def _epoch(self) -> bool:
        """Train for the rest of an epoch; False ends the run."""
        course = self.course
        self.sampler.epoch, self.sampler.start = course.epoch, course.batch
        ends = False
        for number, (rows, parts) in enumerate(_ahead(self.sampler, self.learner.read)):
            self._batch(number, rows, parts)
            if ends := self._must_end():
                break
        whole = course.batch == course.batches
        figures = {"train_loss": self.loss.take(), "learning_rate": self._rate()}
        if self.validates and (whole or not course.interrupted):
            figures["val_loss"] = self._validate()
        course.close_epoch(figures, writes=self.leads)
        self.log.write(course.epoch + 1, figures)
        ends = self.patience.is_over(figures.get("val_loss")) or ends
        self.plateau.take(figures.get("val_loss", figures["train_loss"]))
        if not ends and self.leads:
            self.previews.draw(course.epoch)
        if ends or course.epoch + 1 == course.epochs:
            course.end()
        if whole:
            course.begin_epoch(course.epoch + 1)
            self._shelve(figures)
        elif course.finished:
            self._save()
        return not ends

    def _batch(self, number: int, rows: Rows, parts: list[Batch[NDArray[Any]]]) -> None:
        """Learn from a batch, take a step if it is time, and tell and save what is due."""
        done = self.sampler.start + number
        healthy = self._look(done, parts)
        draw = self.config.seed, self.course.epoch, done
        loss, final, patterns = self.learner.learn(parts, draw)
        if not loss < float("inf"):
            raise NumericalError(
                f"expected a finite loss, found {loss} at step {self.steps}; lower "
                "--learning-rate, or check the scan with `ptycho inspect`"
            )
        self.loss.add(final, patterns)
        steps = self.config.accumulate_grad_batches
        if done + 1 == self.course.batches or (done + 1) % steps == 0:
            self.learner.step(self._rate())
            self.steps += 1
        if not healthy:
            self._begin_anew()
        self.course.count(number, len(parts[0]), loss)

    def _rate(self) -> float:
        """Learning rate of the next step."""
        return self.config.learning_rate * self.factor(self.steps) * self.plateau.factor

    def _must_end(self) -> bool:
        """Whether to end after this batch; saves what an interruption would lose."""
        course, limit = self.course, self.config.max_time
        if course.stepped and self.learner.any(self.should_stop()):
            course.interrupt()
        within = course.stepped and course.batch < course.batches
        late = self.shelf is not None and self.learner.any(self.shelf.is_late())
        if within and (course.interrupted or late):
            self._save()
        spent = limit is not None and course.elapsed_s() >= limit
        return course.interrupted or self.learner.any(spent)

    def _validate(self) -> float:
        """Mean misfit of the held-out patterns, which are the anchors of their groups."""
        mean = Mean()
        for _, parts in _ahead(self.held_rows, self.learner.read):
            mean.add(*self.learner.measure(parts))
        return mean.take()

    def _look(self, done: int, parts: list[Batch[NDArray[Any]]]) -> bool:
        """Look whether the network collapses, if that is due; False asks to begin anew."""
        course = self.course
        if not is_due(course.epoch, done, course.batches):
            return True
        learner, number = self.learner, parts[0].scan
        modes = tf.constant(learner.probes[number].modes())
        overlap = learner.redundancies[number]
        found = self.look(modes, parts[0], overlap)
        total = course.epoch * course.batches + done + 1
        told = self.watch.judge(found, total, course.batches)
        if not self.learner.any(bool(told)):  # all processes as one
            return True
        told = told or "seen by another process"
        return not self.watch.collapsed(told, self.steps + 1, course.epoch, total)

    def _begin_anew(self) -> None:
        """Other weights, the first probes, an optimiser without memory; the rate goes on."""
        fresh = build_network(self.payload.model, self.config.seed + len(self.watch.seen))
        fresh.scale_object(self.scale)
        for network in filter(None, (self.learner.network, self.learner.mean)):
            from_arrays(network, to_arrays(fresh))
        self.learner.optimizer.forget()
        for probe in self.learner.probes:
            probe.begin_anew()

    def _shelve(self, figures: dict[str, float]) -> None:
        """Save the end of an epoch, and keep it if it is among the best."""
        if self.shelf is None:
            return
        name = self.shelf.rank(self.course.epoch, figures[self.shelf.monitor])
        self._save()
        if self.leads:
            if name is not None:
                self.shelf.copy(name)
            self.shelf.clear()

    def _save(self) -> None:
        if self.shelf is None:
            return
        if self.leads:
            state = {
                **self.origin,
                **self.course.state(),
                "loss": self.loss.parts,
                "steps": self.steps,
                "optimizer_steps": self.learner.optimizer.steps,
                "watch": self.watch.state(),
                "plateau": self.plateau.state(),
                "patience": self.patience.state(),
                "best": self.shelf.best,
            }
            write_checkpoint(self.shelf.last, self._arrays(), state)
        self.shelf.saved()

    def load(self, path: Path) -> None:
        """Go on from a checkpoint."""
        self.place, arrays, state = read_checkpoint(path, self.origin)
        self.course.load_state(state)
        self.loss.parts, self.steps = state["loss"], state["steps"]
        self.watch.load_state(state["watch"])
        self.plateau.load_state(state["plateau"])
        self.patience.load_state(state["patience"])
        if self.shelf is not None:
            self.shelf.best = state["best"]
        self.learner.optimizer.steps = state["optimizer_steps"]
        for name, variable in self._variables().items():
            variable.assign(arrays[name])
        for number, probe in enumerate(self.learner.probes):
            probe.field = tf.constant(arrays[f"probe/{number}"])

    def _variables(self) -> dict[str, tf.Variable]:
        memory = self.learner.optimizer.memory
        named = {f"weight/{name}": v for name, v in self.learner.network.weights.items()}
        if self.learner.mean is not None:
            named |= {f"average/{name}": v for name, v in self.learner.mean.weights.items()}
        for kind, variables in memory.items():
            named |= {f"{kind}/{number}": v for number, v in enumerate(variables)}
        return named

    def _arrays(self) -> dict[str, NDArray[Any]]:
        arrays = {name: variable.numpy() for name, variable in self._variables().items()}
        probes = enumerate(self.learner.probes)
        return arrays | {f"probe/{number}": probe.field.numpy() for number, probe in probes}


def _ahead(batches: Iterable[Rows], read: Any) -> Iterator[tuple[Rows, list[Batch[NDArray[Any]]]]]:
    """Read each batch while the one before it is computed."""
    with ThreadPoolExecutor(1) as reader:
        coming = None
        for rows in batches:
            following = rows, reader.submit(read, rows)
            if coming is not None:
                yield coming[0], coming[1].result()
            coming = following
        if coming is not None:
            yield coming[0], coming[1].result()
