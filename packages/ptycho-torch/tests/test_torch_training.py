"""Training does what its settings say; each test looks at the effect."""

import csv
from dataclasses import replace

import numpy as np
import pytest
import torch

from ptychoconfig.errors import BackendError
from ptychoconfig.schema import SimulationConfig
from ptychodata.simulate import simulate
from ptychodata.training.labels import known_windows
from ptychotorch import physics, training
from ptychotorch.networks import build_network
from ptychotorch.training import ProbeParameter, label_misfit, object_error, train
from ptychotorch.weights import to_arrays


@pytest.fixture
def run(scan, training_payload, tmp_path):
    """Train on the small scan with the given flags; returns bundle, progress and folder."""

    def go(scans=(scan,), stop_after=None, **flags):
        seen = []
        bundle = train(
            scans,
            training_payload(**flags),
            tmp_path,
            seen.append,
            lambda: stop_after is not None and len(seen) >= stop_after,
        )
        return bundle, seen

    return go


@pytest.fixture
def noisy():
    """A scan of few photons: what the solver's steps alone make of it is full of noise."""
    return simulate(SimulationConfig(N=32, n_patterns=64, overlap=0.7, nphotons=1e5))


def test_loss_falls_and_weights_change(run, noisy, training_payload):
    bundle, seen = run(scans=(noisy,), epochs=8, learning_rate=1e-3, unrolled_steps=1)
    history = bundle.history
    assert history["train_loss"][-1] < 0.95 * history["train_loss"][0]
    assert history["val_loss"][-1] < history["val_loss"][0]
    torch.manual_seed(0)
    fresh = to_arrays(build_network(training_payload().model))
    assert bundle.weights.keys() == fresh.keys()
    heads = [k for k in fresh if "head" in k]
    assert heads and all(np.abs(bundle.weights[k]).max() > 0 for k in heads)  # zero when fresh
    assert all(p.patterns_per_s > 0 and p.seconds_left >= 0 for p in seen)


@pytest.mark.parametrize("seed", [0, 5])
def test_same_seed_gives_the_same_weights(run, seed):
    first, second, other = run(seed=seed)[0], run(seed=seed)[0], run(seed=seed + 1)[0]
    assert all(np.array_equal(first.weights[k], second.weights[k]) for k in first.weights)
    assert any(not np.array_equal(first.weights[k], other.weights[k]) for k in first.weights)


def test_what_is_kept_is_the_mean_of_the_weights(run):
    """One batch an epoch: what runs of one, two and three steps end with is averaged."""
    flags = {"scheduler": "constant", "batch_size": 100, "unrolled_steps": 1}
    weights = [run(epochs=n, **flags)[0].weights for n in (1, 2, 3)]
    kept = run(epochs=3, ema_decay=0.9, **flags)[0].weights
    for name, newest in weights[-1].items():
        mean = weights[0][name]
        for step in (1, 2):  # each takes the share 10 / (step + 10)
            mean = mean + (weights[step][name] - mean) * 10 / (step + 10)
        np.testing.assert_allclose(kept[name], mean, rtol=1e-5, atol=1e-7)
        assert not np.array_equal(kept[name], newest)


@pytest.mark.parametrize("loss", ["poisson_weight", "amplitude_weight", "mae_weight"])
def test_every_loss_trains(run, noisy, loss):
    weights = {"poisson_weight": 0, "amplitude_weight": 0, "mae_weight": 0, loss: 1}
    flags = {"epochs": 8, "learning_rate": 1e-3, "unrolled_steps": 1, **weights}
    history = run(scans=(noisy,), **flags)[0].history
    assert history["train_loss"][-1] < history["train_loss"][0]


@pytest.mark.parametrize("modes", [1, 2])
def test_probe_is_learned_at_its_power_and_centred(run, scan, modes):
    rolled = np.roll(scan.probe, 2, axis=2) * 1.1j
    probe = np.concatenate([rolled, rolled[:, ::-1] * 0.2])[:modes]
    wrong = replace(scan, probe=probe, probe_power="relative")
    bundle, _ = run(scans=(wrong,), epochs=4, probe_trainable=True)
    before, after = wrong.photon_probe, bundle.probes[0]
    assert bundle.probe_learned and not np.allclose(before, after)
    power = np.sum(np.abs(after) ** 2)
    assert power == pytest.approx(scan.mean_photons, rel=1e-4)
    intensity = (np.abs(after) ** 2).sum(0)
    rows, columns = np.indices(intensity.shape) - scan.N // 2
    assert abs((intensity * rows).sum() / power) < 0.1
    assert abs((intensity * columns).sum() / power) < 0.1


def test_fixed_probe_stays(run, scan):
    bundle, _ = run()
    np.testing.assert_allclose(bundle.probes[0], scan.photon_probe, rtol=1e-5, atol=1e-4)
    assert not bundle.probe_learned


