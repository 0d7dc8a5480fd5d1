"""The physics of this backend against vectors recorded from the reference, in float32."""

import inspect
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import ptychodata.physics as reference
from ptychodata.golden import LOSSES, load_cases
from ptychotf import physics

CASES = load_cases(Path(__file__).parents[3] / "fixtures" / "golden")
VALUE_TOLERANCE, GRADIENT_TOLERANCE = 1e-6, 1e-4
GRADIENTS = ("object_update",)  # it is one, up to its scale: a difference of close numbers


def single(array: np.ndarray) -> tf.Tensor:
    """The same numbers in float32 or complex64."""
    return tf.constant(array.astype(np.complex64 if np.iscomplexobj(array) else np.float32))


def evaluate(case: dict[str, np.ndarray]) -> dict[str, tf.Tensor]:
    """What ``ptychodata.golden.evaluate`` computes, by this backend, with gradients."""
    given = {k.removeprefix("in_"): single(v) for k, v in case.items() if k.startswith("in_")}
    obj, probe, counts, patches = (given[k] for k in ("obj", "probe", "counts", "patches"))
    valid, background = given.get("valid"), given.get("background")
    positions = tf.constant(case["in_positions_px"])
    pixel, fraction = physics.split_positions(positions)
    shifted = physics.shift_probe(probe, tf.cast(fraction, tf.float32))
    windows = physics.extract(obj, pixel, probe.shape[-1])
    waves = physics.far_field(physics.exit_waves(shifted, windows))
    mean_photons = float(case["in_mean_photons"])
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([obj, probe])
        rate = physics.forward(obj, probe, positions, background)
        losses = {
            loss: getattr(physics, loss)(rate, counts, mean_photons, valid) for loss in LOSSES
        }
    out = {
        "pixel": pixel,
        "fraction": fraction,
        "shift_probe": shifted,
        "shift_object": physics.shift_object(patches, tf.cast(fraction, tf.float32)),
        "extract": windows,
        "assemble": physics.assemble(patches, pixel, (obj.shape[0], obj.shape[1])),
        "laplacian": physics.laplacian(patches),
        "exit_waves": physics.exit_waves(shifted, windows),
        "far_field": waves,
        "inverse_far_field": physics.inverse_far_field(patches),
        "intensity": physics.intensity(waves, background),
        "forward": rate,
        "object_update": physics.object_update(windows, shifted, counts, valid, background),
        "coverage": physics.coverage(shifted),
        "network_input": physics.network_input(counts, probe),
        "r_factor": physics.r_factor(rate, counts, valid),
    }
    for loss, value in losses.items():
        to_obj, to_probe = tape.gradient(value, [obj, probe])
        out |= {loss: value, f"obj_{loss}": to_obj, f"probe_{loss}": to_probe}
    return out


def assert_close(found: tf.Tensor, expected: np.ndarray, tolerance: float, name: str) -> None:
    """Relative to the peak, and in the 2-norm: dim pixels alone are below float32's reach."""
    error = np.abs(found.numpy() - expected)
    assert found.shape == expected.shape, name
    assert error.max() <= tolerance * np.abs(expected).max(), name
    assert np.linalg.norm(error) <= tolerance * np.linalg.norm(expected), name


def test_public_names_are_those_of_the_reference():
    assert set(physics.__all__) == set(reference.__all__)
    for name in set(physics.__all__) - {"EPSILON"}:
        ours = list(inspect.signature(getattr(physics, name)).parameters)
        theirs = list(inspect.signature(getattr(reference, name)).parameters)
        assert [p for p in ours if p != "corner"] == theirs, name
    assert physics.EPSILON == reference.EPSILON


def assert_golden(found: dict[str, tf.Tensor], case: dict[str, np.ndarray]) -> None:
    """Every recorded value and gradient is found."""
    for key, expected in case.items():
        kind, _, what = key.partition("_")
        if kind == "out":
            tolerance = GRADIENT_TOLERANCE if what in GRADIENTS else VALUE_TOLERANCE
            assert_close(found[what], expected, tolerance, key)
        elif kind == "grad":
            assert_close(found[what], expected, GRADIENT_TOLERANCE, key)


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_the_golden_ones(name):
    assert_golden(evaluate(CASES[name]), CASES[name])


@pytest.mark.parametrize("name", CASES)
def test_compiled_physics_is_the_same(name):
    """The same function in a graph, and by XLA, which orders sums its own way."""
    case = CASES[name]
    assert_golden(tf.function(lambda: evaluate(case), jit_compile=True)(), case)


@pytest.mark.parametrize("name", CASES)
def test_corner_frame_sees_the_same_physics(name):
    """Without shifts: the same intensities, moved to the corner, and the same update."""
    case = CASES[name]
    waves = single(case["out_exit_waves"])
    corner = physics.intensity(physics.far_field(waves, corner=True)).numpy()
    centre = physics.intensity(physics.far_field(waves)).numpy()
    np.testing.assert_allclose(np.fft.fftshift(corner, axes=(-2, -1)), centre, rtol=2e-6)
    moved = {
        key: None
        if f"in_{key}" not in case
        else single(np.fft.ifftshift(case[f"in_{key}"], axes=(-2, -1)))
        for key in ("counts", "valid", "background")
    }
    shifted, windows = single(case["out_shift_probe"]), single(case["out_extract"])
    update = physics.object_update(windows, shifted, corner=True, **moved)
    assert_close(update, case["out_object_update"], GRADIENT_TOLERANCE, name)


def test_a_model_without_light_has_a_finite_deviance():
    """In float32 δ is −1 there; the logarithm of 0 would make the loss infinite."""
    rate, counts = tf.zeros([1, 4, 4]), tf.fill([1, 4, 4], 1e6)
    expected = reference.poisson_deviance(np.zeros((1, 4, 4)), np.full((1, 4, 4), 1e6), 1e6)
    with tf.GradientTape() as tape:
        tape.watch(rate)
        found = physics.poisson_deviance(rate, counts, 1e6)
    assert float(found) == pytest.approx(expected, rel=1e-6)
    assert np.isfinite(tape.gradient(found, rate).numpy()).all()


def test_windows_outside_the_object_are_refused():
    with pytest.raises(IndexError, match="inside the object"):
        physics.extract(tf.ones([20, 20]), tf.constant([[3, 10]]), 8)
