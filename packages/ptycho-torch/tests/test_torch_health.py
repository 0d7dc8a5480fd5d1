"""The monitor of collapsing trainings: each kind of collapse is forced, and found in one epoch."""

import logging
import re

import numpy as np
import pytest
import torch
from torch import nn

from ptychoconfig.errors import NumericalError
from ptychodata.contracts import Scan
from ptychodata.training.health import RESTARTS, Figures, faults
from ptychodata.training.strength import first_scale
from ptychotorch import health, physics
from ptychotorch.batches import Batch, GroupDataset
from ptychotorch.health import figures
from ptychotorch.networks import cnn
from ptychotorch.training import train

TINY_CNN = {"architecture": "cnn", "gridsize": 1, "n_filters_scale": 1, "batch_size": 4}
HEALTHY = Figures(variation=1.0, contrast=0.1, dead=0.1, light=1.0)


@pytest.fixture
def run(scan, training_payload, tmp_path):
    """Train for an epoch with the given flags, or two where a later epoch matters."""

    def go(**flags):
        payload = training_payload(**({"epochs": 1, "enable_checkpointing": False} | flags))
        return train([scan], payload, tmp_path, lambda progress: None)

    return go


def silence(generator: cnn.Generator) -> None:
    """Dead units: no rectifier of the encoder lets anything through."""
    for layer in generator.encoder.modules():
        if isinstance(layer, nn.Conv2d):
            layer.bias.fill_(-100)
    for decoder in (generator.amplitude, generator.phase):
        for layer in decoder.up.modules():
            if isinstance(layer, nn.Conv2d):
                layer.bias.fill_(-100)


def flatten(generator: cnn.Generator) -> None:
    """One object for every pattern: the decoders hear nothing of the encoder."""
    for decoder in (generator.amplitude, generator.phase):
        decoder.up[0].conv1.weight.zero_()
        nn.init.uniform_(decoder.up[0].conv1.bias, 0, 1)


def saturate(generator: cnn.Generator) -> None:
    """Constant amplitude: far up the sigmoid, where no gradient is left."""
    generator.amplitude.head.bias.fill_(60)
    for layer in generator.amplitude.border[:2].modules():
        if isinstance(layer, nn.Conv2d):
            layer.weight.zero_()
    generator.amplitude.border[1].bias.fill_(1.2784645)  # where x·σ(x) is 1, as in the centre


def blind(generator: cnn.Generator) -> None:
    """An exploding rate: a million times the light."""
    generator.log_scale.fill_(7)


@pytest.fixture
def ruined(monkeypatch):
    """Have ``cnn`` built in a given state, the first time or always; counts the buildings."""

    def ruin(how, times=99):
        built = []

        class Ruined(cnn.Generator):
            def __init__(self, model):
                super().__init__(model)
                built.append(self)
                if len(built) <= times:
                    with torch.no_grad():
                        how(self)

        monkeypatch.setattr(cnn, "Generator", Ruined)
        return built

    return ruin


CASES = [
    (silence, r"channels are dead"),
    (flatten, r"the object is the same for every pattern"),
    (saturate, r"the amplitude is constant"),
    (blind, r"the expected rate is .* times the measured one"),
]
STUCK = {"optimizer": "sgd", "learning_rate": 1e-12, "momentum": 0.0}


@pytest.mark.parametrize(("how", "told"), CASES)
def test_each_collapse_is_told_within_the_first_epoch(how, told, run, ruined, caplog):
    ruined(how)
    with caplog.at_level(logging.WARNING):
        bundle = run(**TINY_CNN, **STUCK)
    assert len(bundle.history["train_loss"]) == 1
    [record] = [r for r in caplog.records if r.name == "ptychodata.training.health"]
    message = record.getMessage()
    assert "epoch 1" in message and "--on-collapse restart" in message
    assert re.search(told, message)


@pytest.mark.parametrize(("how", "told"), CASES)
def test_stop_ends_the_run_with_an_error(how, told, run, ruined):
    ruined(how)
    with pytest.raises(NumericalError, match=told):
        run(**TINY_CNN, **STUCK, on_collapse="stop")


