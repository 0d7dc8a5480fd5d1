"""The physics of this backend against vectors recorded from the reference, in float32."""

import inspect
from pathlib import Path

import numpy as np
import pytest
import torch

import ptychodata.physics as reference
from ptychodata.golden import LOSSES, load_cases
from ptychotorch import physics

CASES = load_cases(Path(__file__).parents[3] / "fixtures" / "golden")
VALUE_TOLERANCE, GRADIENT_TOLERANCE = 1e-6, 1e-4
GRADIENTS = ("object_update",)  # it is one, up to its scale: a difference of close numbers


def single(array: np.ndarray) -> torch.Tensor:
    """The same numbers in float32 or complex64."""
    return torch.from_numpy(array.astype(np.complex64 if np.iscomplexobj(array) else np.float32))


def evaluate(case: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """What ``ptychodata.golden.evaluate`` computes, by this backend; losses keep their graph."""
    given = {k.removeprefix("in_"): single(v) for k, v in case.items() if k.startswith("in_")}
    obj, probe = given["obj"].requires_grad_(), given["probe"].requires_grad_()
    counts, patches = given["counts"], given["patches"]
    valid, background = given.get("valid"), given.get("background")
    pixel, fraction = physics.split_positions(torch.from_numpy(case["in_positions_px"]))
    shifted = physics.shift_probe(probe, fraction.float())
    windows = physics.extract(obj, pixel, probe.shape[-1])
    waves = physics.far_field(physics.exit_waves(shifted, windows))
    rate = physics.forward(obj, probe, torch.from_numpy(case["in_positions_px"]), background)
    out = {
        "pixel": pixel,
        "fraction": fraction,
        "shift_probe": shifted,
        "shift_object": physics.shift_object(patches, fraction.float()),
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
    mean_photons = float(case["in_mean_photons"])
    for loss in LOSSES:
        value = getattr(physics, loss)(rate, counts, mean_photons, valid)
        out[loss] = value
        gradients = torch.autograd.grad(value, (obj, probe), retain_graph=True)
        out |= {f"obj_{loss}": gradients[0], f"probe_{loss}": gradients[1]}
    return {name: tensor.detach() for name, tensor in out.items()}


def assert_close(found: torch.Tensor, expected: np.ndarray, tolerance: float, name: str) -> None:
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


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_the_golden_ones(name):
    case = CASES[name]
    found = evaluate(case)
    for key, expected in case.items():
        kind, _, what = key.partition("_")
        if kind == "out":
            tolerance = GRADIENT_TOLERANCE if what in GRADIENTS else VALUE_TOLERANCE
            assert_close(found[what], expected, tolerance, key)
        elif kind == "grad":
            assert_close(found[what], expected, GRADIENT_TOLERANCE, key)


@pytest.mark.parametrize("name", CASES)
def test_corner_frame_sees_the_same_physics(name):
    """Without shifts: the same intensities, moved to the corner, and the same update."""
    case = CASES[name]
    waves = single(case["out_exit_waves"])
    corner = physics.intensity(physics.far_field(waves, corner=True))
    centre = physics.intensity(physics.far_field(waves))
    torch.testing.assert_close(torch.fft.fftshift(corner, dim=(-2, -1)), centre)
    moved = {
        key: None
        if f"in_{key}" not in case
        else single(np.fft.ifftshift(case[f"in_{key}"], axes=(-2, -1)))
        for key in ("counts", "valid", "background")
    }
    shifted, windows = single(case["out_shift_probe"]), single(case["out_extract"])
    update = physics.object_update(windows, shifted, corner=True, **moved)
    assert_close(update, case["out_object_update"], GRADIENT_TOLERANCE, name)


def test_windows_outside_the_object_are_refused():
    with pytest.raises(IndexError, match="inside the object"):
        physics.extract(torch.ones(20, 20), torch.tensor([[3, 10]]), 8)
