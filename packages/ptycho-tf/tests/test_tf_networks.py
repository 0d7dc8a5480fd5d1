"""Networks: their sizes, their starts, and what they refuse."""

import gc

import numpy as np
import pytest
import tensorflow as tf

from ptychoconfig.errors import BundleError, ConfigError, UsageError
from ptychoconfig.schema import ModelConfig
from ptychotf.networks import NETWORKS, _winograd, build_network
from ptychotf.networks._layers import Conv, Variables, doubled
from ptychotf.networks.cnn import conv_of_doubled
from ptychotf.weights import from_arrays, to_arrays

TINY = {"N": 32, "gridsize": 1, "n_filters_scale": 1}


def cnn(seed=0, **settings):
    return build_network(ModelConfig(architecture="cnn", **settings), seed)


@pytest.mark.parametrize(
    ("expected", "settings"),
    [
        (2_331_772, {"N": 64, "gridsize": 1}),
        (2_340_208, {"N": 64, "gridsize": 2}),
        (2_333_500, {"N": 64, "gridsize": 2, "object_big": False}),
        (2_252_026, {"N": 64, "gridsize": 1, "probe_big": False}),
        (4_661_212, {"N": 128, "gridsize": 1}),
        (12_916_816, {"N": 256, "gridsize": 2}),
    ],
)
def test_cnn_has_as_many_parameters_as_the_original(expected, settings):
    weights = to_arrays(cnn(**settings))
    assert sum(weight.size for weight in weights.values()) - 1 == expected  # α apart


def test_weights_start_as_the_originals_by_the_seed():
    first, again, other = (to_arrays(cnn(seed, **TINY)) for seed in (3, 3, 4))
    for name, weight in first.items():
        assert np.array_equal(weight, again[name])
        if weight.ndim == 4:
            assert not np.array_equal(weight, other[name])
            bound = (6 / (9 * sum(weight.shape[2:]))) ** 0.5
            assert 0.8 * bound < np.abs(weight).max() <= bound
        else:
            assert not weight.any()


def test_convolution_before_doubling_is_that_of_the_doubled_image():
    rng, layer = np.random.default_rng(0), Conv(Variables(0), "head", 5, 3)
    layer.bias.assign([1, 2, 3])
    x = tf.constant(rng.standard_normal((2, 4, 6, 5)), tf.float32)
    np.testing.assert_allclose(conv_of_doubled(x, layer), layer(doubled(x)), atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 8, 4), (1, 4, 12)])
def test_minimal_filtering_is_the_convolution_with_its_gradients(shape):
    rng = np.random.default_rng(0)
    x = tf.constant(rng.standard_normal((*shape, 3)))
    kernel = tf.constant(rng.standard_normal((3, 3, 3, 5)))
    grad = tf.constant(rng.standard_normal((*shape, 5)))
    found = []
    for convolve in (_winograd.conv3x3, lambda x, kernel: tf.nn.conv2d(x, kernel, 1, "SAME")):
        with tf.GradientTape() as tape:
            tape.watch([x, kernel])
            y = convolve(x, kernel)
        found.append([y, *tape.gradient(y, [x, kernel], output_gradients=grad)])
    for mine, expected in zip(*found, strict=True):
        np.testing.assert_allclose(mine, expected, atol=1e-12)


def test_minimal_filtering_is_of_wide_float32_layers_in_whole_tiles():
    def pays(side=8, channels=64, size=3, dtype=tf.float32):
        x = tf.zeros((1, 8, side, channels), dtype)
        return _winograd.pays(x, tf.zeros((size, size, channels, channels), dtype))

    assert pays()
    assert not any((pays(side=10), pays(channels=32), pays(size=1), pays(dtype=tf.bfloat16)))


def test_a_training_step_leaves_no_graph_behind():
    """As TensorFlow's own SiLU does, whose gradient it registers with the graph for ever."""

    def graphs() -> int:
        gc.collect()
        return sum(type(thing).__name__ == "FuncGraph" for thing in gc.get_objects())

    def trace() -> None:
        network = cnn(**TINY, amp_activation="swish")

        @tf.function
        def gradient(amplitude: tf.Tensor) -> tf.Tensor:
            with tf.GradientTape() as tape:
                tape.watch(amplitude)
                light = tf.reduce_sum(tf.abs(network.generator(amplitude)))
            return tape.gradient(light, amplitude)

        assert tf.reduce_any(gradient(tf.ones((1, 1, 32, 32))) != 0)

    before = graphs()
    trace()
    assert graphs() == before


def test_padded_cnn_speaks_for_the_centre_and_its_border_channels_for_the_rest():
    amplitude = tf.random.stateless_uniform((2, 1, 32, 32), (0, 0))
    made = {
        name: np.abs(cnn(**TINY, **settings).generator(amplitude).numpy())
        for name, settings in {
            "bordered": {},
            "padded": {"probe_big": False},
            "whole": {"pad_object": False},
        }.items()
    }
    inside = (slice(None), slice(None), slice(8, 24), slice(8, 24))
    assert all(image[inside].min() > 0.1 for image in made.values())
    assert made["whole"].min() > 0.1
    for name in ("padded", "bordered"):
        made[name][inside] = 0
    assert not made["padded"].any() and made["bordered"].any()


def test_networks_of_torch_alone_are_refused_by_name():
    with pytest.raises(UsageError, match=r"which TensorFlow has, found 'fno'.*--backend torch"):
        build_network(ModelConfig(architecture="fno"))
    assert "cnn" in NETWORKS


def test_side_that_cnn_cannot_take_is_refused():
    with pytest.raises(ConfigError, match=r"power of two, found 96"):
        cnn(N=96)


def test_weights_come_back_strictly():
    network = cnn(**TINY)
    weights = to_arrays(cnn(7, **TINY))
    from_arrays(network, weights)
    assert all(np.array_equal(to_arrays(network)[name], weights[name]) for name in weights)
    name = next(iter(weights))
    for broken, told in (
        ({**weights, "more": np.zeros(1)}, r"0 missing.*1 unknown \['more'\]"),
        ({**weights, name: weights[name][:1]}, f"finite {name} of shape"),
        ({**weights, name: weights[name] * np.nan}, f"finite {name} of shape"),
    ):
        with pytest.raises(BundleError, match=told):
            from_arrays(network, broken)
