"""Training does what its settings say; each test looks at the effect."""

import csv
import logging
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

import ptychotf
from ptychoconfig.errors import BackendError, ConfigError, NumericalError
from ptychoconfig.schema import ExecutionConfig, SimulationConfig, TrainingConfig
from ptychodata.bundle import read_bundle, write_bundle
from ptychodata.simulate import simulate
from ptychodata.training.health import Figures
from ptychodata.training.strength import first_scale
from ptychotf import device, physics, training
from ptychotf.clipping import clip_gradients
from ptychotf.inference import infer
from ptychotf.learner import object_error
from ptychotf.optimizers import Optimizer
from ptychotf.probe import LearnedProbe, modes_of
from ptychotf.schedules import Patience, Plateau

PROBE_SETTINGS = {"probe_trainable": True, "accumulate_grad_batches": 4}


def same(one, other):
    equal = [one.weights[k].tobytes() == other.weights[k].tobytes() for k in one.weights]
    probes = [np.array_equal(a, b) for a, b in zip(one.probes, other.probes, strict=True)]
    return all(equal) and all(probes) and one.history == other.history


def test_a_network_learns_is_bundled_and_applied(run, scan, inference_payload, tmp_path):
    seen = []
    bundle = run(gridsize=2, epochs=3, seen=seen)
    losses = bundle.history["train_loss"]
    assert losses[-1] < 0.5 * losses[0] and len(bundle.history["val_loss"]) == 3
    assert all(p.patterns_per_s > 0 and p.seconds_left >= 0 for p in seen)
    rows = list(csv.DictReader((tmp_path / "run" / "metrics.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    write_bundle(bundle, tmp_path / "wts.h5.zip")
    again = read_bundle(tmp_path / "wts.h5.zip")
    assert again.backend == "tf" and set(again.versions) >= {"ptycho-tf", "tensorflow"}
    images = [
        infer(b, scan, inference_payload(b, batch_size=size), lambda _: None).obj
        for b, size in ((bundle, 32), (again, 32), (again, 4))
    ]
    np.testing.assert_array_equal(images[0], images[1])
    assert np.linalg.norm(images[2] - images[0]) <= 1e-5 * np.linalg.norm(images[0])
    grouped = infer(bundle, scan, inference_payload(bundle, merge="group"), lambda _: None)
    assert np.isfinite(grouped.obj).all() and grouped.disagreement.max() > 0
    with pytest.raises(ConfigError, match=r"--merge none.*gridsize 2.*--merge scan"):
        infer(bundle, scan, inference_payload(bundle, merge="none"), lambda _: None)


def test_interrupted_and_resumed_is_never_interrupted_whatever_was_asked(run):
    """The probe is learned, gradients summed, weights averaged, a plateau lowers the rate."""
    flags = PROBE_SETTINGS | {"scheduler": "plateau", "plateau_threshold": 1.0}
    flags |= {"plateau_patience": 0, "epochs": 3, "ema_decay": 0.9}
    whole = run("whole", **flags)
    rates = whole.history["learning_rate"]
    assert rates[0] > rates[1] > rates[2]
    first = run("cut", stop_after=4, **flags)
    assert not same(whole, first)
    run("cut", stop_after=2, resume="cut", **flags)
    assert same(whole, run("cut", resume="cut", **flags))
    nothing = []
    assert same(whole, run("cut", resume="cut", seen=nothing, **flags)) and not nothing
    with pytest.raises(ConfigError, match="--epochs: expected 3"):
        run("cut", resume="cut", **flags | {"epochs": 4})


def test_what_is_no_checkpoint_of_this_backend_is_told(run, tmp_path):
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    for content in (b"not a checkpoint", b""):
        (folder / "last.ckpt").write_bytes(content)
        with pytest.raises(ConfigError, match=r"expected a checkpoint.*--backend tf.*afresh"):
            run(resume="run")
    with (folder / "last.ckpt").open("wb") as file:
        np.savez(file, data=np.zeros(3))  # a good archive of something else
    with pytest.raises(ConfigError, match="KeyError"):
        run(resume="run")


def test_seed_is_kept_and_max_time_ends_the_run(run):
    flags = {"n_groups": 10, "epochs": 1}
    one, two, other = run(**flags), run(**flags), run(seed=7, **flags)
    assert same(one, two) and not same(one, other)
    timed = run(max_time="2s", epochs=100_000)
    assert len(timed.history["train_loss"]) < 5000


def test_what_is_kept_is_the_mean_of_the_weights(run):
    """One batch an epoch: what runs of one, two and three steps end with is averaged."""
    flags = {"scheduler": "constant", "batch_size": 100}
    weights = [run(epochs=n, **flags).weights for n in (1, 2, 3)]
    kept = run(epochs=3, ema_decay=0.9, **flags).weights
    for name, newest in weights[-1].items():
        mean = weights[0][name]
        for step in (1, 2):  # each takes the share 10 / (step + 10)
            mean = mean + (weights[step][name] - mean) * 10 / (step + 10)
        np.testing.assert_allclose(kept[name], mean, rtol=1e-5, atol=1e-7)
        assert not np.array_equal(kept[name], newest)


def test_settings_of_the_loss_and_supervised_training(run, scan):
    for flags in (
        {"poisson_weight": 1, "amplitude_weight": 0},
        {"mae_weight": 1, "amplitude_weight": 0, "gradient_clip_algorithm": "agc"},
        {"model_type": "supervised"},
    ):
        losses = run(epochs=3, **flags).history["train_loss"]
        assert losses[-1] < losses[0], flags


def test_a_bundle_goes_on_learning_what_more_passes_come_to(run):
    hard = simulate(
        SimulationConfig(
            N=32,
            n_patterns=40,
            overlap=0.55,
            object_kind="natural",
            probe_kind="zone-plate",
            seed=3,
        )
    )
    start = run(scans=(hard,), architecture="unrolled", epochs=1, n_groups=5)
    given = {"probe": "file", "accelerator": "cpu"}
    tuned = ptychotf.train(hard, start=start, epochs=4, n_groups=15, learning_rate=2e-3, **given)
    assert tuned.config["training"]["model_type"] == "distilled"
    losses = tuned.history["val_loss"]
    assert losses[-1] < losses[0] - 0.05  # of the logarithm of the squared error


def test_error_of_an_object_is_that_up_to_its_own_global_phase():
    draw = np.random.default_rng(0)
    known = (draw.normal(size=(2, 24, 8)) + 1j * draw.normal(size=(2, 24, 8))).astype(np.complex64)
    light = tf.constant(draw.random((2, 24, 8)), tf.float32)
    turned = known * np.exp(1j * np.array([3.0, -0.4]))[:, None, None].astype(np.complex64)
    np.testing.assert_allclose(object_error(turned, known, light), [0, 0], atol=1e-10)
    apart = (tf.reshape(x, (1, 48, 8)) for x in (turned, known, light))
    assert float(tf.reduce_min(object_error(turned, known, light, absolute=True))) > 0.05
    assert float(object_error(*apart)[0]) > 0.5
    even = tf.ones_like(known)  # Σ w |0.9 − 1|² / Σ w 0.001
    np.testing.assert_allclose(object_error(0.9 * even, even, light), [10, 10], rtol=1e-4)


def test_masked_pixels_do_not_count_and_each_scan_has_its_probe(run, scan):
    mask = np.ones((scan.N, scan.N), bool)
    mask[3:9, 4:20] = False
    broken = scan.diffraction.copy()
    broken[:, ~mask] = broken.max() * 100
    clean, dirty = replace(scan, mask=mask), replace(scan, diffraction=broken, mask=mask)
    turned = replace(clean, probe=scan.probe * 1j)
    flags = {"epochs": 1, "probe_trainable": True}
    one, two = run(scans=(clean, turned), **flags), run(scans=(dirty, turned), **flags)
    assert one.history["train_loss"] == pytest.approx(two.history["train_loss"], rel=1e-4)
    assert len(one.probes) == 2 and one.statistics["n_scans"] == 2
    power = np.sum(np.abs(clean.photon_probe) ** 2)
    for probe in one.probes:
        assert np.sum(np.abs(probe) ** 2) == pytest.approx(power, rel=1e-3)


def test_a_collapse_is_told_stops_or_begins_anew(run, monkeypatch, caplog):
    sick = Figures(variation=0.0, contrast=0.1, dead=0.1, light=1.0)
    monkeypatch.setattr(training.Look, "__call__", lambda *_: sick)
    with caplog.at_level(logging.WARNING):
        run(epochs=1)
    assert "the object is the same for every pattern" in caplog.text
    with pytest.raises(NumericalError, match="collapsed at step"):
        run(epochs=1, on_collapse="stop")
    built = []
    usual = training.build_network
    monkeypatch.setattr(training, "build_network", lambda *a: built.append(a) or usual(*a))
    run(epochs=1, on_collapse="restart")
    assert [seed for _, seed in built] == [42, 43, 44]  # every three of six batches


STILL = {"optimizer": "sgd", "learning_rate": 1e-12, "momentum": 0.0, "epochs": 1}
SCALE = "generator/log_scale"


def test_scale_of_cnn_begins_at_the_strength_of_the_object_or_as_its_bundle_has_it(
    run, scan, training_payload, tmp_path
):
    weak, payload = scan.with_probe(scan.probe / np.float32(3)), training_payload(**STILL)
    runs = []
    for scans in ((scan,), (weak,), (scan, weak)):
        runs.append(run(scans=scans, **STILL))
        expected = np.log(first_scale(scans, payload))
        np.testing.assert_allclose(runs[-1].weights[SCALE], [expected], rtol=1e-6)
    first, second, _ = (bundle.weights[SCALE] for bundle in runs)
    np.testing.assert_allclose(second - first, [np.log(3)], rtol=1e-5)
    again = training.train((weak,), payload, tmp_path, lambda _: None, start=runs[0])
    np.testing.assert_allclose(again.weights[SCALE], first, rtol=1e-6)
    fixed = run(intensity_scale_trainable=False, epochs=1)
    assert fixed.weights[SCALE] == 0


def test_restart_begins_with_the_same_scale(run, scan, training_payload, monkeypatch, caplog):
    sick = Figures(variation=0.0, contrast=0.1, dead=0.1, light=1.0)
    monkeypatch.setattr(training.Look, "__call__", lambda *_: sick)
    with caplog.at_level(logging.WARNING):
        bundle = run(on_collapse="restart", **STILL)
    assert "beginning anew" in caplog.text
    expected = np.log(first_scale([scan], training_payload()))
    np.testing.assert_allclose(bundle.weights[SCALE], [expected], rtol=1e-6)


def test_cnn_learns_with_a_probe_that_is_three_times_too_weak(run, scan):
    """From a factor of 1 the loss ends at 0.41, the same for every pattern."""
    weak = scan.with_probe(scan.probe / np.float32(3))
    losses = run(scans=(weak,), epochs=5, learning_rate=1e-3).history["train_loss"]
    assert losses[-1] < 0.02


def test_figures_of_a_fresh_network_are_healthy_and_of_a_silent_one_are_not(scan):
    from ptychoconfig.schema import ModelConfig
    from ptychodata.training.batches import GroupReader, Rows
    from ptychodata.training.health import faults
    from ptychotf.health import Look
    from ptychotf.networks import build_network

    model = ModelConfig(architecture="cnn", N=32, gridsize=1, n_filters_scale=1)
    network = build_network(model)
    batch = GroupReader([scan]).read(Rows(0, np.arange(8)[:, None]))
    modes = tf.constant(scan.photon_probe)
    look = Look(network)
    assert not faults(look(modes, batch))
    for name, weight in network.weights.items():
        if name.endswith("bias"):
            weight.assign(tf.fill(weight.shape, -100.0))
    assert {"dead", "variation"} <= set(faults(look(modes, batch)))
    few = GroupReader([scan]).read(Rows(0, np.arange(3)[:, None]))
    assert look(modes, few) is None


def test_preview_sees_the_network_and_its_failure_ends_nothing(scan, training_payload, tmp_path):
    drawn = []

    def draw(epoch, image):
        drawn.append((epoch, np.isfinite(image.obj).all()))
        raise RuntimeError("no ink")

    payload = training_payload(preview_every=1)
    training.train((scan,), payload, tmp_path, lambda _: None, preview=draw)
    assert drawn == [(1, True), (2, True)]


@pytest.mark.parametrize("kind", ["adam", "adamw", "sgd"])
def test_optimiser_takes_the_steps_of_its_formula(kind):
    config = TrainingConfig(optimizer=kind, weight_decay=0.1, beta1=0.8, beta2=0.9, momentum=0.7)
    weight, gradients = tf.Variable([1.0, -2.0]), ([3e-7, 0.5], [1e-7, -0.25])
    optimizer, rate = Optimizer(config, [weight]), 0.01
    expected, mean, square = np.array([1.0, -2.0]), np.zeros(2), np.zeros(2)
    for t, gradient in enumerate(np.array(gradients), start=1):
        optimizer.apply([tf.constant(gradient, tf.float32)], rate, optimizer.next_corrections())
        if kind == "adamw":
            expected = expected * (1 - rate * 0.1)
        else:
            gradient = gradient + 0.1 * expected
        if kind == "sgd":
            mean = 0.7 * mean + gradient
            expected = expected - rate * mean
            continue
        mean, square = 0.8 * mean + 0.2 * gradient, 0.9 * square + 0.1 * gradient**2
        scale = np.sqrt(square / (1 - 0.9**t)) + 1e-8
        expected = expected - rate * mean / (1 - 0.8**t) / scale
    np.testing.assert_allclose(weight.numpy(), expected, rtol=1e-5)


def test_clipping_bounds_the_norm_the_entries_or_each_channel():
    weights = [tf.constant([[3.0, 0.3, 0.0], [4.0, 0.4, 0.0]])]
    gradients = [tf.constant([[6.0, 0.003, 6.0], [8.0, 0.004, 8.0]])]
    [norm] = clip_gradients(weights, gradients, "norm", 1.0)
    assert np.linalg.norm(norm) == pytest.approx(1, rel=1e-5)
    [value] = clip_gradients(weights, gradients, "value", 1.0)
    assert np.max(np.abs(value)) == 1 and float(value[0, 1]) == pytest.approx(0.003)
    [adaptive] = clip_gradients(weights, gradients, "agc", 0.1)
    expected = [[0.3, 0.003, 6e-5], [0.4, 0.004, 8e-5]]  # norms 0.1·5, free, 0.1·10⁻³
    np.testing.assert_allclose(adaptive, expected, rtol=1e-5)


def test_full_probe_step_is_the_classical_one(scan):
    """A step of length 1 on the amplitude loss is the mean of the ePIE probe updates, |O| = 1."""
    probe = LearnedProbe(scan.photon_probe)
    counts = tf.constant(scan.counts()) * 0.9
    with tf.GradientTape() as tape:
        tape.watch(probe.field)
        waves = physics.far_field(modes_of(probe.field, probe.rms)[None])
        rate = tf.repeat(physics.intensity(waves), len(counts), 0)
        loss = physics.amplitude_mse(rate, counts, scan.mean_photons)
    probe.add(tape.gradient(loss, probe.field))
    factor = tf.reduce_mean(tf.sqrt(counts) / tf.sqrt(rate + physics.EPSILON) - 1, 0)
    update = physics.inverse_far_field(waves[0] * tf.cast(factor, tf.complex64)).numpy()
    before, expected = probe.modes(), probe.modes() + update
    probe.descend(1.0)
    power = np.sum(np.abs(before) ** 2)
    expected *= np.sqrt(power / np.sum(np.abs(expected) ** 2))
    assert np.sum(np.abs(probe.modes()) ** 2) == pytest.approx(power, rel=1e-4)
    difference = np.sum((np.abs(probe.modes()) - np.abs(expected)) ** 2)  # up to a small shift
    assert difference < 0.1 * np.sum((np.abs(before) - np.abs(expected)) ** 2)


def test_plateau_and_patience_wait_for_losses_that_are_not_better():
    plateau = Plateau(TrainingConfig(scheduler="plateau", plateau_patience=1, learning_rate=1e-3))
    factors = []
    for loss in (1.0, 0.5, 0.6, 0.7, 0.4, 0.4, 0.4):
        plateau.take(loss)
        factors.append(plateau.factor)
    assert factors == [1, 1, 1, 0.5, 0.5, 0.5, 0.25]
    patience = Patience(TrainingConfig(early_stop_patience=2))
    assert [patience.is_over(x) for x in (1.0, 0.5, 0.6, 0.7)] == [False, False, False, True]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"accelerator": "mps"}, "--accelerator"),
        ({"strategy": "ddp"}, "--strategy.*mirrored"),
        ({"strategy": "fsdp"}, "--strategy.*multi-worker"),
        ({"prefetch_factor": 2}, "--prefetch-factor"),
        ({"precision": "16-mixed"}, "--precision.*bf16-mixed"),
        ({"logger": "mlflow"}, "--logger"),
        ({"pin_memory": True}, "--pin-memory"),
        ({"num_workers": 2}, "--num-workers"),
        ({"persistent_workers": False}, "--no-persistent-workers"),
    ],
)
def test_flags_without_a_meaning_are_refused_by_name(flags, message):
    with pytest.raises(ConfigError, match=f"{message}.*--backend torch"):
        device.choose_device(ExecutionConfig(**flags))