def test_restart_begins_anew_and_gets_through(run, ruined, caplog):
    built = ruined(silence, times=1)
    with caplog.at_level(logging.WARNING):
        bundle = run(**TINY_CNN, on_collapse="restart", epochs=2)
    assert len(built) == 2
    assert [r.getMessage().endswith("beginning anew") for r in caplog.records] == [True]
    fresh = [bundle.weights[k] for k in bundle.weights if "encoder" in k and k.endswith("bias")]
    assert all(bias.min() > -1 for bias in fresh)
    assert bundle.history["train_loss"][1] < bundle.history["train_loss"][0]


def test_restart_begins_with_the_same_scale(run, ruined, scan, training_payload):
    built = ruined(silence, times=1)
    bundle = run(**TINY_CNN, **STUCK, on_collapse="restart")
    assert len(built) == 2
    expected = np.log(first_scale([scan], training_payload(**TINY_CNN)))
    np.testing.assert_allclose(bundle.weights["generator/log_scale"], [expected], rtol=1e-6)


def test_restart_gives_up_at_last(run, ruined):
    built = ruined(silence)
    with pytest.raises(NumericalError, match=r"dead.*--seed"):
        run(**TINY_CNN, **STUCK, on_collapse="restart", epochs=30)
    assert len(built) == 1 + RESTARTS


def test_restart_takes_other_weights_every_time_and_the_same_in_every_run(run, ruined):
    states = []
    for _ in range(2):
        built = ruined(blind)
        with pytest.raises(NumericalError):
            run(**TINY_CNN, **STUCK, on_collapse="restart", epochs=30, n_groups=16)
        states.append([g.encoder[0].conv1.weight.detach().clone() for g in built[1:]])
    assert all(torch.equal(a, b) for a, b in zip(*states, strict=True))
    assert not torch.equal(states[0][0], states[0][1])


@pytest.mark.parametrize("network", [{"architecture": "unrolled"}, TINY_CNN])
def test_healthy_runs_are_left_alone_and_not_changed(network, run, caplog, monkeypatch):
    with caplog.at_level(logging.WARNING):
        watched = run(**network)
    assert not [r for r in caplog.records if r.name == "ptychodata.training.health"]
    monkeypatch.setattr(health, "is_due", lambda *place: False)
    alone = run(**network)
    assert all(np.array_equal(watched.weights[k], alone.weights[k]) for k in alone.weights)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("variation", 0.01),
        ("contrast", 1e-4),
        ("dead", 0.95),
        ("light", 1e3),
        ("light", 1e-3),
        ("variation", float("nan")),
    ],
)
def test_each_figure_has_its_bound(name, value):
    assert not faults(HEALTHY)
    assert set(faults(Figures(**{**vars(HEALTHY), name: value}))) == {name}


def batch_of(scan: Scan) -> tuple[Batch, torch.Tensor]:
    batch = GroupDataset([scan])[0, np.arange(len(scan))[:, None]]
    return batch, physics.shift_probe(torch.from_numpy(scan.photon_probe), batch.fraction)


def test_true_object_is_healthy_and_its_mean_is_not(scan):
    """The truth varies at least as much as the patterns do, photon noise apart."""
    batch, shifted = batch_of(scan)
    centres = np.floor(scan.positions_px + 0.5).astype(int)
    half = scan.N // 2
    windows = [scan.truth[y - half : y + half, x - half : x + half] for y, x in centres]
    true = torch.from_numpy(np.stack(windows).astype(np.complex64))
    found = figures(true, shifted, batch, dead=0.0)
    assert found.variation > 0.9 and found.light == pytest.approx(1, rel=0.05)
    assert not faults(found)
    mean = figures(true.mean(0).expand_as(true), shifted, batch, dead=0.0)
    assert mean.variation < 1e-3 and set(faults(mean)) == {"variation"}
    assert set(faults(figures(true * 30, shifted, batch, dead=0.0))) == {"light"}
    phase = torch.polar(torch.ones_like(true.real), true.angle())
    assert set(faults(figures(phase, shifted, batch, dead=0.0))) == {"contrast"}
