"""Pretraining: its loss by closed forms, and that a run goes on where it was left."""

from dataclasses import replace
from itertools import count

import numpy as np
import pytest
import torch

from ptychoconfig.errors import ConfigError
from ptychoconfig.payloads import create_inference_payload, create_training_payload
from ptychoconfig.schema import SimulationConfig
from ptychodata.backends import LAST_CHECKPOINT, Pretrainer
from ptychodata.bundle import read_bundle
from ptychodata.corpus import CorpusRanges, draw_scan
from ptychodata.metrics import score
from ptychodata.pretrained import PRETRAINED
from ptychodata.simulate import simulate
from ptychotorch import physics
from ptychotorch.backend import TorchBackend
from ptychotorch.inference import infer
from ptychotorch.pretraining import known_batch, object_error, pretrain

RANGES = CorpusRanges(N={64: 1.0}, n_patterns=(9, 12), modes={1: 1.0})
SMALL = {"unrolled_steps": 2, "unrolled_width": 8, "unrolled_levels": 1, "precision": "32-true"}


def payload_of(**flags):
    return create_training_payload(N=64, flags={**SMALL, "seed": 3, **flags}, environment={})


def run(folder, steps, resume=None, **flags):
    """As many steps, and the figures of each."""
    told, asked = [], count()
    bundle = pretrain(
        payload_of(**flags),
        folder,
        told.append,
        lambda: next(asked) >= steps,
        resume,
        ranges=RANGES,
    )
    return bundle, told


def test_error_knows_no_global_phase_and_counts_in_units_of_contrast():
    rng = np.random.default_rng(0)
    known = torch.from_numpy(rng.normal(size=(2, 16, 16)) + 1j * rng.normal(size=(2, 16, 16)))
    light = torch.ones(2, 16, 16, dtype=torch.double)
    assert float(object_error(known * np.exp(0.7j), known, light).max()) < 1e-12
    contrast = (known - known.mean((1, 2), keepdim=True)).abs().square().mean((1, 2))
    off = known + 0.1  # the phase that fits best is 0 to the first order
    expected = 0.01 / (contrast + 1e-3)
    torch.testing.assert_close(object_error(off, known, light), expected, rtol=0.05, atol=0)


def test_error_does_not_look_where_no_light_fell():
    known = torch.ones(1, 8, 8, dtype=torch.complex128)
    known[0, :, 4:] = 1j
    light = torch.zeros(1, 8, 8, dtype=torch.double)
    light[0, :, :4] = 5.0
    wrong = known.clone()
    wrong[0, :, 4:] = -3
    assert float(object_error(wrong, known, light)) < 1e-12


@pytest.mark.parametrize("relative", [0.0, 1.0])
@pytest.mark.parametrize("alone", [False, True])
def test_the_known_object_lies_under_its_patterns(alone, relative):
    """The forward model of it explains every pattern, whether the probe's power is known or not."""
    exact = replace(
        RANGES,
        nphotons=(1e7, 1e7),
        probe_error=0.0,
        position_error=0.0,
        relative_power=relative,
        contrasts={"absorbing": 1.0},
    )
    scan = draw_scan(5, 3, exact)
    batch, known = known_batch(scan, np.arange(len(scan)), alone=alone)
    height, width = batch.shape[0] // batch.canvases, batch.shape[1]
    assert known.shape == (len(scan) if alone else 1, height, width)
    shifted = physics.shift_probe(torch.from_numpy(scan.photon_probe), batch.fraction)
    windows = physics.window_index(batch.pixel, scan.N, batch.shape)
    waves = physics.exit_waves(shifted, physics.gather(known, windows))
    rate = physics.intensity(physics.far_field(waves, corner=True))
    assert float(physics.r_factor(rate, batch.counts)) < 0.05


def test_resumed_is_never_interrupted(tmp_path):
    whole, _ = run(tmp_path / "whole", 4)
    run(tmp_path / "parts", 2)
    parts, told = run(tmp_path / "parts", 2, tmp_path / "parts" / LAST_CHECKPOINT)
    assert all(np.array_equal(whole.weights[k], parts.weights[k]) for k in whole.weights)
    assert whole.statistics["pretraining_steps"] == parts.statistics["pretraining_steps"] == 4
    assert len(told) == 2 and all(np.isfinite(p.metrics["object_error"]) for p in told)
    assert parts.config["model"]["architecture"] == "unrolled" and not parts.probes
    assert parts.statistics["mean_photons_low"] < parts.statistics["mean_photons_high"]


def test_damaged_checkpoint_is_refused(tmp_path):
    (tmp_path / "last.ckpt").write_bytes(b"no checkpoint")
    with pytest.raises(ConfigError, match=r"--resume .*expected a checkpoint"):
        run(tmp_path, 1, tmp_path / "last.ckpt")


def test_checkpoint_of_another_seed_is_refused(tmp_path):
    run(tmp_path, 1)
    with pytest.raises(ConfigError, match="--seed: expected 3"):
        run(tmp_path, 1, tmp_path / LAST_CHECKPOINT, seed=4)


def test_it_learns(tmp_path):
    """It makes less of an error of the same draws than a network that hardly moves."""
    few = replace(RANGES, nphotons=(1e4, 1e4), single_shot=0.0)
    losses = []
    for rate in (3e-3, 1e-9):
        asked, told = count(), []
        payload = payload_of(learning_rate=rate, unrolled_steps=1)
        pretrain(payload, tmp_path / str(rate), told.append, lambda: next(asked) >= 60, ranges=few)  # noqa: B023
        losses.append(told[-1].metrics["train_loss"])
    assert losses[0] < losses[1] - 0.01


def test_torch_can_pretrain():
    assert isinstance(TorchBackend(), Pretrainer)


@pytest.mark.parametrize(("side", "count"), [(64, 150), (128, 60)])
def test_the_network_that_comes_along_reconstructs_what_it_has_never_seen(side, count):
    """Photographs that are in no corpus, under a probe that is in none."""
    config = SimulationConfig(
        N=side,
        n_patterns=count,
        overlap=0.8,
        object_kind="natural-held-out",
        probe_kind="zone-plate",
        positions_kind="random",
        nphotons=1e6,
        seed=11,
    )
    scan, bundle = simulate(config), read_bundle(PRETRAINED)
    assert PRETRAINED.stat().st_size < 8e6
    payload = create_inference_payload(
        bundle_config=bundle.config, flags={"precision": "32-true"}, environment={}
    )
    one = replace(payload, model=payload.model.model_copy(update={"unrolled_steps": 1}))
    found = []
    for settings in (payload, one):
        image = infer(bundle, scan, settings, lambda progress: None)
        found.append(score(image.obj, image.origin_yx_px, scan.truth, scan.positions_px))
    whole, first = (f["phase_ssim"] for f in found)
    assert whole > 0.6 and whole > first + 0.2
