"""The network `unrolled`: the same as Torch's, to what its weights and rounds can tell."""

import numpy as np
import pytest
import tensorflow as tf

from ptychoconfig.schema import ModelConfig
from ptychodata import unrolled
from ptychodata.bundle import read_bundle
from ptychodata.physics import split_positions
from ptychodata.pretrained import PRETRAINED
from ptychodata.training.batches import GroupReader, Rows, read_batch
from ptychotf import physics
from ptychotf.batches import in_tensors
from ptychotf.merging import Passes, refine, rounds_of, unseen
from ptychotf.networks import FIELDS, State, Sums, build_network
from ptychotf.networks._layers import Conv, Variables
from ptychotf.weights import from_arrays, to_arrays

SMALL = {
    "N": 32,
    "unrolled_steps": 3,
    "unrolled_width": 8,
    "unrolled_levels": 1,
    "unrolled_likelihood": "poisson",
    "unrolled_smoothness": 50.0,
}


def network(trained=False, **settings):
    made = build_network(ModelConfig(**{"N": 32, **settings}), 0)
    if trained:  # weights in the last layer, which begins at zero
        drawn = np.random.default_rng(0).normal(0, 0.1, made.weights["unet/head/kernel"].shape)
        made.weights["unet/head/kernel"].assign(drawn)
    return made


@pytest.fixture
def seen(scan):
    """Four patterns in the middle of a canvas, their shifted probes, and the canvas's shape."""
    pixel, _ = split_positions(scan.positions_px)
    index, shape = np.arange(4), (200, 168)
    own = pixel[index] - pixel[index].min(0) + 40
    batch = in_tensors(read_batch(scan, index, own, shape))
    return batch, physics.shift_probe(tf.constant(scan.photon_probe), batch.fraction), shape


def test_pretrained_weights_fit():
    bundle = read_bundle(PRETRAINED)
    made = build_network(ModelConfig(**bundle.config["model"]), 1)
    assert {n: w.shape for n, w in to_arrays(made).items()} == {
        n: w.shape for n, w in bundle.weights.items()
    }
    from_arrays(made, dict(bundle.weights))


def test_weights_start_as_torchs():
    for name, weight in to_arrays(network()).items():
        if name.startswith("unet/head") or name.endswith("bias"):
            assert not weight.any(), name
        elif name.endswith("gain"):
            assert (weight == 1).all(), name
        else:
            bound = np.prod(weight.shape[:3]) ** -0.5
            assert 0.9 * bound < np.abs(weight).max() <= bound, name


def test_round_is_the_classical_update(seen):
    """D = Σ P* χ / (W + β W̄), of ePIE's numerators (``physics.object_update``)."""
    (batch, shifted, shape), made = seen, network()
    windows = physics.window_index(batch.pixel, 32, shape)
    ones = tf.ones_like(shifted[:, 0])
    sums = Sums(physics.scatter(made.see(0, ones, shifted, batch), windows, shape)[None])
    state = made.advance(0, State.free_space((1, *shape), 3.0), sums)
    update = physics.object_update(ones, shifted, batch.counts, corner=True)
    peak = tf.reduce_max(physics.coverage(shifted), (-2, -1), keepdims=True)
    light = physics.scatter(physics.coverage(shifted), windows, shape).numpy()
    asked = physics.scatter(update * tf.cast(peak, tf.complex64), windows, shape).numpy()
    step = asked / (light + 0.02 * np.sum(light**2) / np.sum(light))
    near = {"rtol": 1e-4, "atol": 1e-6}
    np.testing.assert_allclose(state.obj[0], 1 + step, **near)
    again = made.advance(0, state, sums)
    np.testing.assert_allclose(again.change[0], (1 + 0.75 * 3 / 4) * step, **near)
    np.testing.assert_allclose(again.passed[0], (2 + 0.75 * 3 / 4) * step, **near)
    last = made.advance(made.steps - 1, state, sums)
    np.testing.assert_allclose(last.change[0], step, **near)
    corrected = made.correct(0, state, sums)  # by a network that has learned nothing
    np.testing.assert_array_equal(corrected.obj, state.obj)
    assert not np.any(corrected.passed)


def test_folded_channels_come_channel_first_as_in_a_bundle():
    """Against Torch's definition: channel c·16 + 4i + j is channel c at pixel (i, j)."""
    layer = Conv(Variables(0), "stem", 2 * 16, 3, side=1, folded=16)
    image = np.random.default_rng(0).standard_normal((1, 8, 12, 2)).astype(np.float32)
    folded = image.reshape(1, 2, 4, 3, 4, 2).transpose(0, 1, 3, 5, 2, 4).reshape(1, 2, 3, 32)
    expected = folded @ layer.kernel.numpy()[0, 0]
    found = layer(tf.nn.space_to_depth(image, 4))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    unet = network(**SMALL).unet
    again = unet._unfolded(tf.constant(folded))
    np.testing.assert_array_equal(again, image)


