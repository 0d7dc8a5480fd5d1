"""The network `unrolled`: what it accepts, and what it is before and after training."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ptychoconfig.errors import BundleError, UsageError
from ptychoconfig.schema import ModelConfig
from ptychodata import unrolled
from ptychodata.backends import ONE_BACKEND
from ptychodata.physics import split_positions
from ptychotorch import physics
from ptychotorch.batches import GroupDataset, make_batch
from ptychotorch.merging import canvases, refine
from ptychotorch.networks import FIELDS, NETWORKS, State, Sums, build_network
from ptychotorch.networks.unrolled import _FACTORS, RmsNormSiLU
from ptychotorch.weights import from_arrays, to_arrays


def test_norm_has_the_gradient_of_its_formula():
    torch.manual_seed(0)
    norm = RmsNormSiLU(4).double()
    torch.nn.init.uniform_(norm.gain, 0.5, 1.5)
    torch.nn.init.normal_(norm.bias)
    x = torch.randn(2, 4, 3, 5, dtype=torch.double, requires_grad=True)
    rms = (x.square().mean(1, keepdim=True) + 1e-4).sqrt()
    z = norm.gain[:, None, None] * x / rms + norm.bias[:, None, None]
    torch.testing.assert_close(norm(x), z * torch.sigmoid(z))
    assert torch.autograd.gradcheck(norm, x)
    gain = torch.rand(4, dtype=torch.double, requires_grad=True)
    bias = torch.randn(4, dtype=torch.double, requires_grad=True)
    functional = lambda g, b: torch.func.functional_call(norm, {"gain": g, "bias": b}, (x,))  # noqa: E731
    assert torch.autograd.gradcheck(functional, (gain, bias))


@pytest.fixture
def seen(scan):
    """Four patterns in the middle of a canvas, their shifted probes, and the canvas's shape."""
    pixel, _ = split_positions(scan.positions_px)
    index, shape = np.arange(4), (200, 168)
    batch = make_batch(scan, index, pixel[index] - pixel[index].min(0) + 40, shape)
    return batch, physics.shift_probe(torch.from_numpy(scan.photon_probe), batch.fraction), shape


def test_rounds_are_of_other_patterns_in_each_pass_when_they_are_drawn(scan, monkeypatch):
    network = build_network(ModelConfig(unrolled_steps=6, unrolled_width=8, unrolled_levels=1))
    pixel, _ = split_positions(scan.positions_px)
    index = np.arange(12)
    batch = make_batch(scan, index, pixel[index] - pixel[index].min(0) + 40, (200, 200))
    shifted = physics.shift_probe(torch.from_numpy(scan.photon_probe), batch.fraction)
    rounds = {}
    see = network.see

    def listening(step, patches, probe, part):
        places = [tuple(place) for place in part.pixel.tolist()]
        rounds.setdefault(step, []).append(frozenset(places))
        return see(step, patches, probe, part)

    monkeypatch.setattr(network, "see", listening)
    whole = replace(batch, per_group=len(index))
    with torch.no_grad():
        list(canvases(network, shifted, whole, 3.0, rng=np.random.default_rng(0)))
    drawn = [frozenset(parts) for step, parts in rounds.items() if len(parts) > 1]
    assert len(drawn) >= 3 and len(set(drawn)) == len(drawn)
    for parts in rounds.values():
        assert sum(map(len, parts)) == len(index) and len(frozenset().union(*parts)) == len(index)


def one_round(network, batch, shifted, shape, step=0):
    state = State.free_space((1, *shape), torch.device("cpu"), 3.0)
    windows = physics.window_index(batch.pixel, shifted.shape[-1], shape)
    patches = physics.gather(state.obj, windows)
    fields = network.see(step, patches, shifted, batch)
    sums = Sums(physics.scatter(fields, windows, shape)[None])
    return network.advance(step, state, sums), sums, windows


