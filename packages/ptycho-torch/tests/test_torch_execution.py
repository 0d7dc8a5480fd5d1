"""Each flag of how a run is made is seen by what it does."""

import importlib.util

import numpy as np
import pytest
import torch
from torch import nn

from ptychoconfig.errors import BackendError, ConfigError, DataError
from ptychoconfig.schema import ExecutionConfig, SimulationConfig
from ptychodata.bundle import read_bundle, write_bundle
from ptychodata.grouping import split_validation
from ptychodata.simulate import simulate
from ptychodata.training.batches import GroupSampler, Rows, split_scans
from ptychotorch import device, training
from ptychotorch.clipping import clip_gradients
from ptychotorch.training import train

PLAIN = {"gridsize": 1, "unrolled_steps": 1, "unrolled_levels": 1, "batch_size": 5, "epochs": 2}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def scan():
    return simulate(SimulationConfig(N=32, n_patterns=30, overlap=0.7, nphotons=1e8))


@pytest.fixture
def run(scan, training_payload, tmp_path):
    def go(**flags):
        return train((scan,), training_payload(**(PLAIN | flags)), tmp_path, lambda _: None)

    return go


def test_one_cycle_rises_to_its_peak_and_falls_below_its_start(run):
    flags = {"epochs": 10, "learning_rate": 1e-3, "scheduler": "one-cycle"}
    rates = run(**flags).history["learning_rate"]
    assert np.argmax(rates) == 2  # three tenths of the run
    assert rates[2] == pytest.approx(1e-3, rel=1e-2)
    assert rates[-1] < 1e-3 / 25 < rates[0]


def test_agc_bounds_each_channel_by_its_weights():
    parameter = nn.Parameter(torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]]))
    parameter.grad = torch.tensor([[6.0, 8.0], [0.003, 0.004], [6.0, 8.0]])
    clip_gradients([parameter], "agc", 0.1)
    expected = [[0.3, 0.4], [0.003, 0.004], [6e-5, 8e-5]]  # norms 0.1·5, free, 0.1·10⁻³
    torch.testing.assert_close(parameter.grad, torch.tensor(expected))


def test_agc_bounds_the_first_step_of_a_training(run):
    flags = {"optimizer": "sgd", "learning_rate": 1.0, "scheduler": "constant", "weight_decay": 0}
    flags |= {"epochs": 1, "n_groups": 5, "val_fraction": 0, "gradient_clip_algorithm": "agc"}
    before = run(**(flags | {"learning_rate": 1e-30})).weights
    after = run(gradient_clip_val=1e-4, **flags).weights
    kernels = [name for name, weight in before.items() if weight.ndim == 4]
    assert any(not np.array_equal(before[name], after[name]) for name in kernels)
    for name in kernels:
        start = np.linalg.norm(before[name])
        assert np.linalg.norm(after[name] - before[name]) <= 1.01e-4 * max(start, 0.1)


def test_spatial_split_holds_out_one_end(scan, training_payload):
    spatial = training_payload(val_split="spatial", val_fraction=0.2)
    [kept], [held] = split_scans((scan,), spatial)
    axis = int(np.argmax(np.ptp(scan.positions_px, axis=0)))
    along = scan.positions_px[:, axis]
    assert along[kept].max() <= along[held].min() and len(held) == 6
    [_], [drawn] = split_scans((scan,), training_payload(val_fraction=0.2))
    np.testing.assert_array_equal(drawn, split_validation(30, 0.2, 42)[1])


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_share_every_batch(ranks, scan, training_payload):
    payload = training_payload(**PLAIN | {"batch_size": 4})
    kept = [np.arange(29)]
    whole = list(GroupSampler((scan,), kept, payload))
    parts = [list(GroupSampler((scan,), kept, payload, rank, ranks)) for rank in range(ranks)]
    for batch, *mine in zip(whole, *parts, strict=True):
        counted = [part for part in mine if part.share]
        seen = np.concatenate([part.groups for part in counted]).ravel()
        assert sorted(seen) == sorted(batch.groups.ravel())
        assert sum(part.share for part in mine) == pytest.approx(ranks)
    assert any(not part.share for part in zip(*parts, strict=True) for part in part)


