"""Networks that make patches out of patterns: their sizes, their geometry, their scale."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from ptychoconfig.errors import ConfigError
from ptychoconfig.schema import ModelConfig, SimulationConfig
from ptychodata.bundle import read_bundle, write_bundle
from ptychodata.physics import split_positions
from ptychodata.simulate import simulate
from ptychodata.training.strength import first_scale
from ptychotorch import networks, physics
from ptychotorch.batches import GroupDataset, make_batch
from ptychotorch.inference import infer
from ptychotorch.networks import NETWORKS, _winograd, build_network, cnn
from ptychotorch.networks._base import PatternNetwork
from ptychotorch.networks._spectral import SpectralConv, SpectralConv1d
from ptychotorch.training import train

TINY = {"n_filters_scale": 1, "fno_width": 8, "fno_modes": 4, "fno_blocks": 2, "resnet_blocks": 1}
FROM_PATTERNS = [name for name in NETWORKS if name != "unrolled"]


def count(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


@pytest.mark.parametrize(
    ("expected", "settings"),
    [
        (2_331_772, {"N": 64, "gridsize": 1}),
        (2_340_208, {"N": 64, "gridsize": 2}),
        (2_333_500, {"N": 64, "gridsize": 2, "object_big": False}),
        (2_252_026, {"N": 64, "gridsize": 1, "probe_big": False}),
        (4_661_212, {"N": 128, "gridsize": 1}),
        (4_667_056, {"N": 128, "gridsize": 2}),
        (12_912_268, {"N": 256, "gridsize": 1}),
        (12_916_816, {"N": 256, "gridsize": 2}),
    ],
)
def test_cnn_has_as_many_parameters_as_the_original(expected, settings):
    generator = build_network(ModelConfig(architecture="cnn", **settings)).generator
    assert count(generator) - generator.log_scale.numel() == expected


def test_encoder_of_cnn_is_the_originals_and_has_no_attention():
    encoder = build_network(ModelConfig(architecture="cnn", N=64, gridsize=1)).generator.encoder
    assert count(encoder) == 1_144_256
    leaves = {type(m) for m in encoder.modules() if not list(m.children())}
    assert leaves == {nn.Conv2d, nn.ReLU}
    assert encoder(torch.zeros(1, 1, 64, 64)).shape == (1, 256, 8, 8)


@pytest.mark.parametrize(
    ("channels", "shape", "gains"),
    [((64, 128), (3, 8, 12), True), ((32, 48), (2, 16, 4), True), ((4, 64), (2, 8, 8), False)],
)
def test_fast_convolution_is_the_framework_s(channels, shape, gains, monkeypatch):
    """Values and gradients, for sizes at which all, some or none of it is done by tiles."""
    monkeypatch.setattr(_winograd, "_BLOCK", 1)  # a block per sample
    layer = nn.Conv2d(*channels, 3, padding=1, dtype=torch.float64)
    x = torch.randn(shape[0], channels[0], *shape[1:], dtype=torch.float64, requires_grad=True)
    fast, plain = _winograd.conv3x3(x, layer), layer(x)
    assert (type(fast.grad_fn) is not type(plain.grad_fn)) == gains
    torch.testing.assert_close(fast, plain)
    wanted, weight = (x, layer.weight, layer.bias), torch.randn_like(plain)
    for a, b in zip(*(torch.autograd.grad(y, wanted, weight) for y in (fast, plain)), strict=True):
        torch.testing.assert_close(a, b)


def test_fast_convolution_leaves_odd_sides_and_16_bits_to_the_framework():
    layer = nn.Conv2d(64, 128, 3, padding=1)
    assert "Convolution" in str(_winograd.conv3x3(torch.rand(1, 64, 8, 10), layer).grad_fn)
    with torch.autocast("cpu", torch.bfloat16):
        assert _winograd.conv3x3(torch.rand(1, 64, 8, 8), layer).dtype == torch.bfloat16


def test_weights_of_cnn_start_as_the_originals():
    torch.manual_seed(0)
    generator = build_network(ModelConfig(architecture="cnn", N=64, gridsize=1)).generator
    for layer in (m for m in generator.modules() if isinstance(m, nn.Conv2d)):
        fan = layer.weight[0].numel() + 9 * layer.out_channels
        bound = (6 / fan) ** 0.5
        assert 0.9 * bound < float(layer.weight.detach().abs().max()) <= 1.0001 * bound
        assert not layer.bias.any()


def test_fourier_networks_have_as_many_parameters_as_the_originals():
    """A complex weight is two numbers; the original's ``fno`` left out the negative rows."""
    fno, ffno = (
        count(build_network(ModelConfig(architecture=name, N=64, gridsize=1)))
        for name in ("fno", "ffno")
    )
    corner = 2 * 32 * 32 * 12 * 12
    assert fno == 1_245_826 + 4 * corner
    assert ffno == 112_803


