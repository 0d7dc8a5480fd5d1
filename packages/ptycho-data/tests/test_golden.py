"""The recorded vectors: that they are what the reference computes, and that gradients are right."""

from pathlib import Path

import numpy as np
import pytest

from ptychoconfig.errors import DataError
from ptychodata import physics
from ptychodata.golden import LOSSES, evaluate, gradients, load_cases, record_cases

GOLDEN = Path(__file__).parents[3] / "fixtures" / "golden"
CASES = load_cases(GOLDEN)


def inputs_of(case):
    return {key: value for key, value in case.items() if key.startswith("in_")}


@pytest.mark.parametrize("name", CASES)
def test_reference_computes_what_was_recorded(name):
    case = CASES[name]
    computed = evaluate(inputs_of(case))
    assert set(case) == set(inputs_of(case)) | set(computed)
    for key, value in computed.items():
        scale = np.abs(case[key]).max()
        np.testing.assert_allclose(value, case[key], rtol=0, atol=1e-11 * scale, err_msg=key)


@pytest.mark.parametrize("name", CASES)
def test_arrays_are_double_and_inputs_exact_in_single_precision(name):
    for key, value in CASES[name].items():
        assert value.dtype in (np.float64, np.complex128) or key == "out_pixel", key
        assert np.isfinite(value).all(), key
        if key.startswith("in_"):
            single = np.complex64 if np.iscomplexobj(value) else np.float32
            np.testing.assert_array_equal(value.astype(single), value, err_msg=key)


def test_every_public_function_is_recorded():
    within_others = {"EPSILON", "split_positions", "shift_ramp"}
    names = set(physics.__all__) - within_others | {"pixel", "fraction"}
    for name, case in CASES.items():
        recorded = {key.removeprefix("out_") for key in case if key.startswith("out_")}
        assert recorded == names, name


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", CASES)
def test_gradients_are_slopes(name, loss):
    """Along random directions, against central differences."""
    inputs, rng = inputs_of(CASES[name]), np.random.default_rng(0)
    slopes = dict(zip(("in_obj", "in_probe"), gradients(inputs, loss), strict=True))
    for key, gradient in slopes.items():
        direction = (rng.normal(size=(*gradient.shape, 2)) @ [1, 1j]) * np.abs(inputs[key]).max()
        step = 1e-7
        ends = [
            loss_of({**inputs, key: inputs[key] + sign * step * direction}, loss)
            for sign in (1, -1)
        ]
        expected = np.sum(gradient.real * direction.real + gradient.imag * direction.imag)
        assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(expected, rel=1e-4)


def loss_of(inputs, loss):
    rate = physics.forward(
        inputs["in_obj"],
        inputs["in_probe"],
        inputs["in_positions_px"],
        inputs.get("in_background"),
    )
    mean, valid = float(inputs["in_mean_photons"]), inputs.get("in_valid")
    return getattr(physics, loss)(rate, inputs["in_counts"], mean, valid)


@pytest.mark.parametrize("name", CASES)
def test_absolute_error_has_no_kink_within_single_precision(name):
    """Else the sign of an error, and so a gradient, would be a backend's rounding."""
    case = CASES[name]
    root = np.sqrt(case["out_forward"] + physics.EPSILON)
    margin = np.abs(root - np.sqrt(case["in_counts"])) / root
    assert margin[np.broadcast_to(case.get("in_valid", 1) > 0, margin.shape)].min() > 2e-5


def test_recording_again_gives_the_same_cases(tmp_path):
    record_cases(tmp_path)
    again = load_cases(tmp_path)
    assert set(again) == set(CASES)
    for name, case in again.items():
        assert set(case) == set(CASES[name])
        assert case["in_obj"].shape == CASES[name]["in_obj"].shape


def test_fixtures_stay_small():
    assert sum(path.stat().st_size for path in GOLDEN.iterdir()) < 1_200_000


def test_folder_without_cases_is_refused(tmp_path):
    with pytest.raises(DataError, match="record_cases"):
        load_cases(tmp_path)
