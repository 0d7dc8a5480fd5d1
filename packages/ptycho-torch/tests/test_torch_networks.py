"""The network `unrolled`: what it accepts, and what it is before and after training."""

import numpy as np
import pytest
import torch

from ptychoconfig.errors import BundleError, ConfigError, UsageError
from ptychoconfig.schema import ModelConfig
from ptychodata.backends import ONE_BACKEND
from ptychodata.physics import split_positions
from ptychotorch import physics
from ptychotorch.batches import make_batch
from ptychotorch.networks import NETWORKS, build_network
from ptychotorch.networks.unrolled import RmsNormSiLU
from ptychotorch.weights import from_arrays, to_arrays


def test_norm_has_the_gradient_of_its_formula():
    torch.manual_seed(0)
    norm = RmsNormSiLU(4).double()
    torch.nn.init.uniform_(norm.gain, 0.5, 1.5)
    torch.nn.init.normal_(norm.bias)
    x = torch.randn(2, 4, 3, 5, dtype=torch.double, requires_grad=True)
    rms = x.square().mean((1, 2, 3), keepdim=True).sqrt()
    z = norm.gain[:, None, None] * x / rms + norm.bias[:, None, None]
    torch.testing.assert_close(norm(x), z * torch.sigmoid(z))
    assert torch.autograd.gradcheck(norm, x)
    gain = torch.rand(4, dtype=torch.double, requires_grad=True)
    bias = torch.randn(4, dtype=torch.double, requires_grad=True)
    functional = lambda g, b: torch.func.functional_call(norm, {"gain": g, "bias": b}, (x,))  # noqa: E731
    assert torch.autograd.gradcheck(functional, (gain, bias))


def test_untrained_step_is_the_classical_update(scan):
    network = build_network(ModelConfig(N=32, unrolled_levels=2))
    pixel, _ = split_positions(scan.positions_px)
    index = np.arange(4)
    batch = make_batch(scan, index, pixel[index], (1000, 1000))
    shifted = physics.shift_probe(torch.from_numpy(scan.photon_probe), batch.fraction)
    patches = torch.ones_like(shifted[:, 0])
    update = physics.object_update(patches, shifted, batch.counts, corner=True)
    torch.testing.assert_close(network(0, patches, shifted, batch), patches + update)


@pytest.mark.parametrize(("side", "levels"), [(40, 3), (36, 2), (34, 1)])
def test_side_that_the_levels_do_not_divide_is_refused(side, levels):
    with pytest.raises(ConfigError, match=rf"--unrolled-levels {levels}.*N = {side}"):
        build_network(ModelConfig(N=side, unrolled_levels=levels))


def test_unknown_network_lists_those_that_exist():
    with pytest.raises(UsageError, match=r"--architecture: expected one of .*unrolled.*'unet'"):
        build_network(ModelConfig(architecture="unet"))


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_survive_the_neutral_form(name):
    torch.manual_seed(1)
    model = ModelConfig(architecture=name, N=64)
    first, second = build_network(model), build_network(model)
    weights = to_arrays(first)
    from_arrays(second, weights)
    for key, tensor in first.state_dict().items():
        torch.testing.assert_close(second.state_dict()[key], tensor, rtol=0, atol=0)
    kernels = [k for k in weights if k.endswith("/kernel")]
    assert kernels and all(weights[k].ndim == 4 for k in kernels)


def test_kernels_are_stored_as_height_width_in_out():
    unrolled, cnn = (
        to_arrays(build_network(ModelConfig(architecture=name, N=64, gridsize=2)))
        for name in ("unrolled", "cnn")
    )
    assert unrolled["unets/0/stem/conv1/kernel"].shape == (3, 3, 20, 16)
    assert cnn["generator/encoder/0/conv1/kernel"].shape == (3, 3, 4, 64)


def test_weights_that_do_not_fit_are_refused():
    network = build_network(ModelConfig(N=64))
    weights = to_arrays(network)
    name = next(iter(weights))
    with pytest.raises(BundleError, match="1 missing"):
        from_arrays(network, {k: v for k, v in weights.items() if k != name})
    with pytest.raises(BundleError, match="1 unknown"):
        from_arrays(network, weights | {"stranger": np.zeros(1, np.float32)})
    with pytest.raises(BundleError, match="of shape"):
        from_arrays(network, weights | {name: weights[name][..., :-1]})
    with pytest.raises(BundleError, match="finite"):
        from_arrays(network, weights | {name: weights[name] * np.nan})


def test_it_has_what_is_said_to_be_torch_only():
    assert {name for name, only in ONE_BACKEND.items() if only == "torch"} <= NETWORKS.keys()