def test_spectral_convolution_is_a_filter_of_both_row_signs():
    """With the identity between channels for every weight it is a low-pass filter."""
    side, modes = 16, 5
    layer = SpectralConv(3, modes)
    with torch.no_grad():
        layer.spectrum.zero_()
        layer.spectrum[..., 0] = torch.eye(3)[None, :, :, None, None]
    x = torch.randn(2, 3, side, side)
    k = torch.fft.fftfreq(side) * side
    passed = ((k >= -modes) & (k < modes))[:, None] & (k.abs() < modes)
    spectrum = torch.fft.fft2(x) * passed
    symmetric = torch.fft.irfft2(spectrum[..., : side // 2 + 1], s=(side, side))
    torch.testing.assert_close(layer(x), symmetric, atol=1e-5, rtol=1e-5)


def test_factorised_convolution_filters_each_axis():
    side, modes = 16, 5
    layer = SpectralConv1d(3, modes)
    with torch.no_grad():
        layer.spectrum.zero_()
        layer.spectrum[0, ..., 0] = torch.eye(3)[:, :, None]
    x = torch.randn(2, 3, side, side)
    low = torch.fft.rfft(x, dim=-2)
    low[..., modes:, :] = 0
    torch.testing.assert_close(layer(x), torch.fft.irfft(low, dim=-2), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"architecture": "cnn", "N": 96}, r"power of two, found 96"),
        ({"architecture": "fno", "N": 32, "fno_modes": 20}, r"at least 40 pixels.*N = 32"),
        ({"architecture": "hybrid-resnet", "N": 66}, r"divisible by 4.*N = 66"),
        ({"architecture": "hybrid-resnet", "N": 32, "fno_modes": 12}, r"at least 48 pixels"),
    ],
)
def test_side_that_a_network_cannot_take_is_refused(settings, told):
    with pytest.raises(ConfigError, match=told):
        build_network(ModelConfig(**settings))


def test_amplitude_activations_are_four():
    torch.manual_seed(0)
    outputs = []
    for activation in ("sigmoid", "swish", "softplus", "relu"):
        torch.manual_seed(0)
        settings = {"N": 32, "gridsize": 1, "n_filters_scale": 1, "amp_activation": activation}
        generator = build_network(ModelConfig(architecture="cnn", **settings)).generator
        outputs.append(generator(torch.ones(1, 1, 32, 32))[0, 0, 8:24, 8:24].abs())
    for i, one in enumerate(outputs):
        assert all(not torch.allclose(one, other, rtol=1e-3) for other in outputs[:i])


def test_convolution_before_doubling_is_that_of_the_doubled_image():
    torch.manual_seed(0)
    layer = nn.Conv2d(5, 3, 3, padding=1).double()
    x = torch.randn(2, 5, 4, 6, dtype=torch.double, requires_grad=True)
    plain = layer(nn.functional.interpolate(x, scale_factor=2.0, mode="nearest"))
    folded = cnn.conv_of_doubled(x, layer)
    torch.testing.assert_close(folded, plain)
    weight = torch.randn_like(plain)
    torch.testing.assert_close(
        torch.autograd.grad((folded * weight).sum(), (x, layer.weight, layer.bias)),
        torch.autograd.grad((plain * weight).sum(), (x, layer.weight, layer.bias)),
    )


def test_padded_cnn_speaks_for_the_centre_and_its_border_channels_for_the_rest():
    inside = (slice(None), slice(None), slice(8, 24), slice(8, 24))
    made = {}
    for name, settings in {
        "bordered": {},
        "padded": {"probe_big": False},
        "whole": {"pad_object": False},
    }.items():
        torch.manual_seed(0)
        model = ModelConfig(architecture="cnn", N=32, gridsize=1, n_filters_scale=1, **settings)
        made[name] = build_network(model).generator(torch.rand(2, 1, 32, 32)).detach().abs()
    assert all(image[inside].min() > 0.1 for image in made.values())
    assert made["whole"].min() > 0.1
    for name in ("padded", "bordered"):
        made[name][inside] = 0
    assert not made["padded"].any() and made["bordered"].any()