def test_round_is_the_classical_update(seen):
    """D = Σ P* χ / (W + β W̄), of ePIE's numerators (``physics.object_update``)."""
    batch, shifted, shape = seen
    network = build_network(ModelConfig(N=32))
    state, sums, windows = one_round(network, *seen)
    ones = torch.ones_like(shifted[:, 0])
    update = physics.object_update(ones, shifted, batch.counts, corner=True)
    peak = physics.coverage(shifted).amax((-2, -1), keepdim=True)
    light = physics.scatter(physics.coverage(shifted), windows, shape)
    typical = light.square().sum() / light.sum()
    step = physics.scatter(update * peak, windows, shape) / (light + 0.02 * typical)
    torch.testing.assert_close(state.obj[0], 1 + step)
    torch.testing.assert_close(sums.weight[0], light)
    again = network.advance(0, state, sums)
    torch.testing.assert_close(again.change[0], (1 + 0.75 * 3 / 4) * step)
    torch.testing.assert_close(again.passed[0], (2 + 0.75 * 3 / 4) * step)
    last = network.advance(network.steps - 1, state, sums)
    torch.testing.assert_close(last.change[0], step)


@pytest.mark.parametrize("rate", [0.2, 1.0, 5.0, 300.0])
def test_counts_ask_for_nothing_on_average_where_the_rate_is_right(rate):
    """E(I − λ) = 0, where amplitudes ask for fewer photons: E√I < √λ."""
    generator = torch.Generator().manual_seed(0)
    expected = torch.full((200_000,), rate)
    counts = torch.poisson(expected, generator=generator)
    asked = {
        name: float(_FACTORS[name](counts, counts.sqrt(), expected).mean())
        for name in ("poisson", "amplitude")
    }
    assert abs(asked["poisson"]) < 0.02 / rate**0.5
    assert asked["amplitude"] == pytest.approx(
        float(counts.sqrt().mean()) / rate**0.5 - 1, abs=0.01
    )


def test_counts_ask_for_half_of_poissons_gradient_or_for_amplitudes():
    """(I − λ)/2λ at one σ of many photons; √I/√λ − 1 where the model is far off."""
    rate = torch.tensor([1e6, 1e6, 1.0, 1e4])
    counts = torch.tensor([1e6 + 1e3, 1e6 - 1e3, 1e5, 4e4])
    asked = _FACTORS["poisson"](counts, counts.sqrt(), rate)
    torch.testing.assert_close(asked[:2], torch.tensor([5e-4, -5e-4]), rtol=1e-3, atol=0)
    torch.testing.assert_close(asked[2:], (counts / rate).sqrt()[2:] - 1, rtol=0.06, atol=0)


def test_patterns_of_few_photons_alone_are_taken_by_their_counts():
    rate = torch.rand(2, 8, 8) * torch.tensor([4.0, 400.0])[:, None, None]
    counts = torch.poisson(rate, generator=torch.Generator().manual_seed(0))
    seen = counts, counts.sqrt(), rate
    dim, bright = _FACTORS["auto"](*seen)
    torch.testing.assert_close(dim, _FACTORS["poisson"](*seen)[0])
    torch.testing.assert_close(bright, _FACTORS["amplitude"](*seen)[1])


def test_smoothness_is_a_penalty_in_photons(seen):
    """κ Σ|∇O|² beside a deviance, of whose half χ is the gradient; a round takes its share."""
    network = build_network(ModelConfig(N=32, unrolled_smoothness=50.0))
    obj = torch.randn(1, 20, 30, dtype=torch.complex64)
    fields = torch.zeros(1, 20, 30, FIELDS)
    fields[..., 2] = 300.0
    state = replace(State.free_space((1, 20, 30), torch.device("cpu"), 3.0), obj=obj)
    moved = network.advance(0, state, Sums(fields), share=0.25).obj - obj
    leaf = obj.clone().requires_grad_()
    penalty = sum(leaf.diff(dim=axis).abs().square().sum() for axis in (-2, -1))
    (50.0 / 2 * penalty).backward()  # its gradient is twice that to O*
    expected = -0.25 * (leaf.grad / 2) / (300.0 * 1.02 + 8 * 0.25 * 25.0)
    torch.testing.assert_close(moved, expected, rtol=1e-4, atol=1e-6)