def test_full_step_is_the_classical_one(scan):
    """A step of length 1 on the amplitude loss is the mean of the ePIE probe updates, |O| = 1."""
    parameter = ProbeParameter(scan.photon_probe, trainable=True)
    counts = torch.from_numpy(scan.counts()) * 0.9
    probe = parameter()
    waves = physics.far_field(probe[None])
    rate = physics.intensity(waves).expand_as(counts)
    physics.amplitude_mse(rate, counts, scan.mean_photons).backward()
    factor = (counts.sqrt() / (rate + physics.EPSILON).sqrt() - 1).mean(0)
    expected = (probe + physics.inverse_far_field(waves[0] * factor)).detach()
    parameter.descend(1.0)
    power = probe.detach().abs().square().sum()
    expected = expected * (power / expected.abs().square().sum()).sqrt()
    stepped = parameter().detach()
    assert float(stepped.abs().square().sum()) == pytest.approx(float(power), rel=1e-4)
    difference = (stepped.abs() - expected.abs()).square().sum()  # up to a small shift
    moved = (probe.detach().abs() - expected.abs()).square().sum()
    assert float(difference) < 0.1 * float(moved)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"scheduler": "constant"}, [1e-3, 1e-3, 1e-3]),
        ({"scheduler": "exponential", "lr_gamma": 0.5}, [5e-4, 2.5e-4, 1.25e-4]),
    ],
)
def test_logged_rate_follows_the_schedule(run, flags, expected):
    bundle, _ = run(epochs=3, learning_rate=1e-3, **flags)
    assert bundle.history["learning_rate"] == pytest.approx(expected)


def test_warmup_cosine_rises_then_falls_to_its_floor(run):
    rates = run(epochs=8, learning_rate=1e-3, warmup_steps=16, min_lr_ratio=0.1)[0].history[
        "learning_rate"
    ]
    assert rates[0] < rates[1] and rates[-1] == pytest.approx(1e-4, rel=0.05)


def test_plateau_lowers_the_rate_to_its_floor(run):
    """With a threshold of 1 no loss ever counts as better, so every epoch is a plateau."""
    flags = {"plateau_patience": 0, "plateau_threshold": 1.0, "plateau_min_lr": 3e-4}
    rates = run(epochs=4, learning_rate=1e-3, scheduler="plateau", **flags)[0].history[
        "learning_rate"
    ]
    assert rates[-1] == pytest.approx(3e-4) and rates == sorted(rates, reverse=True)


@pytest.mark.parametrize(
    "flags",
    [
        {"optimizer": "sgd", "momentum": 0.0},
        {"optimizer": "adam", "beta1": 0.0},
        {"optimizer": "adamw", "beta2": 0.5},
    ],
)
def test_settings_of_the_optimiser_count(run, flags):
    plain = run(optimizer=flags["optimizer"])[0].weights
    other = run(**flags)[0].weights
    assert any(not np.array_equal(plain[k], other[k]) for k in plain)


def test_workers_prepare_the_same_batches(run):
    alone = run()[0].weights
    helped = run(num_workers=1, prefetch_factor=3, persistent_workers=False)[0].weights
    assert all(np.array_equal(alone[k], helped[k]) for k in alone)


@pytest.mark.filterwarnings("ignore")  # of the loader about memory that no GPU shares
@pytest.mark.parametrize("kept", [True, False])
def test_workers_live_on_between_epochs_if_they_may(run, monkeypatch, kept):
    begun = []
    start = torch.utils.data.dataloader._MultiProcessingDataLoaderIter.__init__

    def count(iterator, loader):
        begun.append(loader)
        start(iterator, loader)

    name = "torch.utils.data.dataloader._MultiProcessingDataLoaderIter.__init__"
    monkeypatch.setattr(name, count)
    run(epochs=3, num_workers=1, val_fraction=0, persistent_workers=kept)
    assert len(begun) == (1 if kept else 3)


def test_accumulation_takes_fewer_optimiser_steps(run, monkeypatch):
    steps = []
    step = training._Training.optimizer_step

    def count(module, *arguments, **more):
        steps.append(module.trainer.current_epoch)
        step(module, *arguments, **more)

    monkeypatch.setattr(training._Training, "optimizer_step", count)
    for together, expected in ((1, 8), (3, 3)):  # 61 patterns in batches of 8
        steps.clear()
        run(epochs=1, accumulate_grad_batches=together)
        assert len(steps) == expected


def test_clipping_bounds_the_first_step(run):
    """With plain SGD and rate 1, the first step is the clipped gradient itself."""
    flags = {"optimizer": "sgd", "learning_rate": 1.0, "scheduler": "constant", "weight_decay": 0}
    moved = {}
    for bound in (5e-5, 5e-6):
        before = _fresh_weights(run, flags)
        after = run(stop_after=1, epochs=1, gradient_clip_val=bound, **flags)[0].weights
        moved[bound] = np.sqrt(sum(((after[k] - before[k]) ** 2).sum() for k in after))
    assert moved[5e-5] == pytest.approx(5e-5, rel=0.05)
    assert moved[5e-6] == pytest.approx(5e-6, rel=0.05)