class Blob(nn.Module):
    """A patch, or as many as there are patterns, with a Gaussian in its exact centre."""

    def __init__(self, patches: int) -> None:
        super().__init__()
        self.patches = patches

    def forward(self, amplitude: torch.Tensor) -> torch.Tensor:
        u = torch.arange(amplitude.shape[-1]) - amplitude.shape[-1] // 2
        blob = torch.exp(-(u[:, None] ** 2 + u**2) / (2 * 2.5**2)).to(torch.complex64)
        return blob.expand(len(amplitude), self.patches, -1, -1)


@pytest.mark.parametrize("patches", [1, 4])
def test_patches_are_centred_on_the_exact_positions(scan, patches):
    """Every window of a group then shows its Gaussian at the same place of the object."""
    network = PatternNetwork(Blob(patches), 4)
    rows = np.arange(8).reshape(2, 4)
    batch = GroupDataset([scan])[0, rows]
    shifted = physics.shift_probe(torch.from_numpy(scan.photon_probe), batch.fraction)
    windows = network(shifted, batch).real.double()
    u = torch.arange(scan.N, dtype=torch.double) - scan.N // 2
    mass = windows.sum((1, 2))
    centre = torch.stack(
        [(windows.sum(2) * u).sum(1) / mass, (windows.sum(1) * u).sum(1) / mass], 1
    )
    exact = torch.from_numpy(scan.positions_px[rows.ravel()])
    if patches == 1:
        exact = exact.view(2, 4, 2).mean(1).repeat_interleave(4, 0)
    pixel, _ = split_positions(scan.positions_px[rows.ravel()])
    expected = exact - torch.from_numpy(pixel)
    inside = expected.abs().amax(1) < scan.N / 2 - 9  # the whole Gaussian lies in the window
    assert inside.sum() >= 4
    torch.testing.assert_close(centre[inside], expected[inside], atol=2e-2, rtol=0)


def small(name: str, **settings: object) -> nn.Module:
    torch.manual_seed(0)
    return build_network(ModelConfig(**{"architecture": name, "N": 32, **TINY, **settings}))


def apply(network: nn.Module, scan, index: np.ndarray) -> torch.Tensor:
    pixel, _ = split_positions(scan.positions_px)
    batch = make_batch(scan, index, pixel[index] + 500, (2000, 2000))
    shifted = physics.shift_probe(torch.from_numpy(scan.photon_probe), batch.fraction)
    with torch.no_grad():
        return network(shifted, batch)