def test_untrained_network_corrects_nothing(seen):
    network = build_network(ModelConfig(N=32))
    state, sums, _ = one_round(network, *seen)
    corrected = network.correct(0, state, sums)
    torch.testing.assert_close(corrected.obj, state.obj, rtol=0, atol=0)
    assert not corrected.passed.any()


@pytest.mark.parametrize(("redundancy", "expected"), [(0.5, 4), (15, 5), (1000, 8)])
def test_rounds_leave_each_part_overlap(redundancy, expected):
    network = build_network(ModelConfig(N=32))
    assert network.rounds(0, redundancy) == expected
    assert network.rounds(network.steps - 1, redundancy) == 1


def test_object_that_explains_the_patterns_stays(seen):
    """χ = 0 there, and the misfit is 0: patterns without noise under free space."""
    batch, shifted, shape = seen
    empty = physics.intensity(physics.far_field(shifted, corner=True))
    state, sums, _ = one_round(
        build_network(ModelConfig(N=32)), replace(batch, counts=empty), shifted, shape
    )
    torch.testing.assert_close(state.obj, torch.ones_like(state.obj), rtol=0, atol=1e-4)
    assert float(sums.misfit.max() / sums.weight.max()) < 1e-3


def test_misfit_is_one_where_photon_noise_is_all(seen):
    batch, shifted, shape = seen
    rate = physics.intensity(physics.far_field(shifted, corner=True)) + 20
    counts = torch.poisson(rate, generator=torch.Generator().manual_seed(0))
    noisy = replace(batch, counts=counts, background=torch.full(rate.shape[1:], 20.0))
    _, sums, _ = one_round(build_network(ModelConfig(N=32)), noisy, shifted, shape)
    lit = sums.weight > 0.1 * sums.weight.max()
    assert float((sums.misfit / sums.weight)[lit].mean()) == pytest.approx(1, abs=0.1)


def trained_like(network):
    """Weights in the last layer, which begins at zero."""
    torch.manual_seed(0)
    torch.nn.init.normal_(network.unet.head.weight, std=0.1)
    return network


@pytest.mark.parametrize("shape", [(50, 37), (64, 64)])
def test_canvas_of_any_shape_is_corrected(shape):
    network = trained_like(build_network(ModelConfig(N=32, unrolled_levels=2)))
    fields = torch.rand(1, *shape, FIELDS)
    state = network.correct(
        0, State.free_space((1, *shape), torch.device("cpu"), 3.0), Sums(fields)
    )
    assert state.obj.shape == (1, *shape) and torch.isfinite(state.obj.abs()).all()


def test_dark_frame_changes_nothing_that_is_learned():
    """A correction does not depend on how far windows reach beyond the probe."""
    network = trained_like(build_network(ModelConfig(N=32)))
    lit = torch.rand(2, 40, 56, FIELDS) + 0.1
    for fields in (lit, torch.nn.functional.pad(lit, (0, 0, 32, 9, 16, 7))):
        free = State.free_space(fields.shape[:3], torch.device("cpu"), 3.0)
        obj = network.correct(0, free, Sums(fields)).obj
        if fields is lit:
            alone = obj
    torch.testing.assert_close(obj[:, 16:56, 32:88], alone)
    obj[:, 16:56, 32:88] = 1
    assert (obj == 1).all()