def test_shares_make_the_mean_over_ranks_the_mean_over_groups():
    batch = Rows(0, np.arange(7)[:, None])
    parts = [batch.part(rank, 3) for rank in range(3)]
    mean = np.mean([part.share * part.groups.mean() for part in parts])
    assert mean == pytest.approx(batch.groups.mean())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"pin_memory": True, "accelerator": "cpu"}, r"--pin-memory: expected a GPU"),
        ({"logger": "tensorboard"}, r"--logger tensorboard.*pip install tensorboard"),
        ({"logger": "mlflow"}, r"--logger mlflow.*pip install mlflow"),
    ],
)
def test_what_is_not_there_is_refused_with_the_remedy(run, flags, message):
    name = flags.get("logger")
    if name and importlib.util.find_spec(name):
        pytest.skip(f"{name} is installed")
    with pytest.raises(BackendError, match=message):
        run(**flags)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # inside the loggers
@pytest.mark.parametrize(("name", "mark"), [("tensorboard", "*/events.*"), ("mlflow", "mlruns")])
def test_optional_loggers_write_into_the_run_directory(name, mark, run, tmp_path):
    pytest.importorskip(name)
    run(logger=name)
    assert list(tmp_path.glob(mark)) and (tmp_path / "metrics.csv").exists()


def test_several_devices_are_for_training_alone():
    execution = ExecutionConfig(accelerator="cpu", devices=2)
    assert device.choose_device(execution, several=True) == CPU
    with pytest.raises(BackendError, match=r"--devices: expected 1.*found 2"):
        device.choose_device(execution)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ({}, "several devices, found one"),
        ({"devices": 2, "on_collapse": "restart"}, "--on-collapse warn or stop, found restart"),
        ({"devices": 2, "precision": "16-mixed"}, "found --precision 16-mixed"),
        ({"devices": 2, "compile": True}, "found --compile"),
    ],
)
def test_sharding_refuses_what_needs_the_whole_network(run, flags, told):
    with pytest.raises(ConfigError, match=f"--strategy fsdp: expected.*{told}"):
        run(strategy="fsdp", **flags)


def test_auto_takes_bf16_only_where_it_is_there_and_accurate(monkeypatch):
    auto = ExecutionConfig(precision="auto")
    error = device.bf16_error(CPU)
    assert 1e-4 < error < 0.01
    for there, wrong, chosen in (
        (True, error, torch.bfloat16),
        (True, 0.5, torch.float32),
        (False, error, torch.float32),
    ):
        monkeypatch.setattr(device, "_has_bf16_units", lambda _, there=there: there)
        monkeypatch.setattr(device, "bf16_error", lambda _, wrong=wrong: wrong)
        assert device.choose_dtype(auto, CPU) == chosen


def test_compile_needs_a_compiler(run, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(BackendError, match=r"--compile: expected a C\+\+ compiler"):
        run(compile=True)


@pytest.mark.filterwarnings("ignore")  # of Torch about itself
def test_compile_traces_the_network_and_changes_nothing_else(run, monkeypatch):
    """With the tracer alone, because generating machine code takes minutes."""
    import functools

    from torch._dynamo.utils import counters

    traced = functools.partialmethod(nn.Module.compile, backend="eager")
    monkeypatch.setattr(nn.Module, "compile", traced)
    monkeypatch.setenv("CXX", "true")
    counters.clear()
    plain = run(epochs=1).history["train_loss"]
    assert not counters["stats"]["unique_graphs"]
    compiled = run(epochs=1, compile=True)
    assert counters["stats"]["unique_graphs"] > 0
    assert compiled.history["train_loss"] == pytest.approx(plain, rel=1e-4)


def test_deterministic_refuses_what_differs_between_runs(run, monkeypatch):
    seen = {}

    def look(*arguments):
        seen["deterministic"] = torch.are_deterministic_algorithms_enabled()
        return usual(*arguments)

    usual = training.physics.poisson_deviance
    monkeypatch.setattr(training.physics, "poisson_deviance", look)
    for wanted in (False, True):
        run(deterministic=wanted, epochs=1, poisson_weight=1)
        assert seen["deterministic"] is wanted


def test_scans_of_several_sizes_train_together_where_the_network_allows(
    scan, training_payload, tmp_path
):
    larger = simulate(SimulationConfig(N=48, n_patterns=12, overlap=0.7, nphotons=1e8))
    bundle = train((scan, larger), training_payload(**PLAIN), tmp_path, lambda _: None)
    assert [probe.shape[-1] for probe in bundle.probes] == [32, 48]
    write_bundle(bundle, tmp_path / "wts.h5.zip")
    assert [probe.shape[-1] for probe in read_bundle(tmp_path).probes] == [32, 48]
    double = simulate(SimulationConfig(N=64, n_patterns=12, overlap=0.7, nphotons=1e8))
    cnn = training_payload(architecture="cnn", gridsize=1)
    with pytest.raises(DataError, match=r"one pattern size for --architecture cnn.*N = 32, 64"):
        train((scan, double), cnn, tmp_path, lambda _: None)