@pytest.mark.parametrize("shape", [(50, 37), (64, 64)])
def test_canvas_of_any_shape_is_corrected(shape):
    fields = tf.random.stateless_uniform((1, *shape, FIELDS), (0, 0))
    made = network(trained=True, unrolled_levels=2)
    state = made.correct(0, State.free_space((1, *shape), 3.0), Sums(fields))
    assert state.obj.shape == (1, *shape) and np.isfinite(state.obj).all()


def test_tiles_of_a_large_canvas_are_those_of_the_whole(monkeypatch):
    made, shape = network(trained=True, **SMALL), (1, 200, 150)
    sums = Sums(tf.random.stateless_uniform((*shape, FIELDS), (0, 0)))
    whole = made.correct(0, State.free_space(shape, 3.0), sums).obj
    monkeypatch.setattr(unrolled, "TILE", 64)
    tiled = made.correct(0, State.free_space(shape, 3.0), sums).obj
    np.testing.assert_allclose(tiled, whole, rtol=1e-5, atol=1e-6)


def test_a_graph_makes_the_passes_that_are_made_without_one(scan):
    """Its loops, over canvases whose sides it does not know, against plain ones."""
    made = network(trained=True, **SMALL)
    batch = in_tensors(GroupReader([scan]).read(Rows(0, np.arange(18).reshape(2, 9))))
    shifted = physics.shift_probe(tf.constant(scan.photon_probe), batch.fraction)
    traced = tf.function(lambda: refine(made, shifted, batch, 12.0), autograph=False)()
    passes = Passes(made, shifted, batch, 12.0, rounds_of(made, 12.0))
    state = State.free_space(passes.shape, passes.redundancy)
    for step in range(made.steps):
        state = passes.take(step, state)
    np.testing.assert_allclose(traced, passes.windows(state), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("members", "hidden"), [(9, 3), (4, 1), (16, 4), (2, 0)])
def test_every_round_of_a_group_sees_its_part_of_what_is_shown(scan, monkeypatch, members, hidden):
    """One in four is hidden, and there are four rounds and more: none of them may be empty."""
    made, sizes = network(**SMALL), []
    batch = in_tensors(
        GroupReader([scan]).read(Rows(0, np.arange(2 * members).reshape(2, -1) % 30))
    )
    batch = type(batch)(**{**vars(batch), "per_group": members})
    shifted = physics.shift_probe(tf.constant(scan.photon_probe), batch.fraction)
    see = made.see
    monkeypatch.setattr(made, "see", lambda *a: sizes.append(len(a[3])) or see(*a))
    away = unseen(made, batch)
    assert len(away) == hidden
    passes = Passes(made, shifted, batch, 12.0, rounds_of(made, 12.0), away)
    passes.run(lambda step, state, _: (passes.take(step, state), ()), ())
    shown = 2 * (members - hidden)
    assert sum(sizes[:-2]) == shown and sizes[-2:] == [shown, shown]
    assert min(sizes) >= 2 and max(sizes[:-2]) - min(sizes[:-2]) <= 2


def test_rounds_are_dealt_in_the_order_of_each_pass(scan, monkeypatch):
    made, members = network(**SMALL | {"unrolled_steps": 6}), 12
    batch = in_tensors(GroupReader([scan]).read(Rows(0, np.arange(members)[None])))
    shifted = physics.shift_probe(tf.constant(scan.photon_probe), batch.fraction)
    draw, rounds = np.random.default_rng(0), rounds_of(made, 12.0)
    orders = np.stack([draw.permutation(members) for _ in rounds])
    seen = []
    see = made.see
    monkeypatch.setattr(made, "see", lambda *a: seen.append(a[3].pixel.numpy()) or see(*a))
    passes = Passes(made, shifted, batch, 12.0, rounds, (), tf.constant(orders))
    passes.run(lambda step, state, _: (passes.take(step, state), ()), ())
    expected = [
        order[part::n] for order, n in zip(orders, rounds, strict=True) for part in range(n)
    ]
    assert max(rounds) > 1 and len(seen) == len(expected)
    for pixel, chosen in zip(seen, expected, strict=True):
        np.testing.assert_array_equal(pixel, batch.pixel.numpy()[chosen])


def test_it_learns_is_applied_and_resumed(run, scan, inference_payload):
    flags = {"architecture": "unrolled", "epochs": 3, "probe_trainable": True}
    whole = run("whole", **flags)
    run("cut", stop_after=3, **flags)
    again = run("cut", resume="cut", **flags)
    assert all(np.array_equal(whole.weights[k], again.weights[k]) for k in whole.weights)
    assert whole.history == again.history
    images = {
        (merge, size): infer_with(whole, scan, inference_payload, merge, size)
        for merge, size in (("scan", 32), ("scan", 7), ("group", 32), ("group", 8), ("none", 16))
    }
    for merge, size in (("scan", 7), ("group", 8)):
        one, other = images[merge, size], images[merge, 32]
        assert np.linalg.norm(one - other) <= 1e-5 * np.linalg.norm(other)
    assert all(np.isfinite(image).all() for image in images.values())


def infer_with(bundle, scan, inference_payload, merge, size):
    from ptychotf.inference import infer

    payload = inference_payload(bundle, merge=merge, batch_size=size)
    return infer(bundle, scan, payload, lambda _: None).obj