def test_what_xla_cannot_compile_is_refused(run):
    """Rounds of unlike size, and a gradient of pooling that is the same in every run."""
    with pytest.raises(ConfigError, match=r"--compile: expected.*cnn.*unrolled.*leave --compile"):
        run(architecture="unrolled", compile=True)
    with pytest.raises(ConfigError, match=r"--compile: expected --no-deterministic"):
        run(compile=True)


def test_what_is_not_there_is_refused_with_the_remedy(run):
    with pytest.raises(ConfigError, match=r"--num-nodes: expected 0.*TF_CONFIG"):
        run(num_nodes=3, strategy="multi-worker")
    if not tf.config.list_physical_devices("GPU"):
        with pytest.raises(BackendError, match=r"--accelerator cuda.*--accelerator cpu"):
            run(accelerator="cuda")
    if not hasattr(tf.summary, "scalar"):
        with pytest.raises(BackendError, match=r"--logger tensorboard.*pip install"):
            run(logger="tensorboard")


def test_precision_is_that_of_the_layers(run):
    plain = run(epochs=1, n_groups=10).history["train_loss"][0]
    narrow = run(epochs=1, n_groups=10, precision="bf16-mixed").history["train_loss"][0]
    assert narrow != plain and narrow == pytest.approx(plain, rel=0.05)


def test_networks_of_two_sizes_do_not_meet(run, scan, inference_payload, tmp_path):
    from ptychoconfig.payloads import create_training_payload
    from ptychoconfig.schema import SimulationConfig

    small = run(epochs=1)
    image = infer(small, scan, inference_payload(small), lambda _: None).obj
    larger = simulate(SimulationConfig(N=64, n_patterns=12, overlap=0.7, nphotons=1e8))
    flags = {"architecture": "cnn", "gridsize": 1, "n_filters_scale": 1, "epochs": 1}
    payload = create_training_payload(N=64, flags=flags, environment={})
    other = training.train((larger,), payload, tmp_path, lambda _: None)
    assert infer(other, larger, inference_payload(other), lambda _: None).obj.shape != image.shape
    np.testing.assert_array_equal(
        infer(small, scan, inference_payload(small), lambda _: None).obj, image
    )