@pytest.mark.parametrize("name", FROM_PATTERNS)
def test_groups_do_not_meet_however_many_stand_together(name, scan):
    """The original's merge lost its groups once 64 patterns stood in a batch."""
    network = small(name, gridsize=2)
    index = np.random.default_rng(0).integers(0, len(scan), 68)
    together = apply(network, scan, index)
    alone = torch.cat([apply(network, scan, group) for group in index.reshape(-1, 4)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", FROM_PATTERNS)
def test_masked_pixels_and_the_dose_do_not_count(name, scan):
    network, index = small(name, gridsize=1), np.arange(4)
    mask = np.ones((scan.N, scan.N), bool)
    mask[3:9, 4:20] = False
    broken = scan.diffraction.copy()
    broken[:, ~mask] = broken.max() * 100
    clean, dirty = replace(scan, mask=mask), replace(scan, diffraction=broken, mask=mask)
    torch.testing.assert_close(apply(network, clean, index), apply(network, dirty, index))
    brighter = replace(scan, diffraction=scan.diffraction * 4, intensity_scale=scan.intensity_scale)
    brighter = replace(brighter, probe=scan.probe * (2 if scan.domain == "counts" else 4))
    torch.testing.assert_close(
        apply(network, scan, index), apply(network, brighter, index), rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize("transform", ["sqrt", "log1p", "instancenorm"])
def test_input_transforms_of_the_fourier_networks_differ(transform, scan):
    index = np.arange(4)
    plain = apply(small("ffno", gridsize=1), scan, index)
    other = apply(small("ffno", gridsize=1, fno_input_transform=transform), scan, index)
    assert not torch.allclose(plain, other, rtol=1e-3)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_learns_and_comes_back_from_its_bundle(
    name, scan, training_payload, inference_payload, tmp_path
):
    if name == "unrolled":  # which begins where others end, unless there is noise
        scan = simulate(SimulationConfig(N=32, n_patterns=64, overlap=0.7, nphotons=1e5))
    flags = {"epochs": 8 if name == "unrolled" else 4, "gridsize": 2, "learning_rate": 1e-3}
    payload = training_payload(architecture=name, unrolled_steps=1, **flags, **TINY)
    bundle = train([scan], payload, tmp_path, lambda progress: None)
    losses = bundle.history["train_loss"]
    assert losses[-1] < (0.95 if name == "unrolled" else 0.9) * losses[0]
    write_bundle(bundle, tmp_path / "wts.h5.zip")
    again = read_bundle(tmp_path / "wts.h5.zip")
    assert again.config["model"]["architecture"] == name
    results = [
        infer(b, scan, inference_payload(b, batch_size=size), lambda progress: None).obj
        for b, size in ((bundle, 32), (again, 32), (again, 5))
    ]
    np.testing.assert_array_equal(results[0], results[1])
    difference = np.linalg.norm(results[2] - results[0])
    assert np.isfinite(results[0]).all() and difference <= 1e-5 * np.linalg.norm(results[0])


def test_scale_of_cnn_is_learned_stored_and_folded_into_the_object(
    scan, training_payload, inference_payload, tmp_path
):
    flags = {"architecture": "cnn", "gridsize": 1, "epochs": 1, **TINY}
    fixed = train(
        [scan],
        training_payload(intensity_scale_trainable=False, **flags),
        tmp_path,
        lambda progress: None,
    )
    learned = train([scan], training_payload(**flags), tmp_path, lambda progress: None)
    name = "generator/log_scale"
    assert fixed.weights[name] == 0 and learned.weights[name] != 0
    doubled = replace(learned, weights={**learned.weights, name: learned.weights[name] + np.log(2)})
    plain, twice = (
        infer(b, scan, inference_payload(b), lambda progress: None) for b in (learned, doubled)
    )
    seen = plain.coverage > 0  # elsewhere it is free space
    np.testing.assert_allclose(twice.obj[seen], 2 * plain.obj[seen], rtol=1e-5, atol=1e-6)


STILL = {"optimizer": "sgd", "learning_rate": 1e-12, "momentum": 0.0, "epochs": 1}


def test_scale_of_cnn_begins_at_the_strength_of_the_object_or_as_its_bundle_has_it(
    scan, training_payload, tmp_path
):
    weak = scan.with_probe(scan.probe / np.float32(3))
    payload = training_payload(architecture="cnn", gridsize=1, **STILL, **TINY)
    name, runs = "generator/log_scale", []
    for scans in ([scan], [weak], [scan, weak]):
        runs.append(train(scans, payload, tmp_path, lambda progress: None))
        expected = np.log(first_scale(scans, payload))
        np.testing.assert_allclose(runs[-1].weights[name], [expected], rtol=1e-6)
    first, second, _ = (bundle.weights[name] for bundle in runs)
    np.testing.assert_allclose(second - first, [np.log(3)], rtol=1e-5)
    again = train([weak], payload, tmp_path, lambda progress: None, start=runs[0])
    np.testing.assert_allclose(again.weights[name], first, rtol=1e-6)


def test_cnn_learns_with_a_probe_that_is_three_times_too_weak(
    scan, training_payload, tmp_path, caplog
):
    """From a factor of 1 the loss ends at 0.41, the same for every pattern."""
    weak = scan.with_probe(scan.probe / np.float32(3))
    flags = {"architecture": "cnn", "gridsize": 1, "learning_rate": 1e-3, "epochs": 3, **TINY}
    with caplog.at_level(logging.WARNING):
        bundle = train([weak], training_payload(**flags), tmp_path, lambda progress: None)
    assert bundle.history["val_loss"][-1] < 0.02
    assert not [r for r in caplog.records if r.name == "ptychodata.training.health"]


def test_single_shot_of_a_network_that_needs_a_group_is_refused(
    scan, training_payload, inference_payload, tmp_path
):
    payload = training_payload(architecture="cnn", gridsize=2, epochs=1, n_groups=8, **TINY)
    bundle = train([scan], payload, tmp_path, lambda progress: None)
    with pytest.raises(ConfigError, match=r"--merge none.*gridsize 2.*--merge scan"):
        infer(bundle, scan, inference_payload(bundle, merge="none"), lambda progress: None)


def test_adding_a_network_is_adding_a_file(tmp_path, monkeypatch):
    source = (
        "from ptychotorch.networks._base import PatternNetwork\n"
        "from torch import nn\n"
        'SUMMARY = "nothing but the pattern"\n'
        "def build(model):\n"
        "    return PatternNetwork(nn.Identity(), model.C)\n"
    )
    (tmp_path / "my_net.py").write_text(source)
    monkeypatch.setattr(networks, "__path__", [*networks.__path__, str(tmp_path)])
    found = networks.find_networks()
    assert found["my-net"][1] == "nothing but the pattern" and found.keys() > NETWORKS.keys()
    monkeypatch.setattr(networks, "NETWORKS", found)
    assert build_network(ModelConfig(architecture="my-net", gridsize=2)).group_size == 4