def test_what_is_lit_is_cut_out_where_folded_pixels_begin():
    network = trained_like(build_network(ModelConfig(N=32)))
    fields = torch.nn.functional.pad(torch.rand(1, 20, 20, FIELDS) + 0.1, (0, 0, 13, 9, 8, 14))
    free = State.free_space(fields.shape[:3], torch.device("cpu"), 3.0)
    changed = network.correct(0, free, Sums(fields)).obj != 1
    assert changed[:, 8:32, 8:40].any(2).all() and changed[:, 8:32, 8:40].any(1).all()
    changed[:, 8:32, 8:40] = False
    assert not changed.any()


def test_half_pixels_at_an_end_are_means_of_what_is_there(monkeypatch):
    """Of an image that is constant, padded to eight pixels and no further, and a mean of means."""
    net = build_network(ModelConfig(N=32, unrolled_levels=3)).unet
    seen = []
    for block in net.down:
        block.register_forward_hook(lambda _, fed, made: seen.append(fed[0]))
    net.stem.register_forward_hook(lambda _, fed, made: torch.ones_like(made))
    assert net(torch.rand(1, 8, 100, 72)).shape == (1, 2, 100, 72)
    assert [tuple(x.shape[-2:]) for x in seen] == [(13, 9), (7, 5), (4, 3)]
    assert (seen[0] == 1).all()


@torch.inference_mode()
def test_tiles_of_a_large_canvas_are_those_of_the_whole(monkeypatch):
    network = trained_like(build_network(ModelConfig(N=32))).eval()
    fields, shape = torch.rand(1, 500, 390, FIELDS), (1, 500, 390)
    state = State.free_space(shape, torch.device("cpu"), 3.0)
    whole = network.correct(0, state, Sums(fields)).obj
    monkeypatch.setattr(unrolled, "TILE", 128)
    torch.testing.assert_close(network.correct(0, state, Sums(fields)).obj, whole)


def test_a_pass_learns_from_its_own_result_alone(seen):
    batch, shifted, _ = seen
    network = trained_like(build_network(ModelConfig(N=32, unrolled_steps=3)))
    batch = replace(batch, per_group=4)
    *_, last = refine(network, shifted, batch)
    loss = last.abs().sum()
    together = torch.autograd.grad(loss, list(network.parameters()))
    network.eval()
    state, sums, _ = one_round(network, *seen)
    given = replace(state, obj=state.obj.clone().requires_grad_())
    corrected = network.correct(0, given, sums)
    assert any(grad.any() for grad in together)
    assert torch.autograd.grad(corrected.obj.abs().sum(), given.obj, allow_unused=True)[0] is None


@pytest.mark.parametrize(("members", "hidden"), [(9, 3), (4, 1), (16, 4), (5, 0)])
def test_every_round_of_a_group_sees_its_part_of_what_is_shown(scan, monkeypatch, members, hidden):
    """One in four is hidden, and there are four rounds and more: none of them may be empty."""
    network = build_network(ModelConfig(N=32, unrolled_steps=3, unrolled_levels=1))
    batch = GroupDataset([scan])[0, np.arange(2 * members).reshape(2, members)]
    shifted = physics.shift_probe(torch.from_numpy(scan.photon_probe), batch.fraction)
    sizes, see = [], network.see
    monkeypatch.setattr(network, "see", lambda *a: sizes.append(len(a[3])) or see(*a))
    mask = torch.arange(len(batch)) % members % 4 == 0 if hidden else None
    list(refine(network, shifted, batch, 12.0, mask))
    shown = 2 * (members - hidden)
    assert sum(sizes[:-2]) == shown and sizes[-2:] == [shown, shown]
    assert min(sizes) >= 2 and max(sizes[:-2]) - min(sizes[:-2]) <= 2


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
    net, cnn = (
        to_arrays(build_network(ModelConfig(architecture=name, N=64, gridsize=2)))
        for name in ("unrolled", "cnn")
    )
    assert net["unet/stem/conv1/kernel"].shape == (3, 3, 128, 32)
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