def _fresh_weights(run, flags):
    return run(stop_after=1, epochs=1, **(flags | {"learning_rate": 1e-30}))[0].weights


def test_early_stop_and_request_end_the_run(run):
    patient = run(epochs=40, early_stop_patience=1, learning_rate=1e-30)[0]
    assert 1 < len(patient.history["val_loss"]) < 5
    asked, seen = run(epochs=40, stop_after=3)
    assert len(seen) < 10 and asked.weights


def test_max_time_ends_the_run_annealed(run):
    history = run(epochs=10_000, max_time="3s", warmup_steps=0)[0].history
    assert 1 < len(history["train_loss"]) < 1000
    assert history["learning_rate"][-1] < 0.5 * history["learning_rate"][0]


def test_metrics_and_checkpoints_lie_in_the_run_directory(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run()
    rows = list(csv.DictReader((tmp_path / "metrics.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert all(float(row["train_loss"]) > 0 and float(row["val_loss"]) > 0 for row in rows)
    assert list((tmp_path / "checkpoints").glob("*.ckpt"))
    assert {p.name for p in tmp_path.iterdir()} == {"metrics.csv", "checkpoints"}


def test_without_checkpoints_and_logger_nothing_is_written(run, tmp_path):
    run(enable_checkpointing=False, logger="none")
    assert not list(tmp_path.iterdir())


def test_several_scans_each_with_its_probe(run, scan):
    rotated = replace(scan, probe=scan.probe * 1j, name="rotated")
    bundle, _ = run(scans=(scan, rotated), probe_trainable=True)
    assert len(bundle.probes) == 2 and bundle.statistics["n_scans"] == 2


@pytest.mark.parametrize("architecture", ["unrolled", "cnn", "fno"])
def test_supervised_training_learns_the_known_object(run, scan, architecture):
    more = {"cnn": {"n_filters_scale": 1}, "fno": {"fno_modes": 4, "fno_width": 8}}
    flags = {"architecture": architecture, "model_type": "supervised", "learning_rate": 3e-3}
    bundle, _ = run(epochs=8, **flags, **more.get(architecture, {}))
    losses = bundle.history["val_loss"]
    assert losses[-1] < (1.0 if architecture == "unrolled" else 0.8) * losses[0]  # a solver already
    assert bundle.config["training"]["model_type"] == "supervised"


def test_supervised_loss_is_zero_at_the_label_and_a_phase_error_elsewhere(scan):
    label = torch.from_numpy(known_windows(scan, np.arange(4)))
    light = torch.ones_like(label.real)
    assert float(label_misfit(label, label, light)) < 1e-5
    assert float(label_misfit(label * np.exp(0.1j), label, light)) == pytest.approx(0.4, rel=1e-3)
    assert float(label_misfit(label + label / label.abs() * 0.1, label, light)) == pytest.approx(
        0.2, rel=1e-3
    )
    light[:, :16] = 0
    assert float(label_misfit(label.index_fill(1, torch.arange(16), 0), label, light)) < 1e-5


def test_masked_pixels_do_not_count(run, scan):
    mask = np.ones((scan.N, scan.N), bool)
    mask[3:9, 4:20] = False
    broken = scan.diffraction.copy()
    broken[:, ~mask] = broken.max() * 100
    clean = replace(scan, mask=mask)
    dirty = replace(scan, diffraction=broken, mask=mask)
    one, two = run(scans=(clean,))[0], run(scans=(dirty,))[0]
    assert one.history["val_loss"] == pytest.approx(two.history["val_loss"], rel=1e-4)


def test_precision_is_that_of_the_layers(run):
    plain, narrow = (
        run(epochs=2, n_groups=12, precision=precision)[0].history["train_loss"][-1]
        for precision in ("32-true", "bf16-mixed")
    )
    assert narrow != plain and narrow == pytest.approx(plain, rel=0.05)


def test_absent_gpu_is_refused_with_the_remedy(run):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(BackendError, match=r"--accelerator cuda.*--accelerator cpu"):
        run(accelerator="cuda")
    with pytest.raises(BackendError, match="bf16-mixed"):
        run(precision="16-mixed")


def test_error_of_an_object_is_that_up_to_its_own_global_phase():
    draw = torch.Generator().manual_seed(0)
    known = torch.randn(2, 24, 8, dtype=torch.complex64, generator=draw)
    light = torch.rand(2, 24, 8, generator=draw)
    turned = known * torch.polar(torch.ones(2), torch.tensor([3.0, -0.4]))[:, None, None]
    torch.testing.assert_close(
        object_error(turned, known, light), torch.zeros(2), atol=1e-10, rtol=0
    )
    apart = turned.view(1, 48, 8), known.view(1, 48, 8), light.view(1, 48, 8)
    assert float(object_error(turned, known, light, absolute=True).min()) > 0.05
    assert float(object_error(*apart)) > 0.5
    even = torch.full_like(known, 1.0)  # Σ w |0.9 − 1|² / Σ w 0.001
    torch.testing.assert_close(object_error(0.9 * even, even, light), torch.full((2,), 10.0))
